//! Writing V2 REST requests and responses.

use pipeline::{
    request::{Inference, Outcome, RequestedOutput},
    tensor::{Parameter, Tensor},
};

use super::{BINARY, BINARY_OUTPUT, BINARY_SIZE};
use crate::{
    Encoded,
    elements::{self, Writer},
    error::{Error, Place},
    json::{self, Object},
    mirror::{Mirror, TensorEncoding},
    parameters,
};

/// How the tensors of a request are written, and how its answer is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Json,
    Binary,
}

/// Encodes an answer the way the client wants it.
///
/// # Errors
/// If an output is not what its datatype and shape say, or is not text and wanted in JSON.
pub fn encode_response(model: &str, outcome: &Outcome, id: &str, mirror: &Mirror) -> Result<Encoded, Error> {
    let mut body = Body::new(&outcome.outputs, |name| mirror.encoding(name));
    let mut object = Object::open(&mut body.json);
    json::value(object.key("model_name"), model);
    if !outcome.model_version.is_empty() {
        json::value(object.key("model_version"), &outcome.model_version);
    }
    if !id.is_empty() {
        json::value(object.key("id"), id);
    }
    if !outcome.parameters.is_empty() {
        parameters::write(object.key("parameters"), &outcome.parameters);
    }
    let binary = &mut body.binary;
    json::array(object.key("outputs"), &outcome.outputs, |out, tensor| {
        write_tensor(out, binary, tensor, mirror.encoding(&tensor.name), Place::output)
    })?;
    object.close();
    Ok(body.finish())
}

/// Encodes a request for a model server.
///
/// # Errors
/// If an input is not what its datatype and shape say, or is not text and to be written in JSON.
pub fn encode_request(inference: &Inference, style: Style) -> Result<Encoded, Error> {
    let encoding = match style {
        Style::Json => TensorEncoding::Json,
        Style::Binary => TensorEncoding::Binary,
    };
    let mut body = Body::new(&inference.inputs, |_| encoding);
    let mut object = Object::open(&mut body.json);
    if !inference.id.is_empty() {
        json::value(object.key("id"), &inference.id);
    }
    let all_binary = style == Style::Binary && inference.outputs.is_empty();
    if all_binary || !inference.parameters.is_empty() {
        let extra = (BINARY_OUTPUT.to_owned(), Parameter::Bool(true));
        let extra = all_binary.then_some((&extra.0, &extra.1));
        parameters::write(object.key("parameters"), inference.parameters.iter().chain(extra));
    }
    let binary = &mut body.binary;
    json::array(object.key("inputs"), &inference.inputs, |out, tensor| {
        write_tensor(out, binary, tensor, encoding, Place::input)
    })?;
    if !inference.outputs.is_empty() {
        json::array(object.key("outputs"), &inference.outputs, |out, output| {
            write_requested(out, output, style);
            Ok::<(), Error>(())
        })?;
    }
    object.close();
    Ok(body.finish())
}

fn write_requested(out: &mut Vec<u8>, output: &RequestedOutput, style: Style) {
    let mut object = Object::open(out);
    json::value(object.key("name"), &output.name);
    if style == Style::Binary || !output.parameters.is_empty() {
        let extra = (BINARY.to_owned(), Parameter::Bool(true));
        let extra = (style == Style::Binary).then_some((&extra.0, &extra.1));
        parameters::write(object.key("parameters"), output.parameters.iter().chain(extra));
    }
    object.close();
}

/// JSON and the binary data that will follow it.
struct Body<'t> {
    json: Vec<u8>,
    binary: Vec<&'t [u8]>,
    has_binary: bool,
}

impl<'t> Body<'t> {
    fn new(tensors: &'t [Tensor], encoding: impl Fn(&str) -> TensorEncoding) -> Self {
        let in_json = |tensor: &&Tensor| encoding(&tensor.name) == TensorEncoding::Json;
        let estimate = tensors.iter().filter(in_json).map(|t| Writer::new(t.datatype, &t.data).estimate());
        let capacity = 256 + 128 * tensors.len() + estimate.sum::<usize>();
        let has_binary = !tensors.iter().all(|tensor| in_json(&tensor));
        Self { json: Vec::with_capacity(capacity), binary: Vec::new(), has_binary }
    }

    fn finish(mut self) -> Encoded {
        let header_length = self.has_binary.then_some(self.json.len());
        self.json.reserve_exact(self.binary.iter().map(|data| data.len()).sum());
        self.binary.iter().for_each(|data| self.json.extend_from_slice(data));
        Encoded { body: self.json.into(), header_length }
    }
}

fn write_tensor<'t>(
    out: &mut Vec<u8>,
    binary: &mut Vec<&'t [u8]>,
    tensor: &'t Tensor,
    encoding: TensorEncoding,
    place: fn(&str) -> Place,
) -> Result<(), Error> {
    let Tensor { name, datatype, shape, data, parameters } = tensor;
    let in_place = |problem| place(name).error()(problem);
    elements::check(*datatype, shape, data).map_err(in_place)?;
    let mut object = Object::open(out);
    json::value(object.key("name"), name);
    json::value(object.key("datatype"), datatype.as_str());
    json::value(object.key("shape"), shape);
    match encoding {
        TensorEncoding::Binary => {
            let size = Parameter::Uint(data.len() as u64);
            let extra = (BINARY_SIZE.to_owned(), size);
            parameters::write(object.key("parameters"), parameters.iter().chain([(&extra.0, &extra.1)]));
            binary.push(data);
        }
        TensorEncoding::Json => {
            if !parameters.is_empty() {
                parameters::write(object.key("parameters"), parameters);
            }
            Writer::new(*datatype, data).flat(object.key("data")).map_err(in_place)?;
        }
    }
    object.close();
    Ok(())
}
