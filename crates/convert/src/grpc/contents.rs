//! Typed contents of a gRPC tensor from and to bytes.

use bytes::Bytes;
use pipeline::tensor::DataType;
use proto::inference::InferTensorContents;

use crate::{
    elements::{push_string, split_string},
    error::Problem,
    quote::Clipped,
};

/// The bytes of `count` elements; only the field that belongs to the datatype may be filled.
pub(super) fn pack(
    datatype: DataType,
    shape: &[u64],
    count: u64,
    contents: &InferTensorContents,
) -> Result<Bytes, Problem> {
    let (field, got) = field(datatype, contents).ok_or(Problem::NoTypedContents(datatype))?;
    if filled(contents) > got {
        return Err(Problem::WrongContents { datatype, field });
    }
    if got as u64 != count {
        return Err(Problem::Count { shape: shape.to_vec(), needed: count, got });
    }
    let c = contents;
    match datatype {
        DataType::Bool => Ok(c.bool_contents.iter().map(|bit| u8::from(*bit)).collect()),
        DataType::Uint8 => narrow(&c.uint_contents, datatype, u8::to_le_bytes),
        DataType::Uint16 => narrow(&c.uint_contents, datatype, u16::to_le_bytes),
        DataType::Uint32 => Ok(bytes(&c.uint_contents, u32::to_le_bytes)),
        DataType::Uint64 => Ok(bytes(&c.uint64_contents, u64::to_le_bytes)),
        DataType::Int8 => narrow(&c.int_contents, datatype, i8::to_le_bytes),
        DataType::Int16 => narrow(&c.int_contents, datatype, i16::to_le_bytes),
        DataType::Int32 => Ok(bytes(&c.int_contents, i32::to_le_bytes)),
        DataType::Int64 => Ok(bytes(&c.int64_contents, i64::to_le_bytes)),
        DataType::Fp32 => Ok(bytes(&c.fp32_contents, f32::to_le_bytes)),
        DataType::Fp64 => Ok(bytes(&c.fp64_contents, f64::to_le_bytes)),
        DataType::Bytes => Ok(strings(&c.bytes_contents)),
        DataType::Fp16 | DataType::Bf16 => Err(Problem::NoTypedContents(datatype)),
    }
}

/// The typed form of data that has passed [`crate::elements::check`]. FP16 and BF16 have none: it stays empty.
pub(super) fn unpack(datatype: DataType, data: &[u8]) -> InferTensorContents {
    let mut c = InferTensorContents::default();
    match datatype {
        DataType::Bool => c.bool_contents = data.iter().map(|bit| *bit != 0).collect(),
        DataType::Uint8 => c.uint_contents = values(data, |e| u8::from_le_bytes(e).into()),
        DataType::Uint16 => c.uint_contents = values(data, |e| u16::from_le_bytes(e).into()),
        DataType::Uint32 => c.uint_contents = values(data, u32::from_le_bytes),
        DataType::Uint64 => c.uint64_contents = values(data, u64::from_le_bytes),
        DataType::Int8 => c.int_contents = values(data, |e| i8::from_le_bytes(e).into()),
        DataType::Int16 => c.int_contents = values(data, |e| i16::from_le_bytes(e).into()),
        DataType::Int32 => c.int_contents = values(data, i32::from_le_bytes),
        DataType::Int64 => c.int64_contents = values(data, i64::from_le_bytes),
        DataType::Fp32 => c.fp32_contents = values(data, f32::from_le_bytes),
        DataType::Fp64 => c.fp64_contents = values(data, f64::from_le_bytes),
        DataType::Bytes => {
            let mut left = data;
            while let Ok((string, rest)) = split_string(left, 0) {
                c.bytes_contents.push(Bytes::copy_from_slice(string));
                left = rest;
            }
        }
        DataType::Fp16 | DataType::Bf16 => {}
    }
    c
}

/// The field that belongs to the datatype, and how many elements it has.
fn field(datatype: DataType, c: &InferTensorContents) -> Option<(&'static str, usize)> {
    Some(match datatype {
        DataType::Bool => ("bool_contents", c.bool_contents.len()),
        DataType::Int8 | DataType::Int16 | DataType::Int32 => ("int_contents", c.int_contents.len()),
        DataType::Int64 => ("int64_contents", c.int64_contents.len()),
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => ("uint_contents", c.uint_contents.len()),
        DataType::Uint64 => ("uint64_contents", c.uint64_contents.len()),
        DataType::Fp32 => ("fp32_contents", c.fp32_contents.len()),
        DataType::Fp64 => ("fp64_contents", c.fp64_contents.len()),
        DataType::Bytes => ("bytes_contents", c.bytes_contents.len()),
        DataType::Fp16 | DataType::Bf16 => return None,
    })
}

/// Elements in all fields together.
fn filled(c: &InferTensorContents) -> usize {
    c.bool_contents.len()
        + c.int_contents.len()
        + c.int64_contents.len()
        + c.uint_contents.len()
        + c.uint64_contents.len()
        + c.fp32_contents.len()
        + c.fp64_contents.len()
        + c.bytes_contents.len()
}

fn bytes<T: Copy, const N: usize>(values: &[T], to_bytes: fn(T) -> [u8; N]) -> Bytes {
    values.iter().flat_map(|value| to_bytes(*value)).collect()
}

fn narrow<T, U, const N: usize>(
    values: &[T],
    datatype: DataType,
    to_bytes: fn(U) -> [u8; N],
) -> Result<Bytes, Problem>
where
    T: Copy + ToString,
    U: TryFrom<T>,
{
    let mut data = Vec::with_capacity(values.len() * N);
    for (index, value) in values.iter().enumerate() {
        let unfit = |_| Problem::Value { value: Clipped::new(&value.to_string()), index, datatype };
        data.extend_from_slice(&to_bytes(U::try_from(*value).map_err(unfit)?));
    }
    Ok(data.into())
}

fn strings(strings: &[Bytes]) -> Bytes {
    let mut data = Vec::with_capacity(strings.iter().map(|string| string.len() + 4).sum());
    strings.iter().for_each(|string| push_string(&mut data, string));
    data.into()
}

fn values<T, const N: usize>(data: &[u8], from_bytes: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks::<N>().0.iter().map(|element| from_bytes(*element)).collect()
}
