//! Writing V1 requests and responses.

use bytes::Bytes;
use pipeline::{
    request::{Inference, Outcome},
    tensor::Tensor,
};

use crate::{
    Encoded,
    elements::{self, Writer},
    error::{Error, Place},
    json::{self, Object},
    metadata::rows,
    mirror::{Layout, Mirror},
};

/// Encodes an answer: `predictions` for a request with `instances`, `outputs` for one with `inputs`.
///
/// # Errors
/// If an output is not what its datatype and shape say, or rows are wanted and the outputs do not share them.
pub fn encode_response(outcome: &Outcome, mirror: &Mirror) -> Result<Encoded, Error> {
    match mirror.layout {
        Layout::Rows => write("predictions", &outcome.outputs, Place::output, write_rows),
        Layout::Columns => write("outputs", &outcome.outputs, Place::output, write_columns),
    }
}

/// Encodes a request for a model server, as `instances` if the inputs share their rows, else as `inputs`.
///
/// # Errors
/// If an input is not what its datatype and shape say.
pub fn encode_request(inference: &Inference) -> Result<Encoded, Error> {
    match inference.rows() {
        Some(_) => write("instances", &inference.inputs, Place::input, write_rows),
        None => write("inputs", &inference.inputs, Place::input, write_columns),
    }
}

type Write = fn(&mut Vec<u8>, &[Tensor], fn(&str) -> Place) -> Result<(), Error>;

fn write(key: &str, tensors: &[Tensor], place: fn(&str) -> Place, write: Write) -> Result<Encoded, Error> {
    for tensor in tensors {
        elements::check(tensor.datatype, &tensor.shape, &tensor.data).map_err(place(&tensor.name).error())?;
    }
    let estimate = tensors.iter().map(|tensor| writer(tensor).estimate());
    let mut out = Vec::with_capacity(64 + estimate.sum::<usize>());
    let mut object = Object::open(&mut out);
    write(object.key(key), tensors, place)?;
    object.close();
    Ok(Encoded { body: Bytes::from(out), header_length: None })
}

fn write_columns(out: &mut Vec<u8>, tensors: &[Tensor], place: fn(&str) -> Place) -> Result<(), Error> {
    let write_one = |out: &mut Vec<u8>, tensor: &Tensor| {
        writer(tensor).nested(out, &tensor.shape).map_err(place(&tensor.name).error())
    };
    if let [tensor] = tensors {
        return write_one(out, tensor);
    }
    let mut object = Object::open(out);
    for tensor in tensors {
        write_one(object.key(&tensor.name), tensor)?;
    }
    object.close();
    Ok(())
}

fn write_rows(out: &mut Vec<u8>, tensors: &[Tensor], place: fn(&str) -> Place) -> Result<(), Error> {
    let mut rest = tensors.iter().map(Tensor::rows);
    let common = rest.next().flatten().filter(|first| rest.all(|rows| rows == Some(*first)));
    let common = common.ok_or_else(|| Error::NoRows(rows(tensors)))?;
    let mut columns: Vec<_> = tensors.iter().map(|tensor| (tensor, writer(tensor))).collect();
    json::array(out, 0..common, |out, _| {
        if let [(tensor, writer)] = columns.as_mut_slice() {
            return write_row(out, tensor, writer, place);
        }
        let mut object = Object::open(out);
        for (tensor, writer) in &mut columns {
            write_row(object.key(&tensor.name), tensor, writer, place)?;
        }
        object.close();
        Ok(())
    })
}

fn write_row(
    out: &mut Vec<u8>,
    tensor: &Tensor,
    writer: &mut Writer<'_>,
    place: fn(&str) -> Place,
) -> Result<(), Error> {
    let row = tensor.shape.get(1..).unwrap_or_default();
    writer.nested(out, row).map_err(place(&tensor.name).error())
}

fn writer(tensor: &Tensor) -> Writer<'_> {
    Writer::with_base64(tensor.datatype, &tensor.data)
}
