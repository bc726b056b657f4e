//! Rows back to their callers: the inverse of [`crate::batch::concat`]. Pure.

use bytes::{Bytes, BytesMut};

use crate::{
    request::{Inference, Outcome},
    tensor::Tensor,
};

/// The server answered with other rows than it was asked for: nobody may be given any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rows of the answer are not those of the request")]
pub struct WrongRows;

/// Cuts the outputs of a merged call into one outcome per member, `layout` holding the rows of each.
///
/// # Errors
/// [`WrongRows`] if any output does not have exactly the sum of the rows, or its data does not fit its shape.
pub fn split(outcome: &Outcome, layout: &[u32]) -> Result<Vec<Outcome>, WrongRows> {
    let total: u64 = layout.iter().map(|rows| u64::from(*rows)).sum();
    if outcome.outputs.is_empty() || outcome.outputs.iter().any(|t| t.rows() != Some(total)) {
        return Err(WrongRows);
    }
    let mut members: Vec<Outcome> = layout.iter().map(|_| head_of(outcome)).collect();
    for output in &outcome.outputs {
        let parts = cut(output, layout)?;
        members.iter_mut().zip(parts).for_each(|(member, part)| member.outputs.push(part));
    }
    Ok(members)
}

/// Cuts a request into requests of at most `max_rows` rows, to be joined again with [`join`].
///
/// # Errors
/// [`WrongRows`] if its inputs do not agree on their rows or their data does not fit their shapes.
pub fn slice(inference: &Inference, max_rows: u32) -> Result<Vec<Inference>, WrongRows> {
    let rows = inference.rows().and_then(|rows| u32::try_from(rows).ok()).ok_or(WrongRows)?;
    let max = max_rows.max(1);
    let layout: Vec<u32> = (0..rows.div_ceil(max)).map(|i| max.min(rows - i * max)).collect();
    let mut parts: Vec<Inference> =
        layout.iter().map(|_| Inference { inputs: Vec::new(), ..inference.clone() }).collect();
    for input in &inference.inputs {
        let cuts = cut(input, &layout)?;
        parts.iter_mut().zip(cuts).for_each(|(part, tensor)| part.inputs.push(tensor));
    }
    Ok(parts)
}

/// Puts the outcomes of sliced requests together again.
///
/// # Errors
/// [`WrongRows`] if they do not have the same outputs.
pub fn join(parts: &[Outcome]) -> Result<Outcome, WrongRows> {
    let first = parts.first().ok_or(WrongRows)?;
    let outputs = first.outputs.iter().map(|output| join_output(output, parts));
    Ok(Outcome { outputs: outputs.collect::<Result<_, _>>()?, ..head_of(first) })
}

fn join_output(like: &Tensor, parts: &[Outcome]) -> Result<Tensor, WrongRows> {
    let mut data = BytesMut::new();
    let mut rows = 0;
    for part in parts {
        let tensor = part.outputs.iter().find(|t| t.name == like.name).ok_or(WrongRows)?;
        let same = tensor.datatype == like.datatype && tensor.shape.get(1..) == like.shape.get(1..);
        rows += tensor.rows().filter(|_| same).ok_or(WrongRows)?;
        data.extend_from_slice(&tensor.data);
    }
    let shape = std::iter::once(rows).chain(like.shape.iter().skip(1).copied()).collect();
    Ok(Tensor { shape, data: data.freeze(), ..like.clone() })
}

fn head_of(outcome: &Outcome) -> Outcome {
    Outcome {
        model_name: outcome.model_name.clone(),
        model_version: outcome.model_version.clone(),
        outputs: Vec::with_capacity(outcome.outputs.len()),
        parameters: outcome.parameters.clone(),
    }
}

/// Cuts one tensor along its first dimension, without copying.
fn cut(tensor: &Tensor, layout: &[u32]) -> Result<Vec<Tensor>, WrongRows> {
    let inner = tensor.shape.iter().skip(1).try_fold(1u64, |n, dim| n.checked_mul(*dim)).ok_or(WrongRows)?;
    let mut rest = tensor.data.clone();
    let mut parts = Vec::with_capacity(layout.len());
    for rows in layout {
        let elements = u64::from(*rows).checked_mul(inner).ok_or(WrongRows)?;
        let end = end_of(&rest, tensor.datatype.size(), elements).ok_or(WrongRows)?;
        let data = rest.split_to(end);
        let shape = std::iter::once(u64::from(*rows)).chain(tensor.shape.iter().skip(1).copied()).collect();
        parts.push(Tensor { shape, data, ..tensor.clone() });
    }
    if rest.is_empty() { Ok(parts) } else { Err(WrongRows) }
}

/// Offset just past so many elements; `None` if the data ends before.
fn end_of(data: &Bytes, size: Option<usize>, elements: u64) -> Option<usize> {
    let elements = usize::try_from(elements).ok()?;
    if let Some(size) = size {
        return elements.checked_mul(size).filter(|end| *end <= data.len());
    }
    let mut at = 0usize;
    for _ in 0..elements {
        let prefix = data.get(at..at.checked_add(4)?)?;
        let length = u32::from_le_bytes(prefix.try_into().ok()?);
        at = at.checked_add(4)?.checked_add(usize::try_from(length).ok()?)?;
    }
    (at <= data.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{batch::concat, tensor::DataType};

    fn bytes_tensor(rows: &[Vec<u8>]) -> Tensor {
        let mut data = BytesMut::new();
        for row in rows {
            data.extend_from_slice(&(row.len() as u32).to_le_bytes());
            data.extend_from_slice(row);
        }
        Tensor::new("s", DataType::Bytes, vec![rows.len() as u64, 1], data.freeze())
    }

    fn member(rows: &[Vec<u8>]) -> Inference {
        let numbers: Vec<u8> =
            rows.iter().flat_map(|row| [row.len() as u8, row.first().copied().unwrap_or(7)]).collect();
        let fixed = Tensor::new("n", DataType::Uint16, vec![rows.len() as u64], Bytes::from(numbers));
        Inference { inputs: vec![bytes_tensor(rows), fixed], ..Inference::default() }
    }

    proptest! {
        #[test]
        fn splitting_what_was_concatenated_gives_every_member_its_own_rows(
            members in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 1..5), 1..8)
        ) {
            let requests: Vec<Inference> = members.iter().map(|rows| member(rows)).collect();
            let merged = concat(&requests.iter().collect::<Vec<_>>());
            let layout: Vec<u32> = members.iter().map(|rows| rows.len() as u32).collect();
            let outcome = Outcome { outputs: merged.inputs, ..Outcome::default() };
            let parts = split(&outcome, &layout).unwrap();
            for (part, request) in parts.iter().zip(&requests) {
                prop_assert_eq!(&part.outputs, &request.inputs);
            }
        }

        #[test]
        fn joining_what_was_sliced_gives_the_whole(
            rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 1..20), max in 1u32..8
        ) {
            let whole = member(&rows);
            let parts = slice(&whole, max).unwrap();
            prop_assert!(parts.iter().all(|p| p.rows().unwrap() <= u64::from(max)));
            let outcomes: Vec<Outcome> =
                parts.into_iter().map(|p| Outcome { outputs: p.inputs, ..Outcome::default() }).collect();
            prop_assert_eq!(join(&outcomes).unwrap().outputs, whole.inputs);
        }
    }

    #[test]
    fn an_answer_with_other_rows_is_given_to_nobody() {
        let outcome = |rows: u64| Outcome {
            outputs: vec![Tensor::new("y", DataType::Int8, vec![rows], Bytes::from(vec![0; rows as usize]))],
            ..Outcome::default()
        };
        assert_eq!(split(&outcome(3), &[1, 1]), Err(WrongRows));
        assert_eq!(split(&outcome(1), &[1, 1]), Err(WrongRows));
        assert_eq!(split(&Outcome::default(), &[1]), Err(WrongRows));
        assert!(split(&outcome(2), &[1, 1]).is_ok());
    }

    #[test]
    fn a_shape_beyond_all_bounds_is_refused() {
        let shape = vec![2, 1 << 40, 1 << 40];
        let outcome = Outcome {
            outputs: vec![Tensor::new("y", DataType::Int8, shape, Bytes::new())],
            ..Outcome::default()
        };
        assert_eq!(split(&outcome, &[1, 1]), Err(WrongRows));
    }

    #[test]
    fn data_that_does_not_fit_its_shape_is_refused() {
        let short = Tensor::new("y", DataType::Fp32, vec![2], Bytes::from_static(&[0; 7]));
        let long = Tensor::new("y", DataType::Fp32, vec![2], Bytes::from_static(&[0; 9]));
        let lying = Tensor::new("y", DataType::Bytes, vec![2], Bytes::from_static(&[255; 8]));
        for tensor in [short, long, lying] {
            let outcome = Outcome { outputs: vec![tensor], ..Outcome::default() };
            assert_eq!(split(&outcome, &[1, 1]), Err(WrongRows));
        }
    }
}
