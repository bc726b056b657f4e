//! A failure as an HTTP response, for the Open Inference and V1 surfaces and for OpenAI's.

use bytes::Bytes;
use convert::openai::ErrorText;
use http::{HeaderName, HeaderValue, Response, header};
use serde_json::{Value, json};

use pipeline::Words;

use super::{Failure, Retry};
use crate::frontend::body::Body;

pub(crate) const REASON: HeaderName = HeaderName::from_static("x-tidegate-reason");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
pub(super) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

impl Failure {
    /// `{"error", "code", "request_id"}`; `error` is a string because Triton's clients read it so.
    pub(crate) fn to_http(&self, request_id: &HeaderValue) -> Response<Body> {
        let code = self.situation.row().reason;
        let request_id = request_id.to_str().unwrap_or_default();
        self.response(&json!({ "error": self.sentence(), "code": code, "request_id": request_id }))
    }

    /// `{"error": {"message", "type", "param", "code"}}`, as OpenAI's clients expect it.
    pub(crate) fn to_openai(&self) -> Response<Body> {
        let ErrorText { message, kind, param, code } = self.in_openai_words();
        let error = json!({ "message": message, "type": kind, "param": param, "code": code });
        self.response(&json!({ "error": error }))
    }

    /// The members of an error of OpenAI's. Of an engine's refusal its own words, which clients look for.
    pub(crate) fn in_openai_words(&self) -> ErrorText {
        let words = self.words.as_deref().cloned().unwrap_or_default();
        let Words { code, kind, param } = words;
        ErrorText {
            message: self.sentence().to_owned(),
            kind: Some(kind.unwrap_or_else(|| self.openai_type().to_owned())),
            param,
            code: Some(code.unwrap_or_else(|| self.situation.row().reason.to_owned())),
        }
    }

    /// The `type` of an error in OpenAI's words.
    fn openai_type(&self) -> &'static str {
        match self.situation.row().http {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    fn response(&self, body: &Value) -> Response<Body> {
        let row = self.situation.row();
        let mut response = Response::new(Body::full(Bytes::from(body.to_string())));
        *response.status_mut() = self.situation.http_status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(REASON, HeaderValue::from_static(row.reason));
        if let Some(wait) = self.retry_after() {
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, millis.div_ceil(1000).max(1).into());
            headers.insert(RETRY_AFTER_MS, millis.into());
        }
        if row.retry == Retry::Never {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}
