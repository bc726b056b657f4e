//! The Open Inference Protocol over gRPC. Raw contents are handed on without a copy.
//!
//! Parameters that tell of the binary data in a REST body are dropped: some clients and servers send them here
//! too, where they mean nothing, and in a REST body made of the message they would be wrong.

use std::collections::HashMap;

use bytes::Bytes;
use pipeline::{
    request::{Inference, Outcome, RequestedOutput},
    tensor::{DataType, Parameter, Parameters, Tensor},
};
use proto::inference::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    infer_parameter::ParameterChoice,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    model_infer_response::InferOutputTensor,
};

use crate::{
    Decoded, elements,
    error::{Error, Place, Problem, TENSORS_MAX},
    mirror::{Contents, Mirror},
    parameters::{self, Reserved},
    quote::{Clipped, Quoted},
    v2::{BINARY, BINARY_OUTPUT, BINARY_SIZE, check_id, distinct},
};

mod contents;

/// Decodes a client's request. Raw contents ask for a raw answer, typed ones for a typed answer.
///
/// # Errors
/// Whatever is wrong with the request.
pub fn decode_request(request: ModelInferRequest) -> Result<Decoded, Error> {
    let ModelInferRequest { model_version, id, parameters, inputs, outputs, raw_input_contents, .. } =
        request;
    let raw = Raw::new(raw_input_contents, inputs.len())?;
    let mirror = Mirror { contents: raw.contents(), ..Mirror::default() };
    let mut parameters = decode_parameters(parameters)?;
    parameters.remove(BINARY_OUTPUT);
    let Reserved { class, timeout } = Reserved::take(&mut parameters)?;
    check_lists(&inputs, &outputs)?;
    let inputs = inputs.into_iter().zip(raw).map(|(input, raw)| decode_input(input, raw));
    let inputs = inputs.collect::<Result<_, _>>()?;
    let outputs = outputs.into_iter().map(decode_output).collect::<Result<_, _>>()?;
    let inference = Inference { version: model_version, id: check_id(&id)?, inputs, outputs, parameters };
    Ok(Decoded { inference, class, timeout, mirror })
}

/// Encodes an answer the way the client wants it; FP16 and BF16 have no typed form, so they make it raw.
///
/// # Errors
/// If an output is not what its datatype and shape say.
pub fn encode_response(
    model: &str,
    outcome: &Outcome,
    id: &str,
    mirror: &Mirror,
) -> Result<ModelInferResponse, Error> {
    let half = |tensor: &Tensor| matches!(tensor.datatype, DataType::Fp16 | DataType::Bf16);
    let typed = mirror.contents == Contents::Typed && !outcome.outputs.iter().any(half);
    let mut response = ModelInferResponse {
        model_name: model.to_owned(),
        model_version: outcome.model_version.clone(),
        id: id.to_owned(),
        parameters: encode_parameters(&outcome.parameters),
        ..ModelInferResponse::default()
    };
    for tensor in &outcome.outputs {
        elements::check(tensor.datatype, &tensor.shape, &tensor.data)
            .map_err(Place::output(&tensor.name).error())?;
        response.outputs.push(InferOutputTensor {
            name: tensor.name.clone(),
            datatype: tensor.datatype.as_str().to_owned(),
            shape: encode_shape(&tensor.shape),
            parameters: encode_parameters(&tensor.parameters),
            contents: typed.then(|| contents::unpack(tensor.datatype, &tensor.data)),
        });
        if !typed {
            response.raw_output_contents.push(tensor.data.clone());
        }
    }
    Ok(response)
}

/// Encodes a request for a model server, with raw contents.
#[must_use]
pub fn encode_request(model: &str, inference: &Inference) -> ModelInferRequest {
    let inputs = inference.inputs.iter().map(|tensor| InferInputTensor {
        name: tensor.name.clone(),
        datatype: tensor.datatype.as_str().to_owned(),
        shape: encode_shape(&tensor.shape),
        parameters: encode_parameters(&tensor.parameters),
        contents: None,
    });
    let outputs = inference.outputs.iter().map(|output| InferRequestedOutputTensor {
        name: output.name.clone(),
        parameters: encode_parameters(&output.parameters),
    });
    ModelInferRequest {
        model_name: model.to_owned(),
        model_version: inference.version.clone(),
        id: inference.id.clone(),
        parameters: encode_parameters(&inference.parameters),
        inputs: inputs.collect(),
        outputs: outputs.collect(),
        raw_input_contents: inference.inputs.iter().map(|tensor| tensor.data.clone()).collect(),
    }
}

/// Decodes the answer of a model server, raw or typed.
///
/// # Errors
/// Whatever makes the answer useless.
pub fn decode_response(response: ModelInferResponse) -> Result<Outcome, Error> {
    let ModelInferResponse { model_name, model_version, parameters, outputs, raw_output_contents, .. } =
        response;
    let names = outputs.iter().map(|output| output.name.as_str());
    distinct(names).map_err(|name| Error::DuplicateOutput(Quoted::new(name)))?;
    let raw = Raw::new(raw_output_contents, outputs.len())?;
    let outputs = outputs.into_iter().zip(raw).map(|(output, raw)| {
        let InferOutputTensor { name, datatype, shape, parameters, contents } = output;
        let parameters = decode_parameters(parameters)?;
        decode_tensor(name, Fields { datatype, shape, contents, raw }, parameters, Place::output)
    });
    let outputs = outputs.collect::<Result<_, _>>()?;
    Ok(Outcome { model_name, model_version, outputs, parameters: decode_parameters(parameters)? })
}

/// The raw contents of a message: one for each tensor, or none.
enum Raw {
    Given(std::vec::IntoIter<Bytes>),
    Absent,
}

impl Raw {
    fn new(raw: Vec<Bytes>, tensors: usize) -> Result<Self, Error> {
        match raw.len() {
            0 => Ok(Self::Absent),
            entries if entries == tensors => Ok(Self::Given(raw.into_iter())),
            entries => Err(Error::RawCount { inputs: tensors, raw: entries }),
        }
    }

    fn contents(&self) -> Contents {
        match self {
            Self::Given(_) => Contents::Raw,
            Self::Absent => Contents::Typed,
        }
    }
}

impl Iterator for Raw {
    type Item = Option<Bytes>;

    fn next(&mut self) -> Option<Option<Bytes>> {
        match self {
            Self::Given(raw) => raw.next().map(Some),
            Self::Absent => Some(None),
        }
    }
}

fn check_lists(inputs: &[InferInputTensor], outputs: &[InferRequestedOutputTensor]) -> Result<(), Error> {
    if inputs.is_empty() {
        return Err(Error::Empty("inputs"));
    }
    for (field, length) in [("inputs", inputs.len()), ("outputs", outputs.len())] {
        if length > TENSORS_MAX {
            return Err(Error::TooMany(field));
        }
    }
    let names = inputs.iter().map(|input| input.name.as_str());
    distinct(names).map_err(|name| Error::DuplicateInput(Quoted::new(name)))?;
    let names = outputs.iter().map(|output| output.name.as_str());
    distinct(names).map_err(|name| Error::DuplicateOutput(Quoted::new(name)))
}

fn decode_input(input: InferInputTensor, raw: Option<Bytes>) -> Result<Tensor, Error> {
    let InferInputTensor { name, datatype, shape, parameters, contents } = input;
    let parameters = decode_parameters(parameters)?;
    parameters::refuse_shared_memory(&parameters)?;
    decode_tensor(name, Fields { datatype, shape, contents, raw }, parameters, Place::input)
}

fn decode_output(output: InferRequestedOutputTensor) -> Result<RequestedOutput, Error> {
    let mut parameters = decode_parameters(output.parameters)?;
    parameters.remove(BINARY);
    parameters::refuse_shared_memory(&parameters)?;
    Ok(RequestedOutput { name: output.name, parameters })
}

/// What inputs and outputs have in common.
struct Fields {
    datatype: String,
    shape: Vec<i64>,
    contents: Option<InferTensorContents>,
    raw: Option<Bytes>,
}

fn decode_tensor(
    name: String,
    fields: Fields,
    mut parameters: Parameters,
    place: fn(&str) -> Place,
) -> Result<Tensor, Error> {
    parameters.remove(BINARY_SIZE);
    let (datatype, shape, data) = fields.decode().map_err(place(&name).error())?;
    Ok(Tensor { name, datatype, shape, data, parameters })
}

impl Fields {
    fn decode(self) -> Result<(DataType, Vec<u64>, Bytes), Problem> {
        let datatype = self.datatype.parse();
        let datatype: DataType =
            datatype.map_err(|_| Problem::UnknownDatatype(Quoted::new(&self.datatype)))?;
        let shape = decode_shape(&self.shape)?;
        let count = elements::count(&shape)?;
        let contents = self.contents.unwrap_or_default();
        let data = match self.raw {
            Some(_) if contents != InferTensorContents::default() => return Err(Problem::ContentsAndRaw),
            Some(raw) => raw,
            None => contents::pack(datatype, &shape, count, &contents)?,
        };
        elements::check(datatype, &shape, &data)?;
        Ok((datatype, shape, data))
    }
}

fn decode_shape(shape: &[i64]) -> Result<Vec<u64>, Problem> {
    if shape.len() > crate::error::RANK_MAX {
        return Err(Problem::Rank);
    }
    let dims = shape.iter().enumerate().map(|(index, dim)| {
        u64::try_from(*dim).map_err(|_| Problem::Dimension { index, value: Clipped::new(&dim.to_string()) })
    });
    dims.collect()
}

fn encode_shape(shape: &[u64]) -> Vec<i64> {
    shape.iter().map(|dim| i64::try_from(*dim).unwrap_or(i64::MAX)).collect()
}

fn decode_parameters(parameters: HashMap<String, InferParameter>) -> Result<Parameters, Error> {
    let mut decoded = Parameters::new();
    for (name, parameter) in parameters {
        let value = match parameter.parameter_choice {
            Some(ParameterChoice::BoolParam(value)) => Parameter::Bool(value),
            Some(ParameterChoice::Int64Param(value)) => Parameter::Int(value),
            Some(ParameterChoice::Uint64Param(value)) => Parameter::Uint(value),
            Some(ParameterChoice::StringParam(value)) => Parameter::String(value),
            Some(ParameterChoice::DoubleParam(value)) if value.is_finite() => Parameter::Double(value),
            Some(ParameterChoice::DoubleParam(_)) => {
                return Err(parameters::wrong(&name, "finite"));
            }
            // A choice that this version of the protocol does not know.
            None => continue,
        };
        decoded.insert(name, value);
    }
    Ok(decoded)
}

fn encode_parameters(parameters: &Parameters) -> HashMap<String, InferParameter> {
    let encode = |parameter: &Parameter| match parameter {
        Parameter::Bool(value) => ParameterChoice::BoolParam(*value),
        Parameter::Int(value) => ParameterChoice::Int64Param(*value),
        Parameter::Uint(value) => ParameterChoice::Uint64Param(*value),
        Parameter::Double(value) => ParameterChoice::DoubleParam(*value),
        Parameter::String(value) => ParameterChoice::StringParam(value.clone()),
    };
    let entry = |(name, parameter): (&String, &Parameter)| {
        (name.clone(), InferParameter { parameter_choice: Some(encode(parameter)) })
    };
    parameters.iter().map(entry).collect()
}

#[cfg(test)]
mod tests;
