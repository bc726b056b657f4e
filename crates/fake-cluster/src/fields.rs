//! Who owns which field: `metadata.managedFields` of maps and scalars. Lists count as one field.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::{
    clock::stamp,
    object::{at, meta_mut},
    store::{Operation, Writer},
};

type Path = Vec<String>;

/// The server keeps this many entries of updates and folds the oldest into one.
const UPDATE_ENTRIES_MAX: usize = 10;
const ANCIENT: &str = "ancient-changes";

#[derive(Clone, Debug)]
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: Option<String>,
    fields: BTreeSet<Path>,
}

/// Writes the managed fields of `new`, which replaces `old` by the hand of `writer`.
pub(crate) fn track(old: Option<&Value>, new: &mut Value, writer: &Writer) {
    let difference = difference(old.unwrap_or(&Value::Null), new);
    if difference.changed.is_empty() && difference.removed.is_empty() {
        return;
    }
    let mut entries = old.map(read).unwrap_or_default();
    for entry in &mut entries {
        entry.fields.retain(|path| !difference.removed.contains(path) && !difference.changed.contains(path));
    }
    if !difference.changed.is_empty() {
        take(&mut entries, difference.changed, new, writer);
    }
    entries.retain(|entry| !entry.fields.is_empty());
    fold_ancient(&mut entries);
    write(new, entries);
}

/// Owned fields by which two versions of an object differ.
#[derive(Debug, Default)]
struct Difference {
    changed: BTreeSet<Path>,
    removed: BTreeSet<Path>,
}

fn difference(old: &Value, new: &Value) -> Difference {
    let mut found = Difference::default();
    for path in roots(old).into_iter().chain(roots(new)).collect::<BTreeSet<_>>() {
        let (old, new) = (at(old, &path), at(new, &path));
        differ((old, new), &mut path.clone(), &mut found);
    }
    found
}

fn differ((old, new): (Option<&Value>, Option<&Value>), path: &mut Path, found: &mut Difference) {
    if old == new {
        return;
    }
    if let (Some(old), Some(new)) = (members(old), members(new)) {
        for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
            path.push(key.clone());
            differ((old.get(key), new.get(key)), path, found);
            path.pop();
        }
        return;
    }
    if let Some(new) = new {
        descend(new, path, &mut found.changed);
    }
    if let Some(old) = old {
        descend(old, path, &mut found.removed);
    }
}

/// Writes the managed fields after `writer` applied `applied`.
pub(crate) fn track_applied(old: Option<&Value>, new: &mut Value, applied: &Value, writer: &Writer) {
    let asked = leaves(applied);
    let after = leaves(new);
    let mut entries = old.map(read).unwrap_or_default();
    let differs = |path: &Path| old.and_then(|old| at(old, path)) != at(new, path);
    for entry in &mut entries {
        entry.fields.retain(|path| after.contains(path) && !(asked.contains(path) && differs(path)));
    }
    let is_ours = |entry: &Entry| writer.owns(&entry.manager, &entry.operation, &entry.subresource);
    let same = entries.iter().any(|entry| is_ours(entry) && entry.fields == asked);
    if !same {
        entries.retain(|entry| !is_ours(entry));
        take(&mut entries, asked, new, writer);
    }
    entries.retain(|entry| !entry.fields.is_empty());
    write(new, entries);
}

/// The fields that `writer` applied before and leaves out now, and that nobody else owns.
pub(crate) fn abandoned(live: &Value, applied: &Value, writer: &Writer) -> Vec<Path> {
    let entries = read(live);
    let asked = leaves(applied);
    let ours = |entry: &&Entry| writer.owns(&entry.manager, &entry.operation, &entry.subresource);
    let Some(mine) = entries.iter().find(ours) else { return Vec::new() };
    let others: BTreeSet<&Path> =
        entries.iter().filter(|entry| !ours(entry)).flat_map(|entry| &entry.fields).collect();
    mine.fields.iter().filter(|path| !asked.contains(*path) && !others.contains(path)).cloned().collect()
}

/// A field that somebody else owns with another value.
#[derive(Debug)]
pub(crate) struct Taken {
    /// The owner, in the words of the server.
    pub(crate) owner: String,
    pub(crate) path: String,
}

impl Taken {
    fn new(entry: &Entry, path: &[String]) -> Self {
        let mut owner = format!("\"{}\"", entry.manager);
        if !entry.subresource.is_empty() {
            owner.push_str(&format!(" with subresource \"{}\"", entry.subresource));
        }
        if entry.operation == Operation::Update.word() {
            owner.push_str(&format!(" using {}", entry.api_version));
        }
        Self { owner, path: format!(".{}", path.join(".")) }
    }
}

/// The fields that `applied` would take from other managers, by what the object becomes.
pub(crate) fn conflicts(live: &Value, (applied, merged): (&Value, &Value), writer: &Writer) -> Vec<Taken> {
    let asked = leaves(applied);
    let mut found = Vec::new();
    for entry in read(live) {
        if writer.owns(&entry.manager, &entry.operation, &entry.subresource) {
            continue;
        }
        for path in
            entry.fields.iter().filter(|path| asked.contains(*path) && at(live, path) != at(merged, path))
        {
            found.push(Taken::new(&entry, path));
        }
    }
    found
}

fn take(entries: &mut Vec<Entry>, fields: BTreeSet<Path>, new: &Value, writer: &Writer) {
    // The server leaves the time out of entries of the scale subresource.
    let time = (writer.subresource != "scale").then(|| stamp(writer.at));
    let ours = |entry: &&mut Entry| writer.owns(&entry.manager, &entry.operation, &entry.subresource);
    if let Some(entry) = entries.iter_mut().find(ours) {
        entry.fields.extend(fields);
        entry.time = time;
        return;
    }
    entries.push(Entry {
        manager: writer.manager.clone(),
        operation: writer.operation.word().to_owned(),
        api_version: new["apiVersion"].as_str().unwrap_or_default().to_owned(),
        subresource: writer.subresource.to_owned(),
        time,
        fields,
    });
}

fn fold_ancient(entries: &mut Vec<Entry>) {
    while entries.iter().filter(|entry| entry.operation == Operation::Update.word()).count()
        > UPDATE_ENTRIES_MAX
    {
        let oldest = |entries: &[Entry]| {
            let updates = entries.iter().enumerate().filter(|(_, entry)| entry.operation == "Update");
            updates.min_by(|(_, one), (_, other)| one.time.cmp(&other.time)).map(|(index, _)| index)
        };
        let Some(first) = oldest(entries) else { return };
        let mut folded = entries.remove(first);
        let Some(second) = oldest(entries) else { return };
        folded.fields.extend(entries.remove(second).fields);
        folded.manager = ANCIENT.to_owned();
        entries.push(folded);
    }
}

fn read(object: &Value) -> Vec<Entry> {
    let text = |entry: &Value, member: &str| entry[member].as_str().unwrap_or_default().to_owned();
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries
        .map(|entry| {
            let mut fields = BTreeSet::new();
            unfold(&entry["fieldsV1"], &mut Vec::new(), &mut fields);
            Entry {
                manager: text(entry, "manager"),
                operation: text(entry, "operation"),
                api_version: text(entry, "apiVersion"),
                subresource: text(entry, "subresource"),
                time: entry["time"].as_str().map(str::to_owned),
                fields,
            }
        })
        .collect()
}

/// In the server's order: applied before updated, without time first.
fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.sort_by(|one, other| {
        let key = |entry: &Entry| (entry.operation.clone(), entry.time.clone(), entry.manager.clone());
        key(one).cmp(&key(other))
    });
    let written: Vec<Value> = entries.iter().map(written).collect();
    let meta = meta_mut(object);
    if written.is_empty() {
        meta.remove("managedFields");
    } else {
        meta.insert("managedFields".into(), written.into());
    }
}

fn written(entry: &Entry) -> Value {
    let mut fields = json!({});
    for path in &entry.fields {
        let mut here = &mut fields;
        for member in path {
            here = &mut here[format!("f:{member}")];
            if here.is_null() {
                *here = json!({});
            }
        }
    }
    let mut written = json!({
        "manager": entry.manager, "operation": entry.operation, "apiVersion": entry.api_version,
        "fieldsType": "FieldsV1", "fieldsV1": fields,
    });
    if let Some(time) = &entry.time {
        written["time"] = time.as_str().into();
    }
    if !entry.subresource.is_empty() {
        written["subresource"] = entry.subresource.as_str().into();
    }
    written
}

fn unfold(fields: &Value, path: &mut Path, into: &mut BTreeSet<Path>) {
    let members: Vec<_> = fields
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, inner)| Some((key.strip_prefix("f:")?, inner)))
        .collect();
    if members.is_empty() && !path.is_empty() {
        into.insert(path.clone());
    }
    for (member, inner) in members {
        path.push(member.to_owned());
        unfold(inner, path, into);
        path.pop();
    }
}

/// Every scalar, list and empty map of an object that somebody can own.
fn leaves(object: &Value) -> BTreeSet<Path> {
    let mut found = BTreeSet::new();
    for mut path in roots(object) {
        if let Some(value) = at(object, &path) {
            descend(value, &mut path, &mut found);
        }
    }
    found
}

/// The members of a map that has any; an empty one is a field by itself.
fn members(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value?.as_object().filter(|members| !members.is_empty())
}

/// The parts of an object whose fields are owned: all but what the server itself keeps.
fn roots(object: &Value) -> Vec<Path> {
    let members = object.as_object().into_iter().flatten().map(|(key, _)| vec![key.clone()]);
    let empty_status = |key: &str| key == "status" && object["status"].as_object().is_some_and(Map::is_empty);
    let parts = members.filter(|path| {
        path.first().is_some_and(|key| {
            !["apiVersion", "kind", "metadata"].contains(&key.as_str()) && !empty_status(key)
        })
    });
    let metadata = ["labels", "annotations", "finalizers", "ownerReferences"];
    let metadata = metadata.into_iter().filter(|member| object["metadata"].get(member).is_some());
    parts.chain(metadata.map(|member| vec!["metadata".to_owned(), member.to_owned()])).collect()
}

fn descend(value: &Value, path: &mut Path, found: &mut BTreeSet<Path>) {
    // A label selector is one field.
    match members(Some(value)).filter(|_| !["spec", "selector"].iter().eq(path.iter())) {
        Some(members) => {
            for (key, inner) in members {
                path.push(key.clone());
                descend(inner, path, found);
                path.pop();
            }
        }
        None => {
            found.insert(path.clone());
        }
    }
}

/// Removes the value at a path, and the maps that become empty by it.
pub(crate) fn remove_at(object: &mut Map<String, Value>, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        object.remove(first);
        return;
    }
    if let Some(inner) = object.get_mut(first).and_then(Value::as_object_mut) {
        remove_at(inner, rest);
        if inner.is_empty() {
            object.remove(first);
        }
    }
}
