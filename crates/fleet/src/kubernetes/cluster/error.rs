//! What can go wrong between us and the API server.

use std::{sync::Arc, time::Duration};

use kube::core::Status;

/// The cause under which an error carries what was asked for; see [`super::conduct`].
pub(super) const ASKED_FOR: &str = "TidegateAskedFor";

/// Why a call had no success. Texts are for people; none holds credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// It was changed by somebody else since it was read.
    #[error("{0}")]
    Conflict(Arc<str>),
    #[error("{0}")]
    AlreadyExists(Arc<str>),
    #[error("{0}")]
    NotFound(Arc<str>),
    /// `what` is a verb and a resource, like `patch deployments.apps/scale in namespace ml`.
    #[error("not allowed to {what}")]
    Forbidden { what: Arc<str> },
    #[error("the API server does not accept our credentials to {what}")]
    Unauthenticated { what: Arc<str> },
    /// Nothing was done.
    #[error("the API server is overloaded and asks to come back later")]
    Throttled { retry_after: Option<Duration> },
    /// The resource version asked for is not to be had: too old, or newer than what the API server knows.
    #[error("the API server does not have that resource version")]
    Gone,
    /// It cannot be done like this: a precondition that does not hold, or a value that is not allowed.
    #[error("{0}")]
    Invalid(Arc<str>),
    /// Not reached, or broken: whether anything was done is not known.
    #[error("the API server is unavailable: {words}")]
    Unavailable { words: Arc<str>, retry_after: Option<Duration> },
    /// Whether anything was done is not known.
    #[error("the API server did not answer within {0:?}")]
    Late(Duration),
}

impl ApiError {
    /// How long the API server wants to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after } | Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether a write that ended like this may have been done all the same.
    #[must_use]
    pub fn is_unsure(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Late(_))
    }

    pub(in crate::kubernetes) fn unavailable(words: impl Into<Arc<str>>) -> Self {
        Self::Unavailable { words: words.into(), retry_after: None }
    }

    pub(in crate::kubernetes) fn from_status(status: &Status) -> Self {
        let message: Arc<str> = if status.message.is_empty() {
            format!("the API server answered {} {}", status.code, status.reason).into()
        } else {
            status.message.as_str().into()
        };
        let details = status.details.as_ref();
        let seconds = details.map_or(0, |details| details.retry_after_seconds);
        let retry_after = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        let cause = |reason| details.and_then(|details| details.causes.iter().find(|c| c.reason == reason));
        let what = || cause(ASKED_FOR).map_or_else(|| Arc::clone(&message), |c| c.message.as_str().into());
        match status.code {
            401 => Self::Unauthenticated { what: what() },
            403 => Self::Forbidden { what: what() },
            404 => Self::NotFound(message),
            409 if status.is_already_exists() => Self::AlreadyExists(message),
            409 => Self::Conflict(message),
            410 => Self::Gone,
            429 => Self::Throttled { retry_after },
            _ if cause("ResourceVersionTooLarge").is_some() => Self::Gone,
            400..500 => Self::Invalid(message),
            _ => Self::Unavailable { words: message, retry_after },
        }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(&status),
            kube::Error::BuildRequest(error) => Self::Invalid(words(&error)),
            kube::Error::Service(error) => match error.downcast::<Self>() {
                Ok(ours) => *ours,
                Err(error) => Self::unavailable(words(&*error)),
            },
            error => Self::unavailable(words(&error)),
        }
    }
}

/// An error and what caused it, without what is said twice.
pub(super) fn words(error: &(dyn std::error::Error + 'static)) -> Arc<str> {
    const CAUSES_MAX: usize = 8;
    let mut words = error.to_string();
    let causes = std::iter::successors(error.source(), |error| error.source());
    for cause in causes.take(CAUSES_MAX).map(ToString::to_string) {
        if !words.contains(&cause) {
            words.push_str(": ");
            words.push_str(&cause);
        }
    }
    words.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(status: serde_json::Value) -> ApiError {
        ApiError::from_status(&serde_json::from_value(status).unwrap())
    }

    #[test]
    fn each_status_has_its_error() {
        let cause = json!([{"reason": ASKED_FOR, "message": "get leases"}]);
        let cases = [
            (json!({"code": 401, "details": {"causes": cause}}), {
                ApiError::Unauthenticated { what: "get leases".into() }
            }),
            (json!({"code": 403, "details": {"causes": cause}}), {
                ApiError::Forbidden { what: "get leases".into() }
            }),
            (json!({"code": 404, "message": "pods \"a\" not found"}), {
                ApiError::NotFound("pods \"a\" not found".into())
            }),
            (json!({"code": 409, "reason": "AlreadyExists", "message": "m"}), {
                ApiError::AlreadyExists("m".into())
            }),
            (json!({"code": 409, "reason": "Conflict", "message": "m"}), ApiError::Conflict("m".into())),
            (json!({"code": 410, "reason": "Expired"}), ApiError::Gone),
            (json!({"code": 422, "reason": "Invalid", "message": "m"}), ApiError::Invalid("m".into())),
            (json!({"code": 429, "details": {"retryAfterSeconds": 7}}), {
                ApiError::Throttled { retry_after: Some(Duration::from_secs(7)) }
            }),
            (json!({"code": 500, "reason": "InternalError"}), {
                ApiError::unavailable("the API server answered 500 InternalError")
            }),
            (json!({"code": 504, "reason": "Timeout", "message": "m"}), ApiError::unavailable("m")),
            (
                json!({"code": 504, "reason": "Timeout", "details": {"causes": [
                    {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]}}),
                ApiError::Gone,
            ),
        ];
        for (status, error) in cases {
            assert_eq!(of(status.clone()), error, "{status}");
        }
    }

    #[test]
    fn only_an_answer_proves_that_nothing_was_done() {
        assert!(ApiError::Late(Duration::ZERO).is_unsure());
        assert!(of(json!({"code": 502})).is_unsure());
        assert!(!of(json!({"code": 429})).is_unsure());
        assert!(!of(json!({"code": 409})).is_unsure());
    }
}
