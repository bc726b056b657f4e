//! Which object is scaled: `Deployment/digits`, `StatefulSet/digits`, or `Kind.group/name` for any other object with
//! a scale subresource, which the API server is then asked about once.

use std::{fmt, str::FromStr, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroup, APIResourceList};
use tokio::sync::OnceCell;

use super::cluster::{ApiError, Cluster};

/// Kinds that need no group, with their group, version and plural.
const KNOWN: [(&str, Option<&str>, &str, &str); 4] = [
    ("Deployment", Some("apps"), "v1", "deployments"),
    ("StatefulSet", Some("apps"), "v1", "statefulsets"),
    ("ReplicaSet", Some("apps"), "v1", "replicasets"),
    ("ReplicationController", None, "v1", "replicationcontrollers"),
];

/// The object whose number of replicas is set, by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TargetRef {
    kind: Arc<str>,
    /// `None` for the kinds that need none.
    group: Option<Arc<str>>,
    name: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("`{0}` is not KIND/NAME or KIND.GROUP/NAME, like Deployment/digits")]
    Malformed(Arc<str>),
    #[error("`{0}` needs its group: KIND.GROUP/NAME, like Rollout.argoproj.io/digits")]
    Groupless(Arc<str>),
    #[error("`{0}` cannot be the name of an object")]
    Name(Arc<str>),
}

impl TargetRef {
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl FromStr for TargetRef {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let malformed = || TargetError::Malformed(text.into());
        let (kind, name) = text.split_once('/').ok_or_else(malformed)?;
        let (kind, group) = match kind.split_once('.') {
            Some((kind, group)) => (kind, Some(group)),
            None => (kind, None),
        };
        let capital = kind.starts_with(|c: char| c.is_ascii_uppercase());
        if !capital || !kind.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(malformed());
        }
        if group.is_some_and(|group| !is_subdomain(group)) {
            return Err(malformed());
        }
        if !is_subdomain(name) {
            return Err(TargetError::Name(name.into()));
        }
        let known = KNOWN.iter().find(|(known, ..)| *known == kind);
        let group = match (known, group) {
            (Some((_, usual, ..)), given) if given.is_none() || given == *usual => None,
            (_, Some(group)) => Some(group.into()),
            (_, None) => return Err(TargetError::Groupless(kind.into())),
        };
        Ok(Self { kind: kind.into(), group, name: name.into() })
    }
}

/// What objects, groups and namespaces may be called.
fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = part.as_bytes();
        bytes.first().is_some_and(|b| edge(*b))
            && bytes.last().is_some_and(|b| edge(*b))
            && bytes.iter().all(|b| edge(*b) || *b == b'-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

impl fmt::Display for TargetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "{}.{group}/{}", self.kind, self.name),
            None => write!(f, "{}/{}", self.kind, self.name),
        }
    }
}

/// How the API server calls a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) kind: Arc<str>,
    pub(super) group: Option<Arc<str>>,
    version: Arc<str>,
    pub(super) plural: Arc<str>,
}

impl Resource {
    /// One of the [`KNOWN`].
    pub(super) fn of_known(kind: &str) -> Self {
        let known = KNOWN.into_iter().find(|(known, ..)| *known == kind);
        let (kind, group, version, plural) = known.expect("only known kinds have no group");
        Self {
            kind: kind.into(),
            group: group.map(Into::into),
            version: version.into(),
            plural: plural.into(),
        }
    }

    /// The path of all objects of the kind in a namespace.
    pub(super) fn path(&self, namespace: &str) -> String {
        let Self { group, version, plural, .. } = self;
        match group {
            Some(group) => format!("/apis/{group}/{version}/namespaces/{namespace}/{plural}"),
            None => format!("/api/{version}/namespaces/{namespace}/{plural}"),
        }
    }
}

/// What the API server calls the kind of one or more targets; asked once, for all of them.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    cluster: Cluster,
    target: TargetRef,
    found: Arc<OnceCell<Resource>>,
}

impl Lookup {
    pub(super) fn new(cluster: &Cluster, target: &TargetRef) -> Self {
        let kind = format!("{}.{}", target.kind, target.group.as_deref().unwrap_or_default());
        let found = cluster.share(&kind, Arc::default);
        Self { cluster: cluster.clone(), target: target.clone(), found }
    }

    pub(super) async fn resource(&self) -> Result<&Resource, ApiError> {
        self.found.get_or_try_init(|| locate(&self.cluster, &self.target)).await
    }
}

async fn locate(cluster: &Cluster, target: &TargetRef) -> Result<Resource, ApiError> {
    let TargetRef { kind, group, .. } = target;
    let Some(group) = group else { return Ok(Resource::of_known(kind)) };
    let served: APIGroup = describe(cluster, group).await?;
    let preferred = served.preferred_version.into_iter().chain(served.versions);
    let mut versions: Vec<_> = preferred.map(|version| version.version).collect();
    versions.dedup();
    for version in versions {
        let resources: APIResourceList = describe(cluster, &format!("{group}/{version}")).await?;
        let mut resources = resources.resources.into_iter();
        let (mut plural, mut scales) = (None, Vec::new());
        for resource in &mut resources {
            match resource.name.split_once('/') {
                None if *resource.kind == **kind => plural = Some(resource.name),
                Some((parent, "scale")) => scales.push(parent.to_owned()),
                _ => {}
            }
        }
        if let Some(plural) = plural.filter(|plural| scales.contains(plural)) {
            let (kind, group) = (Arc::clone(kind), Some(Arc::clone(group)));
            return Ok(Resource { kind, group, version: version.into(), plural: plural.into() });
        }
    }
    let sentence = format!("no kind {kind} with a scale subresource in the API group {group}");
    Err(ApiError::NotFound(sentence.into()))
}

async fn describe<T: serde::de::DeserializeOwned>(cluster: &Cluster, what: &str) -> Result<T, ApiError> {
    let request = http::Request::get(format!("/apis/{what}")).body(Vec::new());
    let request = request.map_err(|error| ApiError::Invalid(error.to_string().into()))?;
    Ok(cluster.client().request(request).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_and_printed() {
        for text in
            ["Deployment/digits", "StatefulSet/digits-2", "Rollout.argoproj.io/a.b", "Deployment.x.dev/a"]
        {
            assert_eq!(text.parse::<TargetRef>().unwrap().to_string(), text);
        }
        assert_eq!("Deployment.apps/a".parse::<TargetRef>(), "Deployment/a".parse());
    }

    #[test]
    fn a_bad_target_is_refused_with_the_reason() {
        let error = |text: &str| text.parse::<TargetRef>().unwrap_err();
        for text in ["digits", "", "/digits", "deployment/digits", "Deploy ment/a", "Kind./a", "Kind.A/a"] {
            assert_eq!(error(text), TargetError::Malformed(text.into()));
        }
        assert_eq!(error("Rollout/digits"), TargetError::Groupless("Rollout".into()));
        for name in ["", "Digits", "a/b", "a_b", "-a", "../a", "a?b"] {
            assert_eq!(error(&format!("Deployment/{name}")), TargetError::Name(name.into()));
        }
    }

    #[test]
    fn known_kinds_have_their_paths() {
        let paths = KNOWN.map(|(kind, ..)| Resource::of_known(kind).path("ml"));
        assert_eq!(
            paths,
            [
                "/apis/apps/v1/namespaces/ml/deployments",
                "/apis/apps/v1/namespaces/ml/statefulsets",
                "/apis/apps/v1/namespaces/ml/replicasets",
                "/api/v1/namespaces/ml/replicationcontrollers",
            ]
        );
    }
}
