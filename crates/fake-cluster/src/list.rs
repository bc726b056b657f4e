//! Lists: the whole of a kind or a namespace at one revision, in pages if asked.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    kinds::Kind,
    object::{Object, View, to_json},
    refusal::Refusal,
    route::Query,
    selector::Filter,
    store::{Snapshot, Store},
};

/// Lists in pages that can be continued at the same time; the oldest is given up for a new one.
const SNAPSHOTS_MAX: usize = 32;

/// One page.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Arc<Object>>,
    revision: u64,
    next: Option<String>,
    remaining: Option<usize>,
}

/// Where a list goes on.
struct Token {
    revision: u64,
    namespace: String,
    name: String,
}

impl Token {
    fn read(text: &str) -> Result<Self, Refusal> {
        let invalid = |why: &str| Refusal::bad_request(format!("invalid continue token: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid("continue key is not valid"))?;
        let token: Value =
            serde_json::from_slice(&bytes).map_err(|_| invalid("continue key is not valid"))?;
        let part = |member: &str| token[member].as_str().map(str::to_owned);
        match (token["rv"].as_u64(), part("namespace"), part("name")) {
            (Some(revision), Some(namespace), Some(name)) => Ok(Self { revision, namespace, name }),
            _ => Err(invalid("continue key is not valid")),
        }
    }

    fn write(&self) -> String {
        let token = json!({
            "v": "meta.k8s.io/v1", "rv": self.revision, "namespace": self.namespace, "name": self.name,
        });
        URL_SAFE_NO_PAD.encode(to_json(&token))
    }
}

/// The page that `query` asks for.
pub(crate) fn page(store: &mut Store, kind: &Kind, filter: &Filter, query: &Query) -> Result<Page, Refusal> {
    let limit =
        query.number("limit").and_then(|limit| usize::try_from(limit).ok()).filter(|&limit| limit > 0);
    let (mut objects, revision) = match query.text("continue") {
        "" => (current(store, kind, filter), store.revision()),
        token => rest(store, kind, filter, &Token::read(token)?)?,
    };
    let limit = limit.unwrap_or(objects.len());
    let remaining = objects.len().saturating_sub(limit);
    objects.truncate(limit);
    let last = objects.last().filter(|_| remaining > 0);
    let next = last.map(|last| {
        let token = Token { revision, namespace: last.namespace.clone(), name: last.name.clone() };
        token.write()
    });
    if next.is_some() {
        keep_snapshot(store, kind, revision);
    }
    let remaining = Some(remaining).filter(|&remaining| remaining > 0 && !filter.is_selective());
    Ok(Page { objects, revision, next, remaining })
}

/// What there is now.
pub(crate) fn current(store: &Store, kind: &Kind, filter: &Filter) -> Vec<Arc<Object>> {
    let objects = store.table(kind).objects(filter.namespace.as_deref());
    objects.filter(|object| filter.matches(object)).cloned().collect()
}

fn rest(
    store: &Store,
    kind: &Kind,
    filter: &Filter,
    token: &Token,
) -> Result<(Vec<Arc<Object>>, u64), Refusal> {
    let resource = kind.stored();
    let same = |snapshot: &&Snapshot| snapshot.resource == resource && snapshot.revision == token.revision;
    let snapshot = store.snapshots.iter().find(same).ok_or_else(Refusal::continue_expired)?;
    let after = |object: &&Arc<Object>| (&object.namespace, &object.name) > (&token.namespace, &token.name);
    let objects = snapshot.objects.iter().filter(after).filter(|object| filter.matches(object));
    Ok((objects.cloned().collect(), token.revision))
}

fn keep_snapshot(store: &mut Store, kind: &Kind, revision: u64) {
    let resource = kind.stored();
    let kept = |snapshot: &Snapshot| snapshot.resource == resource && snapshot.revision == revision;
    if store.snapshots.iter().any(kept) {
        return;
    }
    let objects = Arc::new(store.table(kind).objects(None).cloned().collect());
    if store.snapshots.len() >= SNAPSHOTS_MAX {
        store.snapshots.pop_front();
    }
    store.snapshots.push_back(Snapshot { resource, revision, objects });
}

impl Page {
    /// The list as JSON.
    pub(crate) fn write(&self, kind: &Kind, version: &str, view: View) -> Bytes {
        let mut metadata = json!({ "resourceVersion": self.revision.to_string() });
        if let Some(next) = &self.next {
            metadata["continue"] = next.as_str().into();
        } else if kind.custom {
            metadata["continue"] = "".into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        let (name, api_version) = match view {
            View::Full => (format!("{}List", kind.kind), kind.api_version(version)),
            View::Metadata => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
        };
        let mut out =
            format!(r#"{{"kind":"{name}","apiVersion":"{api_version}","metadata":{metadata},"items":["#)
                .into_bytes();
        for (index, object) in self.objects.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            if view == View::Full && !kind.custom {
                object.write_untyped(&mut out, kind);
            } else {
                object.write(&mut out, (kind, version, view));
            }
        }
        out.extend_from_slice(b"]}");
        Bytes::from(out)
    }
}
