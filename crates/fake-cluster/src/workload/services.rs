//! Which pods belong to which Service, kept up to date so that no change looks at all pods.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde_json::Value;

use crate::{
    kinds::Kind,
    object::{Object, meta_text},
    selector::Labels,
    store::Part,
    workload::{
        endpoints,
        engine::{Engine, Name},
    },
};

#[derive(Debug, Default)]
struct Service {
    selector: Labels,
    pods: BTreeSet<String>,
    slices: BTreeSet<String>,
    /// Whether its slices are due to be looked at.
    due: bool,
}

/// The Services and their pods.
#[derive(Debug, Default)]
pub(crate) struct Services {
    services: HashMap<Name, Service>,
    /// Services by namespace and one label that their pods must have.
    by_label: HashMap<(String, String, String), BTreeSet<String>>,
    of_pod: HashMap<Name, BTreeSet<String>>,
}

impl Services {
    /// Takes over a slice that exists already.
    pub(crate) fn adopt(&mut self, slice: &Value) {
        let service = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str().unwrap_or_default();
        let name = (meta_text(slice, "namespace").to_owned(), service.to_owned());
        self.services.entry(name).or_default().slices.insert(meta_text(slice, "name").to_owned());
    }

    /// A Service that is new or has another selector.
    pub(crate) fn service(&mut self, name: &Name, selector: &Value, pods: &[Arc<Object>]) {
        let selector = Labels::of_map(selector);
        let old = self.services.entry(name.clone()).or_default();
        let before = std::mem::take(&mut old.pods);
        let anchor = std::mem::replace(&mut old.selector, selector.clone()).anchor();
        self.unanchor(name, anchor);
        for pod in before {
            self.leave((&name.0, &pod), &name.1);
        }
        // A Service without selector has its endpoints from somebody else.
        let Some((label, value)) = selector.anchor() else { return };
        self.by_label.entry((name.0.clone(), label, value)).or_default().insert(name.1.clone());
        for pod in pods.iter().filter(|pod| selector.matches(&pod.value["metadata"]["labels"])) {
            self.join((&pod.namespace, &pod.name), &name.1);
        }
    }

    fn unanchor(&mut self, name: &Name, anchor: Option<(String, String)>) {
        let Some((label, value)) = anchor else { return };
        let key = (name.0.clone(), label, value);
        if let Some(names) = self.by_label.get_mut(&key) {
            names.remove(&name.1);
            if names.is_empty() {
                self.by_label.remove(&key);
            }
        }
    }

    /// The slices of a Service that is gone.
    pub(crate) fn forget_service(&mut self, name: &Name) -> BTreeSet<String> {
        let Some(service) = self.services.remove(name) else { return BTreeSet::new() };
        self.unanchor(name, service.selector.anchor());
        for pod in &service.pods {
            self.leave((&name.0, pod), &name.1);
        }
        service.slices
    }

    /// A pod that is new or changed: the Services whose endpoints may be others now.
    pub(crate) fn pod(&mut self, pod: &Name, labels: &Value) -> Vec<Name> {
        let mut belongs = BTreeSet::new();
        for (label, value) in labels.as_object().into_iter().flatten() {
            let key = (pod.0.clone(), label.clone(), value.as_str().unwrap_or_default().to_owned());
            for service in self.by_label.get(&key).into_iter().flatten() {
                let found = self.services.get(&(pod.0.clone(), service.clone()));
                if found.is_some_and(|found| found.selector.matches(labels)) {
                    belongs.insert(service.clone());
                }
            }
        }
        let before = self.of_pod.get(pod).cloned().unwrap_or_default();
        for service in before.difference(&belongs) {
            self.leave((&pod.0, &pod.1), service);
        }
        for service in &belongs {
            self.join((&pod.0, &pod.1), service);
        }
        before.union(&belongs).map(|service| (pod.0.clone(), service.clone())).collect()
    }

    /// A pod that is gone: the Services it belonged to.
    pub(crate) fn forget_pod(&mut self, pod: &Name) -> Vec<Name> {
        let services = self.of_pod.get(pod).cloned().unwrap_or_default();
        for service in &services {
            self.leave((&pod.0, &pod.1), service);
        }
        services.into_iter().map(|service| (pod.0.clone(), service)).collect()
    }

    fn join(&mut self, (namespace, pod): (&str, &str), service: &str) {
        let name = (namespace.to_owned(), service.to_owned());
        self.services.entry(name).or_default().pods.insert(pod.to_owned());
        self.of_pod.entry((namespace.to_owned(), pod.to_owned())).or_default().insert(service.to_owned());
    }

    fn leave(&mut self, (namespace, pod): (&str, &str), service: &str) {
        if let Some(service) = self.services.get_mut(&(namespace.to_owned(), service.to_owned())) {
            service.pods.remove(pod);
        }
        let name = (namespace.to_owned(), pod.to_owned());
        if let Some(services) = self.of_pod.get_mut(&name) {
            services.remove(service);
            if services.is_empty() {
                self.of_pod.remove(&name);
            }
        }
    }

    /// Whether a look at the slices of a Service must be arranged: it is one with a selector, and none is due.
    pub(crate) fn begin(&mut self, service: &Name) -> bool {
        let Some(service) = self.services.get_mut(service) else { return false };
        let begins = !service.due && !service.selector.is_empty();
        service.due |= begins;
        begins
    }
}

impl Engine {
    /// Brings the slices of a Service in line with its pods.
    pub(crate) fn sync_slices(&mut self, name: &Name) {
        let Some(entry) = self.index.services.get_mut(name) else { return };
        entry.due = false;
        let (pods, slices) = (entry.pods.clone(), entry.slices.clone());
        let Some(service) = self.find(&self.services.kind, name) else { return };
        let found = |kind: &Kind, names: BTreeSet<String>| -> Vec<Arc<Object>> {
            names.into_iter().filter_map(|one| self.find(kind, &(name.0.clone(), one))).collect()
        };
        let pods = found(&self.pods.kind, pods);
        let kind = self.slices.clone();
        let slices = found(&kind, slices);
        let changes = endpoints::changes(&service.value, &values(&pods), &values(&slices));
        for (slice, endpoints, ports) in changes.updated {
            self.change(&kind, &(name.0.clone(), slice), Part::Whole, |slice| {
                slice["endpoints"] = endpoints;
                slice["ports"] = ports;
            });
        }
        let mut made = Vec::new();
        for (endpoints, ports) in changes.created {
            let slice = endpoints::slice(&service.value, endpoints, ports);
            let writer = self.cluster.writer();
            made.extend(self.cluster.store().create(&kind, &name.0, slice, &writer));
        }
        for slice in &changes.deleted {
            self.remove(&kind, &(name.0.clone(), slice.clone()));
        }
        if let Some(entry) = self.index.services.get_mut(name) {
            entry.slices.retain(|slice| !changes.deleted.contains(slice));
            entry.slices.extend(made.iter().map(|slice| slice.name.clone()));
        }
    }
}

fn values(objects: &[Arc<Object>]) -> Vec<&Value> {
    objects.iter().map(|object| &object.value).collect()
}
