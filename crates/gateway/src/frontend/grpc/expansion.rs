//! How much memory an inference message takes once decoded, estimated from its fields before it is.
//!
//! Raw contents stay where they are; what is packed as varints grows up to eightfold, and an empty map entry or
//! sub-message of two bytes becomes a whole structure.

use bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Of a tensor's or output's structure.
const STRUCTURE: usize = 256;
/// Of a parameter, per byte on the wire.
const PARAMETER: usize = 64;
/// Of a slice of the message.
const SLICE: usize = 40;

/// Bytes a `ModelInferRequest` is expected to take beside the message itself. A message that cannot be walked
/// cannot be decoded either and costs what was walked.
pub(super) fn of(message: &[u8]) -> usize {
    sum(message, |field, part| match field {
        5 => STRUCTURE + tensor(part),
        6 => STRUCTURE + PARAMETER * part.len(),
        7 => SLICE,
        4 => PARAMETER * part.len(),
        _ => part.len(),
    })
}

fn tensor(message: &[u8]) -> usize {
    sum(message, |field, part| match field {
        3 => 8 * part.len(),
        4 => PARAMETER * part.len(),
        5 => contents(part),
        _ => part.len(),
    })
}

fn contents(message: &[u8]) -> usize {
    sum(message, |field, part| match field {
        2 | 4 => 4 * part.len(),
        3 | 5 => 8 * part.len(),
        8 => SLICE,
        _ => part.len(),
    })
}

/// Adds up what `cost` says of each length-delimited field; any other takes at most eight bytes.
fn sum(mut rest: &[u8], cost: impl Fn(u32, &[u8]) -> usize) -> usize {
    let mut total = 0;
    while rest.has_remaining() {
        let Ok((field, wire)) = decode_key(&mut rest) else { break };
        if wire != WireType::LengthDelimited {
            total += size_of::<u64>();
            if skip_field(wire, field, &mut rest, DecodeContext::default()).is_err() {
                break;
            }
            continue;
        }
        let length = decode_varint(&mut rest).ok().and_then(|length| usize::try_from(length).ok());
        let Some((part, after)) = length.and_then(|length| rest.split_at_checked(length)) else { break };
        total += cost(field, part);
        rest = after;
    }
    total
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proto::inference::{InferTensorContents, ModelInferRequest, model_infer_request::InferInputTensor};

    use super::*;

    fn with(contents: InferTensorContents) -> usize {
        let input = InferInputTensor { contents: Some(contents), ..Default::default() };
        of(&ModelInferRequest { inputs: vec![input], ..Default::default() }.encode_to_vec())
    }

    #[test]
    fn raw_contents_cost_nothing_more_and_small_integers_eightfold() {
        let raw = ModelInferRequest { raw_input_contents: vec![vec![0; 9000].into()], ..Default::default() };
        assert_eq!(of(&raw.encode_to_vec()), SLICE);
        let longs = with(InferTensorContents { int64_contents: vec![1; 1000], ..Default::default() });
        assert_eq!(longs, STRUCTURE + 8000);
        let floats = with(InferTensorContents { fp32_contents: vec![1.0; 1000], ..Default::default() });
        assert_eq!(floats, STRUCTURE + 4000);
    }

    #[test]
    fn a_flood_of_empty_inputs_is_expensive() {
        assert_eq!(of(&[0x2a, 0].repeat(1000)), 1000 * STRUCTURE);
    }

    #[test]
    fn garbage_ends_the_walk() {
        assert_eq!(of(&[0xff; 64]), 0);
        assert_eq!(of(&[0x2a, 0x7f, 1]), 0);
    }
}
