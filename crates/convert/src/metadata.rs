//! What a model says of itself, on the wire, and whether a request fits it.

use bytes::Bytes;
use pipeline::{
    request::Inference,
    tensor::{DataType, Metadata, Tensor, TensorSpec},
};
use proto::inference::{
    ModelConfig, ModelInput, ModelMetadataResponse, ModelOutput, model_metadata_response::TensorMetadata,
};

use crate::{
    error::{Error, Place, Problem},
    json::{self, Object},
    quote::{self, Clipped, Listed, Quoted},
};

mod read;

pub use read::from_json;

/// Checks a request against what its model says of itself. A model that lists no inputs or no outputs is taken
/// to say nothing of them.
///
/// # Errors
/// An unknown or missing input, a datatype or shape that does not match, inputs of different batch sizes, or
/// an unknown output.
pub fn check(inference: &Inference, metadata: &Metadata) -> Result<(), Error> {
    if !metadata.inputs.is_empty() {
        check_inputs(inference, metadata)?;
    }
    if metadata.outputs.is_empty() {
        return Ok(());
    }
    let known = |name: &str| metadata.outputs.iter().any(|spec| spec.name == name);
    match inference.outputs.iter().find(|output| !known(&output.name)) {
        None => Ok(()),
        Some(unknown) => Err(Error::UnknownOutput {
            model: Quoted::new(&metadata.name),
            output: Quoted::new(&unknown.name),
            has: list(&metadata.outputs),
        }),
    }
}

fn check_inputs(inference: &Inference, metadata: &Metadata) -> Result<(), Error> {
    for tensor in &inference.inputs {
        let spec = find_input(metadata, &tensor.name)?;
        check_tensor(tensor, spec, metadata).map_err(Place::input(&tensor.name).error())?;
    }
    let given = |spec: &&TensorSpec| inference.inputs.iter().any(|tensor| tensor.name == spec.name);
    if let Some(missing) = metadata.inputs.iter().find(|spec| !given(spec)) {
        return Err(Error::MissingInput {
            model: Quoted::new(&metadata.name),
            input: Quoted::new(&missing.name),
            spec: Clipped::new(&signature(missing)),
        });
    }
    if metadata.has_batch_dimension() && inference.rows().is_none() {
        return Err(Error::BatchSize(rows(&inference.inputs)));
    }
    Ok(())
}

/// What the model says of its input `name`.
pub(crate) fn find_input<'m>(metadata: &'m Metadata, name: &str) -> Result<&'m TensorSpec, Error> {
    let found = metadata.inputs.iter().find(|spec| spec.name == name);
    found.ok_or_else(|| Error::UnknownInput {
        model: Quoted::new(&metadata.name),
        input: Quoted::new(name),
        expects: list(&metadata.inputs),
    })
}

fn check_tensor(tensor: &Tensor, spec: &TensorSpec, metadata: &Metadata) -> Result<(), Problem> {
    let model = || Quoted::new(&metadata.name);
    if tensor.datatype != spec.datatype {
        return Err(Problem::Datatype { got: tensor.datatype, takes: spec.datatype, model: model() });
    }
    let matches = |(got, takes): (&u64, &i64)| u64::try_from(*takes).map_or(true, |takes| *got == takes);
    if tensor.shape.len() == spec.shape.len() && tensor.shape.iter().zip(&spec.shape).all(matches) {
        return Ok(());
    }
    Err(Problem::Shape { got: tensor.shape.clone(), takes: spec.shape.clone(), model: model() })
}

/// `A=4, B=3`
pub(crate) fn rows(tensors: &[Tensor]) -> Listed {
    Listed::new(tensors.iter().map(|tensor| match tensor.rows() {
        Some(rows) => format!("{}={rows}", Clipped::new(&tensor.name)),
        None => format!("{}=none", Clipped::new(&tensor.name)),
    }))
}

fn list(specs: &[TensorSpec]) -> Listed {
    Listed::new(specs.iter().map(|spec| format!("{} ({})", Clipped::new(&spec.name), signature(spec))))
}

/// `FP32 [-1,4]`
fn signature(spec: &TensorSpec) -> String {
    format!("{} {}", spec.datatype, quote::dims(&spec.shape))
}

/// The answer to a REST request for metadata.
#[must_use]
pub fn to_json(metadata: &Metadata) -> Bytes {
    let mut out = Vec::new();
    let mut object = Object::open(&mut out);
    json::value(object.key("name"), &metadata.name);
    json::value(object.key("versions"), &metadata.versions);
    json::value(object.key("platform"), &metadata.platform);
    for (key, specs) in [("inputs", &metadata.inputs), ("outputs", &metadata.outputs)] {
        list_json(object.key(key), specs, |object, spec| {
            json::value(object.key("datatype"), spec.datatype.as_str());
            json::value(object.key("shape"), &spec.shape);
        });
    }
    object.close();
    out.into()
}

fn list_json(out: &mut Vec<u8>, specs: &[TensorSpec], members: impl Fn(&mut Object<'_>, &TensorSpec)) {
    out.push(b'[');
    for (index, spec) in specs.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let mut object = Object::open(out);
        json::value(object.key("name"), &spec.name);
        members(&mut object, spec);
        object.close();
    }
    out.push(b']');
}

/// The answer to a gRPC request for metadata.
#[must_use]
pub fn to_grpc(metadata: &Metadata) -> ModelMetadataResponse {
    let encode = |spec: &TensorSpec| TensorMetadata {
        name: spec.name.clone(),
        datatype: spec.datatype.as_str().to_owned(),
        shape: spec.shape.clone(),
    };
    ModelMetadataResponse {
        name: metadata.name.clone(),
        versions: metadata.versions.clone(),
        platform: metadata.platform.clone(),
        inputs: metadata.inputs.iter().map(encode).collect(),
        outputs: metadata.outputs.iter().map(encode).collect(),
    }
}

/// Reads what a model server says over gRPC.
///
/// # Errors
/// A datatype that is not one of the protocol's.
pub fn from_grpc(response: ModelMetadataResponse) -> Result<Metadata, Error> {
    let ModelMetadataResponse { name, versions, platform, inputs, outputs } = response;
    let decode = |tensors: Vec<TensorMetadata>, place: fn(&str) -> Place| {
        let decode_one = |TensorMetadata { name, datatype, shape }| {
            let datatype = parse_datatype(&datatype).map_err(place(&name).error())?;
            Ok(TensorSpec { name, datatype, shape })
        };
        tensors.into_iter().map(decode_one).collect::<Result<Vec<_>, Error>>()
    };
    let (inputs, outputs) = (decode(inputs, Place::input)?, decode(outputs, Place::output)?);
    Ok(Metadata { name, versions, platform, inputs, outputs })
}

fn parse_datatype(name: &str) -> Result<DataType, Problem> {
    name.parse().map_err(|_| Problem::UnknownDatatype(Quoted::new(name)))
}

/// The answer to a REST request for the model's configuration. `rows_max` is told to the client if the model
/// has a batch dimension.
#[must_use]
pub fn config_json(metadata: &Metadata, rows_max: u32) -> Bytes {
    let config = config_grpc(metadata, rows_max);
    let mut out = Vec::new();
    let mut object = Object::open(&mut out);
    json::value(object.key("name"), &config.name);
    json::value(object.key("platform"), &config.platform);
    json::value(object.key("max_batch_size"), &config.max_batch_size);
    for (key, specs) in [("input", &metadata.inputs), ("output", &metadata.outputs)] {
        list_json(object.key(key), specs, |object, spec| {
            json::value(object.key("data_type"), config_datatype(spec.datatype).as_str_name());
            json::value(object.key("dims"), config_dims(spec, config.max_batch_size));
        });
    }
    object.close();
    out.into()
}

/// The answer to a gRPC request for the model's configuration; `rows_max` as in [`config_json`].
#[must_use]
pub fn config_grpc(metadata: &Metadata, rows_max: u32) -> ModelConfig {
    let rows_max = i32::try_from(rows_max).unwrap_or(i32::MAX);
    let max_batch_size = if metadata.has_batch_dimension() { rows_max } else { 0 };
    let input = metadata.inputs.iter().map(|spec| ModelInput {
        name: spec.name.clone(),
        data_type: config_datatype(spec.datatype).into(),
        dims: config_dims(spec, max_batch_size).to_vec(),
    });
    let output = metadata.outputs.iter().map(|spec| ModelOutput {
        name: spec.name.clone(),
        data_type: config_datatype(spec.datatype).into(),
        dims: config_dims(spec, max_batch_size).to_vec(),
    });
    ModelConfig {
        name: metadata.name.clone(),
        platform: metadata.platform.clone(),
        max_batch_size,
        input: input.collect(),
        output: output.collect(),
        ..ModelConfig::default()
    }
}

/// The dimensions of one row where there is a batch dimension, else all of them.
fn config_dims(spec: &TensorSpec, max_batch_size: i32) -> &[i64] {
    match spec.shape.split_first() {
        Some((_, row)) if max_batch_size > 0 => row,
        _ => &spec.shape,
    }
}

fn config_datatype(datatype: DataType) -> proto::inference::DataType {
    use proto::inference::DataType as Config;
    match datatype {
        DataType::Bool => Config::TypeBool,
        DataType::Uint8 => Config::TypeUint8,
        DataType::Uint16 => Config::TypeUint16,
        DataType::Uint32 => Config::TypeUint32,
        DataType::Uint64 => Config::TypeUint64,
        DataType::Int8 => Config::TypeInt8,
        DataType::Int16 => Config::TypeInt16,
        DataType::Int32 => Config::TypeInt32,
        DataType::Int64 => Config::TypeInt64,
        DataType::Fp16 => Config::TypeFp16,
        DataType::Fp32 => Config::TypeFp32,
        DataType::Fp64 => Config::TypeFp64,
        DataType::Bf16 => Config::TypeBf16,
        DataType::Bytes => Config::TypeString,
    }
}

#[cfg(test)]
mod tests;
