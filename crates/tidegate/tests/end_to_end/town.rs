//! A cluster in this process, and Tidegate's roles beside it as processes: Deployments whose pods are model servers on
//! loopback addresses of their own.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use fake_cluster::{
    Cluster, Server,
    workload::{Pod, PodHooks, Start, Workload, WorkloadOptions},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::BufReader;

use crate::{
    client::{Http, Reply},
    process::{Running, until},
    rig::{Folder, Lines, address, keep},
};

const NAMESPACE: &str = "tidegate";

/// A cluster with the bundled digits as a Deployment at zero.
pub(crate) struct Town {
    pub(crate) cluster: Cluster,
    folder: Folder,
    _server: Server,
    _workload: Workload,
}

/// Runs a model server for each pod.
#[derive(Default)]
struct ModelServers {
    port: u16,
    running: Mutex<HashMap<String, Running>>,
}

impl PodHooks for ModelServers {
    fn address(&self, _: &Pod, count: u64) -> IpAddr {
        let [.., middle, low] = (count + 1).to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(127, 1, middle, low))
    }

    fn started(&self, pod: &Pod, address: IpAddr) {
        let (host, port) = (address.to_string(), self.port.to_string());
        let arguments =
            ["model-server", "--onnx", "examples/models/digits.onnx", "--host", &host, "--port", &port];
        let server = Running::start(&arguments, Stdio::null(), Stdio::null());
        self.running.lock().unwrap().insert(pod.uid.clone(), server);
    }

    fn stopping(&self, pod: &Pod) {
        if let Some(server) = self.running.lock().unwrap().get(&pod.uid) {
            server.signal(Signal::SIGTERM);
        }
    }

    fn stopped(&self, pod: &Pod) {
        self.running.lock().unwrap().remove(&pod.uid);
    }
}

impl Town {
    pub(crate) async fn new() -> Self {
        let (cluster, folder) = (Cluster::new(), Folder::new());
        // Taken on one loopback address, most likely free on the others.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Server::start(&cluster, "127.0.0.1:0".parse().unwrap()).await.unwrap();
        server.write_kubeconfig(&folder.file("kubeconfig"), None).unwrap();
        let hooks = Arc::new(ModelServers { port, running: Mutex::default() });
        let start = |_: &Pod| Start::after(Duration::from_millis(100), Duration::from_millis(200));
        let options = WorkloadOptions { script: Arc::new(start), hooks, endpoint_lag: Duration::ZERO };
        let workload = Workload::start(&cluster, options);
        let town = Self { cluster, folder, _server: server, _workload: workload };
        let labels = json!({"app": "digits"});
        town.create(
            "deployments",
            "digits",
            json!({"spec": {"replicas": 0, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": []}}}}),
        );
        town.create("services", "digits", json!({"spec": {"selector": labels, "ports": [{"port": port}]}}));
        town.create("services", "tidegate-gateway", json!({"spec": {"ports": [{"port": 80}]}}));
        // A Lease that was given back is taken at once; a missing one only after a while.
        town.create("leases", "tidegate", json!({"spec": {"holderIdentity": "", "leaseTransitions": 0}}));
        fs::write(town.folder.file("tidegate.yaml"), format!(
            "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nshutdown: {{acceptFor: 0s, drain: 5s}}\n\
             cluster: {{signals: \"127.0.0.1:0\", leaseTiming: fast}}\nmodels:\n  - name: digits\n    \
             fleet: {{kubernetes: {{target: Deployment/digits, port: {port}}}}}\n    slo: {{p99: 500ms}}\n    \
             scaling: {{min: 0, max: 3}}\n"
        )).unwrap();
        town
    }

    /// Has the decisions of processes that start from now on be recorded in this file.
    pub(crate) fn put_on_record(&self) -> PathBuf {
        let (config, record) = (self.folder.file("tidegate.yaml"), self.folder.file("decisions.jsonl"));
        let text = fs::read_to_string(&config).unwrap();
        fs::write(config, format!("record: {{file: \"{}\"}}\n{text}", record.display())).unwrap();
        record
    }

    fn create(&self, resource: &str, name: &str, mut object: Value) {
        object["metadata"] = json!({"namespace": NAMESPACE, "name": name});
        self.cluster.create(resource, object).unwrap();
    }

    /// A process of that role and name.
    pub(crate) async fn start(&self, role: &str, name: &str) -> Node {
        let (file, kubeconfig) = (self.folder.file("tidegate.yaml"), self.folder.file("kubeconfig"));
        let (file, kubeconfig) = (file.display().to_string(), kubeconfig.display().to_string());
        let arguments =
            ["serve", "--config", &file, "--role", role, "--pod-name", name, "--pod-namespace", NAMESPACE];
        let environment = [("KUBECONFIG", kubeconfig.as_str())];
        let mut process = Running::start_in(&arguments, &environment, Stdio::null(), Stdio::piped());
        let log = Lines::default();
        tokio::spawn(keep(BufReader::new(process.child().stderr.take().unwrap()), Arc::clone(&log)));
        let admin = until("the process says where its admin port is", async || {
            address(&log.lock().unwrap(), "status and metrics: http://")
        })
        .await;
        let clients = address(&log.lock().unwrap(), "serving http://");
        Node { process, admin, clients }
    }

    /// Has discovery know these gateways.
    pub(crate) fn list_gateways(&self, names: &[&str]) {
        let endpoint = |name: &&str| {
            json!({"addresses": ["127.0.0.1"], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": name, "namespace": NAMESPACE}})
        };
        let endpoints: Vec<Value> = names.iter().map(endpoint).collect();
        self.cluster
            .create(
                "endpointslices",
                json!({"metadata": {"namespace": NAMESPACE, "name": "gateways",
            "labels": {"kubernetes.io/service-name": "tidegate-gateway"}}, "addressType": "IPv4",
            "ports": [{"port": 8080}], "endpoints": endpoints}),
            )
            .unwrap();
    }

    /// The number of replicas that is asked for.
    pub(crate) fn replicas(&self) -> Value {
        self.cluster.get("deployments", NAMESPACE, "digits").unwrap()["spec"]["replicas"].clone()
    }

    /// Who holds the Lease.
    pub(crate) fn leader(&self) -> String {
        let lease = self.cluster.get("leases", NAMESPACE, "tidegate").unwrap();
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }
}

/// One process of Tidegate.
pub(crate) struct Node {
    process: Running,
    admin: SocketAddr,
    clients: Option<SocketAddr>,
}

impl Node {
    pub(crate) async fn connect(&self) -> Http {
        Http::connect(self.clients.expect("it is a gateway")).await
    }

    pub(crate) async fn admin(&self, path: &str) -> Reply {
        Http::connect(self.admin).await.get(path).await
    }

    pub(crate) async fn why(&self) -> String {
        let answer = self.admin("/api/models/digits/why").await.json();
        answer["text"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub(crate) async fn ended(&mut self) -> Option<i32> {
        self.process.ended().await
    }
}
