//! What an operator's commands ask a cluster: is the API there, may this user do what is needed, do the installed
//! objects stand, and what does one pod say. Each question is one or two reads with a plain answer; nothing is kept and
//! nothing is written.

use std::{sync::Arc, time::Duration};

use http::header::DATE;
use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp, fmt::rfc2822::DateTimeParser};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        coordination::v1::Lease,
        core::v1::Service,
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::version::Info,
};
use kube::{
    Api,
    api::{ListParams, PostParams},
    client::Body,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    cluster::{ApiError, Cluster},
    models,
    scale::Scaled,
    target::{Lookup, TargetRef},
};

/// More Model objects are not looked at one by one.
pub const MODELS_MAX: usize = 500;

/// The API server, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// As it is printed, like `v1.34.1`.
    pub version: String,
    /// `(1, 34)`; `None` where it says nothing readable.
    pub release: Option<(u32, u32)>,
    /// Of this one call, with the connection it opened.
    pub latency: Duration,
    /// How far our clock is from the API server's, which tells whole seconds; `None` if it tells no time.
    pub skew: Option<Duration>,
}

/// What is to be allowed, in the words of access rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Right<'a> {
    pub verb: &'a str,
    /// Empty: the core group.
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: Option<&'a str>,
    /// `None`: in all namespaces, or a resource that is in none.
    pub namespace: Option<&'a str>,
    /// `None`: of whatever name.
    pub name: Option<&'a str>,
}

/// A custom resource's definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Definition {
    Missing,
    /// It is there, and its kind is not served (yet).
    Pending {
        why: String,
    },
    Established,
}

/// The pods of a Deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollout {
    pub ready: u32,
    pub wanted: u32,
    /// Of them run what the Deployment says now.
    pub updated: u32,
}

/// A pod, or a bare address, behind a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    pub pod: Option<String>,
    pub ready: bool,
}

/// What the Lease says of who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// `None`: nobody.
    pub holder: Option<String>,
    pub epoch: u64,
    /// How long after its last renewal the holder is to be replaced; `None` where the Lease does not say.
    pub duration: Option<Duration>,
    /// By the holder's clock.
    pub renewed: Option<Timestamp>,
}

impl Tenure {
    /// How long ago it was renewed, if both clocks are right; nothing where the holder's is ahead.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        let age = now.duration_since(self.renewed?);
        Some(Duration::try_from(age).unwrap_or_default())
    }
}

/// A Model resource, as far as it was declared.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    pub namespace: String,
    pub name: String,
    /// `null` where there is none.
    pub spec: Value,
}

/// The first [`MODELS_MAX`] Model resources.
#[derive(Clone, Debug, PartialEq)]
pub struct Declarations {
    pub models: Vec<Declared>,
    /// Whether there are more.
    pub more: bool,
}

/// Asks the API server who it is. `/version` may be read by anybody who is somebody.
pub async fn server(cluster: &Cluster) -> Result<Server, ApiError> {
    let request = http::Request::get("/version").body(Body::empty()).map_err(invalid)?;
    let sent = Instant::now();
    let (head, body) = cluster.client().send(request).await?.into_parts();
    let latency = sent.elapsed();
    let bytes = body.collect().await.map_err(ApiError::from)?.to_bytes();
    if !head.status.is_success() {
        let status = serde_json::from_slice(&bytes).map_err(|_| unreadable("/version"))?;
        return Err(ApiError::from_status(&status));
    }
    let info: Info = serde_json::from_slice(&bytes).map_err(|_| unreadable("/version"))?;
    let told = head.headers.get(DATE).and_then(|date| http_date(date.to_str().ok()?));
    Ok(Server {
        release: release(&info),
        version: info.git_version,
        latency,
        skew: told.map(|told| skew(told, Timestamp::now())),
    })
}

fn http_date(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text).ok()
}

/// What is told is cut to whole seconds, so up to one of them is no skew.
fn skew(told: Timestamp, now: Timestamp) -> Duration {
    const CUT: SignedDuration = SignedDuration::from_secs(1);
    let ahead = now.duration_since(told);
    let beyond = if ahead.is_negative() { ahead.abs() } else { (ahead - CUT).max(SignedDuration::ZERO) };
    Duration::try_from(beyond).unwrap_or_default()
}

/// Providers write the minor version as `30+`.
fn release(info: &Info) -> Option<(u32, u32)> {
    let minor = info.minor.trim_end_matches(|c: char| !c.is_ascii_digit());
    Some((info.major.parse().ok()?, minor.parse().ok()?))
}

/// Whether the API server would let us. Asking is allowed to everybody.
pub async fn may(cluster: &Cluster, right: Right<'_>) -> Result<bool, ApiError> {
    let attributes = ResourceAttributes {
        verb: Some(right.verb.to_owned()),
        group: Some(right.group.to_owned()),
        resource: Some(right.resource.to_owned()),
        subresource: right.subresource.map(str::to_owned),
        namespace: right.namespace.map(str::to_owned),
        name: right.name.map(str::to_owned),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..Default::default() };
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client());
    let answer = api.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// How the definition of a custom resource stands, by its full name, like `models.tidegate.dev`.
pub async fn definition(cluster: &Cluster, name: &str) -> Result<Definition, ApiError> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(default)]
        status: Status,
    }
    #[derive(Default, Deserialize)]
    struct Status {
        #[serde(default)]
        conditions: Vec<Condition>,
    }
    #[derive(Deserialize)]
    struct Condition {
        r#type: String,
        status: String,
        #[serde(default)]
        message: String,
    }
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
    let wire: Wire = match read(cluster, &path).await {
        Err(ApiError::NotFound(_)) => return Ok(Definition::Missing),
        answer => answer?,
    };
    let conditions = wire.status.conditions;
    if conditions.iter().any(|it| it.r#type == "Established" && it.status == "True") {
        return Ok(Definition::Established);
    }
    let reasons = conditions.into_iter().filter(|it| it.status != "True" && !it.message.is_empty());
    let why = reasons.map(|it| it.message).collect::<Vec<_>>().join("; ");
    Ok(Definition::Pending { why })
}

pub async fn rollout(cluster: &Cluster, namespace: &str, deployment: &str) -> Result<Rollout, ApiError> {
    let found: Deployment = cluster.api(namespace).get(deployment).await?;
    let count = |number: Option<i32>| number.and_then(|it| u32::try_from(it).ok());
    let status = found.status.unwrap_or_default();
    Ok(Rollout {
        ready: count(status.ready_replicas).unwrap_or(0),
        // Absent is one, by the API's own default.
        wanted: count(found.spec.and_then(|spec| spec.replicas)).unwrap_or(1),
        updated: count(status.updated_replicas).unwrap_or(0),
    })
}

/// Whether there is a Service of that name is the first question here; a missing one is [`ApiError::NotFound`].
pub async fn service(cluster: &Cluster, namespace: &str, name: &str) -> Result<(), ApiError> {
    cluster.api::<Service>(namespace).get(name).await?;
    Ok(())
}

/// Who is behind a Service, each once.
pub async fn backends(cluster: &Cluster, namespace: &str, service: &str) -> Result<Vec<Backend>, ApiError> {
    /// A thousand slices have a hundred thousand endpoints.
    const SLICES_MAX: u32 = 1000;
    let selection =
        ListParams::default().labels(&format!("kubernetes.io/service-name={service}")).limit(SLICES_MAX);
    let slices = cluster.api::<EndpointSlice>(namespace).list(&selection).await?;
    let endpoints = slices.items.into_iter().flat_map(|slice| slice.endpoints);
    let mut backends: Vec<Backend> = endpoints
        .map(|endpoint| Backend {
            pod: endpoint.target_ref.filter(|it| it.kind.as_deref() == Some("Pod")).and_then(|it| it.name),
            // Absent is to be read as ready.
            ready: endpoint.conditions.and_then(|it| it.ready).unwrap_or(true),
        })
        .collect();
    backends.sort();
    backends.dedup();
    Ok(backends)
}

/// Who leads, by that Lease; a missing one is [`ApiError::NotFound`].
pub async fn tenure(cluster: &Cluster, namespace: &str, lease: &str) -> Result<Tenure, ApiError> {
    let found: Lease = cluster.api(namespace).get(lease).await?;
    let spec = found.spec.unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|it| u64::try_from(it).ok());
    Ok(Tenure {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        epoch: spec.lease_transitions.and_then(|it| u64::try_from(it).ok()).unwrap_or(0),
        duration: seconds.map(Duration::from_secs),
        renewed: spec.renew_time.map(|time| time.0),
    })
}

/// The number of replicas that the target is set to; [`ApiError::NotFound`] where it, its kind, or the scale
/// subresource of its kind is missing.
pub async fn replicas(cluster: &Cluster, namespace: &str, target: &TargetRef) -> Result<u32, ApiError> {
    let lookup = Lookup::new(cluster, target);
    let resource = lookup.resource().await?;
    // It writes nothing, so nobody learns this name.
    let scaled = Scaled::new(cluster, resource, namespace, target.name(), "tidegate");
    Ok(scaled.read().await?.replicas)
}

/// The Model resources of a namespace, or of all.
pub async fn models(cluster: &Cluster, namespace: Option<&str>) -> Result<Declarations, ApiError> {
    #[derive(Deserialize)]
    struct List {
        metadata: Page,
        items: Vec<Wire>,
    }
    #[derive(Deserialize)]
    struct Page {
        #[serde(default)]
        r#continue: String,
    }
    #[derive(Deserialize)]
    struct Wire {
        metadata: Metadata,
        #[serde(default)]
        spec: Value,
    }
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default)]
        namespace: String,
        name: String,
    }
    let (group, version, plural) = (models::GROUP, models::VERSION, models::PLURAL);
    let within = namespace.map(|it| format!("namespaces/{it}/")).unwrap_or_default();
    let path = format!("/apis/{group}/{version}/{within}{plural}?limit={MODELS_MAX}");
    let list: List = read(cluster, &path).await?;
    let declared = |Wire { metadata, spec }| {
        let Metadata { namespace, name } = metadata;
        Declared { namespace, name, spec }
    };
    let models = list.items.into_iter().map(declared).collect();
    Ok(Declarations { models, more: !list.metadata.r#continue.is_empty() })
}

/// A port of one pod.
#[derive(Clone, Copy, Debug)]
pub struct PodPort<'a> {
    pub namespace: &'a str,
    pub pod: &'a str,
    pub port: u16,
}

/// What a pod answers to GET on that path (which begins with `/` and may have a query), by way of the API server: so
/// it works from wherever `kubectl` does. It needs the right to get `pods/proxy`.
pub async fn proxy_get(cluster: &Cluster, to: PodPort<'_>, path: &str) -> Result<String, ApiError> {
    let PodPort { namespace, pod, port } = to;
    // Anybody may have written what we took for the name of a pod.
    if pod.is_empty() || !pod.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.')) {
        return Err(ApiError::Invalid(format!("{pod:?} cannot be the name of a pod").into()));
    }
    let uri = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
    let request = http::Request::get(uri).body(Vec::new()).map_err(invalid)?;
    Ok(cluster.client().request_text(request).await?)
}

async fn read<T: DeserializeOwned>(cluster: &Cluster, path: &str) -> Result<T, ApiError> {
    let request = http::Request::get(path).body(Vec::new()).map_err(invalid)?;
    Ok(cluster.client().request(request).await?)
}

fn invalid(error: http::Error) -> ApiError {
    ApiError::Invalid(error.to_string().into())
}

fn unreadable(what: &str) -> ApiError {
    let sentence: Arc<str> = format!("{what} is not what an API server answers").into();
    ApiError::Invalid(sentence)
}

#[cfg(test)]
mod tests;
