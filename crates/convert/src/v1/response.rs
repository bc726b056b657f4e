//! V1 responses of a model server: `predictions`, row by row, or `outputs`, tensor by tensor.

use bytes::Bytes;
use pipeline::{
    request::Outcome,
    tensor::{DataType, Tensor},
};

use crate::{
    elements::{self, Elements, is_base64},
    error::{Error, Place, Problem, TENSORS_MAX},
    json::{Dialect, Kind, Reader, once},
    quote::Quoted,
};

/// Decodes the answer of a model server that speaks V1 only.
///
/// Values decide on datatypes: whole numbers are INT64, others FP64, `true` and `false` BOOL, strings BYTES.
/// Tensors are called what the answer calls them, the only one of an answer `predictions` or `outputs`.
///
/// # Errors
/// Whatever makes the answer useless, or not a tensor.
pub fn decode_response(body: &Bytes) -> Result<Outcome, Error> {
    let mut reader = Reader::new(body, Dialect::Lenient)?;
    if reader.kind()? != Kind::Object {
        return Err(Error::NotAnObject);
    }
    let (mut predictions, mut outputs) = (None, None);
    reader.object(|reader, key| match &*key {
        "predictions" => once(&mut predictions, &key, read(reader, "predictions")?),
        "outputs" => once(&mut outputs, &key, read(reader, "outputs")?),
        _ => reader.skip(),
    })?;
    reader.end()?;
    let outputs = predictions.or(outputs).ok_or(Error::MissingField("predictions"))?;
    Ok(Outcome { outputs, ..Outcome::default() })
}

fn read(reader: &mut Reader<'_>, field: &'static str) -> Result<Vec<Tensor>, Error> {
    // The first pass finds names and datatypes, the second reads.
    let layout = Layout::of(*reader)?;
    let mut scan = *reader;
    let mut columns = Columns::default();
    layout.walk(&mut scan, field, |reader, name| columns.infer(reader, name))?;
    columns.start();
    layout.walk(reader, field, |reader, name| columns.read(reader, name, layout))?;
    columns.finish()
}

/// How an answer's tensors lie in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// One tensor.
    Tensor,
    /// A list of objects, each with one row of every tensor.
    Rows,
    /// An object of tensors.
    Columns,
}

impl Layout {
    fn of(mut reader: Reader<'_>) -> Result<Self, Error> {
        let named = |reader: &mut Reader<'_>| Ok(reader.kind()? == Kind::Object && !is_base64(*reader));
        if named(&mut reader)? {
            return Ok(Self::Columns);
        }
        let mut layout = Self::Tensor;
        if reader.kind()? == Kind::Array {
            // One element is enough: the error ends the loop and means nothing.
            let _ = reader.array(|reader, _| {
                if named(reader)? {
                    layout = Self::Rows;
                }
                Err(Error::NotAnObject)
            });
        }
        Ok(layout)
    }

    /// Calls `value` before each value that belongs to a tensor, with the tensor's name.
    fn walk(
        self,
        reader: &mut Reader<'_>,
        field: &str,
        mut value: impl FnMut(&mut Reader<'_>, &str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match self {
            Self::Tensor => value(reader, field),
            Self::Columns => reader.object(|reader, name| value(reader, &name)),
            Self::Rows => {
                let rows = reader.array(|reader, _| reader.object(|reader, name| value(reader, &name)));
                rows.map(drop)
            }
        }
    }
}

/// The tensors of an answer, in the order in which they first occur.
#[derive(Default)]
struct Columns(Vec<Column>);

struct Column {
    name: String,
    seen: Option<Seen>,
    elements: Option<Elements>,
    values: usize,
}

/// What a tensor's elements have been so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Whole,
    Float,
    Bool,
    Text,
}

impl Seen {
    fn datatype(self) -> DataType {
        match self {
            Self::Whole => DataType::Int64,
            Self::Float => DataType::Fp64,
            Self::Bool => DataType::Bool,
            Self::Text => DataType::Bytes,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Whole | Self::Float => "numbers",
            Self::Bool => "booleans",
            Self::Text => "strings",
        }
    }
}

impl Columns {
    fn get(&mut self, name: &str) -> Result<&mut Column, Error> {
        let index = self.0.iter().position(|column| column.name == name).unwrap_or(self.0.len());
        if index == TENSORS_MAX {
            return Err(Error::TooMany("outputs"));
        }
        if index == self.0.len() {
            self.0.push(Column { name: name.to_owned(), seen: None, elements: None, values: 0 });
        }
        self.0.get_mut(index).ok_or(Error::TooMany("outputs"))
    }

    fn infer(&mut self, reader: &mut Reader<'_>, name: &str) -> Result<(), Error> {
        self.get(name)?.infer(reader)
    }

    fn start(&mut self) {
        for column in &mut self.0 {
            let datatype = column.seen.unwrap_or(Seen::Float).datatype();
            column.elements = Some(Elements::new(Place::output(&column.name), datatype, usize::MAX, 0));
        }
    }

    fn read(&mut self, reader: &mut Reader<'_>, name: &str, layout: Layout) -> Result<(), Error> {
        let column = self.get(name)?;
        column.values += 1;
        match (&mut column.elements, layout) {
            (Some(elements), Layout::Rows) => elements.row(reader),
            (Some(elements), _) if column.values == 1 => elements.tensor(reader),
            _ => Err(Error::DuplicateField(Quoted::new(name))),
        }
    }

    fn finish(self) -> Result<Vec<Tensor>, Error> {
        let rows = self.0.first().map_or(0, |column| column.values);
        let finish = |Column { name, elements, values, .. }: Column| {
            let place = Place::output(&name);
            let (datatype, (shape, data)) = elements
                .filter(|_| values == rows)
                .map(|elements| (elements.datatype(), elements.finish()))
                .ok_or_else(|| place.clone().error()(Problem::Rows { got: values, expected: rows }))?;
            elements::count(&shape).map_err(place.error())?;
            Ok(Tensor::new(name, datatype, shape, data.into()))
        };
        self.0.into_iter().map(finish).collect()
    }
}

impl Column {
    fn infer(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        let seen = match reader.kind()? {
            Kind::Array => return reader.array(|reader, _| self.infer(reader)).map(drop),
            Kind::Number if reader.number()?.is_whole() => Seen::Whole,
            Kind::Number => Seen::Float,
            kind @ (Kind::True | Kind::False) => {
                reader.literal(kind)?;
                Seen::Bool
            }
            Kind::Null => {
                reader.literal(Kind::Null)?;
                Seen::Float
            }
            Kind::String | Kind::Object => {
                reader.skip()?;
                Seen::Text
            }
        };
        self.seen = Some(match (self.seen, seen) {
            (None, seen) => seen,
            (Some(before), seen) if before == seen => seen,
            (Some(Seen::Whole | Seen::Float), Seen::Whole | Seen::Float) => Seen::Float,
            (Some(before), seen) => {
                let problem = Problem::Mixed { before: before.as_str(), then: seen.as_str() };
                return Err(Place::output(&self.name).error()(problem));
            }
        });
        Ok(())
    }
}
