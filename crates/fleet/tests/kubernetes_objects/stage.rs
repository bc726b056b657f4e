//! What the tests stand on: a cluster in memory with the kind Model, and processes that are told apart by name.

use std::{sync::Arc, time::Duration};

use fake_cluster::Calls;
use fleet::kubernetes::{
    Cluster,
    lease::{Config, Election, Standing, Timing},
    models::ModelObject,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};

pub(crate) const NAMESPACE: &str = "tidegate";
pub(crate) const LEASE: &str = "tidegate";

/// Longer than anything takes; on a paused clock it costs nothing.
const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) fn fake() -> fake_cluster::Cluster {
    let fake = fake_cluster::Cluster::new();
    for namespace in [NAMESPACE, "ml"] {
        fake.create("namespaces", json!({"metadata": {"name": namespace}})).unwrap();
    }
    fake
}

/// The Lease as the manifests bring it: held by nobody yet.
pub(crate) fn install_lease(fake: &fake_cluster::Cluster) {
    fake.create("leases", json!({"metadata": {"namespace": NAMESPACE, "name": LEASE}})).unwrap();
}

pub(crate) fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "models.tidegate.dev"},
        "spec": {
            "group": "tidegate.dev", "scope": "Namespaced",
            "names": {"kind": "Model", "listKind": "ModelList", "plural": "models", "singular": "model"},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
}

pub(crate) fn install_kind(fake: &fake_cluster::Cluster) {
    fake.create("customresourcedefinitions", definition()).unwrap();
}

pub(crate) fn model(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "tidegate.dev/v1alpha1", "kind": "Model",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"slo": {"p99": "100ms"}},
    })
}

/// The same as it is seen once it is there.
pub(crate) fn object(namespace: &str, name: &str, uid: &str) -> ModelObject {
    ModelObject {
        namespace: namespace.into(),
        name: name.into(),
        uid: uid.into(),
        generation: 1,
        created: Timestamp::UNIX_EPOCH,
        spec: Value::Null,
    }
}

/// The cluster as that process sees it.
pub(crate) fn seen_by(fake: &fake_cluster::Cluster, process: &str) -> Cluster {
    Cluster::over(kube::Client::new(fake.service().caller(process), "default"))
}

pub(crate) fn calls_of(process: &str) -> Calls {
    Calls::any().caller(process)
}

pub(crate) fn config(process: &str, timing: Timing) -> Config {
    Config {
        namespace: NAMESPACE.to_owned(),
        name: LEASE.to_owned(),
        identity: process.into(),
        signals_address: Some(Arc::from(format!("{process}.example:9091"))),
        timing,
    }
}

pub(crate) fn stand(fake: &fake_cluster::Cluster, process: &str) -> Election {
    Election::start(&seen_by(fake, process), config(process, Timing::default()))
}

pub(crate) async fn leads(election: &Election) -> u64 {
    let standing = until(&mut election.standing(), |it| matches!(it, Standing::Leading { .. })).await;
    let Standing::Leading { epoch } = standing else { unreachable!() };
    epoch
}

pub(crate) async fn follows(election: &Election, leader: &str) {
    let of =
        |it: &Standing| matches!(it, Standing::Following { leader: Some(it) } if *it.identity == *leader);
    until(&mut election.standing(), of).await;
}

/// The value once `holds` does.
pub(crate) async fn until<T: Clone + std::fmt::Debug>(
    receiver: &mut watch::Receiver<T>,
    holds: impl FnMut(&T) -> bool,
) -> T {
    let seen = timeout(PATIENCE, receiver.wait_for(holds)).await.map(|seen| seen.unwrap().clone());
    seen.unwrap_or_else(|_| panic!("it stays at {:?}", receiver.borrow()))
}
