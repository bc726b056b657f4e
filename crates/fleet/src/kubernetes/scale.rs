//! The number of replicas of one object: read, and set on the condition that it still is what the decision was made
//! from.
//!
//! A JSON patch of the scale subresource tests the number itself. A resource version would be too strict: it changes
//! with every status, many times a second during a rollout. When the answer to a write is lost, the number is read:
//! a write is never repeated on suspicion.

use std::sync::Arc;

use http::header::{ACCEPT, CONTENT_TYPE};
use k8s_openapi::api::autoscaling::v1;
use serde_json::{Value, json};

use super::{
    cluster::{ApiError, Cluster},
    target::Resource,
    watch::Version,
};

/// Attempts at one write: the API server gives up on a patch when the object changes too often meanwhile.
const TRIES: u32 = 3;

/// The scale subresource, as last read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scale {
    pub(super) uid: Arc<str>,
    pub(super) version: Version,
    pub(super) replicas: u32,
    /// Which pods belong to the object.
    pub(super) selector: Option<Arc<str>>,
}

impl From<v1::Scale> for Scale {
    fn from(scale: v1::Scale) -> Self {
        // Zero is left out in JSON.
        let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
        let selector = scale.status.and_then(|status| status.selector);
        Self {
            uid: scale.metadata.uid.unwrap_or_default().into(),
            version: Version::from(&*scale.metadata.resource_version.unwrap_or_default()),
            replicas: u32::try_from(replicas).unwrap_or(0),
            selector: selector.filter(|selector| !selector.is_empty()).map(Into::into),
        }
    }
}

/// The object that is scaled.
#[derive(Clone, Debug)]
pub(super) struct Scaled {
    cluster: Cluster,
    path: Arc<str>,
    /// What the API server knows us by as the writer of the number.
    manager: &'static str,
}

/// A number to write, and what must hold for it.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// `None`: of whatever object has the name now.
    pub(super) uid: Option<Arc<str>>,
    pub(super) from: u32,
    pub(super) to: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WriteError {
    /// The number is not what the decision was made from; it is this.
    Conflict(Scale),
    /// We may not write any more.
    Deposed,
    Failed(ApiError),
}

/// How the API server shows a number of zero: as this is written it leaves it out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zero {
    LeftOut,
    Shown,
}

impl Scaled {
    pub(super) fn new(
        cluster: &Cluster,
        resource: &Resource,
        namespace: &str,
        name: &str,
        manager: &'static str,
    ) -> Self {
        let path = format!("{}/{name}/scale", resource.path(namespace)).into();
        Self { cluster: cluster.clone(), path, manager }
    }

    pub(super) async fn read(&self) -> Result<Scale, ApiError> {
        let request = http::Request::get(&*self.path).body(Vec::new()).map_err(invalid)?;
        Ok(self.cluster.client().request::<v1::Scale>(request).await?.into())
    }

    /// Sets the number. `may` is asked right before each attempt.
    pub(super) async fn write(
        &self,
        change: &Change,
        may: impl Fn() -> bool + Send,
    ) -> Result<Scale, WriteError> {
        let mut zero = Zero::LeftOut;
        for _ in 0..TRIES {
            self.cluster.turn_to_write().await.map_err(WriteError::Failed)?;
            if !may() {
                return Err(WriteError::Deposed);
            }
            let refusal = match self.patch(change, zero).await {
                Ok(scale) => return Ok(scale),
                Err(refusal) => refusal,
            };
            if !matches!(refusal, ApiError::Conflict(_) | ApiError::Invalid(_)) && !refusal.is_unsure() {
                return Err(WriteError::Failed(refusal));
            }
            let now = self.read().await.map_err(|_| WriteError::Failed(refusal.clone()))?;
            let same = change.uid.as_ref().is_none_or(|uid| *uid == now.uid);
            match refusal {
                // Ours that did arrive, or the same wish of somebody faster.
                _ if same && now.replicas == change.to => return Ok(now),
                _ if !same || now.replicas != change.from => return Err(WriteError::Conflict(now)),
                ApiError::Conflict(_) => {}
                ApiError::Invalid(_) if change.from == 0 && zero == Zero::LeftOut => zero = Zero::Shown,
                // One whose answer was lost may still arrive: whoever decides looks again before the next.
                refusal => return Err(WriteError::Failed(refusal)),
            }
        }
        let sentence = "the object changes faster than its number can be written";
        Err(WriteError::Failed(ApiError::Conflict(sentence.into())))
    }

    async fn patch(&self, change: &Change, zero: Zero) -> Result<Scale, ApiError> {
        let Self { path, manager, .. } = self;
        let request = http::Request::patch(format!("{path}?fieldManager={manager}"))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json-patch+json")
            .body(patch(change, zero).to_string().into_bytes())
            .map_err(invalid)?;
        Ok(self.cluster.client().request::<v1::Scale>(request).await?.into())
    }
}

fn patch(change: &Change, zero: Zero) -> Value {
    let Change { uid, from, to } = change;
    let mut operations = Vec::new();
    if let Some(uid) = uid {
        operations.push(json!({"op": "test", "path": "/metadata/uid", "value": &**uid}));
    }
    operations.push(match (from, zero) {
        (0, Zero::LeftOut) => json!({"op": "test", "path": "/spec", "value": {}}),
        _ => json!({"op": "test", "path": "/spec/replicas", "value": from}),
    });
    operations.push(json!({"op": "add", "path": "/spec/replicas", "value": to}));
    Value::Array(operations)
}

fn invalid(error: http::Error) -> ApiError {
    ApiError::Invalid(error.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patch_tests_the_object_and_the_number_before_it_sets_it() {
        let change = |uid: Option<&str>, from, to| Change { uid: uid.map(Into::into), from, to };
        assert_eq!(
            patch(&change(Some("u"), 2, 3), Zero::LeftOut),
            json!([
                {"op": "test", "path": "/metadata/uid", "value": "u"},
                {"op": "test", "path": "/spec/replicas", "value": 2},
                {"op": "add", "path": "/spec/replicas", "value": 3},
            ])
        );
        assert_eq!(
            patch(&change(None, 0, 1), Zero::LeftOut),
            json!([
                {"op": "test", "path": "/spec", "value": {}},
                {"op": "add", "path": "/spec/replicas", "value": 1},
            ])
        );
        assert_eq!(
            patch(&change(None, 0, 1), Zero::Shown)[0],
            json!({"op": "test", "path": "/spec/replicas", "value": 0})
        );
    }

    #[test]
    fn a_scale_without_number_is_at_zero_and_one_without_selector_has_none() {
        let scale = |json| Scale::from(serde_json::from_value::<v1::Scale>(json).unwrap());
        let zero = scale(json!({"metadata": {"uid": "u", "resourceVersion": "7"}, "spec": {},
            "status": {"replicas": 0, "selector": ""}}));
        let expected = Scale { uid: "u".into(), version: "7".into(), replicas: 0, selector: None };
        assert_eq!(zero, expected);
        let two = scale(json!({"metadata": {}, "spec": {"replicas": 2},
            "status": {"replicas": 1, "selector": "app=digits"}}));
        assert_eq!((two.replicas, two.selector.as_deref()), (2, Some("app=digits")));
    }
}
