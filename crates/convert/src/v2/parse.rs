//! A V2 REST request: everything but the elements first, so that memory is charged before they are decoded.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use pipeline::{
    request::{Inference, RequestedOutput},
    tensor::Parameters,
};

use super::{
    BINARY, BINARY_OUTPUT,
    envelope::{Envelope, Side, Source},
    split,
};
use crate::{
    Decoded, Limits,
    error::{Error, ID_MAX, Place, Problem, TENSORS_MAX},
    json::{Dialect, Kind, Reader, once},
    mirror::{Mirror, TensorEncoding},
    parameters::{self, Reserved},
    quote::Quoted,
};

/// A request whose tensors have not been decoded.
#[derive(Debug)]
pub struct Parsed<'a> {
    json: Reader<'a>,
    binary: Bytes,
    id: String,
    parameters: Parameters,
    reserved: Reserved,
    inputs: Vec<Envelope>,
    outputs: Vec<RequestedOutput>,
    mirror: Mirror,
}

/// Parses a request. With a `header_length`, binary tensors follow the JSON of that many bytes; if it is zero,
/// the whole body is one tensor and [`super::parse_raw`] is the one to call.
///
/// # Errors
/// Whatever is wrong with the request but for the elements of its tensors.
pub fn parse(body: &Bytes, header_length: Option<usize>) -> Result<Parsed<'_>, Error> {
    let (json, binary) = split(body, header_length)?;
    let mut reader = Reader::new(json, Dialect::OrBinary)?;
    let fields = Fields::read(&mut reader).map_err(|error| cut(error, header_length))?;
    let parsed = fields.check(reader, binary)?;
    check_binary(&parsed.inputs, parsed.binary.len())?;
    Ok(parsed)
}

/// A JSON text that ends too early has most likely been cut by a wrong header length.
fn cut(error: Error, header_length: Option<usize>) -> Error {
    match (error, header_length) {
        (Error::Syntax { what: "unexpected end", line, column }, Some(header_length)) => {
            Error::HeaderCut { line, column, header_length }
        }
        (error, _) => error,
    }
}

/// That the binary data is exactly what the tensors claim.
pub(super) fn check_binary(tensors: &[Envelope], present: usize) -> Result<(), Error> {
    let sizes = tensors.iter().filter_map(|tensor| match tensor.source {
        Source::Binary(size) => Some(size),
        Source::Json(_) => None,
    });
    match sizes.clone().try_fold(0u64, u64::checked_add) {
        Some(declared) if declared == present as u64 => Ok(()),
        Some(0) if sizes.count() == 0 => Err(Error::BinaryUnclaimed { present }),
        declared => Err(Error::BinarySize { declared: declared.unwrap_or(u64::MAX), present }),
    }
}

impl Parsed<'_> {
    /// Bytes that [`Parsed::decode`] allocates at most: those of tensors in JSON. Binary ones stay in the body.
    #[must_use]
    pub fn decoded_bytes(&self) -> usize {
        self.inputs.iter().map(Envelope::decoded_bytes).fold(0, usize::saturating_add)
    }

    /// Decodes the tensors.
    ///
    /// # Errors
    /// [`Error::TooLarge`] before anything is allocated, or whatever is wrong with an element.
    pub fn decode(self, limits: &Limits) -> Result<Decoded, Error> {
        let bytes = self.decoded_bytes();
        if bytes > limits.decoded_bytes {
            return Err(Error::TooLarge { bytes, limit: limits.decoded_bytes });
        }
        let Self { json, mut binary, id, parameters, reserved, inputs, outputs, mirror } = self;
        let inputs = inputs.into_iter().map(|input| input.decode(json, &mut binary));
        let inputs = inputs.collect::<Result<_, _>>()?;
        let inference = Inference { version: String::new(), id, inputs, outputs, parameters };
        Ok(Decoded { inference, class: reserved.class, timeout: reserved.timeout, mirror })
    }
}

#[derive(Default)]
struct Fields {
    id: Option<String>,
    parameters: Option<Parameters>,
    inputs: Option<Vec<Envelope>>,
    outputs: Option<Vec<RequestedOutput>>,
}

impl Fields {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        if reader.kind()? != Kind::Object {
            return Err(Error::NotAnObject);
        }
        let mut fields = Self::default();
        reader.object(|reader, key| fields.read_one(reader, &key))?;
        reader.end()?;
        Ok(fields)
    }

    fn read_one(&mut self, reader: &mut Reader<'_>, key: &str) -> Result<(), Error> {
        match key {
            "id" => once(&mut self.id, key, read_id(reader)?),
            "parameters" => once(&mut self.parameters, key, parameters::read(reader)?),
            "inputs" => {
                let mut inputs = Vec::new();
                read_list(reader, "inputs", |reader, index| {
                    inputs.push(Envelope::read(reader, Side::Input, index)?);
                    Ok(())
                })?;
                once(&mut self.inputs, key, inputs)
            }
            "outputs" => {
                let mut outputs = Vec::new();
                if reader.kind()? == Kind::Null {
                    reader.literal(Kind::Null)?;
                } else {
                    read_list(reader, "outputs", |reader, index| {
                        outputs.push(read_output(reader, index)?);
                        Ok(())
                    })?;
                }
                once(&mut self.outputs, key, outputs)
            }
            _ => reader.skip(),
        }
    }

    fn check(self, json: Reader<'_>, binary: Bytes) -> Result<Parsed<'_>, Error> {
        let inputs = self.inputs.ok_or(Error::MissingField("inputs"))?;
        if inputs.is_empty() {
            return Err(Error::Empty("inputs"));
        }
        let names = inputs.iter().map(|input| input.name.as_str());
        distinct(names).map_err(|name| Error::DuplicateInput(Quoted::new(name)))?;
        let mut outputs = self.outputs.unwrap_or_default();
        let names = outputs.iter().map(|output| output.name.as_str());
        distinct(names).map_err(|name| Error::DuplicateOutput(Quoted::new(name)))?;
        let mut parameters = self.parameters.unwrap_or_default();
        let reserved = Reserved::take(&mut parameters)?;
        let mirror = mirror(&mut parameters, &mut outputs)?;
        let id = self.id.unwrap_or_default();
        Ok(Parsed { json, binary, id, parameters, reserved, inputs, outputs, mirror })
    }
}

fn read_id(reader: &mut Reader<'_>) -> Result<String, Error> {
    match reader.kind()? {
        Kind::String => check_id(&reader.string()?),
        Kind::Null => reader.literal(Kind::Null).map(|()| String::new()),
        _ => Err(Error::FieldType { field: "id", expected: "a string" }),
    }
}

/// The id as a client may give it.
pub(crate) fn check_id(id: &str) -> Result<String, Error> {
    if id.len() > ID_MAX && id.chars().count() > ID_MAX {
        return Err(Error::IdTooLong);
    }
    if id.chars().any(char::is_control) {
        return Err(Error::IdControl);
    }
    Ok(id.to_owned())
}

/// Reads a list of at most [`TENSORS_MAX`] things.
pub(super) fn read_list(
    reader: &mut Reader<'_>,
    field: &'static str,
    mut item: impl FnMut(&mut Reader<'_>, usize) -> Result<(), Error>,
) -> Result<(), Error> {
    if reader.kind()? != Kind::Array {
        return Err(Error::FieldType { field, expected: "a list of objects" });
    }
    reader.array(|reader, index| {
        if index == TENSORS_MAX {
            return Err(Error::TooMany(field));
        }
        item(reader, index)
    })?;
    Ok(())
}

fn read_output(reader: &mut Reader<'_>, index: usize) -> Result<RequestedOutput, Error> {
    if reader.kind()? != Kind::Object {
        return Err(Error::FieldType { field: "outputs", expected: "a list of objects" });
    }
    let (mut name, mut parameters) = (None, None);
    reader.object(|reader, key| match &*key {
        "name" if reader.kind()? == Kind::String => once(&mut name, &key, reader.string()?.into_owned()),
        "name" => {
            let problem = Problem::FieldType { field: "name", expected: "a string" };
            Err(Place::OutputAt(index).error()(problem))
        }
        "parameters" => once(&mut parameters, &key, parameters::read(reader)?),
        _ => reader.skip(),
    })?;
    let name = name.ok_or_else(|| Place::OutputAt(index).error()(Problem::MissingField("name")))?;
    let parameters = parameters.unwrap_or_default();
    parameters::refuse_shared_memory(&parameters)?;
    Ok(RequestedOutput { name, parameters })
}

/// The first name that occurs twice.
pub(crate) fn distinct<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<(), &'n str> {
    let mut seen = BTreeSet::new();
    names.into_iter().try_for_each(|name| if seen.insert(name) { Ok(()) } else { Err(name) })
}

/// Takes what the client said of its answer's form out of the parameters.
fn mirror(parameters: &mut Parameters, outputs: &mut [RequestedOutput]) -> Result<Mirror, Error> {
    let encoding = |binary| if binary { TensorEncoding::Binary } else { TensorEncoding::Json };
    let default_encoding =
        parameters::take_bool(parameters, BINARY_OUTPUT)?.map(encoding).unwrap_or_default();
    let mut encodings = BTreeMap::new();
    for output in outputs {
        if let Some(binary) = parameters::take_bool(&mut output.parameters, BINARY)? {
            encodings.insert(output.name.clone(), encoding(binary));
        }
    }
    Ok(Mirror { default_encoding, encodings, ..Mirror::default() })
}
