//! A `Model` as the API server tells of it. Nothing is required that a custom resource may lack: one odd object must
//! not hide the others.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::{
    super::watch::{Version, Watched},
    ModelObject,
};

/// A model, under a key that is unique over namespaces.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Wire")]
pub(super) struct Sighting {
    key: Arc<str>,
    version: Version,
    pub model: Arc<ModelObject>,
}

impl Watched for Sighting {
    fn name(&self) -> &Arc<str> {
        &self.key
    }

    fn version(&self) -> &Version {
        &self.version
    }
}

#[derive(Deserialize)]
struct Wire {
    metadata: Metadata,
    #[serde(default)]
    spec: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    namespace: Arc<str>,
    #[serde(default)]
    name: Arc<str>,
    #[serde(default)]
    uid: Arc<str>,
    #[serde(default)]
    generation: i64,
    creation_timestamp: Option<Box<str>>,
    #[serde(default)]
    resource_version: Version,
}

impl From<Wire> for Sighting {
    fn from(Wire { metadata, spec }: Wire) -> Self {
        let Metadata { namespace, name, uid, generation, creation_timestamp, resource_version } = metadata;
        let created = creation_timestamp.and_then(|time| time.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH);
        Self {
            key: format!("{namespace}/{name}").into(),
            version: resource_version,
            model: Arc::new(ModelObject { namespace, name, uid, generation, created, spec }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_read_with_its_spec_as_it_is() {
        let sighting: Sighting = serde_json::from_value(json!({
            "apiVersion": "tidegate.dev/v1alpha1",
            "kind": "Model",
            "metadata": {
                "namespace": "ml", "name": "digits", "uid": "u", "generation": 3, "resourceVersion": "77",
                "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [{"manager": "kubectl"}],
            },
            "spec": {"slo": {"p99": "100ms"}},
            "status": {"state": "Ready"},
        }))
        .unwrap();
        assert_eq!((&**sighting.name(), sighting.version()), ("ml/digits", &Version::from("77")));
        let model = sighting.model;
        assert_eq!(
            (&*model.namespace, &*model.name, &*model.uid, model.generation),
            ("ml", "digits", "u", 3)
        );
        assert_eq!(model.created.to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(model.spec, json!({"slo": {"p99": "100ms"}}));
    }

    #[test]
    fn an_odd_object_is_read_all_the_same() {
        let odd = json!({"metadata": {"name": "a", "creationTimestamp": "yesterday"}});
        let sighting: Sighting = serde_json::from_value(odd).unwrap();
        assert_eq!(sighting.model.spec, Value::Null);
        assert_eq!(sighting.model.created, Timestamp::UNIX_EPOCH);
    }
}
