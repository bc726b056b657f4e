//! One tensor of a V2 body without its elements, which stay where they are until their memory is charged.

use std::ops::Range;

use bytes::Bytes;
use pipeline::tensor::{DataType, Parameters, Tensor};

use super::BINARY_SIZE;
use crate::{
    elements::{self, Elements},
    error::{Error, Place, Problem},
    json::{Kind, Reader, once},
    parameters,
    quote::{Clipped, Quoted},
};

/// Whether a tensor goes into a model or comes out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Input,
    Output,
}

impl Side {
    fn at(self, index: usize) -> Place {
        match self {
            Self::Input => Place::InputAt(index),
            Self::Output => Place::OutputAt(index),
        }
    }

    fn named(self, name: &str) -> Place {
        match self {
            Self::Input => Place::input(name),
            Self::Output => Place::output(name),
        }
    }
}

/// A tensor whose elements have not been looked at.
#[derive(Debug)]
pub(super) struct Envelope {
    pub(super) name: String,
    pub(super) source: Source,
    side: Side,
    datatype: DataType,
    shape: Vec<u64>,
    count: u64,
    parameters: Parameters,
}

/// Where the elements are.
#[derive(Debug)]
pub(super) enum Source {
    /// In the JSON, between these bytes of it.
    Json(Range<usize>),
    /// After the JSON, this many bytes.
    Binary(u64),
}

#[derive(Default)]
struct Fields {
    name: Option<String>,
    datatype: Option<String>,
    shape: Option<Vec<u64>>,
    parameters: Option<Parameters>,
    data: Option<Range<usize>>,
}

impl Envelope {
    /// Reads the tensor at `index` of its list.
    pub(super) fn read(reader: &mut Reader<'_>, side: Side, index: usize) -> Result<Self, Error> {
        let place = side.at(index);
        if reader.kind()? != Kind::Object {
            let field = if side == Side::Input { "inputs" } else { "outputs" };
            return Err(Error::FieldType { field, expected: "a list of objects" });
        }
        let mut fields = Fields::default();
        reader.object(|reader, key| fields.read(reader, &key, &place))?;
        let Some(name) = fields.name.take() else {
            return Err(place.error()(Problem::MissingField("name")));
        };
        let mut parameters = fields.parameters.take().unwrap_or_default();
        parameters::refuse_shared_memory(&parameters)?;
        let binary = parameters::take_size(&mut parameters, BINARY_SIZE)?;
        Self::check(name.clone(), side, fields, binary, parameters).map_err(side.named(&name).error())
    }

    fn check(
        name: String,
        side: Side,
        fields: Fields,
        binary: Option<u64>,
        parameters: Parameters,
    ) -> Result<Self, Problem> {
        let shape = fields.shape.ok_or(Problem::MissingField("shape"))?;
        let datatype = fields.datatype.ok_or(Problem::MissingField("datatype"))?;
        let datatype: DataType =
            datatype.parse().map_err(|_| Problem::UnknownDatatype(Quoted::new(&datatype)))?;
        let count = elements::count(&shape)?;
        let source = match (fields.data, binary) {
            (Some(_), Some(_)) => return Err(Problem::DataAndBinary),
            (Some(data), None) => Source::Json(data),
            (None, Some(size)) => Source::Binary(size),
            (None, None) => return Err(Problem::MissingField("data")),
        };
        if let (Source::Binary(size), Some(width)) = (&source, datatype.size()) {
            let needed = count * width as u64;
            if *size != needed {
                let present = usize::try_from(*size).unwrap_or(usize::MAX);
                return Err(Problem::Size { present, datatype, shape, needed });
            }
        }
        Ok(Self { name, source, side, datatype, shape, count, parameters })
    }

    /// Bytes that [`Envelope::decode`] allocates at most.
    pub(super) fn decoded_bytes(&self) -> usize {
        let Source::Json(data) = &self.source else { return 0 };
        let text = data.len();
        // Every element but the last takes two characters at least, in BYTES three.
        match self.datatype.size() {
            Some(width) => self.keep().min(text / 2 + 1) * width,
            None => text + self.keep().min(text / 3 + 1) * 4,
        }
    }

    /// Decodes the elements: out of the JSON, or off the front of `binary`.
    pub(super) fn decode(self, reader: Reader<'_>, binary: &mut Bytes) -> Result<Tensor, Error> {
        let place = self.side.named(&self.name);
        let bytes = self.decoded_bytes();
        let data = match &self.source {
            Source::Binary(size) => {
                let data = split_off(binary, *size)?;
                elements::check(self.datatype, &self.shape, &data).map_err(place.error())?;
                data
            }
            Source::Json(data) => {
                let mut elements = Elements::new(place.clone(), self.datatype, self.keep(), bytes);
                elements.tensor(&mut reader.seek(data.start))?;
                let got = elements.count();
                if got as u64 != self.count {
                    let problem = Problem::Count { shape: self.shape, needed: self.count, got };
                    return Err(place.error()(problem));
                }
                elements.finish().1.into()
            }
        };
        let Self { name, datatype, shape, parameters, .. } = self;
        Ok(Tensor { name, datatype, shape, data, parameters })
    }

    fn keep(&self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX)
    }
}

fn split_off(binary: &mut Bytes, size: u64) -> Result<Bytes, Error> {
    match usize::try_from(size) {
        Ok(size) if size <= binary.len() => Ok(binary.split_to(size)),
        _ => Err(Error::BinarySize { declared: size, present: binary.len() }),
    }
}

impl Fields {
    fn read(&mut self, reader: &mut Reader<'_>, key: &str, place: &Place) -> Result<(), Error> {
        let wrong = |field, expected| place.clone().error()(Problem::FieldType { field, expected });
        match key {
            "name" | "datatype" => {
                if reader.kind()? != Kind::String {
                    let field = if key == "name" { "name" } else { "datatype" };
                    return Err(wrong(field, "a string"));
                }
                let slot = if key == "name" { &mut self.name } else { &mut self.datatype };
                once(slot, key, reader.string()?.into_owned())
            }
            "shape" => once(&mut self.shape, key, read_shape(reader, place)?),
            "parameters" => once(&mut self.parameters, key, parameters::read(reader)?),
            "data" => {
                if reader.kind()? != Kind::Array {
                    return Err(wrong("data", "an array"));
                }
                once(&mut self.data, key, reader.skip_array()?)
            }
            _ => reader.skip(),
        }
    }
}

fn read_shape(reader: &mut Reader<'_>, place: &Place) -> Result<Vec<u64>, Error> {
    let expected = "a list of whole numbers";
    let wrong = || place.clone().error()(Problem::FieldType { field: "shape", expected });
    if reader.kind()? != Kind::Array {
        return Err(wrong());
    }
    let mut shape = Vec::new();
    reader.array(|reader, index| {
        if reader.kind()? != Kind::Number {
            return Err(wrong());
        }
        let token = reader.number()?.text;
        // One more than allowed is kept, for the check of the rank to find.
        if shape.len() <= crate::error::RANK_MAX {
            let dimension = || Problem::Dimension { index, value: Clipped::new(token) };
            shape.push(token.parse().map_err(|_| place.clone().error()(dimension()))?);
        }
        Ok(())
    })?;
    Ok(shape)
}
