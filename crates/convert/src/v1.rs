//! The predict protocol, version 1, of TensorFlow Serving and KServe. It names no datatypes: the model's
//! metadata decides them for requests, and for responses the values themselves.

mod encode;
mod request;
mod response;

pub use encode::{encode_request, encode_response};
pub use request::{decode_request, decoded_bytes};
pub use response::decode_response;

#[cfg(test)]
mod tests;
