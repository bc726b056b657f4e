//! Tensors for property tests.

use bytes::Bytes;
use half::{bf16, f16};
use pipeline::{
    request::{Inference, Outcome, RequestedOutput},
    tensor::{DataType, Parameter, Parameters, Tensor},
};
use proptest::prelude::*;

use crate::elements::push_string;

/// What a tensor may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Values {
    /// Whatever JSON can say: finite floats, text.
    Json,
    /// Whatever the datatype can hold. Of NaN only one bit pattern.
    Any,
}

fn finite<T>(
    bytes: impl Strategy<Value = T> + 'static,
    values: Values,
    is_finite: fn(&T) -> bool,
    nan: T,
) -> BoxedStrategy<T>
where
    T: std::fmt::Debug + Copy + 'static,
{
    match values {
        Values::Json => bytes.prop_filter("finite", is_finite).boxed(),
        Values::Any => prop_oneof![9 => bytes.prop_filter("finite", is_finite), 1 => Just(nan)].boxed(),
    }
}

fn element(datatype: DataType, values: Values) -> BoxedStrategy<Vec<u8>> {
    match datatype {
        DataType::Bool => any::<bool>().prop_map(|bit| vec![bit.into()]).boxed(),
        DataType::Uint8 | DataType::Int8 => any::<[u8; 1]>().prop_map(Into::into).boxed(),
        DataType::Uint16 | DataType::Int16 => any::<[u8; 2]>().prop_map(Into::into).boxed(),
        DataType::Uint32 | DataType::Int32 => any::<[u8; 4]>().prop_map(Into::into).boxed(),
        DataType::Uint64 | DataType::Int64 => any::<[u8; 8]>().prop_map(Into::into).boxed(),
        DataType::Fp16 => {
            let bits = any::<u16>().prop_map(f16::from_bits);
            finite(bits, values, |f| f.is_finite(), f16::NAN).prop_map(|f| f.to_le_bytes().into()).boxed()
        }
        DataType::Bf16 => {
            let bits = any::<u16>().prop_map(bf16::from_bits);
            finite(bits, values, |f| f.is_finite(), bf16::NAN).prop_map(|f| f.to_le_bytes().into()).boxed()
        }
        DataType::Fp32 => {
            let bits = any::<u32>().prop_map(f32::from_bits);
            finite(bits, values, |f| f.is_finite(), f32::INFINITY)
                .prop_map(|f| f.to_le_bytes().into())
                .boxed()
        }
        DataType::Fp64 => {
            let bits = any::<u64>().prop_map(f64::from_bits);
            finite(bits, values, |f| f.is_finite(), f64::NEG_INFINITY)
                .prop_map(|f| f.to_le_bytes().into())
                .boxed()
        }
        DataType::Bytes => {
            let bytes = match values {
                Values::Json => any::<String>().prop_map(String::into_bytes).boxed(),
                Values::Any => any::<Vec<u8>>().boxed(),
            };
            bytes
                .prop_map(|bytes| {
                    let mut data = Vec::new();
                    push_string(&mut data, &bytes);
                    data
                })
                .boxed()
        }
    }
}

pub(crate) fn datatype() -> impl Strategy<Value = DataType> {
    prop::sample::select(DataType::ALL.to_vec())
}

/// A tensor of `shape` without parameters.
pub(crate) fn tensor_of(
    name: String,
    datatype: DataType,
    shape: Vec<u64>,
    values: Values,
) -> BoxedStrategy<Tensor> {
    let count = usize::try_from(shape.iter().product::<u64>()).unwrap();
    prop::collection::vec(element(datatype, values), count)
        .prop_map(move |data| Tensor::new(&name, datatype, shape.clone(), Bytes::from(data.concat())))
        .boxed()
}

pub(crate) fn parameters() -> impl Strategy<Value = Parameters> {
    let value = prop_oneof![
        any::<bool>().prop_map(Parameter::Bool),
        any::<i64>().prop_map(Parameter::Int),
        (i64::MAX as u64 + 1..=u64::MAX).prop_map(Parameter::Uint),
        any::<f32>().prop_map(|f| Parameter::Double(f.into())),
        any::<String>().prop_map(Parameter::String),
    ];
    prop::collection::btree_map("p_[a-z\"é]{0,3}", value, 0..3)
}

fn tensors(values: Values) -> impl Strategy<Value = Vec<Tensor>> {
    let tensor = (datatype(), prop::collection::vec(0u64..4, 0..4), parameters()).prop_flat_map(
        move |(datatype, shape, parameters)| {
            tensor_of(String::new(), datatype, shape, values)
                .prop_map(move |tensor| Tensor { parameters: parameters.clone(), ..tensor })
        },
    );
    prop::collection::vec(tensor, 1..4).prop_map(|mut tensors| {
        tensors.iter_mut().enumerate().for_each(|(index, tensor)| tensor.name = format!("t\"{index}"));
        tensors
    })
}

pub(crate) fn inference(values: Values) -> impl Strategy<Value = Inference> {
    let outputs = prop::collection::btree_map("[a-z]{1,9}", parameters(), 0..3);
    (tensors(values), outputs, parameters(), "[a-z0-9 -]{0,20}").prop_map(
        |(inputs, outputs, parameters, id)| {
            let outputs = outputs.into_iter().map(|(name, parameters)| RequestedOutput { name, parameters });
            Inference { version: String::new(), id, inputs, outputs: outputs.collect(), parameters }
        },
    )
}

pub(crate) fn outcome(values: Values) -> impl Strategy<Value = Outcome> {
    (tensors(values), parameters()).prop_map(|(outputs, parameters)| Outcome {
        model_name: "m".to_owned(),
        model_version: "3".to_owned(),
        outputs,
        parameters,
    })
}
