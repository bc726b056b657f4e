//! A failure as gRPC trailers: status, message, and `google.rpc` details.

use std::collections::HashMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use prost::Message;

use super::{Failure, Retry, Situation, http::REASON, http::SHOULD_RETRY};
use crate::frontend::body::Body;

const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const DOMAIN: &str = "tidegate.dev";

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(map = "string, string", tag = "3")]
    metadata: HashMap<String, String>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

impl Failure {
    /// A trailers-only response.
    pub(crate) fn to_grpc(&self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.headers_mut() = self.trailers();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }

    /// The trailers that end a call with this failure.
    pub(crate) fn trailers(&self) -> HeaderMap {
        let row = self.situation.row();
        let status = tonic::Status::with_details(row.grpc, self.sentence(), self.details());
        let mut trailers = HeaderMap::with_capacity(8);
        status.add_header(&mut trailers).expect("message and details are encoded as header values");
        trailers.insert(REASON, HeaderValue::from_static(row.reason));
        if let Some(wait) = self.retry_after() {
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            trailers.insert(PUSHBACK, millis.into());
        }
        if row.retry == Retry::Never {
            trailers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            trailers.insert(PUSHBACK, HeaderValue::from_static("-1"));
        }
        if self.situation == Situation::UnsupportedMediaType {
            trailers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity,gzip,deflate"));
        }
        trailers
    }

    fn details(&self) -> Bytes {
        let row = self.situation.row();
        let info =
            ErrorInfo { reason: row.reason.to_owned(), domain: DOMAIN.to_owned(), metadata: HashMap::new() };
        let mut details = vec![any("google.rpc.ErrorInfo", &info)];
        if let Some(wait) = self.retry_after() {
            let retry_delay = prost_types::Duration::try_from(wait).ok();
            details.push(any("google.rpc.RetryInfo", &RetryInfo { retry_delay }));
        }
        let status = RpcStatus { code: row.grpc as i32, message: self.sentence().to_owned(), details };
        status.encode_to_vec().into()
    }
}

fn any(name: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}
