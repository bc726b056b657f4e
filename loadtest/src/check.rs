//! Whether an answer says what its own input should give: finds answers that went to the wrong caller.

use bytes::Bytes;
use http::HeaderMap;
use pipeline::{
    request::Outcome,
    tensor::{DataType, Tensor},
};
use prost::Message as _;

use crate::message::{Protocol, unframed};

/// Difference below which two numbers are the same.
const TOLERANCE: f64 = 1e-4;

/// Whether the answer has an output with one number per row, and those numbers are `expected`.
pub(crate) fn agrees(protocol: Protocol, headers: &HeaderMap, body: &Bytes, expected: &[f64]) -> bool {
    let Some(outcome) = decode(protocol, headers, body) else { return false };
    let per_row = |tensor: &&Tensor| tensor.elements() == Some(expected.len() as u64);
    let Some(numbers) = outcome.outputs.iter().find(per_row).and_then(numbers) else { return false };
    numbers.len() == expected.len()
        && numbers.iter().zip(expected).all(|(is, should)| (is - should).abs() < TOLERANCE)
}

fn decode(protocol: Protocol, headers: &HeaderMap, body: &Bytes) -> Option<Outcome> {
    match protocol {
        Protocol::V1 => convert::v1::decode_response(body).ok(),
        Protocol::V2Grpc => {
            let message = proto::inference::ModelInferResponse::decode(unframed(body)?).ok()?;
            convert::grpc::decode_response(message).ok()
        }
        Protocol::V2 | Protocol::V2Binary | Protocol::Chat | Protocol::Raw => {
            let length = match headers.get("inference-header-content-length") {
                Some(value) => Some(convert::v2::header_length(value.to_str().ok()?).ok()?),
                None => None,
            };
            convert::v2::decode_response(body, length).ok()
        }
    }
}

/// The elements of a tensor of numbers.
fn numbers(tensor: &Tensor) -> Option<Vec<f64>> {
    let size = tensor.datatype.size()?;
    tensor.data.chunks_exact(size).map(|element| number(tensor.datatype, element)).collect()
}

fn number(datatype: DataType, element: &[u8]) -> Option<f64> {
    Some(match datatype {
        DataType::Bool | DataType::Uint8 => f64::from(*element.first()?),
        DataType::Int8 => f64::from(i8::from_le_bytes(element.try_into().ok()?)),
        DataType::Uint16 => f64::from(u16::from_le_bytes(element.try_into().ok()?)),
        DataType::Int16 => f64::from(i16::from_le_bytes(element.try_into().ok()?)),
        DataType::Uint32 => f64::from(u32::from_le_bytes(element.try_into().ok()?)),
        DataType::Int32 => f64::from(i32::from_le_bytes(element.try_into().ok()?)),
        DataType::Uint64 => u64::from_le_bytes(element.try_into().ok()?) as f64,
        DataType::Int64 => i64::from_le_bytes(element.try_into().ok()?) as f64,
        DataType::Fp32 => f64::from(f32::from_le_bytes(element.try_into().ok()?)),
        DataType::Fp64 => f64::from_le_bytes(element.try_into().ok()?),
        DataType::Fp16 | DataType::Bf16 | DataType::Bytes => return None,
    })
}

#[cfg(test)]
mod tests {
    use convert::Mirror;

    use super::*;
    use crate::message::framed;

    /// An answer for two rows, as each protocol writes it: probabilities, and the classes 8 and 4.
    fn answer(protocol: Protocol) -> (HeaderMap, Bytes) {
        let classes: Vec<u8> = [8i64, 4].iter().flat_map(|class| class.to_le_bytes()).collect();
        let probabilities = 0.25f32.to_le_bytes().repeat(6);
        let outputs = vec![
            Tensor::new("probabilities", DataType::Fp32, vec![2, 3], probabilities.into()),
            Tensor::new("class", DataType::Int64, vec![2], classes.into()),
        ];
        let outcome = Outcome { outputs, ..Outcome::default() };
        let encoded = match protocol {
            Protocol::V2Grpc => {
                let response = convert::grpc::encode_response("m", &outcome, "", &Mirror::typed()).unwrap();
                return (HeaderMap::new(), framed(&response));
            }
            Protocol::V1 => convert::v1::encode_response(&outcome, &Mirror::plain()).unwrap(),
            Protocol::V2Binary => convert::v2::encode_response("m", &outcome, "", &Mirror::binary()).unwrap(),
            _ => convert::v2::encode_response("m", &outcome, "", &Mirror::plain()).unwrap(),
        };
        let length = encoded.header_length.map(|length| ("inference-header-content-length", length.into()));
        let headers = length.into_iter().map(|(name, value)| (http::HeaderName::from_static(name), value));
        (headers.collect(), encoded.body)
    }

    #[test]
    fn the_output_with_one_number_per_row_is_compared_row_by_row() {
        for protocol in [Protocol::V1, Protocol::V2, Protocol::V2Binary, Protocol::V2Grpc] {
            let (headers, body) = answer(protocol);
            assert!(agrees(protocol, &headers, &body, &[8.0, 4.0]), "{protocol:?}");
            assert!(!agrees(protocol, &headers, &body, &[4.0, 8.0]), "{protocol:?}: rows of each other");
            assert!(!agrees(protocol, &headers, &body, &[8.0]), "{protocol:?}: another number of rows");
        }
    }

    #[test]
    fn an_answer_that_cannot_be_read_agrees_with_nothing() {
        let (_, body) = answer(Protocol::V2);
        assert!(!agrees(Protocol::V2, &HeaderMap::new(), &body.slice(..20), &[8.0, 4.0]));
        assert!(!agrees(Protocol::V2Grpc, &HeaderMap::new(), &body, &[8.0, 4.0]));
    }
}
