use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use fake_cluster::{
    Cluster,
    workload::{Outcome, Pod, PodHooks, Start, Workload, WorkloadOptions},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::deployment;

const SECOND: Duration = Duration::from_secs(1);

fn service(name: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": { "selector": { "app": name }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    })
}

fn start(script: impl Fn(&Pod) -> Start + Send + Sync + 'static) -> (Cluster, Workload) {
    let cluster = Cluster::new();
    let options = WorkloadOptions { script: Arc::new(script), ..WorkloadOptions::default() };
    let workload = Workload::start(&cluster, options);
    (cluster, workload)
}

fn pods(cluster: &Cluster) -> Vec<Value> {
    cluster.list("pods", None)
}

fn condition<'a>(object: &'a Value, name: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|condition| condition["type"] == name).unwrap()
}

fn ready_addresses(cluster: &Cluster) -> usize {
    let slices = cluster.list("endpointslices", None);
    let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true).count()
}

/// A moment for the controllers to do what is due now.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_scheduled_created_warmed_and_ready_in_the_times_of_its_script() {
    let script = Start::after(20 * SECOND, 5 * SECOND).unscheduled_for(10 * SECOND);
    let (cluster, _workload) = start(move |_| script.clone());
    cluster.create("services", service("digits")).unwrap();
    cluster.create("deployments", deployment("digits", 1)).unwrap();
    settle().await;
    let pod = pods(&cluster).remove(0);
    let name = pod["metadata"]["name"].as_str().unwrap();
    let owner = &pod["metadata"]["ownerReferences"][0];
    assert_eq!(owner["kind"], "ReplicaSet");
    assert!(name.starts_with(owner["name"].as_str().unwrap()), "{name}");
    assert_eq!(pod["metadata"]["labels"]["app"], "digits");
    assert!(pod["metadata"]["labels"]["pod-template-hash"].is_string());
    assert_eq!(condition(&pod, "PodScheduled")["reason"], "Unschedulable");
    assert_eq!(
        condition(&pod, "PodScheduled")["message"],
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    );
    sleep(10 * SECOND).await;
    let pod = pods(&cluster).remove(0);
    assert_eq!((&pod["spec"]["nodeName"], &pod["status"]["phase"]), (&json!("node-0"), &json!("Pending")));
    let state = &pod["status"]["containerStatuses"][0]["state"];
    assert_eq!(state["waiting"]["reason"], "ContainerCreating");
    sleep(20 * SECOND).await;
    let pod = pods(&cluster).remove(0);
    assert_eq!(
        (&pod["status"]["phase"], &condition(&pod, "Ready")["status"]),
        (&json!("Running"), &json!("False"))
    );
    assert_eq!(ready_addresses(&cluster), 0);
    sleep(5 * SECOND).await;
    assert_eq!(condition(&pods(&cluster)[0], "Ready")["lastTransitionTime"], "2026-01-01T00:00:35Z");
    assert_eq!(ready_addresses(&cluster), 1);
    let deployment = cluster.get("deployments", "default", "digits").unwrap();
    assert_eq!(deployment["status"]["readyReplicas"], 1);
    assert_eq!(deployment["status"]["observedGeneration"], 1);
    assert_eq!(condition(&deployment, "Available")["status"], "True");
}

#[tokio::test(start_paused = true)]
async fn scaling_down_ends_the_cheapest_pod_in_its_own_time() {
    let (cluster, _workload) = start(|_| Start::default().stopping_for(8 * SECOND));
    cluster.create("services", service("digits")).unwrap();
    cluster.create("deployments", deployment("digits", 3)).unwrap();
    sleep(4 * SECOND).await;
    assert_eq!(ready_addresses(&cluster), 3);
    let victim = pods(&cluster)[1]["metadata"]["name"].as_str().unwrap().to_owned();
    let cost =
        json!({ "metadata": { "annotations": { "controller.kubernetes.io/pod-deletion-cost": "-10" } } });
    cluster.merge("pods", "default", &victim, &cost).unwrap();
    cluster.scale("deployments", "default", "digits", 2).unwrap();
    settle().await;
    let ending = cluster.get("pods", "default", &victim).unwrap();
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 30);
    let slices = cluster.list("endpointslices", None);
    let endpoints = slices[0]["endpoints"].as_array().unwrap();
    let shown = endpoints.iter().find(|endpoint| endpoint["targetRef"]["name"] == *victim).unwrap();
    assert_eq!(shown["conditions"], json!({ "ready": false, "serving": true, "terminating": true }));
    let status = cluster.get("deployments", "default", "digits").unwrap()["status"].clone();
    assert_eq!((&status["replicas"], &status["terminatingReplicas"]), (&json!(2), &json!(1)));
    sleep(8 * SECOND).await;
    assert_eq!(cluster.get("pods", "default", &victim), None);
    assert_eq!((pods(&cluster).len(), ready_addresses(&cluster)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn at_zero_the_service_has_one_slice_without_endpoints() {
    let (cluster, _workload) = start(|_| Start::default());
    cluster.create("services", service("digits")).unwrap();
    cluster.create("deployments", deployment("digits", 1)).unwrap();
    sleep(4 * SECOND).await;
    cluster.scale("deployments", "default", "digits", 0).unwrap();
    sleep(2 * SECOND).await;
    let slices = cluster.list("endpointslices", None);
    assert_eq!((slices.len(), &slices[0]["endpoints"], &slices[0]["ports"]), (1, &Value::Null, &Value::Null));
    assert!(cluster.get("deployments", "default", "digits").unwrap()["status"].get("replicas").is_none());
}

#[tokio::test(start_paused = true)]
async fn unschedulable_pods_wait_for_another_script() {
    let (cluster, workload) = start(|_| Start::unschedulable());
    cluster.create("deployments", deployment("digits", 2)).unwrap();
    sleep(600 * SECOND).await;
    assert!(pods(&cluster).iter().all(|pod| pod["spec"]["nodeName"].is_null()));
    workload.script(|_| Start::default()).await;
    sleep(4 * SECOND).await;
    assert!(pods(&cluster).iter().all(|pod| condition(pod, "Ready")["status"] == "True"));
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_backs_off_longer_each_time() {
    let (cluster, _workload) = start(|_| Start::default().ending(Outcome::CrashLoop(5 * SECOND)));
    cluster.create("deployments", deployment("digits", 1)).unwrap();
    sleep(8 * SECOND).await;
    let status = pods(&cluster)[0]["status"]["containerStatuses"][0].clone();
    assert_eq!((&status["restartCount"], &status["ready"]), (&json!(0), &json!(false)));
    assert_eq!(status["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 1);
    sleep(10 * SECOND).await;
    let status = pods(&cluster)[0]["status"]["containerStatuses"][0].clone();
    assert_eq!((&status["restartCount"], status["state"]["running"].is_object()), (&json!(1), true));
    sleep(60 * SECOND).await;
    assert_eq!(pods(&cluster)[0]["status"]["containerStatuses"][0]["restartCount"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_template_replaces_pods_without_going_below_what_is_wanted() {
    let (cluster, _workload) = start(|_| Start::default());
    let mut digits = deployment("digits", 4);
    digits["spec"]["strategy"] = json!({
        "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 },
    });
    cluster.create("services", service("digits")).unwrap();
    cluster.create("deployments", digits).unwrap();
    sleep(4 * SECOND).await;
    let image =
        json!({ "spec": { "template": { "spec": { "containers": [{ "name": "c", "image": "y" }] } } } });
    cluster.merge("deployments", "default", "digits", &image).unwrap();
    let begun = Instant::now();
    let mut least = usize::MAX;
    while begun.elapsed() < 30 * SECOND {
        sleep(SECOND / 4).await;
        least = least.min(ready_addresses(&cluster));
    }
    assert_eq!(least, 4);
    let images: Vec<Value> =
        pods(&cluster).iter().map(|pod| pod["spec"]["containers"][0]["image"].clone()).collect();
    assert_eq!(images, vec![json!("y"); 4]);
    assert_eq!(cluster.list("replicasets", None).len(), 2);
    let status = cluster.get("deployments", "default", "digits").unwrap()["status"].clone();
    assert_eq!((&status["updatedReplicas"], &status["replicas"]), (&json!(4), &json!(4)));
}

#[derive(Default)]
struct Recorder {
    said: Mutex<Vec<String>>,
}

impl PodHooks for Recorder {
    fn address(&self, pod: &Pod, _: u64) -> IpAddr {
        format!("127.0.0.{}", pod.number + 10).parse().unwrap()
    }

    fn started(&self, pod: &Pod, address: IpAddr) {
        self.said.lock().unwrap().push(format!("started {} {address}", pod.deployment));
    }

    fn stopping(&self, pod: &Pod) {
        self.said.lock().unwrap().push(format!("stopping {}", pod.number));
    }

    fn stopped(&self, pod: &Pod) {
        self.said.lock().unwrap().push(format!("stopped {}", pod.number));
    }
}

#[tokio::test(start_paused = true)]
async fn hooks_follow_a_pod_and_a_deleted_deployment_takes_its_pods_along() {
    let cluster = Cluster::new();
    let recorder = Arc::new(Recorder::default());
    let hooks = recorder.clone();
    let _workload = Workload::start(&cluster, WorkloadOptions { hooks, ..WorkloadOptions::default() });
    cluster.create("deployments", deployment("digits", 1)).unwrap();
    sleep(4 * SECOND).await;
    assert_eq!(pods(&cluster)[0]["status"]["podIP"], "127.0.0.10");
    cluster.delete("deployments", "default", "digits").unwrap();
    sleep(2 * SECOND).await;
    assert_eq!((pods(&cluster).len(), cluster.list("replicasets", None).len()), (0, 0));
    assert_eq!(*recorder.said.lock().unwrap(), ["started digits 127.0.0.10", "stopping 0", "stopped 0"]);
}

#[tokio::test(start_paused = true)]
async fn readiness_lag_and_crashes_can_be_played() {
    let (cluster, workload) = start(|_| Start::default());
    cluster.create("services", service("digits")).unwrap();
    cluster.create("deployments", deployment("digits", 2)).unwrap();
    sleep(4 * SECOND).await;
    let name = pods(&cluster)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    workload.endpoint_lag(10 * SECOND).await;
    workload.unready("default", &name).await;
    sleep(9 * SECOND).await;
    assert_eq!(ready_addresses(&cluster), 2, "the slices lag");
    sleep(2 * SECOND).await;
    assert_eq!(ready_addresses(&cluster), 1);
    workload.ready("default", &name).await;
    workload.endpoint_lag(Duration::ZERO).await;
    workload.crash("default", &name).await;
    sleep(SECOND).await;
    let pod = cluster.get("pods", "default", &name).unwrap();
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "CrashLoopBackOff");
    sleep(20 * SECOND).await;
    assert_eq!(ready_addresses(&cluster), 2, "restarted after ten seconds");
}

#[tokio::test(start_paused = true)]
async fn controllers_stand_still_while_the_server_is_down() {
    let (cluster, _workload) = start(|_| Start::default());
    cluster.create("deployments", deployment("digits", 1)).unwrap();
    settle().await;
    cluster.down();
    sleep(60 * SECOND).await;
    assert_eq!(pods(&cluster)[0]["status"]["phase"], "Pending");
    cluster.up();
    settle().await;
    assert_eq!(pods(&cluster)[0]["status"]["phase"], "Running");
}

#[tokio::test(start_paused = true)]
async fn five_hundred_deployments_of_ten_come_and_go() {
    let (cluster, _workload) = start(|_| Start::default());
    let wall = std::time::SystemTime::now();
    for number in 0..500 {
        let name = format!("model-{number}");
        cluster.create("services", service(&name)).unwrap();
        cluster.create("deployments", deployment(&name, 10)).unwrap();
    }
    sleep(5 * SECOND).await;
    assert_eq!(ready_addresses(&cluster), 5_000);
    for number in 0..500 {
        cluster.scale("deployments", "default", &format!("model-{number}"), 0).unwrap();
    }
    sleep(5 * SECOND).await;
    assert_eq!(pods(&cluster).len(), 0);
    let took = wall.elapsed().unwrap();
    assert!(took < Duration::from_secs(60), "{took:?}");
}
