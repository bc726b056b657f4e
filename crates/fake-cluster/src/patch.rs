//! The four kinds of patch. Strategic merge knows the merge keys of common lists and treats all else as a merge patch.

use serde_json::{Map, Value};

/// A JSON patch that does not fit the object, or whose test fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfit;

/// RFC 7396.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Some(members) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    let target = made_map(target);
    for (key, value) in members {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Strategic merge: as [`merge`], but lists with a merge key are merged item by item.
pub(crate) fn strategic(target: &mut Value, patch: &Value) {
    let Some(members) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if members.get("$patch").is_some_and(|directive| directive == "replace") {
        let kept = members.iter().filter(|(key, _)| *key != "$patch");
        *target = Value::Object(kept.map(|(key, value)| (key.clone(), value.clone())).collect());
        return;
    }
    let target = made_map(target);
    for (key, value) in members {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            remove_items(target.get_mut(list), value);
        } else if value.is_null() {
            target.remove(key);
        } else if !key.starts_with('$') {
            merge_member(target, key, value);
        }
    }
}

fn merge_member(target: &mut Map<String, Value>, key: &str, value: &Value) {
    let slot = target.entry(key).or_insert(Value::Null);
    match (merge_key(key), value) {
        (Some(merge_key), Value::Array(items)) => merge_list(slot, items, merge_key),
        (None, Value::Array(items)) if key == "finalizers" => {
            let list = made_list(slot);
            for item in items {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        }
        _ => strategic(slot, value),
    }
}

/// The merge keys of the lists of the built-in kinds.
fn merge_key(list: &str) -> Option<&'static [&'static str]> {
    Some(match list {
        "containers" | "initContainers" | "env" | "volumes" | "imagePullSecrets" => &["name"],
        "ports" => &["containerPort", "port"],
        "volumeMounts" => &["mountPath"],
        "conditions" => &["type"],
        "ownerReferences" => &["uid"],
        "topologySpreadConstraints" => &["topologyKey"],
        _ => return None,
    })
}

fn merge_list(target: &mut Value, items: &[Value], keys: &[&str]) {
    let list = made_list(target);
    for item in items {
        if item["$patch"] == "replace" {
            list.clear();
            continue;
        }
        let same = |other: &Value| keys.iter().any(|key| !item[*key].is_null() && other[*key] == item[*key]);
        let found = list.iter().position(same);
        match found {
            Some(index) if item["$patch"] == "delete" => {
                list.remove(index);
            }
            Some(index) => {
                if let Some(slot) = list.get_mut(index) {
                    strategic(slot, item);
                }
            }
            None if item["$patch"] == "delete" => {}
            None => {
                let mut added = Value::Null;
                strategic(&mut added, item);
                list.push(added);
            }
        }
    }
}

fn remove_items(list: Option<&mut Value>, items: &Value) {
    if let (Some(list), Some(items)) = (list.and_then(Value::as_array_mut), items.as_array()) {
        list.retain(|item| !items.contains(item));
    }
}

fn made_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made a map above")
}

fn made_list(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().expect("made a list above")
}

/// RFC 6902; all operations or none.
pub(crate) fn json_patch(target: &Value, operations: &Value) -> Result<Value, Unfit> {
    let mut result = target.clone();
    for operation in operations.as_array().ok_or(Unfit)? {
        step(&mut result, operation)?;
    }
    Ok(result)
}

fn step(target: &mut Value, operation: &Value) -> Result<(), Unfit> {
    let path = operation["path"].as_str().ok_or(Unfit)?;
    let value = || operation.get("value").cloned().ok_or(Unfit);
    let from = || operation["from"].as_str().ok_or(Unfit);
    match operation["op"].as_str().ok_or(Unfit)? {
        "test" => {
            let expected = operation.get("value").unwrap_or(&Value::Null);
            let found = target.pointer(path).unwrap_or(&Value::Null);
            if found == expected { Ok(()) } else { Err(Unfit) }
        }
        "add" => add(target, path, value()?),
        "remove" => remove(target, path).map(drop),
        "replace" => replace(target, path, value()?),
        "move" => {
            let moved = remove(target, from()?)?;
            add(target, path, moved)
        }
        "copy" => {
            let copied = target.pointer(from()?).cloned().ok_or(Unfit)?;
            add(target, path, copied)
        }
        _ => Err(Unfit),
    }
}

fn split(path: &str) -> Result<(&str, String), Unfit> {
    let (parent, last) = path.rsplit_once('/').ok_or(Unfit)?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), Unfit> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent).ok_or(Unfit)? {
        Value::Object(members) => {
            members.insert(last, value);
            Ok(())
        }
        Value::Array(items) => {
            let index = if last == "-" { items.len() } else { last.parse().map_err(|_| Unfit)? };
            if index > items.len() {
                return Err(Unfit);
            }
            items.insert(index, value);
            Ok(())
        }
        _ => Err(Unfit),
    }
}

/// The server's library sets a member that is not there yet.
fn replace(target: &mut Value, path: &str, value: Value) -> Result<(), Unfit> {
    if let Some(slot) = target.pointer_mut(path) {
        *slot = value;
        return Ok(());
    }
    let (parent, last) = split(path)?;
    let members = target.pointer_mut(parent).and_then(Value::as_object_mut).ok_or(Unfit)?;
    members.insert(last, value);
    Ok(())
}

fn remove(target: &mut Value, path: &str) -> Result<Value, Unfit> {
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent).ok_or(Unfit)? {
        Value::Object(members) => members.remove(&last).ok_or(Unfit),
        Value::Array(items) => {
            let index: usize = last.parse().map_err(|_| Unfit)?;
            if index < items.len() { Ok(items.remove(index)) } else { Err(Unfit) }
        }
        _ => Err(Unfit),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_patch_removes_by_null_and_keeps_the_rest() {
        let mut target = json!({ "a": { "b": 1, "c": [1, 2] }, "d": 4 });
        merge(&mut target, &json!({ "a": { "b": null, "c": [3] }, "e": { "f": null, "g": 1 } }));
        assert_eq!(target, json!({ "a": { "c": [3] }, "d": 4, "e": { "g": 1 } }));
    }

    #[test]
    fn a_strategic_patch_merges_containers_by_name() {
        let mut target =
            json!({ "containers": [{ "name": "a", "image": "1" }, { "name": "b", "image": "2" }] });
        let patch = json!({
            "$setElementOrder/containers": [{ "name": "a" }],
            "containers": [{ "name": "a", "image": "9" }, { "name": "b", "$patch": "delete" }, { "name": "c" }],
        });
        strategic(&mut target, &patch);
        assert_eq!(target, json!({ "containers": [{ "name": "a", "image": "9" }, { "name": "c" }] }));
    }

    #[test]
    fn a_json_patch_applies_as_a_whole_or_not_at_all() {
        let target = json!({ "spec": { "replicas": 1 }, "list": [1, 3] });
        let patch = json!([
            { "op": "test", "path": "/spec/replicas", "value": 1 },
            { "op": "replace", "path": "/spec/replicas", "value": 2 },
            { "op": "add", "path": "/list/1", "value": 2 },
            { "op": "add", "path": "/list/-", "value": 4 },
            { "op": "move", "from": "/list/0", "path": "/first" },
            { "op": "add", "path": "/a~1b", "value": true },
        ]);
        let expected = json!({ "spec": { "replicas": 2 }, "list": [2, 3, 4], "first": 1, "a/b": true });
        assert_eq!(json_patch(&target, &patch), Ok(expected));
        for unfit in [
            json!([{ "op": "test", "path": "/spec/replicas", "value": 2 }]),
            json!([{ "op": "remove", "path": "/spec/absent" }]),
            json!([{ "op": "replace", "path": "/absent/child", "value": 1 }]),
            json!([{ "op": "add", "path": "/absent/child", "value": 1 }]),
            json!({ "op": "add" }),
        ] {
            assert_eq!(json_patch(&target, &unfit), Err(Unfit), "{unfit}");
        }
    }
}
