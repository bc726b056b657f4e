//! Errors as the API server words them: a `metav1.Status` with a reason, a code and details.

use std::{fmt, time::Duration};

use serde_json::{Value, json};

use crate::{kinds::Kind, object::Object};

/// An error answer of the server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code} {reason}: {message}")]
pub struct Refusal {
    code: u16,
    reason: &'static str,
    message: String,
    details: Option<Box<Value>>,
    retry_after: Option<Duration>,
}

/// What a field's value has against it, for [`Refusal::invalid`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum FieldFault {
    Required,
    Invalid,
    Forbidden,
}

impl FieldFault {
    fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::Forbidden => "FieldValueForbidden",
        }
    }
}

impl Refusal {
    /// A refusal with any code and reason, for fault scripts.
    #[must_use]
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, retry_after: None }
    }

    /// 409 as for a write from an old `resourceVersion`.
    #[must_use]
    pub fn scripted_conflict() -> Self {
        let message = "Operation cannot be fulfilled: the object has been modified; please apply your changes to \
                       the latest version and try again";
        Self::new(409, "Conflict", message)
    }

    /// 429 of API priority and fairness, with `Retry-After`.
    #[must_use]
    pub fn too_many_requests(retry_after: Duration) -> Self {
        let message = "too many requests, please try again later";
        Self::new(429, "TooManyRequests", message).retrying_after(retry_after)
    }

    /// 500 with a message of the storage below.
    #[must_use]
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// 503 of a server that is starting or overloaded.
    #[must_use]
    pub fn unavailable() -> Self {
        let message = "the server is currently unable to handle the request";
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 504 of a replica of the API server that lags behind the version asked for.
    #[must_use]
    pub fn too_large_resource_version(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let causes =
            json!([{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }]);
        Self::new(504, "Timeout", message)
            .detailed(json!({ "causes": causes }))
            .retrying_after(Duration::from_secs(1))
    }

    /// 410 for a version that history no longer reaches.
    #[must_use]
    pub fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// 410 for the rest of a list whose snapshot is gone.
    pub(crate) fn continue_expired() -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You can \
                       start a new list without the continue parameter, or use the continue token in this response \
                       to retrieve the remainder of the results. Continuing with the provided token results in an \
                       inconsistent list - objects that were created, modified, or deleted between the time the \
                       first chunk was returned and now may show up in the list.";
        Self::new(410, "Expired", message)
    }

    /// 403 in the server's own words.
    #[must_use]
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").detailed(json!({}))
    }

    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.resource());
        Self::new(404, "NotFound", message).about(kind, name)
    }

    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.resource());
        Self::new(409, "AlreadyExists", message).about(kind, name)
    }

    pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.resource());
        Self::new(409, "Conflict", message).about(kind, name)
    }

    /// A deletion's precondition; the server names the kind here, not the resource.
    pub(crate) fn precondition(kind: &Kind, name: &str, why: &str) -> Self {
        let mut named = kind.clone();
        named.plural.clone_from(&kind.kind);
        Self::conflict(&named, name, why)
    }

    pub(crate) fn stale(kind: &Kind, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    pub(crate) fn other_uid(kind: &Kind, name: &str, asked: &str, actual: &str) -> Self {
        let why = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {actual}");
        Self::conflict(kind, name, &why)
    }

    /// A PUT with the uid of another object: the storage's own words.
    pub(crate) fn other_uid_in_store(kind: &Kind, object: &Object, asked: &str) -> Self {
        let group = if kind.custom { format!("{}/", kind.group) } else { String::new() };
        let namespace = if kind.namespaced() { format!("{}/", object.namespace) } else { String::new() };
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: /registry/{group}{}/{namespace}{}, ResourceVersion: 0, \
             AdditionalErrorMsg: Precondition failed: UID in precondition: {asked}, UID in object meta: {}",
            kind.plural,
            object.name,
            object.uid()
        );
        Self::conflict(kind, &object.name, &why)
    }

    /// 400 for an object that does not say its name.
    pub(crate) fn nameless(url: &str) -> Self {
        let message =
            format!("the name of the object ({url} based on URL) was undeterminable: name must be provided");
        Self::bad_request(message)
    }

    /// 422 for one field of an object of `kind` ("Scale.autoscaling", say).
    pub(crate) fn invalid(group: &str, kind: &str, name: &str, field: (&str, FieldFault, &str)) -> Self {
        let (path, fault, message) = field;
        let of = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let causes = json!([{ "reason": fault.reason(), "message": message, "field": path }]);
        let mut details = json!({ "name": name, "group": group, "kind": kind, "causes": causes });
        drop_empty(&mut details);
        Self::new(422, "Invalid", format!("{of} \"{name}\" is invalid: {path}: {message}")).detailed(details)
    }

    /// 422 for a patch that cannot be applied; the real server tells no more than this.
    pub(crate) fn unprocessable() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::new(422, "Invalid", message).detailed(json!({}))
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message).detailed(json!({}))
    }

    pub(crate) fn unsupported_media_type() -> Self {
        Self::new(415, "UnsupportedMediaType", "415: Unsupported Media Type").detailed(json!({}))
    }

    /// 415 for the body of a whole object.
    pub(crate) fn unknown_format(accepted: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(crate) fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json";
        Self::new(406, "NotAcceptable", message)
    }

    pub(crate) fn too_large(limit_bytes: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit_bytes}");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// Adds `Retry-After`, in whole seconds as the header is.
    #[must_use]
    pub fn retrying_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Replaces the details.
    #[must_use]
    pub fn detailed(mut self, details: Value) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    fn about(self, kind: &Kind, name: &str) -> Self {
        let mut details = json!({ "name": name, "group": kind.group, "kind": kind.plural });
        drop_empty(&mut details);
        self.detailed(details)
    }

    /// The HTTP status code.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The machine-readable reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// The words for a person.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The value of `Retry-After`, if there is one.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The `metav1.Status` that goes over the wire.
    #[must_use]
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        let mut details = self.details.as_deref().cloned();
        if let Some(after) = self.retry_after {
            details.get_or_insert_with(|| json!({}))["retryAfterSeconds"] = after.as_secs().into();
        }
        if let Some(details) = details {
            status["details"] = details;
        }
        status
    }
}

/// Details leave out what there is nothing to say about.
pub(crate) fn drop_empty(details: &mut Value) {
    if let Some(members) = details.as_object_mut() {
        members.retain(|_, value| value != "");
    }
}
