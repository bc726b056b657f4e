//! The metadata of objects that are scaled: whether their specification has changed, and who set their number.

use std::sync::Arc;

use serde::{Deserialize, de::IgnoredAny};

use crate::kubernetes::watch::{Version, Watched};

/// Writers whose names start like this are we: the autoscaler and the gateways.
const OURS: &str = "tidegate";

/// What is kept of the metadata of an object.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "Wire")]
pub(super) struct Meta {
    name: Arc<str>,
    pub(super) uid: Arc<str>,
    pub(super) version: Version,
    /// Counts changes of the specification; `None` for kinds that do not count.
    pub(super) generation: Option<i64>,
    /// Who set the number, where that is told. A number of zero leaves no trace of its writer, and neither do
    /// writes of the scale subresource after one.
    owner: Option<Arc<str>>,
}

impl Watched for Meta {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn version(&self) -> &Version {
        &self.version
    }
}

impl Meta {
    pub(super) fn foreign_owner(&self) -> Option<&Arc<str>> {
        self.owner.as_ref().filter(|owner| !owner.starts_with(OURS))
    }
}

#[derive(Deserialize)]
struct Wire {
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Box<str>,
    uid: Box<str>,
    resource_version: Version,
    generation: Option<i64>,
    managed_fields: Option<Vec<Managed>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Managed {
    manager: Box<str>,
    subresource: Option<Box<str>>,
    #[serde(rename = "fieldsV1")]
    fields: Option<Fields>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    #[serde(rename = "f:spec")]
    spec: Option<SpecFields>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SpecFields {
    #[serde(rename = "f:replicas")]
    replicas: Option<IgnoredAny>,
}

impl Managed {
    /// Whoever writes the scale subresource writes the number, wherever the kind keeps it.
    fn owns_number(&self) -> bool {
        let fields = self.fields.as_ref();
        let replicas = fields.and_then(|fields| fields.spec.as_ref()?.replicas);
        replicas.is_some() || self.subresource.as_deref() == Some("scale")
    }
}

impl From<Wire> for Meta {
    fn from(Wire { metadata }: Wire) -> Self {
        let entries = metadata.managed_fields.into_iter().flatten();
        let mut owners: Vec<_> = entries.filter(Managed::owns_number).map(|entry| entry.manager).collect();
        // Several own a number that they agree about; if we are among them it is ours.
        let ours = owners.iter().position(|owner| owner.starts_with(OURS));
        let owner = ours.map(|ours| owners.swap_remove(ours)).or_else(|| owners.pop());
        Self {
            name: metadata.name.into(),
            uid: metadata.uid.into(),
            version: metadata.resource_version,
            generation: metadata.generation,
            owner: owner.map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn owner(managed: Value) -> Option<String> {
        let meta: Meta = serde_json::from_value(
            json!({"metadata": {"name": "digits", "generation": 4, "managedFields": managed}}),
        )
        .unwrap();
        assert_eq!(meta.generation, Some(4));
        meta.owner.map(|owner| owner.to_string())
    }

    #[test]
    fn the_owner_of_the_number_is_found_among_the_managers() {
        let entry = |manager: &str, field: &str| json!({"manager": manager, "operation": "Update", "fieldsV1": {"f:spec": {field: {}}}});
        let scale = |manager: &str| {
            json!({"manager": manager, "operation": "Update", "subresource": "scale",
                "fieldsV1": {"f:spec": {"f:replicas": {}}}})
        };
        for (managed, expected) in [
            (json!(null), None),
            (json!([entry("kubectl-create", "f:template")]), None),
            (json!([entry("helm", "f:replicas"), entry("x", "f:template")]), Some("helm")),
            (json!([entry("helm", "f:template"), scale("kube-controller-manager")]), {
                Some("kube-controller-manager")
            }),
            (json!([scale("tidegate"), entry("argocd", "f:replicas")]), Some("tidegate")),
            (
                json!([{"manager": "x", "subresource": "scale", "fieldsV1": {"f:spec": {"f:size": {}}}}]),
                Some("x"),
            ),
        ] {
            assert_eq!(owner(managed.clone()).as_deref(), expected, "{managed}");
        }
    }
}
