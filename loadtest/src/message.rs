//! One request, encoded before the run: what is sent, and what the answer should say.

use bytes::{BufMut as _, Bytes, BytesMut};
use clap::ValueEnum;
use convert::v2::Style;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use pipeline::request::Inference;
use serde::Serialize;

use crate::{
    connection::{Body, HttpVersion},
    target::Target,
};

/// The path of chat completions.
const CHAT: &str = "/v1/chat/completions";

/// The path of `ModelInfer`.
const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

/// What is spoken to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    /// V1 predict, `POST /v1/models/M:predict`
    V1,
    /// Open Inference Protocol, JSON
    #[default]
    V2,
    /// Open Inference Protocol, JSON with binary tensors
    V2Binary,
    /// Open Inference Protocol over gRPC
    V2Grpc,
    /// OpenAI chat completions, whole or as a stream
    Chat,
    /// Any HTTP request: the URL as it is, the body from a file
    Raw,
}

impl Protocol {
    pub(crate) fn is_grpc(self) -> bool {
        self == Self::V2Grpc
    }
}

/// The model that is called, and how.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) http: HttpVersion,
    pub(crate) target: &'a Target,
    pub(crate) model: &'a str,
    /// Sent with every request besides those the protocol needs.
    pub(crate) headers: &'a HeaderMap,
}

/// A request ready to be sent, any number of times.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
    /// One number per row that the answer should contain; empty where nothing is known.
    pub(crate) expected: Vec<f64>,
}

impl Message {
    /// Encodes a call of the model.
    pub(crate) fn infer(call: &Call<'_>, inference: &Inference, expected: Vec<f64>) -> anyhow::Result<Self> {
        let model = call.model;
        let mut headers = HeaderMap::new();
        let (path, body) = match call.protocol {
            Protocol::V2Grpc => {
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                (INFER.to_owned(), framed(&convert::grpc::encode_request(model, inference)))
            }
            Protocol::V1 => {
                let encoded = convert::v1::encode_request(inference)?;
                (format!("/v1/models/{model}:predict"), describe(encoded, &mut headers))
            }
            Protocol::V2 | Protocol::V2Binary | Protocol::Chat | Protocol::Raw => {
                let style = if call.protocol == Protocol::V2Binary { Style::Binary } else { Style::Json };
                let encoded = convert::v2::encode_request(inference, style)?;
                (format!("/v2/models/{model}/infer"), describe(encoded, &mut headers))
            }
        };
        Self::new(call, Method::POST, &path, headers, body, expected)
    }

    /// A chat completion that has no body yet.
    pub(crate) fn chat(call: &Call<'_>) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self::new(call, Method::POST, CHAT, headers, Bytes::new(), Vec::new())
    }

    /// A request whose bytes are given.
    pub(crate) fn raw(call: &Call<'_>, method: Method, body: Bytes) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        if !body.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Self::new(call, method, "", headers, body, Vec::new())
    }

    /// A request for what the model says of itself.
    pub(crate) fn metadata(call: &Call<'_>) -> anyhow::Result<Self> {
        if call.protocol.is_grpc() {
            let request =
                proto::inference::ModelMetadataRequest { name: call.model.to_owned(), ..Default::default() };
            let mut headers = HeaderMap::new();
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            let path = "/inference.GRPCInferenceService/ModelMetadata";
            return Self::new(call, Method::POST, path, headers, framed(&request), Vec::new());
        }
        let path = format!("/v2/models/{}", call.model);
        Self::new(call, Method::GET, &path, HeaderMap::new(), Bytes::new(), Vec::new())
    }

    fn new(
        call: &Call<'_>,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
        body: Bytes,
        expected: Vec<f64>,
    ) -> anyhow::Result<Self> {
        let path = format!("{}{path}", call.target.path);
        let path = if path.is_empty() { "/" } else { &path };
        let authority = call.target.authority.as_str();
        let uri = match call.http {
            HttpVersion::Http1 => path.parse()?,
            HttpVersion::Http2 => format!("http://{authority}{path}").parse()?,
        };
        if call.http == HttpVersion::Http1 {
            headers.insert(header::HOST, HeaderValue::from_str(authority)?);
        }
        headers.extend(call.headers.clone());
        Ok(Self { method, uri, headers, body, expected })
    }

    /// The same with another body.
    pub(crate) fn with_body(&self, body: Bytes) -> Self {
        Self { body, ..self.clone() }
    }

    pub(crate) fn set_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    #[cfg(test)]
    pub(crate) fn body(&self) -> &Bytes {
        &self.body
    }

    /// Bytes of the body.
    pub(crate) fn len(&self) -> usize {
        self.body.len()
    }

    pub(crate) fn request(&self) -> Request<Body> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// Puts the headers that belong to an encoded body, and gives the body.
fn describe(encoded: convert::Encoded, headers: &mut HeaderMap) -> Bytes {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(encoded.content_type()));
    if let Some(length) = encoded.header_length {
        headers.insert("inference-header-content-length", HeaderValue::from(length));
    }
    encoded.body
}

/// A gRPC message in its frame: one byte of flags, four of length.
pub(crate) fn framed(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("a message held in memory is below four gigabytes"));
    message.encode_raw(&mut frame);
    frame.freeze()
}

/// The first message of a gRPC body; `None` if it is cut short or compressed.
pub(crate) fn unframed(body: &Bytes) -> Option<Bytes> {
    let (head, _) = body.split_first_chunk::<5>()?;
    let [flags, length @ ..] = *head;
    let end = usize::try_from(u32::from_be_bytes(length)).ok()?.checked_add(5)?;
    (flags == 0 && end <= body.len()).then(|| body.slice(5..end))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_frame_is_read_back_and_a_cut_one_is_not() {
        let request = proto::inference::ModelReadyRequest { name: "digits".into(), ..Default::default() };
        let frame = framed(&request);
        let message = unframed(&frame).unwrap();
        assert_eq!(proto::inference::ModelReadyRequest::decode(message).unwrap(), request);
        assert_eq!(unframed(&frame.slice(..frame.len() - 1)), None);
        assert_eq!(unframed(&frame.slice(..4)), None);
        let mut compressed = frame.to_vec();
        compressed[0] = 1;
        assert_eq!(unframed(&compressed.into()), None);
    }
}
