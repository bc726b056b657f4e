//! The API server itself, and what whoever asks may do there.

use std::time::Duration;

use fleet::kubernetes::{
    ApiError, Cluster,
    access::{self, Right, Server},
};

use super::finding::Line;

/// The first release whose policies can hold a gateway to waking.
const OLDEST: (u32, u32) = (1, 30);
const SKEW_MAX: Duration = Duration::from_secs(2);

/// Lines about the API server.
///
/// # Errors
/// It cannot be asked at all.
pub(super) async fn api(cluster: &Cluster) -> Result<Vec<Line>, ApiError> {
    Ok(lines(&access::server(cluster).await?))
}

fn lines(server: &Server) -> Vec<Line> {
    let Server { version, release, latency, skew } = server;
    let mut lines =
        vec![Line::fine(format!("can reach the API server ({version}, {} ms)", latency.as_millis()))];
    lines.push(match release {
        Some(release) if *release >= OLDEST => Line::fine("is Kubernetes 1.30 or newer"),
        Some((major, minor)) => Line::failed(
            format!("the API server is Kubernetes {major}.{minor}, older than 1.30"),
            "it lacks the admission policies that the manifests hold; upgrade the cluster",
        ),
        None => Line::doubtful(
            format!("the API server calls its version {version}, which is no version of Kubernetes"),
            "1.30 or newer is needed",
        ),
    });
    lines.extend(skew.map(|skew| match skew {
        skew if skew <= SKEW_MAX => Line::fine("this clock is within 2 s of the API server's"),
        skew => Line::doubtful(
            format!("this clock is {} s off the API server's", skew.as_secs()),
            "ages below are wrong by as much; set the clock of this machine (NTP)",
        ),
    }));
    lines
}

/// What the manifests make: group, resource, and whether it is in a namespace.
const MADE: [(&str, &str, bool); 14] = [
    ("", "namespaces", false),
    ("apiextensions.k8s.io", "customresourcedefinitions", false),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", false),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", false),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "rolebindings", true),
    ("", "serviceaccounts", true),
    ("", "configmaps", true),
    ("", "services", true),
    ("apps", "deployments", true),
    ("policy", "poddisruptionbudgets", true),
    ("networking.k8s.io", "networkpolicies", true),
    ("tidegate.dev", "models", true),
];

/// Whether this user may apply the manifests: a line for each right that is missing, or one that all are there.
pub(super) async fn to_install(cluster: &Cluster, namespace: &str) -> Result<Vec<Line>, ApiError> {
    let mut lines = Vec::new();
    let mut namespaced = 0;
    for (group, resource, is_namespaced) in MADE {
        namespaced += u32::from(is_namespaced);
        let within = is_namespaced.then_some(namespace);
        let right = Right { verb: "create", group, resource, namespace: within, ..Right::default() };
        if !access::may(cluster, right).await? {
            lines.push(refused(right));
        }
    }
    if lines.is_empty() {
        let cluster_wide = MADE.len() - namespaced as usize;
        lines.push(Line::fine(format!(
            "may create all that the manifests hold: {cluster_wide} kinds for the cluster, {namespaced} in namespace \
             {namespace}"
        )));
    }
    Ok(lines)
}

/// What a whole look asks for: group, resource, subresource, verb, and whether it is in the namespace of Tidegate.
const READ: [(&str, &str, Option<&str>, &str, bool); 7] = [
    ("apiextensions.k8s.io", "customresourcedefinitions", None, "get", false),
    ("apps", "deployments", None, "get", true),
    ("coordination.k8s.io", "leases", None, "get", true),
    ("", "services", None, "get", true),
    ("discovery.k8s.io", "endpointslices", None, "list", true),
    ("", "pods", Some("proxy"), "get", true),
    ("tidegate.dev", "models", None, "list", true),
];

/// Whether this user may read what is to be looked at. What may not be read is left out below, so that is doubtful and
/// no failure.
pub(super) async fn to_check(cluster: &Cluster, namespace: &str) -> Result<Vec<Line>, ApiError> {
    let mut missing = Vec::new();
    for (group, resource, subresource, verb, is_namespaced) in READ {
        let within = is_namespaced.then_some(namespace);
        let right = Right { verb, group, resource, subresource, namespace: within, name: None };
        if !access::may(cluster, right).await? {
            let dot = if group.is_empty() { "" } else { "." };
            let subresource = subresource.map(|it| format!("/{it}")).unwrap_or_default();
            missing.push(format!("{verb} {resource}{dot}{group}{subresource}"));
        }
    }
    Ok(vec![if missing.is_empty() {
        Line::fine("may read all that is looked at here")
    } else {
        let text = format!("may not {} (namespace {namespace})", missing.join(", "));
        Line::doubtful(text, "what that would tell is left out below; grant it, or ask as somebody else")
    }])
}

fn refused(right: Right<'_>) -> Line {
    let Right { verb, group, resource, namespace, .. } = right;
    let dot = if group.is_empty() { "" } else { "." };
    let place = namespace.map_or_else(|| "in the cluster".to_owned(), |it| format!("in namespace {it}"));
    let flag = namespace.map(|it| format!(" -n {it}")).unwrap_or_default();
    Line::failed(
        format!("may not {verb} {resource}{dot}{group} {place}"),
        format!(
            "let a cluster administrator install, or grant it; to ask again: kubectl auth can-i {verb} \
             {resource}{dot}{group}{flag}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(server: &Server) -> String {
        let mut findings = super::super::finding::Findings::default();
        findings.add("kubernetes-api", lines(server));
        findings.render(crate::cli::terminal::Style::Plain)
    }

    #[test]
    fn an_old_server_and_a_wrong_clock_are_told_with_their_fix() {
        let server = Server {
            version: "v1.29.4".to_owned(),
            release: Some((1, 29)),
            latency: Duration::from_millis(12),
            skew: Some(Duration::from_secs(70)),
        };
        insta::assert_snapshot!(said(&server), @r"
        kubernetes-api
        --------------
        √ can reach the API server (v1.29.4, 12 ms)
        × the API server is Kubernetes 1.29, older than 1.30
            it lacks the admission policies that the manifests hold; upgrade the cluster
        ‼ this clock is 70 s off the API server's
            ages below are wrong by as much; set the clock of this machine (NTP)

        All in all: × (1 failed, 1 to look at)
        ");
    }
}
