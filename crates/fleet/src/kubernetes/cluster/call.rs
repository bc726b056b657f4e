//! What a request to the API server does, in the words of its access rules: a verb and a resource.

use std::fmt;

use http::Method;

/// One call, read off its method and path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) verb: &'static str,
    /// `deployments`, `deployments/scale`; `discovery` for what describes the API itself.
    pub(super) kind: String,
    group: Option<String>,
    namespace: Option<String>,
}

impl Call {
    pub(super) fn of<B>(request: &http::Request<B>) -> Self {
        let uri = request.uri();
        let mut path = uri.path().split('/').filter(|part| !part.is_empty());
        let group = match path.next() {
            Some("api") => None,
            Some("apis") => path.next(),
            _ => return Self::discovery(),
        };
        let (_version, first) = (path.next(), path.next());
        let mut rest: Vec<_> = first.into_iter().chain(path).collect();
        let mut namespace = None;
        if let ["namespaces", name, _, ..] = rest[..] {
            namespace = Some(name.to_owned());
            rest.drain(..2);
        }
        let Some(resource) = rest.first() else { return Self::discovery() };
        let kind = match rest.get(2) {
            Some(subresource) => format!("{resource}/{subresource}"),
            None => (*resource).to_owned(),
        };
        let watches = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
        let verb = verb(request.method(), rest.len() > 1, watches);
        Self { verb, kind, group: group.map(str::to_owned), namespace }
    }

    fn discovery() -> Self {
        Self { verb: "get", kind: "discovery".into(), group: None, namespace: None }
    }

    pub(super) fn watches(&self) -> bool {
        self.verb == "watch"
    }
}

fn verb(method: &Method, named: bool, watches: bool) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ if watches => "watch",
        _ if named => "get",
        _ => "list",
    }
}

/// `patch deployments.apps/scale in namespace ml`.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (resource, subresource) = match self.kind.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource)),
            None => (&*self.kind, None),
        };
        write!(f, "{} {resource}", self.verb)?;
        if let Some(group) = &self.group {
            write!(f, ".{group}")?;
        }
        if let Some(subresource) = subresource {
            write!(f, "/{subresource}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_off_its_method_and_path() {
        for (method, uri, verb, kind, words) in [
            (
                "PATCH",
                "/apis/apps/v1/namespaces/ml/deployments/digits/scale?&fieldManager=tidegate",
                "patch",
                "deployments/scale",
                "patch deployments.apps/scale in namespace ml",
            ),
            ("GET", "/api/v1/namespaces/ml/pods?limit=500", "list", "pods", "list pods in namespace ml"),
            (
                "GET",
                "/api/v1/namespaces/ml/pods?watch=true&resourceVersion=7",
                "watch",
                "pods",
                "watch pods in namespace ml",
            ),
            ("GET", "/api/v1/namespaces/ml/pods/a", "get", "pods", "get pods in namespace ml"),
            ("PUT", "/api/v1/namespaces/ml", "update", "namespaces", "update namespaces"),
            (
                "POST",
                "/apis/coordination.k8s.io/v1/namespaces/ml/leases?",
                "create",
                "leases",
                "create leases.coordination.k8s.io in namespace ml",
            ),
            ("DELETE", "/api/v1/nodes/n", "delete", "nodes", "delete nodes"),
            ("GET", "/apis/keda.sh/v1alpha1", "get", "discovery", "get discovery"),
            ("GET", "/apis", "get", "discovery", "get discovery"),
            ("GET", "/version", "get", "discovery", "get discovery"),
        ] {
            let request = http::Request::builder().method(method).uri(uri).body(()).unwrap();
            let call = Call::of(&request);
            assert_eq!((call.verb, &*call.kind, call.to_string().as_str()), (verb, kind, words), "{uri}");
        }
    }
}
