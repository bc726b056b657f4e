//! The bytes of a tensor as JSON values.
//!
//! Floats that are not finite are written `NaN`, `Infinity` and `-Infinity`, as Triton writes them and Python's
//! clients read them. That is not JSON; `null` would be, but loses which of the three it was. Clients with a
//! strict parser ask for binary.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use half::{bf16, f16};
use pipeline::tensor::DataType;

use super::split_string;
use crate::{
    error::Problem,
    json::{self, Object},
};

/// How BYTES that are not UTF-8 are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotText {
    /// Not at all: V2 has no way but binary.
    Refuse,
    /// As V1's `{"b64": "…"}`.
    Base64,
}

/// The elements of one tensor as they are written. The data has passed [`super::check`].
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    datatype: DataType,
    data: &'a [u8],
    not_text: NotText,
    /// Of the next string.
    index: usize,
}

impl<'a> Writer<'a> {
    /// For V2.
    pub(crate) fn new(datatype: DataType, data: &'a [u8]) -> Self {
        Self { datatype, data, not_text: NotText::Refuse, index: 0 }
    }

    /// For V1.
    pub(crate) fn with_base64(datatype: DataType, data: &'a [u8]) -> Self {
        Self { not_text: NotText::Base64, ..Self::new(datatype, data) }
    }

    /// Bytes of JSON that the elements are likely to take.
    pub(crate) fn estimate(&self) -> usize {
        let per_byte = match self.datatype {
            DataType::Bool => 6,
            DataType::Bytes => 2,
            DataType::Fp16 | DataType::Bf16 => 6,
            _ => 3,
        };
        self.data.len().saturating_mul(per_byte) + 2
    }

    /// Writes all elements as one array.
    pub(crate) fn flat(&mut self, out: &mut Vec<u8>) -> Result<(), Problem> {
        out.push(b'[');
        self.elements(out, usize::MAX)?;
        out.push(b']');
        Ok(())
    }

    /// Writes elements as arrays within arrays, as the shape says.
    pub(crate) fn nested(&mut self, out: &mut Vec<u8>, shape: &[u64]) -> Result<(), Problem> {
        match shape {
            [] => self.elements(out, 1),
            [length] => {
                out.push(b'[');
                self.elements(out, usize::try_from(*length).unwrap_or(usize::MAX))?;
                out.push(b']');
                Ok(())
            }
            [length, inner @ ..] => json::array(out, 0..*length, |out, _| self.nested(out, inner)),
        }
    }

    /// Writes the next `count` elements, or as many as there are.
    fn elements(&mut self, out: &mut Vec<u8>, count: usize) -> Result<(), Problem> {
        match self.datatype {
            DataType::Bool => self.numbers(out, count, |out, e: [u8; 1]| json::value(out, &(e != [0]))),
            DataType::Uint8 => self.numbers(out, count, |out, e| json::value(out, &u8::from_le_bytes(e))),
            DataType::Uint16 => self.numbers(out, count, |out, e| json::value(out, &u16::from_le_bytes(e))),
            DataType::Uint32 => self.numbers(out, count, |out, e| json::value(out, &u32::from_le_bytes(e))),
            DataType::Uint64 => self.numbers(out, count, |out, e| json::value(out, &u64::from_le_bytes(e))),
            DataType::Int8 => self.numbers(out, count, |out, e| json::value(out, &i8::from_le_bytes(e))),
            DataType::Int16 => self.numbers(out, count, |out, e| json::value(out, &i16::from_le_bytes(e))),
            DataType::Int32 => self.numbers(out, count, |out, e| json::value(out, &i32::from_le_bytes(e))),
            DataType::Int64 => self.numbers(out, count, |out, e| json::value(out, &i64::from_le_bytes(e))),
            DataType::Fp16 => self.numbers(out, count, |out, e| float(out, f16::from_le_bytes(e).to_f32())),
            DataType::Bf16 => self.numbers(out, count, |out, e| float(out, bf16::from_le_bytes(e).to_f32())),
            DataType::Fp32 => self.numbers(out, count, |out, e| float(out, f32::from_le_bytes(e))),
            DataType::Fp64 => self.numbers(out, count, |out, e| double(out, f64::from_le_bytes(e))),
            DataType::Bytes => return self.strings(out, count),
        }
        Ok(())
    }

    #[inline]
    fn numbers<const N: usize>(
        &mut self,
        out: &mut Vec<u8>,
        count: usize,
        write: impl Fn(&mut Vec<u8>, [u8; N]),
    ) {
        let (now, later) = self.data.split_at_checked(count.saturating_mul(N)).unwrap_or((self.data, &[]));
        self.data = later;
        for (index, element) in now.as_chunks::<N>().0.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write(out, *element);
        }
    }

    fn strings(&mut self, out: &mut Vec<u8>, count: usize) -> Result<(), Problem> {
        for index in 0..count {
            if self.data.is_empty() {
                break;
            }
            if index > 0 {
                out.push(b',');
            }
            self.string(out)?;
            self.index += 1;
        }
        Ok(())
    }

    fn string(&mut self, out: &mut Vec<u8>) -> Result<(), Problem> {
        let (string, rest) = split_string(self.data, self.index)?;
        match (str::from_utf8(string), self.not_text) {
            (Ok(text), _) => json::value(out, text),
            (Err(_), NotText::Refuse) => return Err(Problem::NotText { index: self.index }),
            (Err(_), NotText::Base64) => {
                let mut object = Object::open(out);
                json::value(object.key("b64"), &STANDARD.encode(string));
                object.close();
            }
        }
        self.data = rest;
        Ok(())
    }
}

#[inline]
fn float(out: &mut Vec<u8>, value: f32) {
    if value.is_finite() { json::value(out, &value) } else { double(out, f64::from(value)) }
}

#[inline]
fn double(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        json::value(out, &value);
    } else if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else {
        out.extend_from_slice(if value > 0.0 { b"Infinity" } else { b"-Infinity" });
    }
}
