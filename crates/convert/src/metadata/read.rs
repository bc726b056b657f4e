//! Reading the metadata that a model server gives over REST.

use pipeline::tensor::{Metadata, TensorSpec};

use super::parse_datatype;
use crate::{
    error::{Error, Place, Problem},
    json::{Dialect, Kind, Reader},
};

/// Reads what a model server says over REST. Fields it leaves out are empty.
///
/// # Errors
/// Whatever makes it useless.
pub fn from_json(body: &[u8]) -> Result<Metadata, Error> {
    let mut reader = Reader::new(body, Dialect::Strict)?;
    if reader.kind()? != Kind::Object {
        return Err(Error::NotAnObject);
    }
    let mut metadata = Metadata::default();
    reader.object(|reader, key| match (&*key, reader.kind()?) {
        ("name", Kind::String) => set(&mut metadata.name, reader),
        ("platform", Kind::String) => set(&mut metadata.platform, reader),
        ("versions", Kind::Array) => {
            let versions = &mut metadata.versions;
            reader.array(|reader, _| {
                versions.push(reader.string()?.into_owned());
                Ok(())
            })?;
            Ok(())
        }
        ("inputs", Kind::Array) => read_specs(reader, &mut metadata.inputs, Place::InputAt),
        ("outputs", Kind::Array) => read_specs(reader, &mut metadata.outputs, Place::OutputAt),
        _ => reader.skip(),
    })?;
    reader.end()?;
    Ok(metadata)
}

fn set(slot: &mut String, reader: &mut Reader<'_>) -> Result<(), Error> {
    *slot = reader.string()?.into_owned();
    Ok(())
}

fn read_specs(
    reader: &mut Reader<'_>,
    specs: &mut Vec<TensorSpec>,
    place: fn(usize) -> Place,
) -> Result<(), Error> {
    reader.array(|reader, index| {
        specs.push(read_spec(reader, &place(index))?);
        Ok(())
    })?;
    Ok(())
}

fn read_spec(reader: &mut Reader<'_>, place: &Place) -> Result<TensorSpec, Error> {
    let (mut name, mut datatype, mut shape) = (None, None, None);
    reader.object(|reader, key| {
        match &*key {
            "name" => name = Some(reader.string()?.into_owned()),
            "datatype" => datatype = Some(reader.string()?),
            "shape" => shape = Some(read_dims(reader, place)?),
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    let missing = |field| place.clone().error()(Problem::MissingField(field));
    let datatype = datatype.ok_or_else(|| missing("datatype"))?;
    Ok(TensorSpec {
        name: name.ok_or_else(|| missing("name"))?,
        datatype: parse_datatype(&datatype).map_err(place.clone().error())?,
        shape: shape.ok_or_else(|| missing("shape"))?,
    })
}

fn read_dims(reader: &mut Reader<'_>, place: &Place) -> Result<Vec<i64>, Error> {
    let mut dims = Vec::new();
    reader.array(|reader, _| {
        let wrong = |_| Problem::FieldType { field: "shape", expected: "a list of whole numbers" };
        dims.push(reader.number()?.text.parse().map_err(wrong).map_err(place.clone().error())?);
        Ok(())
    })?;
    Ok(dims)
}
