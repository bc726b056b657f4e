//! Writing the number when the API server misbehaves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use autoscaler::fleet::{Fleet as _, ScaleError};
use fake_cluster::{Calls, Fault, Refusal, Verb};
use fleet::kubernetes::fleet::KubernetesFleet;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::stage::{Stage, calls, fake, ready, until, until_told};

const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

fn patches() -> Calls {
    calls().verb(Verb::Patch).resource("deployments/scale")
}

/// A fleet of `number` replicas that it knows of.
async fn known(stage: &Stage, number: u32) -> KubernetesFleet {
    stage.deploy(number).await;
    let fleet = stage.fleet("Deployment/digits");
    until(&mut fleet.target(), |target| target.replicas == Some(number)).await;
    fleet
}

fn words(result: Result<(), ScaleError>) -> String {
    match result {
        Err(ScaleError::Unavailable(words)) => words.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_with_a_changed_status_is_tried_again_three_times() {
    for (conflicts, done) in [(1, true), (2, true), (3, false)] {
        let (stage, fake) = fake();
        let fleet = known(&stage, 2).await;
        fake.faults().times(conflicts, patches(), Fault::Refuse(Refusal::scripted_conflict()));
        assert_eq!(fleet.scale(3, &[]).await.is_ok(), done);
        assert_eq!(stage.number("deployments").await, if done { 3 } else { 2 });
        let tries = if done { conflicts + 1 } else { 3 };
        assert_eq!(fake.log().calls(&patches()).len(), tries as usize);
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_with_a_changed_number_is_not_tried_again() {
    let (stage, fake) = fake();
    let fleet = known(&stage, 2).await;
    fake.faults().always(calls().verb(Verb::Watch), Fault::StallWatch);
    fake.scale("deployments", "ml", "digits", 5).unwrap();
    assert!(matches!(fleet.scale(3, &[]).await, Err(ScaleError::Conflict)));
    assert_eq!(stage.number("deployments").await, 5);
    assert_eq!(fake.log().calls(&patches()).len(), 1);
    // What was met is known at once, without the watch.
    until(&mut fleet.target(), |target| target.replicas == Some(5)).await;
    fleet.scale(3, &[]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_is_lost_is_resolved_by_reading_and_not_repeated() {
    for lost in [Fault::LoseReply, Fault::LoseReplyAndHang] {
        let (stage, fake) = fake();
        let fleet = known(&stage, 2).await;
        fake.faults().once(patches(), lost);
        fleet.scale(3, &[]).await.unwrap();
        assert_eq!(fake.log().calls(&patches()).len(), 1);
        assert_eq!(fleet.target().borrow().replicas, Some(3));
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_did_not_arrive_is_not_repeated_either() {
    let (stage, fake) = fake();
    let fleet = known(&stage, 2).await;
    for fault in [Fault::Drop, Fault::Hang, Fault::Refuse(Refusal::internal("etcd is away"))] {
        let before = fake.log().calls(&patches()).len();
        fake.faults().once(patches(), fault);
        words(fleet.scale(3, &[]).await);
        assert_eq!(fake.log().calls(&patches()).len(), before + 1);
    }
    assert_eq!(stage.number("deployments").await, 2);
    fleet.scale(3, &[]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_write_goes_on_when_its_caller_does_not_wait_and_another_is_not_begun() {
    let (stage, fake) = fake();
    let fleet = known(&stage, 2).await;
    fake.faults().once(patches(), Fault::Delay(Duration::from_secs(4)));
    timeout(Duration::from_secs(1), fleet.scale(3, &[])).await.unwrap_err();
    assert_eq!(words(fleet.scale(4, &[]).await), "the last write is still under way");
    sleep(Duration::from_secs(4)).await;
    assert_eq!(fleet.target().borrow().replicas, Some(3));
    fleet.scale(4, &[]).await.unwrap();
    assert_eq!(fake.log().calls(&patches()).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_by_who_does_not_lead_any_more() {
    let (stage, fake) = fake();
    stage.deploy(2).await;
    let leads = Arc::new(AtomicBool::new(false));
    let fence = Arc::clone(&leads);
    let fleet = stage.fleet_that("Deployment/digits", Arc::new(move || fence.load(Ordering::Relaxed)));
    until(&mut fleet.target(), |target| target.replicas == Some(2)).await;
    assert!(matches!(fleet.scale(3, &[]).await, Err(ScaleError::Deposed)));

    // Deposed between two tries.
    leads.store(true, Ordering::Relaxed);
    fake.faults().once(patches(), Fault::Refuse(Refusal::scripted_conflict()));
    fake.faults()
        .once(calls().verb(Verb::Get).resource("deployments/scale"), Fault::Delay(Duration::from_secs(2)));
    let write = fleet.scale(3, &[]);
    let depose = async {
        sleep(Duration::from_secs(1)).await;
        leads.store(false, Ordering::Relaxed);
    };
    let (result, ()) = tokio::join!(write, depose);
    assert!(matches!(result, Err(ScaleError::Deposed)));
    assert_eq!(stage.number("deployments").await, 2);
    assert_eq!(fake.log().calls(&patches()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_not_allowed_is_a_trouble_that_names_what_is_missing() {
    let (stage, fake) = fake();
    let fleet = known(&stage, 2).await;
    let forbidden = fake.faults().always(patches(), Fault::Refuse(Refusal::forbidden("no")));
    let missing = "not allowed to patch deployments.apps/scale in namespace ml";
    assert_eq!(words(fleet.scale(3, &[]).await), missing);
    let mut target = fleet.target();
    let seen = until(&mut target, |target| target.trouble.is_some()).await;
    assert_eq!(seen.trouble.as_deref(), Some(missing));
    // Allowed by now, perhaps: that shows only when it is tried again.
    let told = Instant::now();
    until(&mut target, |target| target.trouble.is_none()).await;
    assert!(told.elapsed() <= Duration::from_secs(60), "{:?}", told.elapsed());
    forbidden.off();
    fleet.scale(3, &[]).await.unwrap();
}

async fn three_ready(stage: &Stage) -> KubernetesFleet {
    for name in ["a", "b", "c"] {
        stage.pod(name, &ready()).await;
    }
    stage.merge("pods", "b", &json!({"metadata": {"annotations": {COST: "7"}}})).await;
    let fleet = known(stage, 3).await;
    until_told(&mut fleet.replicas(), "a Ready, b Ready, c Ready").await;
    fleet
}

async fn costs(stage: &Stage) -> [Value; 3] {
    let mut costs = [Value::Null, Value::Null, Value::Null];
    for (cost, name) in costs.iter_mut().zip(["a", "b", "c"]) {
        *cost = stage.get("pods", name).await["metadata"]["annotations"][COST].take();
    }
    costs
}

#[tokio::test(start_paused = true)]
async fn marks_are_taken_back_when_the_number_was_not_written() {
    let (stage, fake) = fake();
    let fleet = three_ready(&stage).await;
    fake.faults().once(patches(), Fault::Refuse(Refusal::forbidden("no")));
    words(fleet.scale(1, &["b".into(), "a".into()]).await);
    assert_eq!(costs(&stage).await, [Value::Null, json!("7"), Value::Null]);
    assert_eq!(fake.log().calls(&calls().verb(Verb::Patch).resource("pods")).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn marks_stay_while_nobody_knows_whether_the_number_was_written() {
    let (stage, fake) = fake();
    let fleet = three_ready(&stage).await;
    fake.faults().once(patches(), Fault::Drop);
    words(fleet.scale(2, &["b".into()]).await);
    assert_eq!(costs(&stage).await, [Value::Null, json!("-2147483647"), Value::Null]);
}

#[tokio::test(start_paused = true)]
async fn marks_that_fail_or_hang_hold_nothing_up_for_long() {
    let (stage, fake) = fake();
    let fleet = three_ready(&stage).await;
    let pods = || calls().verb(Verb::Patch).resource("pods");
    fake.faults().once(pods(), Fault::Refuse(Refusal::forbidden("no")));
    fleet.scale(2, &["a".into()]).await.unwrap();
    fake.faults().always(pods(), Fault::Hang);
    let start = Instant::now();
    fleet.scale(1, &["b".into()]).await.unwrap();
    assert!(start.elapsed() <= Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(stage.number("deployments").await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_took_the_name_of_a_victim_is_not_marked() {
    let (stage, fake) = fake();
    let fleet = three_ready(&stage).await;
    fake.faults().always(calls().verb(Verb::Watch), Fault::StallWatch);
    fake.delete("pods", "ml", "a").unwrap();
    stage.pod("a", &ready()).await;
    fleet.scale(2, &["a".into()]).await.unwrap();
    assert_eq!(costs(&stage).await[0], Value::Null);
}
