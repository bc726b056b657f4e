//! An API server that is away, forgets, stalls or is overloaded: nobody who is served may notice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use autoscaler::fleet::{Fleet as _, Phase, Replica};
use fake_cluster::{Calls, Fault, Refusal, Verb};
use fleet::kubernetes::Hearing;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::stage::{Models, Stage, calls, endpoint, fake, ready, told, until, until_told};

const MINUTE: Duration = Duration::from_secs(60);

async fn two_endpoints(stage: &Stage) -> watch::Receiver<Arc<[Replica]>> {
    stage.slice(&[endpoint("a", "10.0.0.1", true), endpoint("b", "10.0.0.2", true)]).await;
    let mut replicas = stage.endpoints(&Models::default()).replicas();
    until_told(&mut replicas, "a Ready, b Ready").await;
    replicas
}

/// The fewest ready replicas in any listing from now on.
fn fewest(mut replicas: watch::Receiver<Arc<[Replica]>>) -> Arc<AtomicUsize> {
    let fewest = Arc::new(AtomicUsize::new(usize::MAX));
    let seen = Arc::clone(&fewest);
    tokio::spawn(async move {
        loop {
            let ready = |replica: &&Replica| replica.phase == Phase::Ready;
            seen.fetch_min(replicas.borrow_and_update().iter().filter(ready).count(), Ordering::Relaxed);
            replicas.changed().await.unwrap();
        }
    });
    fewest
}

fn lists(kind: &str) -> Calls {
    calls().verb(Verb::List).resource(kind)
}

#[tokio::test(start_paused = true)]
async fn a_forgetful_api_server_is_listed_again_without_a_flap() {
    let (stage, fake) = fake();
    let mut replicas = two_endpoints(&stage).await;
    let fewest = fewest(replicas.clone());
    for refusal in [None, Some(Refusal::too_large_resource_version(9, 5)), Some(Refusal::expired(5, 9))] {
        sleep(MINUTE).await;
        let before = fake.log().calls(&lists("endpointslices")).len();
        match refusal {
            None => fake.expire_watches(),
            Some(refusal) => {
                fake.faults().once(calls().verb(Verb::Watch), Fault::Refuse(refusal));
                fake.break_connections();
            }
        }
        sleep(Duration::from_secs(5)).await;
        assert_eq!(fake.log().calls(&lists("endpointslices")).len(), before + 1);
    }
    stage
        .slice(&[
            endpoint("a", "10.0.0.1", true),
            endpoint("b", "10.0.0.2", true),
            endpoint("c", "10.0.0.3", true),
        ])
        .await;
    until_told(&mut replicas, "a Ready, b Ready, c Ready").await;
    assert_eq!(fewest.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn what_changed_while_nothing_could_be_heard_is_found_by_the_next_list() {
    let (stage, fake) = fake();
    let mut replicas = two_endpoints(&stage).await;
    fake.down();
    sleep(MINUTE).await;
    // Written by others, before we are back.
    fake.edit("endpointslices", "ml", "digits-1", |slice| {
        slice["endpoints"] =
            serde_json::json!([endpoint("b", "10.0.0.2", true), endpoint("c", "10.0.0.3", true)]);
    })
    .unwrap();
    fake.compact();
    fake.up();
    until_told(&mut replicas, "b Ready, c Ready").await;
}

#[tokio::test(start_paused = true)]
async fn a_stalled_watch_is_noticed_within_a_minute() {
    let (stage, fake) = fake();
    let mut replicas = two_endpoints(&stage).await;
    let opened = Instant::now();
    let stall = fake.faults().always(calls().verb(Verb::Watch), Fault::StallWatch);
    stage.slice(&[endpoint("b", "10.0.0.2", true)]).await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(told(&replicas.borrow()), "a Ready, b Ready");
    // The connection in use stays stalled for ever; only a new one shows anything.
    let mut watches = fake.log().calls(&calls().verb(Verb::Watch).resource("endpointslices")).len();
    while fake.log().calls(&calls().verb(Verb::Watch).resource("endpointslices")).len() == watches {
        sleep(Duration::from_millis(100)).await;
    }
    stall.off();
    watches = usize::from(opened.elapsed() <= MINUTE);
    assert_eq!(watches, 1, "{:?}", opened.elapsed());
    until_told(&mut replicas, "b Ready").await;
}

#[tokio::test(start_paused = true)]
async fn without_the_api_server_endpoints_stay_and_the_number_says_since_when_it_is_old() {
    let (stage, fake) = fake();
    let mut replicas = two_endpoints(&stage).await;
    stage.deploy(1).await;
    stage.pod("a", &ready()).await;
    let fleet = stage.fleet("Deployment/digits");
    let mut target = fleet.target();
    until(&mut target, |target| target.replicas == Some(1)).await;
    let mut hearing = stage.cluster.heard();
    assert_eq!(*hearing.borrow_and_update(), Hearing::Heard);
    let fewest = fewest(replicas.clone());

    sleep(Duration::from_secs(7)).await;
    let away = Instant::now();
    fake.down();
    until(&mut hearing, |hearing| matches!(hearing, Hearing::Silent { .. })).await;
    let seen = until(&mut target, |target| target.unheard_since.is_some()).await;
    assert!(away.elapsed() <= Duration::from_secs(30), "{:?}", away.elapsed());
    assert!(seen.unheard_since.is_some_and(|since| since <= away));
    assert_eq!((seen.replicas, seen.trouble), (Some(1), None));
    sleep(5 * MINUTE).await;
    assert_eq!(told(&fleet.replicas().borrow()), "a Ready");

    let back = Instant::now();
    fake.up();
    until(&mut target, |target| target.unheard_since.is_none()).await;
    assert!(back.elapsed() <= Duration::from_secs(45), "{:?}", back.elapsed());
    assert_eq!(*hearing.borrow_and_update(), Hearing::Heard);
    until_told(&mut replicas, "a Ready, b Ready").await;
    assert_eq!(fewest.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_passing_failure_is_no_news() {
    let (stage, fake) = fake();
    stage.deploy(1).await;
    let fleet = stage.fleet("Deployment/digits");
    let mut target = fleet.target();
    until(&mut target, |target| target.replicas.is_some()).await;
    sleep(MINUTE).await;
    target.borrow_and_update();
    fake.faults().times(4, calls().verb(Verb::Watch), Fault::Refuse(Refusal::unavailable()));
    fake.break_connections();
    sleep(MINUTE).await;
    assert!(!target.has_changed().unwrap(), "{:?}", target.borrow());
}

#[tokio::test(start_paused = true)]
async fn lists_that_fail_become_rare() {
    let (stage, fake) = fake();
    let failing = fake.faults().always(lists("endpointslices"), Fault::Refuse(Refusal::internal("etcd")));
    let mut replicas = stage.endpoints(&Models::default()).replicas();
    stage.slice(&[endpoint("a", "10.0.0.1", true)]).await;
    sleep(MINUTE).await;
    let start = Instant::now();
    sleep(10 * MINUTE).await;
    let lists = fake.log().count_since(start, &lists("endpointslices"));
    assert!((15..=20).contains(&lists), "{lists} lists in ten minutes");
    failing.off();
    until_told(&mut replicas, "a Ready").await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_asks_for_patience_gets_it() {
    let (stage, fake) = fake();
    let patience = Fault::Refuse(Refusal::too_many_requests(Duration::from_secs(50)));
    fake.faults().once(lists("endpointslices"), patience);
    let start = Instant::now();
    let mut replicas = stage.endpoints(&Models::default()).replicas();
    stage.slice(&[endpoint("a", "10.0.0.1", true)]).await;
    until_told(&mut replicas, "a Ready").await;
    let again = fake.log().calls(&lists("endpointslices"))[1].at;
    assert!((50..63).contains(&(again - start).as_secs()), "{:?}", again - start);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_at_once_each_time_is_not_begun_in_a_hurry() {
    let (stage, fake) = fake();
    let _replicas = two_endpoints(&stage).await;
    let start = Instant::now();
    for _ in 0..600 {
        fake.break_connections();
        sleep(Duration::from_millis(100)).await;
    }
    let begun = fake.log().count_since(start, &calls().verb(Verb::Watch));
    assert!(begun <= 10, "{begun} watches in a minute");
}
