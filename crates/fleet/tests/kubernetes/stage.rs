//! What the tests stand on: a namespace of an API server, and the objects in it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use autoscaler::fleet::Replica;
use fleet::{
    kubernetes::{
        Cluster,
        endpoints::{self, Endpoints, Port},
        fleet::{Config, KubernetesFleet},
        wake::Wake,
    },
    probe::{self, Probe, ProbeError},
};
use http::{Method, Request};
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};

/// Longer than anything takes; on a paused clock it costs nothing.
const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) struct Stage {
    /// What is tested.
    pub(crate) cluster: Cluster,
    pub(crate) namespace: Arc<str>,
    /// Who prepares.
    admin: kube::Client,
}

/// A stage on a cluster in memory, and the cluster.
pub(crate) fn fake() -> (Stage, fake_cluster::Cluster) {
    let fake = fake_cluster::Cluster::new();
    fake.create("namespaces", json!({"metadata": {"name": "ml"}})).unwrap();
    let client = |caller| kube::Client::new(fake.service().caller(caller), "default");
    let cluster = Cluster::over(client("tidegate"));
    (Stage::new(cluster, client("kubectl"), "ml"), fake)
}

/// Calls of ours that the cluster has seen.
pub(crate) fn calls() -> fake_cluster::Calls {
    fake_cluster::Calls::any().caller("tidegate")
}

impl Stage {
    pub(crate) fn new(cluster: Cluster, admin: kube::Client, namespace: &str) -> Self {
        Self { cluster, namespace: namespace.into(), admin }
    }

    fn path(&self, resource: &str, name: &str) -> String {
        let namespace = &self.namespace;
        let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
        let group = match resource {
            "pods" | "services" => "/api/v1".to_owned(),
            "endpointslices" => "/apis/discovery.k8s.io/v1".to_owned(),
            "horizontalpodautoscalers" => "/apis/autoscaling/v2".to_owned(),
            "widgets" => "/apis/example.dev/v1".to_owned(),
            "scaledobjects" => "/apis/keda.sh/v1alpha1".to_owned(),
            _ => "/apis/apps/v1".to_owned(),
        };
        let path = format!("{group}/namespaces/{namespace}/{resource}/{name}/{sub}");
        path.trim_end_matches('/').to_owned()
    }

    /// As `kubectl` does it.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: &Value,
    ) -> kube::Result<Value> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let separator = if path.contains('?') { '&' } else { '?' };
        let request = Request::builder()
            .method(method)
            .uri(format!("{path}{separator}fieldManager=kubectl"))
            .header("content-type", kind)
            .body(body)
            .unwrap();
        self.admin.request(request).await
    }

    pub(crate) async fn create(&self, resource: &str, object: Value) -> Value {
        self.call(Method::POST, &self.path(resource, ""), "application/json", &object).await.unwrap()
    }

    pub(crate) async fn merge(&self, resource: &str, name: &str, change: &Value) -> Value {
        let path = self.path(resource, name);
        self.call(Method::PATCH, &path, "application/merge-patch+json", change).await.unwrap()
    }

    pub(crate) async fn get(&self, resource: &str, name: &str) -> Value {
        self.call(Method::GET, &self.path(resource, name), "application/json", &Value::Null).await.unwrap()
    }

    pub(crate) async fn delete(&self, resource: &str, name: &str) {
        let body = json!({"gracePeriodSeconds": 0});
        self.call(Method::DELETE, &self.path(resource, name), "application/json", &body).await.unwrap();
    }

    /// The number as it is, by the scale subresource.
    pub(crate) async fn number(&self, resource: &str) -> u64 {
        self.get(&format!("{resource}/scale"), "digits").await["spec"]["replicas"].as_u64().unwrap_or(0)
    }

    pub(crate) async fn deploy(&self, replicas: u32) {
        self.create("deployments", workload("Deployment", replicas)).await;
    }

    /// A pod of the workload; `status` as its node would tell it.
    pub(crate) async fn pod(&self, name: &str, status: &Value) -> Value {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": "digits", "pod-template-hash": "1"}},
            "spec": {"containers": [{"name": "server", "image": "server"}]},
        });
        let made = self.create("pods", pod).await;
        self.merge("pods/status", name, &json!({"status": status})).await;
        made
    }

    /// The endpoints of the Service, all in one slice; made or replaced.
    pub(crate) async fn slice(&self, endpoints: &[Value]) {
        let path = self.path("endpointslices", "digits-1");
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "digits-1", "labels": {"kubernetes.io/service-name": "digits"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "grpc", "port": 8001}],
        });
        match self.call(Method::PUT, &path, "application/json", &slice).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                self.create("endpointslices", slice).await;
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) fn fleet(&self, target: &str) -> KubernetesFleet {
        self.fleet_that(target, Arc::new(|| true))
    }

    pub(crate) fn fleet_that(
        &self,
        target: &str,
        may: fleet::kubernetes::fleet::MayWrite,
    ) -> KubernetesFleet {
        let config = Config::new("digits".into(), Arc::clone(&self.namespace), target.parse().unwrap());
        KubernetesFleet::start(&self.cluster, config, may)
    }

    pub(crate) fn wake(&self, target: &str) -> Wake {
        Wake::new(&self.cluster, Arc::clone(&self.namespace), target.parse().unwrap())
    }

    pub(crate) fn endpoints(&self, models: &Models) -> Endpoints {
        let config = endpoints::Config {
            model: "digits".into(),
            namespace: Arc::clone(&self.namespace),
            service: "digits".into(),
            port: Port::Name("grpc".into()),
            probe: probe::Timing::default(),
        };
        Endpoints::start(&self.cluster, config, models.probe())
    }
}

/// Anything whose pods are labelled `app=digits`.
pub(crate) fn workload(kind: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": "digits"},
        "spec": {
            "replicas": replicas,
            "serviceName": if kind == "StatefulSet" { json!("digits") } else { Value::Null },
            "selector": {"matchLabels": {"app": "digits"}},
            "template": {
                "metadata": {"labels": {"app": "digits"}},
                "spec": {"containers": [{"name": "server", "image": "server"}]},
            },
        },
    })
}

pub(crate) fn endpoint(pod: &str, ip: &str, ready: bool) -> Value {
    json!({"addresses": [ip], "conditions": {"ready": ready, "serving": ready, "terminating": false},
        "targetRef": {"kind": "Pod", "name": pod, "namespace": "ml", "uid": format!("uid-of-{pod}")}})
}

pub(crate) fn leaving(pod: &str, ip: &str) -> Value {
    let mut endpoint = endpoint(pod, ip, false);
    endpoint["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
    endpoint
}

pub(crate) fn ready() -> Value {
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [running(0)]})
}

pub(crate) fn running(restarts: u32) -> Value {
    json!({"name": "server", "ready": false, "restartCount": restarts, "image": "server", "imageID": "",
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}})
}

pub(crate) fn unschedulable() -> Value {
    json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. \
        preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."}]})
}

/// Model servers by address: which have their model ready, and how often they were asked.
#[derive(Clone, Default)]
pub(crate) struct Models {
    loading: Arc<Mutex<BTreeSet<SocketAddr>>>,
    asked: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Models {
    pub(crate) fn load(&self, address: &str) {
        self.loading.lock().unwrap().insert(address.parse().unwrap());
    }

    pub(crate) fn loaded(&self, address: &str) {
        self.loading.lock().unwrap().remove(&address.parse().unwrap());
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn probe(&self) -> Probe {
        let models = self.clone();
        Probe::new(tower::service_fn(move |address: SocketAddr| {
            models.asked.lock().unwrap().push(address);
            let loading = models.loading.lock().unwrap().contains(&address);
            async move { if loading { Err(ProbeError::NotReady("loading".into())) } else { Ok(()) } }
        }))
    }
}

/// The value once `holds` does.
pub(crate) async fn until<T: Clone + std::fmt::Debug>(
    receiver: &mut watch::Receiver<T>,
    holds: impl FnMut(&T) -> bool,
) -> T {
    let seen = timeout(PATIENCE, receiver.wait_for(holds)).await.map(|seen| seen.unwrap().clone());
    seen.unwrap_or_else(|_| panic!("it stays at {:?}", receiver.borrow()))
}

/// `a Ready, b Starting`.
pub(crate) fn told(replicas: &[Replica]) -> String {
    let one = |replica: &Replica| format!("{} {:?}", replica.id, replica.phase);
    replicas.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The replicas once they are told as `expected`.
pub(crate) async fn until_told(
    receiver: &mut watch::Receiver<Arc<[Replica]>>,
    expected: &str,
) -> Arc<[Replica]> {
    let seen = timeout(PATIENCE, receiver.wait_for(|replicas| told(replicas) == expected)).await;
    let seen = seen.map(|seen| seen.unwrap().clone());
    seen.unwrap_or_else(|_| panic!("it stays at {}, not {expected}", told(&receiver.borrow())))
}
