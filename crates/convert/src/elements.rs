//! Elements of tensors: what bytes they take, and their way from and to JSON.

use pipeline::tensor::DataType;

use crate::error::{DIM_MAX, Problem, RANK_MAX};

mod read;
mod write;

pub(crate) use read::{Elements, is_base64};
pub(crate) use write::Writer;

/// Elements of a shape.
pub(crate) fn count(shape: &[u64]) -> Result<u64, Problem> {
    if shape.len() > RANK_MAX {
        return Err(Problem::Rank);
    }
    if let Some((index, dim)) = shape.iter().enumerate().find(|(_, dim)| **dim > DIM_MAX) {
        return Err(Problem::Dimension { index, value: crate::quote::Clipped::new(&dim.to_string()) });
    }
    if shape.contains(&0) {
        return Ok(0);
    }
    let count = shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
    // As bytes it must fit as well.
    count.filter(|count| *count <= u64::MAX >> 4).ok_or(Problem::Overflow)
}

/// Whether `data` is exactly what datatype and shape ask for.
pub(crate) fn check(datatype: DataType, shape: &[u64], data: &[u8]) -> Result<(), Problem> {
    let count = count(shape)?;
    let Some(size) = datatype.size() else { return check_strings(shape, count, data) };
    let needed = count * size as u64;
    if needed == data.len() as u64 {
        Ok(())
    } else {
        Err(Problem::Size { present: data.len(), datatype, shape: shape.to_vec(), needed })
    }
}

fn check_strings(shape: &[u64], needed: u64, data: &[u8]) -> Result<(), Problem> {
    let mut left = data;
    let mut index = 0_usize;
    while !left.is_empty() {
        if index as u64 == needed {
            return Err(match index.checked_sub(1) {
                Some(index) => Problem::BytesLeft { index, left: left.len() },
                None => Problem::Size {
                    present: data.len(),
                    datatype: DataType::Bytes,
                    shape: shape.to_vec(),
                    needed: 0,
                },
            });
        }
        (_, left) = split_string(left, index)?;
        index += 1;
    }
    if index as u64 == needed {
        Ok(())
    } else {
        Err(Problem::Count { shape: shape.to_vec(), needed, got: index })
    }
}

/// Takes the element `index` of BYTES off the front of `data`.
pub(crate) fn split_string(data: &[u8], index: usize) -> Result<(&[u8], &[u8]), Problem> {
    let (prefix, rest) =
        data.split_first_chunk::<4>().ok_or(Problem::BytesCut { index, declared: 4, left: data.len() })?;
    let declared = u32::from_le_bytes(*prefix) as usize;
    rest.split_at_checked(declared).ok_or(Problem::BytesCut { index, declared, left: rest.len() })
}

/// Appends an element of BYTES.
pub(crate) fn push_string(data: &mut Vec<u8>, string: &[u8]) {
    let length = u32::try_from(string.len()).expect("a message is smaller than 4 GiB");
    data.extend_from_slice(&length.to_le_bytes());
    data.extend_from_slice(string);
}

#[cfg(test)]
mod tests;
