//! The controllers of Deployments and ReplicaSets: sets per template, pods per set, and what the status says.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    object::{Object, child, map_at, meta_text},
    patch,
    store::Part,
    workload::{
        engine::{Due, Engine, Name},
        kubelet::condition,
        rollout::{Set, Strategy, plan},
        victims::{choose, is_ready, is_terminating, ready_since},
    },
};

/// A ReplicaSet and its pods.
struct Owned {
    object: Arc<Object>,
    pods: Vec<Arc<Object>>,
    ending: usize,
    ready: usize,
    available: usize,
}

const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";

impl Engine {
    /// Brings the sets and pods of a Deployment one step closer to what it wants.
    pub(crate) fn reconcile(&mut self, name: &Name) {
        let Some(deployment) = self.find(&self.deployments.kind, name) else {
            self.collect(name);
            return;
        };
        if is_terminating(&deployment.value) {
            return;
        }
        let spec = &deployment.value["spec"];
        let hash = template_hash(&spec["template"]);
        let paused = spec["paused"] == true;
        let mut owned = self.owned(name, &deployment.value);
        let current = |owned: &[Owned]| owned.iter().position(|set| labelled(&set.object.value) == hash);
        if (owned.is_empty() || !paused) && current(&owned).is_none() {
            self.create_set(&deployment.value, &hash, &owned);
            owned = self.owned(name, &deployment.value);
        }
        // A paused rollout scales the set that is youngest.
        let newest = current(&owned).or(owned.len().checked_sub(1));
        let Some(newest) = newest else { return };
        self.scale_sets(&deployment.value, &mut owned, newest);
        for set in &owned {
            self.fill(set);
        }
        let owned = self.owned(name, &deployment.value);
        for set in &owned {
            self.report_set(set);
        }
        self.report(name, &owned, labelled_index(&owned, &hash));
        self.drop_old_sets(&deployment.value, &owned, newest);
    }

    /// The sets of a Deployment, oldest first.
    fn owned(&mut self, name: &Name, deployment: &Value) -> Vec<Owned> {
        let now = self.cluster.clock().now();
        let min_ready = Duration::from_secs(deployment["spec"]["minReadySeconds"].as_u64().unwrap_or(0));
        let names = self.sets_of.get(name).cloned().unwrap_or_default();
        let mut owned: Vec<Owned> = names
            .into_iter()
            .filter_map(|set| self.find(&self.sets.kind, &(name.0.clone(), set)))
            .map(|object| self.counted(object, now, min_ready))
            .collect();
        owned.sort_by_key(revision);
        let waiting = owned.iter().any(|set| set.available < set.ready);
        if waiting && !min_ready.is_zero() {
            self.after(min_ready, Due::Deployment(name.clone()));
        }
        owned
    }

    fn counted(&self, object: Arc<Object>, now: Timestamp, min_ready: Duration) -> Owned {
        let set: Name = (object.namespace.clone(), object.name.clone());
        let names = self.pods_of.get(&set).into_iter().flatten();
        let all: Vec<Arc<Object>> = names.filter_map(|pod| self.pod(&(set.0.clone(), pod.clone()))).collect();
        let (ending, live): (Vec<_>, Vec<_>) = all.into_iter().partition(|pod| is_terminating(&pod.value));
        let pods: Vec<Arc<Object>> = live
            .into_iter()
            .filter(|pod| !matches!(pod.value["status"]["phase"].as_str(), Some("Succeeded" | "Failed")))
            .collect();
        let ready = pods.iter().filter(|pod| is_ready(&pod.value)).count();
        let old_enough = |pod: &&Arc<Object>| {
            let since = ready_since(&pod.value);
            is_ready(&pod.value)
                && since.is_some_and(|since| now.duration_since(since).unsigned_abs() >= min_ready)
        };
        let available = pods.iter().filter(old_enough).count();
        Owned { object, pods, ending: ending.len(), ready, available }
    }

    fn create_set(&mut self, deployment: &Value, hash: &str, others: &[Owned]) {
        let mut template = deployment["spec"]["template"].clone();
        map_at(child(&mut template, "metadata"), "labels").insert(HASH.into(), hash.into());
        let mut selector = deployment["spec"]["selector"].clone();
        map_at(&mut selector, "matchLabels").insert(HASH.into(), hash.into());
        let labels = template["metadata"]["labels"].clone();
        let revision = others.iter().map(revision).max().unwrap_or(0) + 1;
        let name = format!("{}-{hash}", meta_text(deployment, "name"));
        let set = json!({
            "metadata": {
                "name": name, "namespace": meta_text(deployment, "namespace"), "labels": labels,
                "annotations": { REVISION: revision.to_string() },
                "ownerReferences": [owner_reference(deployment, "apps/v1", "Deployment")],
            },
            "spec": { "replicas": 0, "selector": selector, "template": template },
        });
        let writer = self.cluster.writer();
        let namespace = meta_text(deployment, "namespace").to_owned();
        let made = self.cluster.store().create(&self.sets.kind, &namespace, set, &writer);
        debug_assert!(made.is_ok(), "{made:?}");
        let of = (namespace, meta_text(deployment, "name").to_owned());
        self.sets_of.entry(of.clone()).or_default().insert(name);
        self.change(&self.deployments.kind, &of, Part::Status, |deployment| {
            let annotations = map_at(child(deployment, "metadata"), "annotations");
            annotations.insert(REVISION.into(), revision.to_string().into());
        });
    }

    fn scale_sets(&self, deployment: &Value, owned: &mut [Owned], newest: usize) {
        let replicas = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
        let strategy = Strategy::of(deployment);
        let mut sets: Vec<Set> = owned.iter().map(counted_set).collect();
        let mut new = sets.remove(newest);
        if deployment["spec"]["paused"] == true {
            new.wanted = (replicas - sets.iter().map(|set| set.wanted).sum::<i64>()).max(0);
        } else {
            plan(replicas, strategy, &mut new, &mut sets);
        }
        sets.insert(newest, new);
        for (set, planned) in owned.iter_mut().zip(sets) {
            let name = (set.object.namespace.clone(), set.object.name.clone());
            let sizes = json!({
                "deployment.kubernetes.io/desired-replicas": replicas.to_string(),
                "deployment.kubernetes.io/max-replicas": (replicas + strategy.surge()).to_string(),
            });
            let as_planned = set.object.value["spec"]["replicas"] == planned.wanted
                && set.object.value["metadata"]["annotations"]["deployment.kubernetes.io/desired-replicas"]
                    == sizes["deployment.kubernetes.io/desired-replicas"];
            if as_planned {
                continue;
            }
            self.change(&self.sets.kind, &name, Part::Main, |set| {
                set["spec"]["replicas"] = planned.wanted.into();
                patch::merge(set, &json!({ "metadata": { "annotations": sizes } }));
            });
            if let Some(object) = self.find(&self.sets.kind, &name) {
                set.object = object;
            }
        }
    }

    /// Creates the pods a set lacks, or deletes those it has too many.
    fn fill(&mut self, set: &Owned) {
        let wanted = usize::try_from(set.object.value["spec"]["replicas"].as_i64().unwrap_or(0)).unwrap_or(0);
        if set.pods.len() > wanted {
            let surplus = set.pods.len() - wanted;
            for pod in choose(&set.pods, surplus, self.cluster.clock().now()) {
                self.remove(&self.pods.kind, &(pod.namespace.clone(), pod.name.clone()));
            }
        }
        let name: Name = (set.object.namespace.clone(), set.object.name.clone());
        let template = &set.object.value["spec"]["template"];
        for _ in set.pods.len()..wanted {
            let mut pod = json!({
                "metadata": {
                    "generateName": format!("{}-", set.object.name), "namespace": name.0,
                    "labels": template["metadata"]["labels"],
                    "ownerReferences": [owner_reference(&set.object.value, "apps/v1", "ReplicaSet")],
                },
                "spec": template["spec"],
            });
            if template["metadata"]["annotations"].is_object() {
                pod["metadata"]["annotations"] = template["metadata"]["annotations"].clone();
            }
            let writer = self.cluster.writer();
            let made = self.cluster.store().create(&self.pods.kind, &name.0, pod, &writer);
            debug_assert!(made.is_ok(), "{made:?}");
            if let Ok(pod) = made {
                self.pods_of.entry(name.clone()).or_default().insert(pod.name.clone());
            }
        }
    }

    fn report_set(&self, set: &Owned) {
        let object = &set.object;
        let status = counts(
            &object.value,
            &[
                ("replicas", set.pods.len()),
                ("fullyLabeledReplicas", set.pods.len()),
                ("readyReplicas", set.ready),
                ("availableReplicas", set.available),
            ],
            set.ending,
        );
        if object.value["status"] != status {
            let name = (object.namespace.clone(), object.name.clone());
            self.change(&self.sets.kind, &name, Part::Status, |set| set["status"] = status);
        }
    }

    fn report(&self, name: &Name, owned: &[Owned], newest: Option<usize>) {
        let Some(deployment) = self.find(&self.deployments.kind, name) else { return };
        let sum = |part: fn(&Owned) -> usize| owned.iter().map(part).sum::<usize>();
        let (pods, ready, available) =
            (sum(|set| set.pods.len()), sum(|set| set.ready), sum(|set| set.available));
        let updated = newest.and_then(|newest| owned.get(newest)).map_or(0, |set| set.pods.len());
        let wanted = usize::try_from(deployment.value["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or(0);
        let mut status = counts(
            &deployment.value,
            &[
                ("replicas", pods),
                ("updatedReplicas", updated),
                ("readyReplicas", ready),
                ("availableReplicas", available),
                ("unavailableReplicas", wanted.max(pods).saturating_sub(available)),
            ],
            sum(|set| set.ending),
        );
        let unavailable_max = Strategy::of(&deployment.value).unavailable();
        let enough = i64::try_from(available).unwrap_or(i64::MAX)
            >= i64::try_from(wanted).unwrap_or(i64::MAX) - unavailable_max;
        if !deployment.value["status"]["conditions"].is_null() {
            status["conditions"] = deployment.value["status"]["conditions"].clone();
        }
        let now = self.cluster.clock().stamp();
        let mut shown = json!({ "status": status });
        let why = if enough {
            ("MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        condition(&mut shown, "Available", (enough, &now), Some(why));
        let complete = updated == wanted && pods == wanted && available >= wanted;
        let why = if complete {
            ("NewReplicaSetAvailable", "The ReplicaSet has successfully progressed.")
        } else {
            ("ReplicaSetUpdated", "The ReplicaSet is progressing.")
        };
        condition(&mut shown, "Progressing", (true, &now), Some(why));
        if deployment.value["status"] != shown["status"] {
            self.change(&self.deployments.kind, name, Part::Status, |deployment| {
                deployment["status"] = shown["status"].take();
            });
        }
    }

    fn drop_old_sets(&self, deployment: &Value, owned: &[Owned], newest: usize) {
        let kept =
            usize::try_from(deployment["spec"]["revisionHistoryLimit"].as_u64().unwrap_or(10)).unwrap_or(10);
        let empty = |set: &&Owned| {
            set.pods.is_empty() && set.ending == 0 && set.object.value["spec"]["replicas"] == 0
        };
        let old: Vec<&Owned> = owned
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != newest)
            .map(|(_, set)| set)
            .filter(empty)
            .collect();
        let surplus = old.len().saturating_sub(kept);
        for set in old.into_iter().take(surplus) {
            self.remove(&self.sets.kind, &(set.object.namespace.clone(), set.object.name.clone()));
        }
    }

    /// The garbage of a Deployment that is gone.
    fn collect(&mut self, name: &Name) {
        self.pods_numbered.remove(name);
        for set in self.sets_of.remove(name).unwrap_or_default() {
            let set = (name.0.clone(), set);
            self.remove(&self.sets.kind, &set);
            for pod in self.pods_of.get(&set).cloned().unwrap_or_default() {
                self.remove(&self.pods.kind, &(name.0.clone(), pod));
            }
        }
    }
}

fn counted_set(set: &Owned) -> Set {
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    Set {
        name: set.object.name.clone(),
        wanted: set.object.value["spec"]["replicas"].as_i64().unwrap_or(0),
        available: number(set.available),
        pods: number(set.pods.len()),
        ending: number(set.ending),
    }
}

fn revision(set: &Owned) -> u64 {
    let annotations = &set.object.value["metadata"]["annotations"];
    annotations[REVISION].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn labelled(set: &Value) -> String {
    set["metadata"]["labels"][HASH].as_str().unwrap_or_default().to_owned()
}

fn labelled_index(owned: &[Owned], hash: &str) -> Option<usize> {
    owned.iter().position(|set| labelled(&set.object.value) == hash)
}

fn owner_reference(owner: &Value, version: &str, kind: &str) -> Value {
    json!({
        "apiVersion": version, "kind": kind, "name": meta_text(owner, "name"), "uid": meta_text(owner, "uid"),
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// A status of counts; like the server's, it leaves out what is zero.
fn counts(object: &Value, counts: &[(&str, usize)], ending: usize) -> Value {
    let mut status =
        json!({ "observedGeneration": object["metadata"]["generation"], "terminatingReplicas": ending });
    let shown: BTreeMap<&str, usize> = counts.iter().copied().filter(|(_, count)| *count > 0).collect();
    for (name, count) in shown {
        status[name] = count.into();
    }
    status
}

/// The hash of a pod template, spelled as the server spells it.
fn template_hash(template: &Value) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let written = template.to_string();
    let hash = written
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let digits = hash.to_string();
    let letter =
        |byte: u8| char::from(LETTERS.get(usize::from(byte) % LETTERS.len()).copied().unwrap_or(b'b'));
    digits.bytes().map(letter).collect()
}
