//! A V2 REST response of a model server.

use bytes::Bytes;
use pipeline::{request::Outcome, tensor::Parameters};

use super::{
    envelope::{Envelope, Side},
    parse::{check_binary, distinct, read_list},
    split,
};
use crate::{
    error::Error,
    json::{Dialect, Kind, Reader, once},
    parameters,
    quote::Quoted,
};

#[derive(Default)]
struct Fields {
    model_name: Option<String>,
    model_version: Option<String>,
    parameters: Option<Parameters>,
    outputs: Option<Vec<Envelope>>,
}

/// Decodes the answer of a model server. `NaN`, `Infinity` and, for NaN, `null` are accepted.
///
/// # Errors
/// Whatever makes the answer useless.
pub fn decode_response(body: &Bytes, header_length: Option<usize>) -> Result<Outcome, Error> {
    let (json, mut binary) = split(body, header_length)?;
    let mut reader = Reader::new(json, Dialect::Lenient)?;
    if reader.kind()? != Kind::Object {
        return Err(Error::NotAnObject);
    }
    let mut fields = Fields::default();
    reader.object(|reader, key| fields.read(reader, &key))?;
    reader.end()?;
    let outputs = fields.outputs.ok_or(Error::MissingField("outputs"))?;
    let names = outputs.iter().map(|output| output.name.as_str());
    distinct(names).map_err(|name| Error::DuplicateOutput(Quoted::new(name)))?;
    check_binary(&outputs, binary.len())?;
    let outputs = outputs.into_iter().map(|output| output.decode(reader, &mut binary));
    Ok(Outcome {
        outputs: outputs.collect::<Result<_, _>>()?,
        model_name: fields.model_name.unwrap_or_default(),
        model_version: fields.model_version.unwrap_or_default(),
        parameters: fields.parameters.unwrap_or_default(),
    })
}

impl Fields {
    fn read(&mut self, reader: &mut Reader<'_>, key: &str) -> Result<(), Error> {
        match key {
            "model_name" if reader.kind()? == Kind::String => {
                once(&mut self.model_name, key, reader.string()?.into_owned())
            }
            "model_version" if reader.kind()? == Kind::String => {
                once(&mut self.model_version, key, reader.string()?.into_owned())
            }
            "parameters" => once(&mut self.parameters, key, parameters::read(reader)?),
            "outputs" => {
                let mut outputs = Vec::new();
                read_list(reader, "outputs", |reader, index| {
                    outputs.push(Envelope::read(reader, Side::Output, index)?);
                    Ok(())
                })?;
                once(&mut self.outputs, key, outputs)
            }
            _ => reader.skip(),
        }
    }
}
