//! What a gateway sees of replicas, and how soon.

use std::{sync::Arc, time::Duration};

use autoscaler::fleet::Phase;
use fake_cluster::Change;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::stage::{Models, endpoint, fake, leaving, told, until, until_told};

#[tokio::test(start_paused = true)]
async fn a_replica_is_ready_within_milliseconds_of_its_slice() {
    let (stage, _fake) = fake();
    let models = Models::default();
    let endpoints = stage.endpoints(&models);
    let mut replicas = endpoints.replicas();
    stage.slice(&[]).await;
    sleep(Duration::from_secs(1_000)).await;
    let start = Instant::now();
    stage.slice(&[endpoint("a", "10.0.0.1", true)]).await;
    let seen = until_told(&mut replicas, "a Ready").await;
    assert!(start.elapsed() <= Duration::from_millis(5), "{:?}", start.elapsed());
    assert!(seen[0].ready_since.is_some_and(|since| since >= start));
}

#[tokio::test(start_paused = true)]
async fn a_ready_replica_is_not_asked_again_as_long_as_kubernetes_calls_it_ready() {
    let (stage, _fake) = fake();
    let models = Models::default();
    let endpoints = stage.endpoints(&models);
    let mut replicas = endpoints.replicas();
    stage.slice(&[endpoint("a", "10.0.0.1", true)]).await;
    until_told(&mut replicas, "a Ready").await;
    models.load("10.0.0.1:8001");
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!((models.asked(), told(&replicas.borrow()).as_str()), (1, "a Ready"));
    // It was restarted, say: the model has to be loaded again.
    stage.slice(&[endpoint("a", "10.0.0.1", false)]).await;
    until_told(&mut replicas, "a Starting").await;
    stage.slice(&[endpoint("a", "10.0.0.1", true)]).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(told(&replicas.borrow()), "a Starting");
    models.loaded("10.0.0.1:8001");
    until_told(&mut replicas, "a Ready").await;
}

#[tokio::test(start_paused = true)]
async fn another_pod_or_address_of_the_name_is_another_replica() {
    let (stage, _fake) = fake();
    let models = Models::default();
    let endpoints = stage.endpoints(&models);
    let mut replicas = endpoints.replicas();
    stage.slice(&[endpoint("digits-0", "10.0.0.1", true)]).await;
    let old = until_told(&mut replicas, "digits-0 Ready").await;
    sleep(Duration::from_secs(1)).await;

    models.load("10.0.0.2:8001");
    stage.slice(&[endpoint("digits-0", "10.0.0.2", true)]).await;
    // The old one still has a call, but the name is its successor's.
    let moved = until_told(&mut replicas, "digits-0 Starting").await;
    assert_eq!(moved[0].address, Some("10.0.0.2:8001".parse().unwrap()));
    drop((old, moved));
    models.loaded("10.0.0.2:8001");
    let seen = until_told(&mut replicas, "digits-0 Ready").await;
    let since = seen[0].ready_since;

    sleep(Duration::from_secs(1)).await;
    let mut successor = endpoint("digits-0", "10.0.0.2", true);
    successor["targetRef"]["uid"] = json!("another");
    stage.slice(&[leaving("digits-0", "10.0.0.2"), successor]).await;
    until(&mut replicas, |all| all.len() == 1 && all[0].phase == Phase::Ready && all[0].ready_since != since)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_with_addresses_of_two_families_keeps_the_one_in_use() {
    let (stage, fake) = fake();
    let models = Models::default();
    let endpoints = stage.endpoints(&models);
    let mut replicas = endpoints.replicas();
    let six = json!({"metadata": {"namespace": "ml", "name": "digits-6",
            "labels": {"kubernetes.io/service-name": "digits"}}, "addressType": "IPv6",
        "endpoints": [endpoint("a", "fd00::1", true)], "ports": [{"name": "grpc", "port": 8001}]});
    fake.create("endpointslices", six).unwrap();
    until_told(&mut replicas, "a Ready").await;
    stage.slice(&[endpoint("a", "10.0.0.1", true)]).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(replicas.borrow()[0].address, Some("[fd00::1]:8001".parse().unwrap()));
    assert_eq!((models.asked(), replicas.borrow().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn events_that_come_late_or_twice_change_nothing() {
    let (stage, fake) = fake();
    let endpoints = stage.endpoints(&Models::default());
    let mut replicas = endpoints.replicas();
    let mut history = Vec::new();
    for state in [
        vec![endpoint("a", "10.0.0.1", true)],
        vec![endpoint("a", "10.0.0.1", true), endpoint("b", "10.0.0.2", true)],
        vec![endpoint("b", "10.0.0.2", true)],
    ] {
        stage.slice(&state).await;
        history.push(fake.get("endpointslices", "ml", "digits-1").unwrap());
    }
    until_told(&mut replicas, "b Ready").await;
    for old in &history {
        fake.replay("endpointslices", Change::Modified, old.clone());
        fake.replay("endpointslices", Change::Deleted, old.clone());
        sleep(Duration::from_millis(100)).await;
        assert_eq!(told(&replicas.borrow()), "b Ready");
    }
    fake.delete("endpointslices", "ml", "digits-1").unwrap();
    until_told(&mut replicas, "").await;
    fake.replay("endpointslices", Change::Added, history[1].clone());
    sleep(Duration::from_millis(100)).await;
    assert_eq!(told(&replicas.borrow()), "");
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_on_once_nobody_looks() {
    let (stage, fake) = fake();
    let models = Models::default();
    models.load("10.0.0.1:8001");
    stage.slice(&[endpoint("a", "10.0.0.1", true)]).await;
    let endpoints = stage.endpoints(&models);
    until_told(&mut endpoints.replicas(), "a Starting").await;
    drop(endpoints);
    sleep(Duration::from_secs(10)).await;
    let (asked, calls) = (models.asked(), fake.log().total());
    sleep(Duration::from_secs(600)).await;
    assert_eq!((models.asked(), fake.log().total()), (asked, calls));
    drop(Arc::new(stage));
}
