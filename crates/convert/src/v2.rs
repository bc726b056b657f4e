//! The Open Inference Protocol over REST: JSON, with tensors in it or in binary after it.

mod encode;
mod envelope;
mod parse;
mod peek;
mod raw;
mod response;

pub use encode::{Style, encode_request, encode_response};
pub use parse::{Parsed, parse};
pub(crate) use parse::{check_id, distinct};
pub use peek::{Peek, peek};
pub use raw::parse_raw;
pub use response::decode_response;

use crate::{error::Error, quote::Quoted};

/// Request parameter: every output that says nothing else is wanted in binary.
pub(crate) const BINARY_OUTPUT: &str = "binary_data_output";
/// Parameter of a requested output: wanted in binary.
pub(crate) const BINARY: &str = "binary_data";
/// Parameter of a tensor: bytes it has after the JSON.
pub(crate) const BINARY_SIZE: &str = "binary_data_size";

/// Reads the value of `Inference-Header-Content-Length`: digits only, no sign, no space.
///
/// # Errors
/// [`Error::HeaderLength`] for anything else.
pub fn header_length(value: &str) -> Result<usize, Error> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let length = digits.then(|| value.parse().ok()).flatten();
    length.ok_or_else(|| Error::HeaderLength(Quoted::new(value)))
}

/// The JSON of a body and the binary data after it.
fn split(body: &bytes::Bytes, header_length: Option<usize>) -> Result<(&[u8], bytes::Bytes), Error> {
    let Some(header_length) = header_length else { return Ok((body, bytes::Bytes::new())) };
    match body.get(..header_length) {
        Some(json) => Ok((json, body.slice(header_length..))),
        None => Err(Error::HeaderBeyondBody { header_length, body: body.len() }),
    }
}

#[cfg(test)]
mod tests;
