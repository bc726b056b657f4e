//! Wire formats to and from the pipeline's words, without I/O.
//!
//! [`v2`] is the Open Inference Protocol over REST with the binary tensor extension, [`grpc`] the same protocol
//! over gRPC, [`v1`] the predict protocol of TensorFlow Serving and KServe, [`metadata`] what a model says of
//! itself. Each decodes requests and encodes responses (the client's side) and encodes requests and decodes
//! responses (the model server's side). [`openai`] only looks into bodies that are handed on as they came. The
//! sentences of [`Error`] are written for the client.

use std::time::Duration;

use bytes::Bytes;
use pipeline::request::{Class, Inference};

#[cfg(test)]
mod arbitrary;
mod elements;
mod error;
pub mod grpc;
mod json;
pub mod metadata;
mod mirror;
pub mod openai;
mod parameters;
mod quote;
pub mod v1;
pub mod v2;

pub use error::{Error, Place, Problem, Reason};
pub use mirror::Mirror;
pub use quote::{Clipped, Listed, Quoted};

/// A client's request in the pipeline's words.
#[derive(Clone, Debug)]
pub struct Decoded {
    pub inference: Inference,
    /// The `priority` parameter.
    pub class: Option<Class>,
    /// The `timeout` parameter.
    pub timeout: Option<Duration>,
    /// How the client wants its answer written.
    pub mirror: Mirror,
}

/// A body of a REST call.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    pub body: Bytes,
    /// `Inference-Header-Content-Length`: bytes of JSON before the binary tensors, if there are any of these.
    pub header_length: Option<usize>,
}

impl Encoded {
    /// The media type of `body`.
    #[must_use]
    pub fn content_type(&self) -> &'static str {
        if self.header_length.is_some() { "application/octet-stream" } else { "application/json" }
    }
}

/// What a decoder may allocate for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of tensor data, after JSON numbers have become elements.
    pub decoded_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { decoded_bytes: 64 << 20 }
    }
}
