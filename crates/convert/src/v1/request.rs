//! V1 requests: `instances`, row by row, or `inputs`, tensor by tensor.

use bytes::Bytes;
use pipeline::{
    request::Inference,
    tensor::{DataType, Metadata, Tensor, TensorSpec},
};

use crate::{
    Decoded, Limits,
    elements::{self, Elements, is_base64},
    error::{Error, Place},
    json::{Dialect, Kind, Reader, once},
    metadata::find_input,
    mirror::{Layout, Mirror},
    quote::{Listed, Quoted},
};

/// Bytes of tensor data that [`decode_request`] makes at most, found by a look at the body's commas alone: an
/// overestimate, to charge memory by rather than to refuse by.
#[must_use]
pub fn decoded_bytes(body: &Bytes, metadata: &Metadata) -> usize {
    let values = memchr::memchr_iter(b',', body).count() + 1;
    let width = metadata.inputs.iter().map(|spec| spec.datatype.size().unwrap_or(4)).max().unwrap_or(0);
    let strings = metadata.inputs.iter().any(|spec| spec.datatype == DataType::Bytes);
    values.saturating_mul(width).saturating_add(if strings { body.len() } else { 0 })
}

/// Decodes a request. The shape of a tensor is that of its arrays; whether it suits the model is for
/// [`crate::metadata::check`] to say. `NaN`, `Infinity` and `-Infinity` are accepted.
///
/// # Errors
/// Whatever is wrong with the request.
pub fn decode_request(body: &Bytes, metadata: &Metadata, limits: &Limits) -> Result<Decoded, Error> {
    if metadata.inputs.is_empty() {
        return Err(Error::NoMetadata(Quoted::new(&metadata.name)));
    }
    let mut reader = Reader::new(body, Dialect::NonFinite)?;
    if reader.kind()? != Kind::Object {
        return Err(Error::NotAnObject);
    }
    let (mut instances, mut inputs) = (None, None);
    reader.object(|reader, key| match &*key {
        "instances" => once(&mut instances, &key, read_instances(reader, metadata)?),
        "inputs" => once(&mut inputs, &key, read_inputs(reader, metadata)?),
        _ => reader.skip(),
    })?;
    reader.end()?;
    let (layout, inputs) = match (instances, inputs) {
        (Some(_), Some(_)) => return Err(Error::InstancesAndInputs),
        (None, None) => return Err(Error::MissingField("instances")),
        (Some(tensors), None) => (Layout::Rows, tensors),
        (None, Some(tensors)) => (Layout::Columns, tensors),
    };
    let inference = Inference { inputs, ..Inference::default() };
    let (bytes, limit) = (inference.bytes(), limits.decoded_bytes);
    if bytes > limit {
        return Err(Error::TooLarge { bytes, limit });
    }
    let mirror = Mirror { layout, ..Mirror::default() };
    Ok(Decoded { inference, class: None, timeout: None, mirror })
}

fn read_instances(reader: &mut Reader<'_>, metadata: &Metadata) -> Result<Vec<Tensor>, Error> {
    if reader.kind()? != Kind::Array {
        return Err(Error::FieldType { field: "instances", expected: "a list" });
    }
    if first_is_named(*reader, metadata)? {
        return read_named_rows(reader, metadata);
    }
    let spec = only_input(metadata)?;
    let mut elements = start(spec);
    if reader.array(|reader, _| elements.row(reader))? == 0 {
        return Err(Error::Empty("instances"));
    }
    Ok(vec![finish(elements, spec)?])
}

/// Whether the first instance is an object with a value for each input, rather than a value itself.
fn first_is_named(mut reader: Reader<'_>, metadata: &Metadata) -> Result<bool, Error> {
    let mut named = false;
    let first = reader.array(|reader, _| {
        named = reader.kind()? == Kind::Object && is_named(*reader, metadata);
        // One is enough: the error ends the loop and means nothing.
        Err(Error::Empty("instances"))
    });
    first.or(Ok::<_, Error>(0)).map(|_| named)
}

/// Whether an object has values by name: any but `{"b64": …}` where no input is called so.
fn is_named(reader: Reader<'_>, metadata: &Metadata) -> bool {
    !is_base64(reader) || metadata.inputs.iter().any(|spec| spec.name == "b64")
}

fn read_named_rows(reader: &mut Reader<'_>, metadata: &Metadata) -> Result<Vec<Tensor>, Error> {
    let mut columns: Vec<Column<'_>> = metadata.inputs.iter().map(Column::new).collect();
    reader.array(|reader, row| {
        if reader.kind()? != Kind::Object {
            return Err(Error::FieldType { field: "instances", expected: "a list of objects throughout" });
        }
        reader.object(|reader, key| match columns.iter_mut().find(|column| column.spec.name == key) {
            Some(column) => column.read(reader, row),
            None => find_input(metadata, &key).map(drop),
        })?;
        match columns.iter().find(|column| column.rows == row) {
            Some(column) => Err(Error::MissingInRow { row, field: Quoted::new(&column.spec.name) }),
            None => Ok(()),
        }
    })?;
    columns.into_iter().map(|column| finish(column.elements, column.spec)).collect()
}

/// One input that is filled row by row.
struct Column<'m> {
    spec: &'m TensorSpec,
    elements: Elements,
    rows: usize,
}

impl<'m> Column<'m> {
    fn new(spec: &'m TensorSpec) -> Self {
        Self { spec, elements: start(spec), rows: 0 }
    }

    fn read(&mut self, reader: &mut Reader<'_>, row: usize) -> Result<(), Error> {
        if self.rows > row {
            return Err(Error::DuplicateField(Quoted::new(&self.spec.name)));
        }
        self.rows += 1;
        self.elements.row(reader)
    }
}

fn read_inputs(reader: &mut Reader<'_>, metadata: &Metadata) -> Result<Vec<Tensor>, Error> {
    if reader.kind()? != Kind::Object || !is_named(*reader, metadata) {
        let spec = only_input(metadata)?;
        return Ok(vec![read_tensor(reader, spec)?]);
    }
    let mut tensors: Vec<Tensor> = Vec::new();
    reader.object(|reader, key| {
        let spec = find_input(metadata, &key)?;
        if tensors.iter().any(|tensor| tensor.name == key) {
            return Err(Error::DuplicateField(Quoted::new(&key)));
        }
        tensors.push(read_tensor(reader, spec)?);
        Ok(())
    })?;
    if tensors.is_empty() { Err(Error::Empty("inputs")) } else { Ok(tensors) }
}

fn read_tensor(reader: &mut Reader<'_>, spec: &TensorSpec) -> Result<Tensor, Error> {
    let mut elements = start(spec);
    elements.tensor(reader)?;
    finish(elements, spec)
}

fn only_input(metadata: &Metadata) -> Result<&TensorSpec, Error> {
    match metadata.inputs.as_slice() {
        [spec] => Ok(spec),
        specs => Err(Error::NeedsNames {
            model: Quoted::new(&metadata.name),
            inputs: Listed::new(specs.iter().map(|spec| Quoted::new(&spec.name))),
        }),
    }
}

fn start(spec: &TensorSpec) -> Elements {
    Elements::new(Place::input(&spec.name), spec.datatype, usize::MAX, 0)
}

fn finish(elements: Elements, spec: &TensorSpec) -> Result<Tensor, Error> {
    let (shape, data) = elements.finish();
    elements::count(&shape).map_err(Place::input(&spec.name).error())?;
    Ok(Tensor::new(&spec.name, spec.datatype, shape, data.into()))
}
