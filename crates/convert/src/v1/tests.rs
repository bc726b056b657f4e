use bytes::Bytes;
use pipeline::{
    request::{Inference, Outcome},
    tensor::{DataType, Metadata, Tensor, TensorSpec},
};
use proptest::prelude::*;

use super::*;
use crate::{
    Decoded, Error, Limits, Mirror, Reason,
    arbitrary::{self, Values},
};

fn model(inputs: &[(&str, DataType, &[i64])]) -> Metadata {
    let inputs = inputs.iter().map(|(name, datatype, shape)| TensorSpec {
        name: (*name).to_owned(),
        datatype: *datatype,
        shape: shape.to_vec(),
    });
    Metadata { name: "m".to_owned(), inputs: inputs.collect(), ..Metadata::default() }
}

fn one() -> Metadata {
    model(&[("x", DataType::Fp32, &[-1, 2])])
}

fn two() -> Metadata {
    model(&[("a", DataType::Int8, &[-1]), ("b", DataType::Bytes, &[-1, 2])])
}

fn decode(json: &str, metadata: &Metadata) -> Result<Decoded, Error> {
    decode_request(&Bytes::copy_from_slice(json.as_bytes()), metadata, &Limits::default())
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn instances_become_rows_by_position_or_name() {
    for json in [
        r#"{"instances":[[1,2],[3,4],[5,6]]}"#,
        r#"{"signature_name":"serving_default","instances":[{"x":[1,2]},{"x":[3,4]},{"x":[5,6]}]}"#,
        r#"{"inputs":[[1,2],[3,4],[5,6]]}"#,
        r#"{"inputs":{"x":[[1,2],[3,4],[5,6]]}}"#,
    ] {
        let tensor = decode(json, &one()).unwrap().inference.inputs.remove(0);
        assert_eq!((tensor.name.as_str(), tensor.shape), ("x", vec![3, 2]), "{json}");
        assert_eq!(tensor.data, floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), "{json}");
    }
}

#[test]
fn several_inputs_come_by_name() {
    let strings = b"\x01\0\0\0p\x02\0\0\0\xff\xfe\x01\0\0\0q\x00\0\0\0";
    for json in [
        r#"{"instances":[{"a":1,"b":["p",{"b64":"//4="}]},{"b":["q",""],"a":2}]}"#,
        r#"{"inputs":{"b":[["p",{"b64":"//4="}],["q",""]],"a":[1,2]}}"#,
    ] {
        let mut inputs = decode(json, &two()).unwrap().inference.inputs;
        inputs.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!((&inputs[0].shape, &inputs[0].data[..]), (&vec![2], [1, 2].as_slice()), "{json}");
        assert_eq!((&inputs[1].shape, &inputs[1].data[..]), (&vec![2, 2], strings.as_slice()), "{json}");
    }
}

#[test]
fn a_base64_object_is_a_value_unless_an_input_is_called_so() {
    let tensor = |name, json| {
        let metadata = model(&[(name, DataType::Bytes, &[-1])]);
        decode(json, &metadata).unwrap().inference.inputs.remove(0)
    };
    assert_eq!(tensor("x", r#"{"instances":[{"b64":"aGk="}]}"#).data, b"\x02\0\0\0hi".as_slice());
    assert_eq!(tensor("b64", r#"{"instances":[{"b64":"aGk="}]}"#).data, b"\x04\0\0\0aGk=".as_slice());
}

#[test]
fn words_for_numbers_are_accepted() {
    let tensor = decode(r#"{"instances":[[NaN,-Infinity]]}"#, &one()).unwrap().inference.inputs.remove(0);
    assert!(f32::from_le_bytes(tensor.data[..4].try_into().unwrap()).is_nan());
    assert_eq!(tensor.data[4..], f32::NEG_INFINITY.to_le_bytes());
}

#[test]
fn what_is_not_a_request_is_said() {
    let cases = [
        ("{}", one(), Reason::BadRequest, r#"missing field "instances""#),
        ("3", one(), Reason::BadRequest, "body must be a JSON object"),
        (r#"{"instances":[]}"#, one(), Reason::BadRequest, r#""instances" is empty"#),
        (r#"{"instances":7}"#, one(), Reason::BadRequest, r#""instances" must be a list"#),
        (r#"{"instances":[1],"instances":[1]}"#, one(), Reason::BadJson, r#"duplicate field "instances""#),
        (
            r#"{"instances":[[1,2]],"inputs":[[1,2]]}"#,
            one(),
            Reason::BadRequest,
            r#"give either "instances" or "inputs", not both"#,
        ),
        (r#"{"instances":[[1,2],[3]]}"#, one(), Reason::BadTensor, "input \"x\": data is ragged at [1]"),
        (
            r#"{"instances":[{"y":[1]}]}"#,
            one(),
            Reason::BadTensor,
            "model \"m\" has no input \"y\"; it expects: x (FP32 [-1,2])",
        ),
        (
            r#"{"instances":[1]}"#,
            two(),
            Reason::BadRequest,
            "model \"m\" has several inputs: give an object with \"a\", \"b\"",
        ),
        (
            r#"{"instances":[{"a":1,"b":["",""]},{"a":1}]}"#,
            two(),
            Reason::BadRequest,
            "instances[1]: missing field \"b\"",
        ),
        (r#"{"instances":[{"a":1,"a":2}]}"#, two(), Reason::BadJson, "duplicate field \"a\""),
        (
            r#"{"instances":[{"a":300}]}"#,
            two(),
            Reason::BadTensor,
            "input \"a\": value 300 at data[0] does not fit INT8",
        ),
        (
            r#"{"instances":[{"x":[1,2]},[3,4]]}"#,
            one(),
            Reason::BadRequest,
            "\"instances\" must be a list of objects throughout",
        ),
        (r#"{"inputs":{}}"#, one(), Reason::BadRequest, "\"inputs\" is empty"),
        (
            r#"{"instances":[1]}"#,
            model(&[]),
            Reason::BadRequest,
            "model \"m\" says nothing of its inputs, which V1 needs; use V2",
        ),
    ];
    for (json, metadata, reason, sentence) in cases {
        let error = decode(json, &metadata).unwrap_err();
        assert_eq!(error.to_string(), sentence, "{json}");
        assert_eq!(error.reason(), reason, "{json}");
    }
}

#[test]
fn a_large_tensor_is_refused() {
    let limits = Limits { decoded_bytes: 7 };
    let body = Bytes::from_static(br#"{"instances":[[1,2]]}"#);
    let error = decode_request(&body, &one(), &limits).unwrap_err();
    assert_eq!(error, Error::TooLarge { bytes: 8, limit: 7 });
}

fn tensor(name: &str, shape: &[u64], data: &'static [u8]) -> Tensor {
    Tensor::new(name, DataType::Int8, shape.to_vec(), Bytes::from_static(data))
}

#[test]
fn answers_mirror_the_request() {
    let encoded = |outputs: Vec<Tensor>, mirror: &Mirror| {
        let outcome = Outcome { outputs, ..Outcome::default() };
        encode_response(&outcome, mirror).map(|encoded| String::from_utf8(encoded.body.into()).unwrap())
    };
    let one = || vec![tensor("o", &[2, 2], &[1, 2, 3, 4])];
    let two = || vec![tensor("o", &[2, 2], &[1, 2, 3, 4]), tensor("p", &[2], &[5, 6])];
    let rows = decode(r#"{"instances":[[1,2]]}"#, &super::tests::one()).unwrap().mirror;
    let columns = decode(r#"{"inputs":[[1,2]]}"#, &super::tests::one()).unwrap().mirror;
    assert_eq!(encoded(one(), &rows).unwrap(), r#"{"predictions":[[1,2],[3,4]]}"#);
    assert_eq!(encoded(two(), &rows).unwrap(), r#"{"predictions":[{"o":[1,2],"p":5},{"o":[3,4],"p":6}]}"#);
    assert_eq!(encoded(one(), &columns).unwrap(), r#"{"outputs":[[1,2],[3,4]]}"#);
    assert_eq!(encoded(two(), &columns).unwrap(), r#"{"outputs":{"o":[[1,2],[3,4]],"p":[5,6]}}"#);
    let uneven = vec![tensor("o", &[2], &[1, 2]), tensor("p", &[], &[5])];
    assert_eq!(
        encoded(uneven, &rows).unwrap_err().to_string(),
        "tensors have no common number of rows (o=2, p=none); send \"inputs\" rather than \"instances\""
    );
}

#[test]
fn a_server_s_values_decide_on_datatypes() {
    let decode = |json: &'static str| decode_response(&Bytes::from_static(json.as_bytes()));
    let only = |json| decode(json).unwrap().outputs.remove(0);
    let whole = only(r#"{"predictions":[1,-2]}"#);
    assert_eq!((whole.name.as_str(), whole.datatype, whole.shape), ("predictions", DataType::Int64, vec![2]));
    let float = only(r#"{"predictions":[[1,0.5],[2,null]],"model_name":"m"}"#);
    assert_eq!((float.datatype, float.shape), (DataType::Fp64, vec![2, 2]));
    assert_eq!(only(r#"{"predictions":[true]}"#).datatype, DataType::Bool);
    assert_eq!(only(r#"{"predictions":["a",{"b64":"aGk="}]}"#).data, b"\x01\0\0\0a\x02\0\0\0hi".as_slice());
    let named = decode(r#"{"predictions":[{"l":"cat","p":[0.5]},{"p":[1],"l":"dog"}]}"#).unwrap().outputs;
    let named: Vec<_> = named.iter().map(|t| (t.name.as_str(), t.datatype, t.shape.as_slice())).collect();
    assert_eq!(named, [("l", DataType::Bytes, [2].as_slice()), ("p", DataType::Fp64, &[2, 1])]);
    let columns = decode(r#"{"outputs":{"a":[1,2,3],"b":[[0.5]]}}"#).unwrap().outputs;
    assert_eq!(
        (columns[0].shape.as_slice(), columns[1].shape.as_slice()),
        ([3].as_slice(), [1, 1].as_slice())
    );
    let sentence = |json| decode(json).unwrap_err().to_string();
    assert_eq!(
        sentence(r#"{"predictions":[1,"a"]}"#),
        "output \"predictions\": numbers and strings in one tensor"
    );
    assert_eq!(
        sentence(r#"{"predictions":[{"a":1,"b":2},{"a":1}]}"#),
        "output \"b\": has 1 rows, others have 2"
    );
    assert_eq!(sentence(r#"{"error":"x"}"#), "missing field \"predictions\"");
}

/// Inputs with common rows, all of them with at least one element, so that their shapes show in JSON.
fn inference() -> impl Strategy<Value = Inference> {
    let shape = prop::collection::vec(1u64..4, 0..3);
    let inputs = prop::collection::vec((arbitrary::datatype(), shape), 1..4);
    (1u64..4, inputs).prop_flat_map(|(rows, inputs)| {
        let tensors = inputs.into_iter().enumerate().map(move |(index, (datatype, mut shape))| {
            shape.insert(0, rows);
            arbitrary::tensor_of(format!("t{index}"), datatype, shape, Values::Any)
        });
        let tensors: Vec<_> = tensors.collect();
        tensors.prop_map(|inputs| Inference { inputs, ..Inference::default() })
    })
}

proptest! {
    #[test]
    fn requests_survive(inference in inference()) {
        let specs: Vec<_> = inference.inputs.iter().map(|t| (t.name.as_str(), t.datatype, [].as_slice())).collect();
        let body = encode_request(&inference).unwrap().body;
        let metadata = model(&specs);
        let decoded = decode_request(&body, &metadata, &Limits::default()).unwrap();
        prop_assert!(decoded_bytes(&body, &metadata) >= inference.bytes());
        prop_assert_eq!(decoded.inference, inference);
    }

    #[test]
    fn a_damaged_body_is_decoded_or_refused(
        inference in inference(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut body = encode_request(&inference).unwrap().body.to_vec();
        for (index, byte) in damage {
            let index = index.index(body.len());
            body[index] = byte;
        }
        let body = Bytes::from(body);
        let _ = decode_request(&body, &one(), &Limits::default());
        let _ = decode_request(&body, &two(), &Limits::default());
        let _ = decode_response(&body);
    }
}
