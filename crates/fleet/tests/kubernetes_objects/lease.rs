//! Elections among processes, on a cluster in memory and a paused clock.

use std::time::Duration;

use fake_cluster::{Calls, Fault, Refusal, Verb};
use fleet::kubernetes::lease::{Election, Standing, Timing};
use futures_util::FutureExt as _;
use serde_json::json;
use tokio::time::{Instant, advance, sleep};

use crate::stage::{
    LEASE, NAMESPACE, calls_of, config, fake, follows, install_lease, leads, seen_by, stand, until,
};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Two processes, the first of which leads.
async fn pair(fake: &fake_cluster::Cluster) -> (Election, Election) {
    install_lease(fake);
    let a = stand(fake, "a");
    assert_eq!(leads(&a).await, 1);
    let b = stand(fake, "b");
    follows(&b, "a").await;
    (a, b)
}

#[tokio::test(start_paused = true)]
async fn the_first_process_leads_at_once_and_says_where_it_hears() {
    let fake = fake();
    install_lease(&fake);
    let start = Instant::now();
    let a = stand(&fake, "a");
    assert_eq!(leads(&a).await, 1);
    assert!(start.elapsed() < seconds(1));
    assert_eq!(a.fence().epoch(), Some(1));
    let lease = fake.get("leases", NAMESPACE, LEASE).unwrap();
    assert_eq!(lease["metadata"]["annotations"]["tidegate.dev/signals"], "a.example:9091");
    assert_eq!(lease["spec"]["holderIdentity"], "a");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 15);
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_followed_within_seventeen_seconds_or_seven_if_fast() {
    for (timing, bound) in [(Timing::default(), seconds(17)), (Timing::fast(), seconds(7))] {
        let fake = fake();
        install_lease(&fake);
        let [a, b] = ["a", "b"].map(|name| Election::start(&seen_by(&fake, name), config(name, timing)));
        leads(&a).await;
        follows(&b, "a").await;
        sleep(seconds(60)).await;
        let killed = Instant::now();
        drop(a);
        assert_eq!(leads(&b).await, 2);
        assert!(killed.elapsed() <= bound, "{:?}", killed.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_resigns_is_followed_within_three_seconds() {
    let fake = fake();
    let (a, b) = pair(&fake).await;
    let fence = a.fence();
    let start = Instant::now();
    a.resign().await;
    assert!(!fence.holds());
    assert_eq!(leads(&b).await, 2);
    assert!(start.elapsed() <= seconds(3), "{:?}", start.elapsed());
    assert_eq!(*a.standing().borrow(), Standing::Following { leader: None });
}

#[tokio::test(start_paused = true)]
async fn resigning_ends_soon_also_when_nobody_answers() {
    let fake = fake();
    let (a, _b) = pair(&fake).await;
    fake.faults().always(calls_of("a"), Fault::Hang);
    let start = Instant::now();
    a.resign().await;
    assert!(start.elapsed() <= seconds(5), "{:?}", start.elapsed());
    assert!(!a.fence().holds());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_steps_down_before_another_leads() {
    for fault in [Fault::Hang, Fault::Drop, Fault::Refuse(Refusal::internal("etcd"))] {
        let fake = fake();
        let (a, b) = pair(&fake).await;
        sleep(seconds(30)).await;
        let cut = Instant::now();
        fake.faults().always(calls_of("a"), fault);
        let (of_a, of_b) = (a.fence(), b.fence());
        let mut down = None;
        while !of_b.holds() {
            assert!(cut.elapsed() <= seconds(17), "nobody leads");
            if !of_a.holds() && down.is_none() {
                down = Some(cut.elapsed());
            }
            sleep(Duration::from_millis(50)).await;
        }
        assert!(!of_a.holds());
        assert!(down.unwrap() <= seconds(10) + Duration::from_millis(50), "{down:?}");
        until(&mut a.standing(), |standing| matches!(standing, Standing::Following { .. })).await;

        fake.faults().clear();
        follows(&a, "b").await;
        sleep(seconds(60)).await;
        assert_eq!((of_a.epoch(), of_b.epoch()), (None, Some(2)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_has_no_fence_when_it_goes_on() {
    let fake = fake();
    let (a, b) = pair(&fake).await;
    let fence = a.fence();
    assert!(fence.holds());
    // Polled once, it moves the clock and lets no task run in between.
    assert!(advance(seconds(30)).now_or_never().is_none());
    assert!(!fence.holds());
    assert_eq!(*a.standing().borrow(), Standing::Leading { epoch: 1 });
    // Either may win now; both cannot.
    sleep(seconds(30)).await;
    assert_ne!(a.fence().holds(), b.fence().holds());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_is_made_again_by_who_leads() {
    let fake = fake();
    let (a, b) = pair(&fake).await;
    fake.delete("leases", NAMESPACE, LEASE).unwrap();
    for _ in 0..400 {
        sleep(Duration::from_millis(50)).await;
        assert!(a.fence().holds() && !b.fence().holds());
    }
    let lease = fake.get("leases", NAMESPACE, LEASE).unwrap();
    assert_eq!(
        (&lease["spec"]["holderIdentity"], &lease["spec"]["leaseTransitions"]),
        (&json!("a"), &json!(1))
    );
}

#[tokio::test(start_paused = true)]
async fn a_missing_lease_is_made_and_never_held_by_two() {
    let fake = fake();
    let elections = ["a", "b", "c"].map(|name| stand(&fake, name));
    for _ in 0..1_200 {
        sleep(Duration::from_millis(50)).await;
        assert!(elections.iter().filter(|election| election.fence().holds()).count() <= 1);
    }
    assert_eq!(elections.iter().filter(|election| election.fence().holds()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn garbage_in_the_lease_is_waited_out() {
    let fake = fake();
    install_lease(&fake);
    let garbage = json!({
        "metadata": {"annotations": {"tidegate.dev/signals": "http://nowhere/"}},
        "spec": {"holderIdentity": "?", "leaseDurationSeconds": 2_000_000_000, "leaseTransitions": 7},
    });
    fake.merge("leases", NAMESPACE, LEASE, &garbage).unwrap();
    let a = stand(&fake, "a");
    assert_eq!(leads(&a).await, 8);
}

#[tokio::test(start_paused = true)]
async fn lost_answers_and_conflicts_do_not_end_a_reign() {
    let fake = fake();
    let (a, b) = pair(&fake).await;
    let writes = || calls_of("a").verb(Verb::Update);
    for fault in [
        Fault::LoseReply,
        Fault::LoseReplyAndHang,
        Fault::Refuse(Refusal::scripted_conflict()),
        Fault::Refuse(Refusal::too_many_requests(seconds(1))),
        Fault::Refuse(Refusal::unavailable()),
    ] {
        fake.faults().times(2, writes(), fault);
        for _ in 0..400 {
            sleep(Duration::from_millis(50)).await;
            assert!(a.fence().holds() && !b.fence().holds());
        }
    }
    assert_eq!(a.fence().epoch(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn an_acquisition_whose_answer_is_lost_is_taken_up() {
    let fake = fake();
    install_lease(&fake);
    fake.faults().once(calls_of("a").verb(Verb::Update), Fault::LoseReply);
    let start = Instant::now();
    let a = stand(&fake, "a");
    leads(&a).await;
    assert!(start.elapsed() <= seconds(5), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn when_the_api_server_was_away_for_five_minutes_one_leads_again() {
    let fake = fake();
    let (a, b) = pair(&fake).await;
    fake.down();
    sleep(seconds(300)).await;
    assert!(!a.fence().holds() && !b.fence().holds());
    fake.up();
    let back = Instant::now();
    while !a.fence().holds() && !b.fence().holds() {
        assert!(back.elapsed() <= seconds(3), "nobody leads");
        sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..600 {
        sleep(Duration::from_millis(50)).await;
        assert!(!(a.fence().holds() && b.fence().holds()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_greater_epoch_is_taken_on_in_office() {
    let fake = fake();
    let (a, b) = pair(&fake).await;
    a.outrank(812).await;
    until(&mut a.standing(), |standing| *standing == Standing::Leading { epoch: 813 }).await;
    assert_eq!(a.fence().epoch(), Some(813));
    drop(a);
    assert_eq!(leads(&b).await, 814);
}

#[tokio::test(start_paused = true)]
async fn an_hour_in_office_costs_some_thirty_calls_a_minute_each() {
    let fake = fake();
    let (a, _b) = pair(&fake).await;
    let start = Instant::now();
    sleep(seconds(3_600)).await;
    for process in ["a", "b"] {
        let calls = fake.log().count_since(start, &Calls::any().caller(process));
        assert!((60 * 30..60 * 45).contains(&calls), "{process}: {calls}");
    }
    assert_eq!(a.fence().epoch(), Some(1));
}
