//! A stored object: immutable, shared by the store, its history and every watch, and written as JSON only once.

use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::{
    events,
    kinds::{Face, Kind},
};

/// One version of an object.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) value: Value,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) revision: u64,
    /// The members of the object but `kind` and `apiVersion`, which lists omit and versions change; with the closing brace.
    members: OnceLock<Bytes>,
}

/// How a client wants objects to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Full,
    /// `PartialObjectMetadata`.
    Metadata,
}

impl Object {
    /// `value` must carry name and, for namespaced kinds, namespace in its metadata.
    pub(crate) fn new(value: Value, revision: u64) -> Self {
        let namespace = meta_text(&value, "namespace").to_owned();
        let name = meta_text(&value, "name").to_owned();
        Self { value, namespace, name, revision, members: OnceLock::new() }
    }

    pub(crate) fn uid(&self) -> &str {
        meta_text(&self.value, "uid")
    }

    /// Appends the whole object.
    pub(crate) fn write(&self, out: &mut Vec<u8>, (kind, version, view): (&Kind, &str, View)) {
        let (name, api_version) = match view {
            View::Full => (kind.kind.as_str(), kind.api_version(version)),
            View::Metadata => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
        };
        out.extend_from_slice(format!(r#"{{"kind":"{name}","apiVersion":"{api_version}","#).as_bytes());
        match view {
            View::Full if kind.face == Face::Events => {
                let shown = Self::new(events::shown(&self.value), self.revision);
                out.extend_from_slice(shown.members());
            }
            View::Full => out.extend_from_slice(self.members()),
            View::Metadata => {
                out.extend_from_slice(br#""metadata":"#);
                out.extend_from_slice(&to_json(&self.value["metadata"]));
                out.push(b'}');
            }
        }
    }

    /// Appends the object as lists of built-in kinds carry it: without `kind` and `apiVersion`.
    pub(crate) fn write_untyped(&self, out: &mut Vec<u8>, kind: &Kind) {
        out.push(b'{');
        if kind.face == Face::Events {
            let shown = Self::new(events::shown(&self.value), self.revision);
            out.extend_from_slice(shown.members());
        } else {
            out.extend_from_slice(self.members());
        }
    }

    fn members(&self) -> &Bytes {
        self.members.get_or_init(|| {
            let mut rest = Map::new();
            for (key, value) in self.value.as_object().into_iter().flatten() {
                if key != "kind" && key != "apiVersion" {
                    rest.insert(key.clone(), value.clone());
                }
            }
            let mut written = to_json(&Value::Object(rest));
            written.remove(0);
            Bytes::from(written)
        })
    }
}

/// JSON of a value; values have no keys that JSON cannot express.
pub(crate) fn to_json(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a JSON value can be written as JSON")
}

/// A text member of the metadata, empty if absent.
pub(crate) fn meta_text<'a>(object: &'a Value, member: &str) -> &'a str {
    object["metadata"][member].as_str().unwrap_or_default()
}

/// The metadata for writing; made if absent or not an object.
pub(crate) fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    map_at(object, "metadata")
}

/// The map at a member, made if absent or something else.
pub(crate) fn map_at<'a>(object: &'a mut Value, member: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    let members = object.as_object_mut().expect("made an object above");
    let slot = members.entry(member).or_insert_with(|| json!({}));
    if !slot.is_object() {
        *slot = json!({});
    }
    slot.as_object_mut().expect("made an object above")
}

/// A member that is a map, made so if need be.
pub(crate) fn child<'a>(object: &'a mut Value, member: &str) -> &'a mut Value {
    map_at(object, member);
    &mut object[member]
}

/// The value at a path of members.
pub(crate) fn at<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, member| value.get(member))
}

/// Sets the value at a path of members; whatever stands in the way becomes a map.
pub(crate) fn set_at(object: &mut Value, path: &[String], value: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut here = object;
    for member in parents {
        map_at(here, member);
        here = &mut here[member.as_str()];
    }
    if !here.is_object() {
        *here = json!({});
    }
    here[last.as_str()] = value;
}
