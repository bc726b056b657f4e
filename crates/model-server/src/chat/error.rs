//! Every way a call to the simulator can be refused, as OpenAI's clients read it.

use http::StatusCode;
use serde_json::{Value, json};

use super::fail::FaultError;
use crate::error::{Error as ServerError, Quoted};

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The body or the route: the same for every server here.
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("the body is not a request of this route: {0}")]
    Body(serde_json::Error),
    #[error("the model {0} does not exist")]
    Model(Quoted),
    #[error("{parameter}: {problem}")]
    Parameter { parameter: &'static str, problem: &'static str },
    #[error("{tokens} tokens of prompt and answer are more than the {context} of the model's context")]
    Context { tokens: usize, context: usize },
    #[error("x-sim-fail: {0}")]
    Fault(#[from] FaultError),
    #[error("the engine is full: its slots and its queue are taken")]
    Full { status: StatusCode },
    #[error("failed on demand")]
    OnDemand,
}

impl Error {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Server(error) => error.status().0,
            Self::Model(_) => StatusCode::NOT_FOUND,
            Self::Full { status } => *status,
            Self::OnDemand => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Body(_) | Self::Parameter { .. } | Self::Context { .. } | Self::Fault(_) => {
                StatusCode::BAD_REQUEST
            }
        }
    }

    /// `{"error": {"message", "type", "param", "code"}}`.
    pub(super) fn envelope(&self) -> Value {
        let status = self.status();
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let param = match self {
            Self::Parameter { parameter, .. } => Some(*parameter),
            Self::Model(_) => Some("model"),
            _ => None,
        };
        let code = match self {
            Self::Model(_) => "model_not_found",
            Self::Context { .. } => "context_length_exceeded",
            Self::Full { .. } => "engine_full",
            Self::OnDemand => "failed_on_demand",
            Self::Server(ServerError::RouteNotFound(_)) => "route_not_found",
            Self::Server(ServerError::MethodNotAllowed { .. }) => "method_not_allowed",
            Self::Server(ServerError::BodyTooLarge { .. }) => "body_too_large",
            Self::Server(ServerError::Loading) => "loading",
            Self::Server(ServerError::Stopping) => "stopping",
            Self::Server(_) | Self::Body(_) | Self::Parameter { .. } | Self::Fault(_) => "invalid_request",
        };
        json!({ "error": { "message": self.to_string(), "type": kind, "param": param, "code": code } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_status_and_code() {
        let full = |status| Error::Full { status };
        for (error, status, kind, code) in [
            (Error::Model(Quoted::new("x")), 404, "invalid_request_error", "model_not_found"),
            (full(StatusCode::TOO_MANY_REQUESTS), 429, "rate_limit_error", "engine_full"),
            (full(StatusCode::SERVICE_UNAVAILABLE), 503, "service_unavailable_error", "engine_full"),
            (ServerError::Loading.into(), 503, "service_unavailable_error", "loading"),
            (ServerError::BodyTooLarge { limit: 1 }.into(), 413, "invalid_request_error", "body_too_large"),
            (
                ServerError::MethodNotAllowed { allow: "GET" }.into(),
                405,
                "invalid_request_error",
                "method_not_allowed",
            ),
            (Error::OnDemand, 500, "server_error", "failed_on_demand"),
        ] {
            let envelope = error.envelope();
            assert_eq!(error.status().as_u16(), status, "{error}");
            assert_eq!(
                (&envelope["error"]["type"], &envelope["error"]["code"]),
                (&json!(kind), &json!(code))
            );
        }
    }
}
