//! The loop: what changed in the store, what is due, and who has to look at it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    task::yield_now,
    time::{Instant, sleep_until},
};

use crate::{
    cluster::{Cluster, Control},
    history::{Change, Event, Position},
    kinds::Kind,
    object::Object,
    store::{Deletion, Key, Part},
    workload::{
        Command, WorkloadOptions,
        kubelet::{Life, Step},
        services::Services,
    },
};

/// Namespace and name.
pub(crate) type Name = (String, String);

/// Events read of one kind in one turn.
const EVENTS_MAX: usize = 8192;

/// What is to be done at a time.
#[derive(Debug)]
pub(crate) enum Due {
    Pod { name: Name, uid: String, step: Step },
    Deployment(Name),
    Slices(Name),
}

/// One kind whose changes are followed.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) kind: Arc<Kind>,
    position: Position,
    grown: watch::Receiver<u64>,
}

pub(crate) struct Engine {
    /// Writes as the controllers.
    pub(crate) cluster: Cluster,
    /// Writes as the node agent.
    pub(crate) node: Cluster,
    pub(crate) options: WorkloadOptions,
    pub(crate) deployments: Followed,
    pub(crate) sets: Followed,
    pub(crate) pods: Followed,
    pub(crate) services: Followed,
    pub(crate) slices: Arc<Kind>,
    pub(crate) lives: HashMap<Name, Life>,
    /// Pods of each ReplicaSet.
    pub(crate) pods_of: HashMap<Name, BTreeSet<String>>,
    /// ReplicaSets of each Deployment.
    pub(crate) sets_of: HashMap<Name, BTreeSet<String>>,
    pub(crate) pods_numbered: HashMap<Name, u64>,
    pub(crate) addresses: u64,
    pub(crate) index: Services,
    dirty: BTreeSet<Name>,
    timers: BTreeMap<(Instant, u64), Due>,
    timers_set: u64,
}

fn followed(cluster: &Cluster, resource: &str) -> Followed {
    let store = cluster.store();
    let kind = store.kinds.named(resource).expect("a built-in kind");
    let history = &store.table(&kind).history;
    Followed { position: history.end(), grown: history.growth(), kind }
}

impl Engine {
    pub(crate) fn new(cluster: &Cluster, options: WorkloadOptions) -> Self {
        let slices = cluster.store().kinds.named("endpointslices.discovery.k8s.io").expect("a built-in kind");
        let mut engine = Self {
            cluster: cluster.writing_as("kube-controller-manager"),
            node: cluster.writing_as("kubelet"),
            options,
            deployments: followed(cluster, "deployments.apps"),
            sets: followed(cluster, "replicasets.apps"),
            pods: followed(cluster, "pods"),
            services: followed(cluster, "services"),
            slices,
            lives: HashMap::new(),
            pods_of: HashMap::new(),
            sets_of: HashMap::new(),
            pods_numbered: HashMap::new(),
            addresses: 0,
            index: Services::default(),
            dirty: BTreeSet::new(),
            timers: BTreeMap::new(),
            timers_set: 0,
        };
        engine.look_at_all();
        engine
    }

    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut control = self.cluster.control();
        loop {
            let up = |control: &Control| !control.down;
            if control.wait_for(up).await.is_err() {
                return;
            }
            if self.turn() {
                yield_now().await;
                continue;
            }
            let next = self.timers.first_key_value().map(|((at, _), _)| *at);
            let timer = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.deployments.grown.changed() => {}
                _ = self.sets.grown.changed() => {}
                _ = self.pods.grown.changed() => {}
                _ = self.services.grown.changed() => {}
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                () = timer => {}
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Script(script) => {
                self.options.script = script;
                self.retry_unschedulable();
            }
            Command::Crash { namespace, name } => self.crash(&(namespace, name)),
            Command::Ready { namespace, name, ready } => self.probe(&(namespace, name), ready),
            Command::Lag(lag) => self.options.endpoint_lag = lag,
        }
    }

    /// Does what there is to do now; tells whether there was anything.
    fn turn(&mut self) -> bool {
        let mut worked = false;
        for which in
            [Self::deployments as fn(&mut Self) -> &mut Followed, Self::sets, Self::pods, Self::services]
        {
            let Some(events) = self.read(which) else {
                self.look_at_all();
                return true;
            };
            worked |= !events.is_empty();
            for event in events {
                self.notice(&event);
            }
        }
        for name in std::mem::take(&mut self.dirty) {
            worked = true;
            self.reconcile(&name);
        }
        let now = Instant::now();
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            worked = true;
            match entry.remove() {
                Due::Pod { name, uid, step } => self.step(&name, &uid, step),
                Due::Deployment(name) => self.mark(name),
                Due::Slices(name) => self.sync_slices(&name),
            }
        }
        worked
    }

    fn deployments(&mut self) -> &mut Followed {
        &mut self.deployments
    }

    fn sets(&mut self) -> &mut Followed {
        &mut self.sets
    }

    fn pods(&mut self) -> &mut Followed {
        &mut self.pods
    }

    fn services(&mut self) -> &mut Followed {
        &mut self.services
    }

    /// None if the history has moved on without us.
    fn read(&mut self, which: fn(&mut Self) -> &mut Followed) -> Option<Vec<Event>> {
        let cluster = self.cluster.clone();
        let followed = which(self);
        followed.grown.borrow_and_update();
        let events =
            cluster.store().table(&followed.kind).history.read(followed.position, EVENTS_MAX).ok()?;
        followed.position = followed.position.plus(events.len());
        Some(events)
    }

    /// Starts over from what there is.
    fn look_at_all(&mut self) {
        self.pods_of.clear();
        self.sets_of.clear();
        self.index = Services::default();
        let mut all = Vec::new();
        let cluster = self.cluster.clone();
        let store = cluster.store();
        for followed in [&mut self.deployments, &mut self.sets, &mut self.services, &mut self.pods] {
            let table = store.table(&followed.kind);
            followed.position = table.history.end();
            all.extend(table.objects(None).cloned());
        }
        let slices: Vec<Arc<Object>> = store.table(&self.slices).objects(None).cloned().collect();
        drop(store);
        for slice in slices {
            self.index.adopt(&slice.value);
        }
        for object in all {
            let event = Event { change: Change::Added, revision: object.revision, object, previous: None };
            self.notice(&event);
        }
        let lost: Vec<Name> = self.lives.keys().filter(|name| self.pod(name).is_none()).cloned().collect();
        for name in lost {
            self.end(&name);
        }
    }

    fn notice(&mut self, event: &Event) {
        let object = &event.object;
        let name = (object.namespace.clone(), object.name.clone());
        match object.value["kind"].as_str() {
            Some("Deployment") => self.mark(name),
            Some("ReplicaSet") => {
                let Some(deployment) = owner(&object.value, "Deployment") else { return };
                let deployment = (name.0, deployment);
                let sets = self.sets_of.entry(deployment.clone()).or_default();
                match event.change {
                    Change::Deleted => sets.remove(&object.name),
                    _ => sets.insert(object.name.clone()),
                };
                self.mark(deployment);
            }
            Some("Pod") => self.notice_pod(event, &name),
            Some("Service") => self.notice_service(event, &name),
            _ => {}
        }
    }

    fn notice_pod(&mut self, event: &Event, name: &Name) {
        let pod = &event.object.value;
        let set = owner(pod, "ReplicaSet").map(|set| (name.0.clone(), set));
        let deployment = set.as_ref().and_then(|set| self.deployment_of(set));
        let gone = event.change == Change::Deleted;
        if let Some(set) = set {
            let pods = self.pods_of.entry(set.clone()).or_default();
            if gone {
                pods.remove(&name.1);
            } else {
                pods.insert(name.1.clone());
            }
            if pods.is_empty() {
                self.pods_of.remove(&set);
            }
        }
        if let Some(deployment) = deployment.clone() {
            self.mark(deployment);
        }
        // A pod of the same name may have come since; only the one that was meant ends.
        if !gone {
            self.live(name, pod, deployment);
        } else if self.lives.get(name).is_some_and(|life| life.pod.uid == event.object.uid()) {
            self.end(name);
        }
        let touched =
            if gone { self.index.forget_pod(name) } else { self.index.pod(name, &pod["metadata"]["labels"]) };
        for service in touched {
            self.slices_due(service);
        }
    }

    fn notice_service(&mut self, event: &Event, name: &Name) {
        if event.change == Change::Deleted {
            for slice in self.index.forget_service(name) {
                self.remove(&self.slices.clone(), &(name.0.clone(), slice));
            }
            return;
        }
        let changed =
            event.previous.as_ref().is_none_or(|old| old.value["spec"] != event.object.value["spec"]);
        if changed {
            let pods: Vec<Arc<Object>> =
                self.cluster.store().table(&self.pods.kind).objects(Some(&name.0)).cloned().collect();
            self.index.service(name, &event.object.value["spec"]["selector"], &pods);
            self.slices_due(name.clone());
        }
    }

    fn slices_due(&mut self, service: Name) {
        if self.index.begin(&service) {
            self.after(self.options.endpoint_lag, Due::Slices(service));
        }
    }

    fn deployment_of(&self, set: &Name) -> Option<Name> {
        let owned = self.find(&self.sets.kind, set)?;
        Some((set.0.clone(), owner(&owned.value, "Deployment")?))
    }

    pub(crate) fn mark(&mut self, deployment: Name) {
        self.dirty.insert(deployment);
    }

    pub(crate) fn after(&mut self, time: Duration, due: Due) {
        self.timers_set += 1;
        self.timers.insert((Instant::now() + time, self.timers_set), due);
    }

    pub(crate) fn pod(&self, name: &Name) -> Option<Arc<Object>> {
        self.find(&self.pods.kind, name)
    }

    pub(crate) fn find(&self, kind: &Kind, (namespace, name): &Name) -> Option<Arc<Object>> {
        self.cluster.store().table(kind).get(Key { namespace, name }).cloned()
    }

    /// Changes an object as the controllers; one that is gone stays gone.
    pub(crate) fn change(&self, kind: &Kind, name: &Name, part: Part, edit: impl FnOnce(&mut Value)) {
        change(&self.cluster, kind, name, part, edit);
    }

    pub(crate) fn remove(&self, kind: &Kind, (namespace, name): &Name) {
        let how = Deletion::default();
        let writer = self.cluster.writer();
        // It may be gone already, which is as well.
        let _ = self.cluster.store().delete(kind, Key { namespace, name }, &how, &writer);
    }
}

/// Changes an object by the hand of `cluster`'s manager; one that is gone stays gone.
pub(crate) fn change(cluster: &Cluster, kind: &Kind, name: &Name, part: Part, edit: impl FnOnce(&mut Value)) {
    let writer = cluster.writer();
    let key = Key { namespace: &name.0, name: &name.1 };
    let changed = cluster.store().update(kind, key, part, &writer, |old| {
        let mut new = old.clone();
        edit(&mut new);
        Ok(new)
    });
    debug_assert!(
        changed.is_ok() || changed.as_ref().is_err_and(|refusal| refusal.code() == 404),
        "{changed:?}"
    );
}

/// The name of the controller that owns an object, if it is of this kind.
pub(crate) fn owner(object: &Value, kind: &str) -> Option<String> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["kind"] == kind && owner["controller"] == true)?;
    owner["name"].as_str().map(str::to_owned)
}
