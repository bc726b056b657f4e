//! Pages that are no resources: health, version, and which groups, versions and kinds there are.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    kinds::{Kind, Kinds, Status},
    openapi,
};

/// What a page says.
#[derive(Debug)]
pub(crate) enum Page {
    Json(Value),
    Text(&'static str),
    /// The plain 404 of paths that are no API.
    Absent,
}

pub(crate) fn page(kinds: &Kinds, segments: &[String]) -> Page {
    let texts: Vec<&str> = segments.iter().map(String::as_str).collect();
    match texts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => Page::Text("ok"),
        ["version"] => Page::Json(version()),
        ["api"] => Page::Json(json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1:443" }],
        })),
        ["api", version] => resources(kinds, "", version),
        ["apis"] => {
            let groups: Vec<Value> =
                groups(kinds).iter().map(|(name, versions)| group(name, versions)).collect();
            Page::Json(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }))
        }
        ["apis", name] => match groups(kinds).get(*name) {
            Some(versions) => {
                let mut page = group(name, versions);
                page["kind"] = "APIGroup".into();
                page["apiVersion"] = "v1".into();
                Page::Json(page)
            }
            None => Page::Absent,
        },
        ["apis", group, version] => resources(kinds, group, version),
        ["openapi", "v3"] => Page::Json(openapi::index(kinds)),
        ["openapi", "v3", rest @ ..] => {
            openapi::document(kinds, &rest.join("/")).map_or(Page::Absent, Page::Json)
        }
        _ => Page::Absent,
    }
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "2026-04-22T00:00:00Z", "goVersion": "go1.26", "compiler": "gc", "platform": "linux/amd64",
    })
}

/// Named groups and their versions, the preferred one first.
fn groups(kinds: &Kinds) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    groups.insert("authorization.k8s.io".into(), vec!["v1".into()]);
    groups.insert("autoscaling".into(), Vec::new());
    for kind in kinds.all().iter().filter(|kind| !kind.group.is_empty()) {
        let versions = groups.entry(kind.group.clone()).or_default();
        for version in &kind.versions {
            if !versions.contains(version) {
                versions.push(version.clone());
            }
        }
    }
    groups
}

fn group(name: &str, versions: &[String]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({ "groupVersion": format!("{name}/{version}"), "version": version }))
        .collect();
    json!({ "name": name, "versions": versions, "preferredVersion": versions.first() })
}

fn resources(kinds: &Kinds, group: &str, version: &str) -> Page {
    let mut list = Vec::new();
    let mut seen = BTreeSet::new();
    for kind in kinds.all() {
        let served = kind.group == group && kind.versions.iter().any(|served| served == version);
        if served && seen.insert(kind.plural.clone()) {
            list.extend(entries(kind));
        }
    }
    if (group, version) == ("authorization.k8s.io", "v1") {
        list.push(json!({
            "name": "selfsubjectaccessreviews", "singularName": "selfsubjectaccessreview", "namespaced": false,
            "kind": "SelfSubjectAccessReview", "verbs": ["create"],
        }));
    }
    if list.is_empty() {
        return Page::Absent;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut page = json!({ "kind": "APIResourceList", "groupVersion": group_version, "resources": list });
    if !group.is_empty() {
        page["apiVersion"] = "v1".into();
    }
    Page::Json(page)
}

fn entries(kind: &Kind) -> Vec<Value> {
    let namespaced = kind.namespaced();
    let mut main = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": namespaced, "kind": kind.kind,
        "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
    });
    if !kind.short_names.is_empty() {
        main["shortNames"] = kind.short_names.clone().into();
    }
    let below = |name: &str, kind: (&str, Option<(&str, &str)>)| {
        let (shown, group) = kind;
        let mut entry = json!({
            "name": name, "singularName": "", "namespaced": namespaced, "kind": shown,
            "verbs": ["get", "patch", "update"],
        });
        if let Some((group, version)) = group {
            entry["group"] = group.into();
            entry["version"] = version.into();
        }
        entry
    };
    let mut all = vec![main];
    if kind.scale.is_some() {
        all.push(below(&format!("{}/scale", kind.plural), ("Scale", Some(("autoscaling", "v1")))));
    }
    if kind.status == Status::Subresource {
        all.push(below(&format!("{}/status", kind.plural), (&kind.kind, None)));
    }
    all
}
