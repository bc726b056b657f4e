//! JSON values, flat or nested, into the bytes of a tensor, in one pass.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use half::{bf16, f16};
use pipeline::tensor::DataType;

use super::push_string;
use crate::{
    error::{Error, Place, Problem},
    json::{Dialect, Kind, Number, Reader},
    quote::Clipped,
};

/// The elements of one tensor as they are read.
#[derive(Debug)]
pub(crate) struct Elements {
    place: Place,
    datatype: DataType,
    data: Vec<u8>,
    count: usize,
    /// Elements beyond this are counted, not kept.
    keep: usize,
    /// Length of the arrays at each depth; unknown until the first one of them has ended.
    lengths: Vec<Option<usize>>,
    /// Depth at which the elements are.
    leaf: Option<usize>,
    /// Indices of the value being read.
    path: Vec<usize>,
}

impl Elements {
    /// For at most `keep` elements, which take `bytes` or a little more.
    pub(crate) fn new(place: Place, datatype: DataType, keep: usize, bytes: usize) -> Self {
        Self {
            place,
            datatype,
            data: Vec::with_capacity(bytes),
            count: 0,
            keep,
            lengths: Vec::new(),
            leaf: None,
            path: Vec::new(),
        }
    }

    /// Elements read, kept or not.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn datatype(&self) -> DataType {
        self.datatype
    }

    /// The shape that the arrays have, and the data.
    pub(crate) fn finish(self) -> (Vec<u64>, Vec<u8>) {
        let depth = self.leaf.unwrap_or(self.lengths.len());
        let shape = self.lengths.iter().take(depth).map(|length| length.unwrap_or(0) as u64).collect();
        (shape, self.data)
    }

    /// Reads the whole tensor.
    pub(crate) fn tensor(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        self.value(reader, 0)
    }

    /// Reads the next row of the tensor.
    pub(crate) fn row(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        if self.lengths.is_empty() {
            self.lengths.push(Some(0));
            self.path.push(0);
        }
        self.value(reader, 1)?;
        if let (Some(Some(rows)), Some(index)) = (self.lengths.first_mut(), self.path.first_mut()) {
            *rows += 1;
            *index += 1;
        }
        Ok(())
    }

    fn value(&mut self, reader: &mut Reader<'_>, depth: usize) -> Result<(), Error> {
        match reader.kind()? {
            Kind::Array => self.array(reader, depth),
            kind => {
                self.at_leaf(depth)?;
                self.element(reader, kind)
            }
        }
    }

    fn array(&mut self, reader: &mut Reader<'_>, depth: usize) -> Result<(), Error> {
        if self.leaf.is_some_and(|leaf| depth >= leaf) {
            return Err(self.ragged());
        }
        if self.lengths.len() == depth {
            self.lengths.push(None);
        }
        self.path.push(0);
        let length = reader.array(|reader, index| {
            if let Some(last) = self.path.last_mut() {
                *last = index;
            }
            self.value(reader, depth + 1)
        })?;
        self.path.pop();
        match self.lengths.get_mut(depth) {
            Some(Some(known)) if *known != length => Err(self.ragged()),
            Some(unknown) => {
                *unknown = Some(length);
                Ok(())
            }
            None => Ok(()),
        }
    }

    #[inline]
    fn at_leaf(&mut self, depth: usize) -> Result<(), Error> {
        if self.leaf == Some(depth) {
            return Ok(());
        }
        if self.leaf.is_some() || self.lengths.len() > depth {
            return Err(self.ragged());
        }
        self.leaf = Some(depth);
        Ok(())
    }

    #[inline]
    fn element(&mut self, reader: &mut Reader<'_>, kind: Kind) -> Result<(), Error> {
        match (self.datatype, kind) {
            (DataType::Bytes, _) => self.string(reader, kind)?,
            (_, Kind::Number) => {
                let number = reader.number()?;
                let length = self.data.len();
                push_number(&mut self.data, self.datatype, &number).ok_or_else(|| self.unfit(number.text))?;
                self.forget_beyond(length);
            }
            (DataType::Bool, Kind::True | Kind::False) => {
                reader.literal(kind)?;
                let length = self.data.len();
                self.data.push(u8::from(kind == Kind::True));
                self.forget_beyond(length);
            }
            (DataType::Fp16 | DataType::Fp32 | DataType::Fp64 | DataType::Bf16, Kind::Null)
                if reader.dialect() == Dialect::Lenient =>
            {
                reader.literal(kind)?;
                let length = self.data.len();
                push_number(&mut self.data, self.datatype, &Number::NAN).ok_or_else(|| self.unfit("null"))?;
                self.forget_beyond(length);
            }
            _ => return Err(self.error(self.kind_problem(kind))),
        }
        self.count += 1;
        Ok(())
    }

    fn string(&mut self, reader: &mut Reader<'_>, kind: Kind) -> Result<(), Error> {
        let length = self.data.len();
        match kind {
            Kind::String => push_string(&mut self.data, reader.string()?.as_bytes()),
            Kind::Object if is_base64(*reader) => {
                let mut decoded = None;
                reader.object(|reader, _| {
                    decoded = STANDARD.decode(reader.string()?.as_bytes()).ok();
                    Ok(())
                })?;
                let decoded = decoded.ok_or_else(|| self.error(Problem::Base64 { index: self.count }))?;
                push_string(&mut self.data, &decoded);
            }
            kind => return Err(self.error(self.kind_problem(kind))),
        }
        self.forget_beyond(length);
        Ok(())
    }

    #[inline]
    fn forget_beyond(&mut self, length: usize) {
        if self.count >= self.keep {
            self.data.truncate(length);
        }
    }

    #[cold]
    fn unfit(&self, token: &str) -> Error {
        let value = Clipped::new(token);
        self.error(Problem::Value { value, index: self.count, datatype: self.datatype })
    }

    #[cold]
    fn ragged(&self) -> Error {
        self.error(Problem::Ragged(self.path.clone()))
    }

    fn kind_problem(&self, kind: Kind) -> Problem {
        Problem::Kind { found: kind.as_str(), index: self.count, datatype: self.datatype }
    }

    fn error(&self, problem: Problem) -> Error {
        self.place.clone().error()(problem)
    }
}

/// Whether an object is `{"b64": "…"}`, V1's way to write bytes that are not text.
pub(crate) fn is_base64(mut reader: Reader<'_>) -> bool {
    let (mut base64, mut members) = (false, 0);
    let read = reader.object(|reader, key| {
        members += 1;
        base64 = key == "b64" && reader.kind()? == Kind::String;
        if base64 && members == 1 { reader.skip() } else { Err(Error::NotAnObject) }
    });
    read.is_ok() && base64
}

#[inline]
fn push_number(data: &mut Vec<u8>, datatype: DataType, number: &Number<'_>) -> Option<()> {
    match datatype {
        DataType::Bool => data.push(number.whole::<u8>().filter(|bit| *bit <= 1)?),
        DataType::Uint8 => data.push(number.whole::<u8>()?),
        DataType::Uint16 => data.extend_from_slice(&number.whole::<u16>()?.to_le_bytes()),
        DataType::Uint32 => data.extend_from_slice(&number.whole::<u32>()?.to_le_bytes()),
        DataType::Uint64 => data.extend_from_slice(&number.whole::<u64>()?.to_le_bytes()),
        DataType::Int8 => data.extend_from_slice(&number.whole::<i8>()?.to_le_bytes()),
        DataType::Int16 => data.extend_from_slice(&number.whole::<i16>()?.to_le_bytes()),
        DataType::Int32 => data.extend_from_slice(&number.whole::<i32>()?.to_le_bytes()),
        DataType::Int64 => data.extend_from_slice(&number.whole::<i64>()?.to_le_bytes()),
        DataType::Fp32 => data.extend_from_slice(&number.f32()?.to_le_bytes()),
        DataType::Fp64 => data.extend_from_slice(&number.f64()?.to_le_bytes()),
        DataType::Fp16 => {
            let value = f16::from_f64(number.f64()?);
            (!value.is_infinite() || number.is_word())
                .then(|| data.extend_from_slice(&value.to_le_bytes()))?;
        }
        DataType::Bf16 => {
            let value = bf16::from_f64(number.f64()?);
            (!value.is_infinite() || number.is_word())
                .then(|| data.extend_from_slice(&value.to_le_bytes()))?;
        }
        DataType::Bytes => return None,
    }
    Some(())
}
