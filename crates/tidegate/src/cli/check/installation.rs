//! What the manifests make: the definition of models, the two Deployments, and the Service of the gateways.

use fleet::kubernetes::{
    ApiError, Cluster,
    access::{self, Backend, Definition, PodPort, Rollout},
};

use super::{finding::Line, unread};
use crate::{cli::client::ADMIN_PORT, config::Config};

const DEFINITION: &str = "models.tidegate.dev";
const DEPLOYMENTS: [&str; 2] = ["tidegate-gateway", "tidegate-autoscaler"];
/// More gateways are not asked one by one.
const ASKED_MAX: usize = 8;

/// Names that a configuration file may change.
pub(super) struct Names<'a> {
    pub(super) lease: &'a str,
    /// The Service of the gateways.
    pub(super) gateways: &'a str,
}

impl<'a> Names<'a> {
    pub(super) fn of(config: Option<&'a Config>) -> Self {
        config.map_or(Self { lease: "tidegate", gateways: "tidegate-gateway" }, |config| Self {
            lease: &config.cluster.lease,
            gateways: &config.cluster.gateways,
        })
    }
}

pub(super) async fn lines(cluster: &Cluster, namespace: &str) -> Vec<Line> {
    let mut lines = vec![match access::definition(cluster, DEFINITION).await {
        Ok(found) => definition(found),
        Err(error) => unread(&format!("CustomResourceDefinition {DEFINITION}"), &error),
    }];
    for name in DEPLOYMENTS {
        let object = format!("Deployment {namespace}/{name}");
        lines.push(match access::rollout(cluster, namespace, name).await {
            Ok(found) => rollout(&object, namespace, found),
            Err(error) => unread(&object, &error),
        });
    }
    lines
}

fn definition(found: Definition) -> Line {
    match found {
        Definition::Established => {
            Line::fine(format!("CustomResourceDefinition {DEFINITION} is established"))
        }
        Definition::Missing => Line::failed(
            format!("there is no CustomResourceDefinition {DEFINITION}"),
            "Model resources cannot be made; install it: tidegate config crd | kubectl apply -f -",
        ),
        Definition::Pending { why } => Line::failed(
            format!("CustomResourceDefinition {DEFINITION} is not established: {why}"),
            format!("if it stays so, see its conditions: kubectl describe crd {DEFINITION}"),
        ),
    }
}

fn rollout(object: &str, namespace: &str, found: Rollout) -> Line {
    let Rollout { ready, wanted, updated } = found;
    let counted = format!("{object}: {ready} of {wanted} pods ready");
    let component = object.rsplit('-').next().unwrap_or_default();
    let look =
        format!("see why: kubectl -n {namespace} describe pods -l app.kubernetes.io/component={component}");
    match (ready, wanted) {
        (_, 0) => Line::failed(
            format!("{object} is scaled to 0 pods"),
            format!("scale it up: kubectl -n {namespace} scale {} --replicas 2", object_path(object)),
        ),
        (0, _) => Line::failed(counted, look),
        _ if ready < wanted => Line::doubtful(counted, look),
        _ if updated < wanted => Line::doubtful(
            format!("{counted}, {updated} of them as the Deployment says now"),
            format!("a rollout goes on: kubectl -n {namespace} rollout status {}", object_path(object)),
        ),
        _ => Line::fine(counted),
    }
}

/// `Deployment ns/name` as kubectl takes it beside `-n`.
fn object_path(object: &str) -> String {
    let name = object.rsplit('/').next().unwrap_or_default();
    format!("deployment/{name}")
}

pub(super) async fn gateways(cluster: &Cluster, namespace: &str, service: &str) -> Vec<Line> {
    let object = format!("Service {namespace}/{service}");
    if let Err(error) = access::service(cluster, namespace, service).await {
        return vec![unread(&object, &error)];
    }
    let backends = match access::backends(cluster, namespace, service).await {
        Ok(backends) => backends,
        Err(error) => return vec![unread(&format!("EndpointSlices of {object}"), &error)],
    };
    let mut lines = vec![behind(&object, namespace, &backends)];
    let ready = backends.iter().filter(|backend| backend.ready);
    for pod in ready.filter_map(|backend| backend.pod.as_deref()).take(ASKED_MAX) {
        let to = PodPort { namespace, pod, port: ADMIN_PORT };
        let answer = access::proxy_get(cluster, to, "/readyz").await;
        let forbidden = matches!(answer, Err(ApiError::Forbidden { .. }));
        lines.push(asked(&format!("Pod {namespace}/{pod}"), answer));
        // It would be said of each.
        if forbidden {
            break;
        }
    }
    lines
}

fn behind(object: &str, namespace: &str, backends: &[Backend]) -> Line {
    let ready = backends.iter().filter(|backend| backend.ready).count();
    let counted = format!("{object}: {ready} of {} endpoints ready", backends.len());
    let look = format!("clients reach no other; see: kubectl -n {namespace} get endpointslices,pods");
    match ready {
        0 if backends.is_empty() => Line::failed(
            format!("{object} has no endpoints"),
            format!(
                "no pod matches its selector, or none runs; see: kubectl -n {namespace} get pods --show-labels"
            ),
        ),
        0 => Line::failed(counted, look),
        n if n < backends.len() => Line::doubtful(counted, look),
        _ => Line::fine(counted),
    }
}

/// A gateway's answer through the API server.
pub(super) fn asked(pod: &str, answer: Result<String, ApiError>) -> Line {
    match answer {
        Ok(_) => Line::fine(format!("{pod} answers on its admin port")),
        Err(ApiError::Forbidden { what }) => Line::doubtful(
            format!("{pod} was not asked: this user may not {what}"),
            crate::cli::client::PROXY_RULE,
        ),
        // The address of a pod is not reached from every API server; that says nothing of the pod.
        Err(error @ (ApiError::Unavailable { .. } | ApiError::Late(_))) => Line::doubtful(
            format!("{pod} was not reached through the API server: {error}"),
            "it is draining, or its network policy lets no API server in; its Deployment says if it is ready",
        ),
        // In the words of the API server: a gateway has others.
        Err(ApiError::NotFound(words)) if words.starts_with("pods ") => Line::failed(
            format!("there is no {pod}"),
            "it is gone and not replaced yet, or runs outside of the cluster",
        ),
        Err(error) => Line::failed(
            format!("{pod} does not answer as a gateway: {error}"),
            format!(
                "is port {ADMIN_PORT} its admin port? The configuration file says admin: 0.0.0.0:{ADMIN_PORT}"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{check::finding::Findings, terminal::Style};

    fn said(lines: Vec<Line>) -> String {
        let mut findings = Findings::default();
        findings.add("installation", lines);
        findings.render(Style::Plain)
    }

    #[test]
    fn what_is_installed_is_told_with_object_cause_and_fix() {
        let of = |ready, wanted, updated| {
            rollout("Deployment t/tidegate-gateway", "t", Rollout { ready, wanted, updated })
        };
        let refusal = ApiError::Forbidden { what: "get pods/proxy in namespace t".into() };
        let lines = vec![
            definition(Definition::Missing),
            definition(Definition::Established),
            of(2, 2, 2),
            of(1, 2, 2),
            of(0, 2, 2),
            of(0, 0, 0),
            of(2, 2, 1),
            behind("Service t/tidegate-gateway", "t", &[]),
            asked("Pod t/a", Ok(String::new())),
            asked("Pod t/a", Err(refusal)),
        ];
        insta::assert_snapshot!(said(lines), @r#"
        installation
        ------------
        × there is no CustomResourceDefinition models.tidegate.dev
            Model resources cannot be made; install it: tidegate config crd | kubectl apply -f -
        √ CustomResourceDefinition models.tidegate.dev is established
        √ Deployment t/tidegate-gateway: 2 of 2 pods ready
        ‼ Deployment t/tidegate-gateway: 1 of 2 pods ready
            see why: kubectl -n t describe pods -l app.kubernetes.io/component=gateway
        × Deployment t/tidegate-gateway: 0 of 2 pods ready
            see why: kubectl -n t describe pods -l app.kubernetes.io/component=gateway
        × Deployment t/tidegate-gateway is scaled to 0 pods
            scale it up: kubectl -n t scale deployment/tidegate-gateway --replicas 2
        ‼ Deployment t/tidegate-gateway: 2 of 2 pods ready, 1 of them as the Deployment says now
            a rollout goes on: kubectl -n t rollout status deployment/tidegate-gateway
        × Service t/tidegate-gateway has no endpoints
            no pod matches its selector, or none runs; see: kubectl -n t get pods --show-labels
        √ Pod t/a answers on its admin port
        ‼ Pod t/a was not asked: this user may not get pods/proxy in namespace t
            grant it by a Role: rules: [{apiGroups: [""], resources: [pods/proxy], verbs: [get]}]

        All in all: × (4 failed, 3 to look at)
        "#);
    }
}
