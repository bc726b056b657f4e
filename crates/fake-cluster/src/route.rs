//! What a request's method, path and query ask for.

use std::collections::BTreeMap;

use http::Method;

/// What is done to a resource, in the words of access rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    /// The word of access rules.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

/// The parts of a path below a group and version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Resource(Target),
    /// Discovery, version and health, by their segments.
    Page(Vec<String>),
}

/// Reads a path.
pub(crate) fn route(path: &str) -> Route {
    let segments: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decoded).collect();
    let texts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let target = match texts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => target("", version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => target(group, version, rest),
        _ => None,
    };
    target.map_or(Route::Page(segments), Route::Resource)
}

fn target(group: &str, version: &str, rest: &[&str]) -> Option<Target> {
    let (namespace, rest) = match rest {
        ["namespaces", _, "status" | "finalize"] => (None, rest),
        ["namespaces", namespace, inner @ ..] if !inner.is_empty() => (Some((*namespace).to_owned()), inner),
        _ => (None, rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (plural, None, ""),
        [plural, name] => (plural, Some((*name).to_owned()), ""),
        [plural, name, subresource] => (plural, Some((*name).to_owned()), *subresource),
        _ => return None,
    };
    Some(Target {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: (*plural).to_owned(),
        namespace,
        name,
        subresource: subresource.to_owned(),
    })
}

/// The verb of a method; a list with `watch` is a watch. None for methods the server does not know.
pub(crate) fn verb(method: &Method, target: &Target, query: &Query) -> Option<Verb> {
    let single = target.name.is_some();
    Some(match *method {
        Method::GET if query.is("watch") => Verb::Watch,
        Method::GET if single => Verb::Get,
        Method::GET => Verb::List,
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE if single => Verb::Delete,
        Method::DELETE => Verb::DeleteCollection,
        _ => return None,
    })
}

/// The query of a request; of repeated names the last counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    values: BTreeMap<String, String>,
}

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let values = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(&name.replace('+', " ")), decoded(&value.replace('+', " ")))
        });
        Self { values: values.collect() }
    }

    /// The value, empty if absent.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.values.get(name)?.parse().ok()
    }

    /// Whether a switch is on: "1", "t" or "true".
    pub(crate) fn is(&self, name: &str) -> bool {
        matches!(self.text(name), "1" | "t" | "T" | "true" | "True" | "TRUE")
    }
}

/// Undoes percent-encoding; what is no valid escape stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = tail.get(..2).filter(|_| first == b'%');
        let value = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> (String, Option<String>, Option<String>, String) {
        match route(path) {
            Route::Resource(target) => (target.plural, target.namespace, target.name, target.subresource),
            Route::Page(segments) => panic!("no resource: {segments:?}"),
        }
    }

    #[test]
    fn paths_name_resources_namespaces_and_subresources() {
        let own = |text: &str| Some(text.to_owned());
        let scale = parts("/apis/apps/v1/namespaces/prod/deployments/digits/scale");
        assert_eq!(scale, ("deployments".into(), own("prod"), own("digits"), "scale".into()));
        assert_eq!(parts("/api/v1/pods"), ("pods".into(), None, None, String::new()));
        assert_eq!(parts("/api/v1/namespaces"), ("namespaces".into(), None, None, String::new()));
        assert_eq!(parts("/api/v1/namespaces/prod"), ("namespaces".into(), None, own("prod"), String::new()));
        assert_eq!(
            parts("/api/v1/namespaces/prod/status"),
            ("namespaces".into(), None, own("prod"), "status".into())
        );
        assert_eq!(route("/apis/apps/v1"), Route::Page(vec!["apis".into(), "apps".into(), "v1".into()]));
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=app%3Dx%2Ctier+in+%28a%29&watch=1&limit=5");
        assert_eq!(query.text("labelSelector"), "app=x,tier in (a)");
        assert!(query.is("watch"));
        assert_eq!(query.number("limit"), Some(5));
    }
}
