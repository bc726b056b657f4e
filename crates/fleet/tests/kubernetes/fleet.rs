//! What an autoscaler sees of replicas: their phases and times, troubles, rivals.

use std::time::Duration;

use autoscaler::fleet::{Fleet as _, Phase};
use fake_cluster::{Fault, Refusal, Verb};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::stage::{calls, fake, ready, running, unschedulable, until, until_told};

#[tokio::test(start_paused = true)]
async fn the_times_of_a_replica_are_those_at_which_it_was_seen() {
    let (stage, _fake) = fake();
    stage.deploy(1).await;
    let fleet = stage.fleet("Deployment/digits");
    let mut replicas = fleet.replicas();
    until(&mut fleet.target(), |target| target.replicas.is_some()).await;
    sleep(Duration::from_secs(100)).await;
    let created = Instant::now();
    stage.pod("a", &unschedulable()).await;
    sleep(Duration::from_secs(60)).await;
    stage.merge("pods/status", "a", &json!({"status": ready()})).await;
    let seen = until_told(&mut replicas, "a Ready").await;
    assert_eq!((seen[0].created, seen[0].ready_since), (created, Some(created + Duration::from_secs(60))));
    drop(seen);

    stage
        .merge("pods/status", "a", &json!({"status": {"conditions": [], "containerStatuses": [running(1)]}}))
        .await;
    let seen = until_told(&mut replicas, "a Starting").await;
    assert_eq!((seen[0].created, seen[0].ready_since, seen[0].restarts), (created, None, 1));
}

#[tokio::test(start_paused = true)]
async fn pods_that_ended_are_none_and_those_that_are_deleted_drain() {
    let (stage, fake) = fake();
    stage.deploy(2).await;
    stage.pod("a", &json!({"phase": "Failed", "reason": "Evicted"})).await;
    fake.create(
        "pods",
        json!({"metadata": {"namespace": "ml", "name": "b", "labels": {"app": "digits"}},
        "spec": {"nodeName": "n", "containers": []}, "status": ready()}),
    )
    .unwrap();
    stage.pod("c", &ready()).await;
    stage.merge("pods", "c", &json!({"metadata": {"labels": {"app": "letters"}}})).await;
    let fleet = stage.fleet("Deployment/digits");
    let mut replicas = fleet.replicas();
    until_told(&mut replicas, "b Ready").await;
    fake.delete_with_grace("pods", "ml", "b", 30).unwrap();
    until_told(&mut replicas, "b Draining").await;
    fake.delete("pods", "ml", "b").unwrap();
    until_told(&mut replicas, "").await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_is_pending_with_its_last_end() {
    let (stage, _fake) = fake();
    stage.deploy(1).await;
    let status = json!({"phase": "Running", "containerStatuses": [{"name": "server", "restartCount": 4,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 1m20s restarting"}},
        "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]});
    stage.pod("a", &status).await;
    let fleet = stage.fleet("Deployment/digits");
    let seen = until(&mut fleet.replicas(), |replicas| !replicas.is_empty()).await;
    assert_eq!((seen[0].phase, seen[0].restarts), (Phase::Pending, 4));
    assert_eq!(seen[0].trouble.as_deref(), Some("CrashLoopBackOff: OOMKilled (exit code 137)"));
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_seen_is_a_trouble_that_names_it() {
    for (verb, resource, missing) in [
        (Verb::List, "deployments", "not allowed to list deployments.apps in namespace ml"),
        (Verb::Get, "deployments/scale", "not allowed to get deployments.apps/scale in namespace ml"),
        (Verb::List, "pods", "not allowed to list pods in namespace ml"),
    ] {
        let (stage, fake) = fake();
        stage.deploy(1).await;
        let meant = calls().verb(verb).resource(resource);
        let forbidden = fake.faults().always(meant, Fault::Refuse(Refusal::forbidden("no")));
        let fleet = stage.fleet("Deployment/digits");
        let mut target = fleet.target();
        let seen = until(&mut target, |target| target.trouble.is_some()).await;
        assert_eq!((seen.replicas, seen.trouble.as_deref()), (None, Some(missing)));
        forbidden.off();
        until(&mut target, |target| target.replicas == Some(1) && target.trouble.is_none()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn until_everything_was_seen_nothing_counts_as_heard() {
    let (stage, fake) = fake();
    stage.deploy(1).await;
    fake.faults().always(calls().verb(Verb::List).resource("pods"), Fault::Delay(Duration::from_secs(5)));
    let (fleet, start) = (stage.fleet("Deployment/digits"), Instant::now());
    assert_eq!(
        (fleet.target().borrow().replicas, fleet.target().borrow().unheard_since),
        (None, Some(start))
    );
    sleep(Duration::from_secs(4)).await;
    assert_eq!(
        (fleet.target().borrow().replicas, fleet.target().borrow().unheard_since),
        (None, Some(start))
    );
    sleep(Duration::from_secs(2)).await;
    assert_eq!((fleet.target().borrow().replicas, fleet.target().borrow().unheard_since), (Some(1), None));
}

#[tokio::test(start_paused = true)]
async fn the_number_is_read_again_only_when_the_specification_changed() {
    let (stage, fake) = fake();
    stage.deploy(1).await;
    let fleet = stage.fleet("Deployment/digits");
    let mut target = fleet.target();
    until(&mut target, |target| target.replicas == Some(1)).await;
    let reads = || fake.log().calls(&calls().verb(Verb::Get).resource("deployments/scale")).len();
    assert_eq!(reads(), 1);
    for seen in 0..20 {
        stage.merge("deployments/status", "digits", &json!({"status": {"replicas": seen}})).await;
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(reads(), 1);
    // Nor after a write of our own: its answer has the number.
    fleet.scale(2, &[]).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(reads(), 1);
    fake.scale("deployments", "ml", "digits", 4).unwrap();
    until(&mut target, |target| target.replicas == Some(4)).await;
    assert_eq!(reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_scaled_object_is_a_rival_once_the_cluster_knows_them() {
    let (stage, fake) = fake();
    stage.deploy(1).await;
    let fleet = stage.fleet("Deployment/digits");
    let mut target = fleet.target();
    until(&mut target, |target| target.replicas.is_some()).await;
    fake.create("customresourcedefinitions", json!({
        "metadata": {"name": "scaledobjects.keda.sh"},
        "spec": {"group": "keda.sh", "scope": "Namespaced",
            "names": {"plural": "scaledobjects", "singular": "scaledobject", "kind": "ScaledObject"},
            "versions": [{"name": "v1alpha1", "served": true, "storage": true, "subresources": {"status": {}}}]},
    })).unwrap();
    let object = json!({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "so"},
        "spec": {"scaleTargetRef": {"name": "digits"}, "triggers": [{"type": "external",
            "metadata": {"scalerAddress": "tidegate-autoscaler:9091"}}]}});
    stage.create("scaledobjects", object).await;
    let start = Instant::now();
    let seen = until(&mut target, |target| target.rival.is_some()).await;
    assert_eq!(seen.rival.as_deref(), Some("ScaledObject/so"));
    assert!(start.elapsed() <= Duration::from_secs(301), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_autoscaler_of_keda_goes_by_the_name_of_its_scaled_object() {
    let (stage, _fake) = fake();
    stage.deploy(1).await;
    let fleet = stage.fleet("Deployment/digits");
    let owner = json!([{"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "so", "uid": "u"}]);
    let autoscaler: Value = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "keda-hpa-so", "ownerReferences": owner}, "spec": {"maxReplicas": 3,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "digits"}}});
    stage.create("horizontalpodautoscalers", autoscaler).await;
    let seen = until(&mut fleet.target(), |target| target.rival.is_some()).await;
    assert_eq!(seen.rival.as_deref(), Some("ScaledObject/so"));
}
