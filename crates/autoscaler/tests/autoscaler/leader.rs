//! The loop of a leader: it follows the platform's number, asks the gateways before replicas go, and writes nothing
//! that it should not.

use std::{sync::atomic::Ordering, time::Duration};

use autoscaler::{
    decide::Reason,
    fleet::Target,
    log::Outcome,
    policy::{IdleAfter, Mode, Policy},
    reconcile::{Ended, Outlook},
    schedule::{self, OnRequest, Schedule},
    state::State,
};
use jiff::{
    civil::Weekday::{Friday, Monday, Saturday, Sunday, Thursday, Tuesday, Wednesday},
    tz::TimeZone,
};
use tokio::time::{Instant, sleep};

use crate::{
    cluster::{
        Answer, Cluster, Event,
        Event::{Restore, Scale, Withdraw},
        Quiet, Reply, START,
    },
    world::{policy, secs},
};

const MOMENT: Duration = Duration::from_millis(50);

/// Goes to zero after 70 idle seconds: later than a new leader leaves what it finds.
fn short(min: u32, max: u32) -> Policy {
    Policy { idle_after: IdleAfter::Fixed(secs(70)), ..policy(min, max) }
}

fn names(ids: &[&str]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

/// What is asked of anybody next.
async fn until_asked(it: &Cluster) -> Vec<Event> {
    for _ in 0..100_000 {
        let events = it.events();
        if !events.is_empty() {
            return events;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("nothing was asked: {:?}", it.latest())
}

#[tokio::test(start_paused = true)]
async fn the_first_number_is_not_taken_for_a_manual_one() {
    let it = Cluster::start(policy(0, 4), 3).await;
    sleep(secs(10)).await;
    let latest = it.latest();
    assert_eq!((latest.decision.from, latest.decision.reason), (3, Reason::Held), "{latest:?}");
    assert!(it.events().is_empty());
    assert_eq!(it.end().await, Ended::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_number_set_by_hand_is_adopted_at_once_and_said() {
    let it = Cluster::start(policy(1, 4), 1).await;
    sleep(Duration::from_millis(2_500)).await;
    it.platform.set(6, Some("kubectl"));
    sleep(MOMENT).await;
    let first = "want 1, keep 6: kubectl set it from 1 to 6, which stands for another 30 min";
    assert_eq!(it.sentence(), first);
    sleep(secs(1700)).await;
    assert_eq!((it.wanted(), it.events().is_empty()), (6, true));
    sleep(secs(200)).await;
    assert!(it.wanted() <= 4, "{}", it.sentence());
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_wakes_a_model_that_was_set_to_zero_by_hand() {
    let it = Cluster::start(policy(1, 4), 2).await;
    sleep(secs(5)).await;
    it.platform.set(0, Some("kubectl"));
    sleep(secs(30)).await;
    assert!(it.events().is_empty());
    it.gateways.arrive(1);
    sleep(MOMENT).await;
    assert_eq!(it.events(), [Scale(1)]);
    let woke = it.handle.log.recent(10).into_iter().find(|e| e.decision.reason == Reason::FirstRequest);
    let text = autoscaler::explain::sentence(&woke.expect("has woken").decision);
    assert!(text.ends_with("; that ends the 0 that kubectl had set"), "{text}");
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_reply_was_lost_is_not_taken_for_somebody_elses() {
    let it = Cluster::start(policy(0, 4), 0).await;
    it.platform.script([Reply::Lost]);
    sleep(secs(2)).await;
    it.gateways.arrive(1);
    sleep(secs(10)).await;
    assert_eq!(it.events(), [Scale(1)], "seen, so not written again");
    assert_ne!(it.latest().decision.reason, Reason::Override);
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_woke_the_model_itself_has_set_nothing_by_hand() {
    let it = Cluster::start(policy(0, 4), 0).await;
    sleep(secs(2)).await;
    it.gateways.arrivals.fetch_add(1, Ordering::Relaxed);
    it.platform.set(1, None);
    sleep(secs(10)).await;
    assert!(it.events().is_empty());
    assert_ne!(it.latest().decision.reason, Reason::Override);
    assert_eq!(it.wanted(), 1);
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn another_autoscaler_is_left_alone_and_named() {
    let it = Cluster::start(policy(0, 4), 1).await;
    it.platform.modify(|target| target.rival = Some("HorizontalPodAutoscaler/digits".into()));
    it.gateways.arrive(50_000);
    sleep(secs(5)).await;
    it.platform.set(2, Some("horizontal-pod-autoscaler"));
    sleep(secs(60)).await;
    assert!(it.events().is_empty());
    let latest = it.latest();
    assert_eq!(latest.outcome, Outcome::ConflictingAutoscaler("HorizontalPodAutoscaler/digits".into()));
    assert!(latest.decision.to > 2 && latest.decision.reason != Reason::Override, "{latest:?}");
    let why = autoscaler::explain::why("digits", &latest, &[], &|at| format!("{at:?}"));
    assert!(why.contains("ConflictingAutoscaler: HorizontalPodAutoscaler/digits scales it too"), "{why}");
    it.platform.modify(|target| target.rival = None);
    sleep(MOMENT).await;
    assert_eq!(it.scales(), [4], "at once");
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn in_observe_mode_another_autoscaler_is_no_conflict() {
    let it = Cluster::start(Policy { mode: Mode::Observe, ..policy(0, 4) }, 1).await;
    it.platform.modify(|target| target.rival = Some("ScaledObject/digits".into()));
    it.gateways.arrive(50_000);
    sleep(secs(5)).await;
    assert_eq!(it.latest().outcome, Outcome::Observed);
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_not_there_is_tried_at_long_intervals_and_told_to_those_who_wait() {
    let it = Cluster::start(policy(0, 4), 0).await;
    let words = "deployments.apps \"digits\" not found";
    it.platform.modify(|target| *target = Target { trouble: Some(words.into()), ..Target::default() });
    it.platform.script([Reply::Unavailable; 100]);
    it.gateways.arrive(1);
    sleep(secs(300)).await;
    let tries = it.scales().len();
    assert!((9..=11).contains(&tries), "{tries}");
    let failed = Outlook::Failed { trouble: Some(words.into()) };
    assert_eq!(*it.handle.outlook.borrow(), failed);
    assert!(it.sentence().ends_with(&format!("; the number cannot be set: {words}")), "{}", it.sentence());
    it.platform.replies_end();
    it.platform.modify(|target| *target = Target { replicas: Some(0), ..Target::default() });
    sleep(MOMENT).await;
    assert_eq!(it.scales(), [1], "at once when it is there");
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn before_the_number_was_read_nothing_is_written() {
    let it = Cluster::start(policy(0, 4), 0).await;
    let unread = Target { unheard_since: Some(Instant::now()), ..Target::default() };
    it.platform.modify(|target| *target = unread);
    it.gateways.arrive(1);
    sleep(secs(5)).await;
    assert!(it.events().is_empty());
    assert!(matches!(it.latest().outcome, Outcome::Kept(_)));
    it.platform.modify(|target| *target = Target { replicas: Some(3), ..Target::default() });
    sleep(secs(5)).await;
    assert!(it.events().is_empty(), "there are three already");
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_gateways_let_go_of_the_least_busy_before_it_goes() {
    let it = Cluster::start(short(1, 8), 4).await;
    *it.gateways.loads.lock().expect("no test panics with it") =
        vec![("pod-0", 2), ("pod-1", 1), ("pod-2", 0), ("pod-3", 5)];
    let events = until_asked(&it).await;
    assert_eq!(events, [Withdraw(names(&["pod-2"]), Quiet::No), Scale(3)]);
    assert_eq!(it.wanted(), 3);
    assert!(it.handle.log.recent(2).iter().any(|e| e.outcome == Outcome::Applied));
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn replicas_that_are_not_ready_go_first_and_nobody_has_to_let_go_of_them() {
    let it = Cluster::start(short(1, 8), 2).await;
    sleep(secs(100)).await;
    it.events();
    it.platform.set(4, Some("kubectl"));
    sleep(Duration::from_millis(100)).await;
    // A platform on which the number can be lowered while two of four still start.
    let it = Cluster::lead(short(1, 2), it.platform.clone(), it.gateways.clone());
    sleep(Duration::from_millis(100)).await;
    assert_eq!(it.events(), [Scale(2)], "{}", it.sentence());
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn before_zero_the_gateways_are_asked_to_be_quiet() {
    let it = Cluster::start(short(0, 4), 1).await;
    let begun = Instant::now();
    assert_eq!(until_asked(&it).await, [Withdraw(names(&["pod-0"]), Quiet::Yes), Scale(0)]);
    assert!(begun.elapsed() >= secs(70));
    sleep(secs(5)).await;
    assert!(it.events().is_empty());
    assert_eq!(*it.handle.outlook.borrow(), Outlook::Asleep);
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_keeps_the_replicas_and_they_are_asked_for_again_ever_less_often() {
    let it = Cluster::start(short(0, 4), 1).await;
    it.gateways.script([Answer::Refuse("gateway-b has 2 calls running"); 5]);
    until_asked(&it).await;
    let latest = it.latest();
    assert_eq!(latest.outcome, Outcome::Kept("gateway-b has 2 calls running".into()));
    let why = autoscaler::explain::why("digits", &latest, &[], &|at| format!("{at:?}"));
    assert!(why.contains("(not written: gateway-b has 2 calls running)"), "{why}");
    sleep(Duration::from_millis(1100)).await;
    let asked = Withdraw(names(&["pod-0"]), Quiet::Yes);
    assert_eq!(it.events(), vec![asked.clone()], "at the next decision");
    sleep(secs(8)).await;
    assert_eq!(
        it.events(),
        [asked.clone(), asked.clone(), asked],
        "after 1, 2 and 4 s: there is nothing to restore"
    );
    sleep(secs(8)).await;
    assert_eq!(it.scales(), [0]);
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn gateways_that_do_not_answer_are_not_waited_for_longer_than_they_may_hold_calls() {
    for (policy, replicas, limit) in [(short(0, 4), 1, 2), (short(1, 4), 2, 5)] {
        let it = Cluster::start(policy, replicas).await;
        it.gateways.script([Answer::Never; 2]);
        until_asked(&it).await;
        let asked = Instant::now();
        assert!(matches!(until_asked(&it).await[..], [Restore, Withdraw(..)]));
        assert!(asked.elapsed() <= secs(limit) + MOMENT, "{:?}", asked.elapsed());
        assert_eq!(it.wanted(), replicas);
        let words = format!("not every gateway has agreed within {limit} s");
        sleep(MOMENT).await;
        let told = it.handle.log.recent(10);
        assert!(told.iter().any(|e| e.outcome == Outcome::Kept(words.as_str().into())), "{told:?}");
        it.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_during_the_handshake_before_zero_keeps_the_replica() {
    let it = Cluster::start(short(0, 4), 1).await;
    it.gateways.script([Answer::AgreeAfter(secs(1))]);
    assert_eq!(until_asked(&it).await, [Withdraw(names(&["pod-0"]), Quiet::Yes)]);
    sleep(Duration::from_millis(500)).await;
    it.gateways.arrive(500);
    sleep(MOMENT).await;
    assert_eq!(it.events(), [Restore], "at once");
    sleep(secs(3)).await;
    assert!(it.scales().iter().all(|n| *n > 1), "more, if anything");
    assert!(it.wanted() >= 1);
    assert!(it.handle.log.recent(10).iter().any(|e| e.outcome == Outcome::Kept("a request came".into())));
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_as_the_last_gateway_agrees_keeps_the_replica_too() {
    let it = Cluster::start(short(0, 4), 1).await;
    it.gateways.script([Answer::AgreeAfter(secs(1))]);
    until_asked(&it).await;
    let gateways = it.gateways.clone();
    sleep(secs(1) - Duration::from_millis(10)).await;
    gateways.arrive(1);
    sleep(secs(1)).await;
    assert_eq!(it.events(), [Restore]);
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_after_zero_was_written_wakes_the_model_again() {
    let it = Cluster::start(short(0, 4), 1).await;
    assert_eq!(until_asked(&it).await.last(), Some(&Scale(0)));
    it.gateways.arrive(1);
    sleep(MOMENT).await;
    assert_eq!(it.events(), [Scale(1)]);
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn where_a_schedule_has_calls_refused_they_keep_no_replica() {
    let days = [Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday].into();
    // The loop begins at 13:46:40.
    let siesta = Schedule {
        name: "siesta".into(),
        timezone: TimeZone::UTC,
        days,
        from: 13 * 60 + 50,
        to: 16 * 60,
        bounds: schedule::Bounds::Between { floor: None, cap: Some(0) },
        on_request: OnRequest::Reject,
        prewarm: None,
    };
    let it = Cluster::start(Policy { schedules: vec![siesta], ..policy(0, 4) }, 1).await;
    it.gateways.script([Answer::AgreeAfter(secs(3))]);
    sleep(secs(190)).await;
    assert!(it.events().is_empty());
    assert_eq!(until_asked(&it).await, [Withdraw(names(&["pod-0"]), Quiet::No)]);
    sleep(secs(1)).await;
    it.gateways.arrive(1);
    it.gateways.served();
    sleep(secs(3)).await;
    assert_eq!(it.events(), [Scale(0)], "{:?}", it.latest());
    assert!(matches!(*it.handle.outlook.borrow(), Outlook::Off { until: Some(_) }));
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_leader_has_learned_can_be_handed_on() {
    let it = Cluster::start(policy(0, 4), 0).await;
    it.gateways.arrive(1);
    sleep(secs(10)).await;
    let digest = it.handle.digest();
    assert_eq!(digest.weight(), 201, "a start and the calls");
    let next = State::from_digest(&digest.to_json(), secs(1_000_020)).expect("was just made");
    assert_eq!(next.digest().weight(), digest.weight());
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_gives_the_replicas_back() {
    for reply in [Reply::Unavailable, Reply::Conflict, Reply::Hangs] {
        let it = Cluster::start(short(0, 4), 1).await;
        it.platform.script([reply]);
        let mut events = until_asked(&it).await;
        sleep(secs(10)).await;
        events.extend(it.events());
        let asked = Withdraw(names(&["pod-0"]), Quiet::Yes);
        assert_eq!(events[..3], [asked.clone(), Scale(0), Restore], "{reply:?}");
        sleep(secs(5)).await;
        events.extend(it.events());
        assert_eq!(events[3..5], [asked, Scale(0)], "{reply:?}");
        it.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_stopped_during_the_handshake_or_the_write_gives_the_replicas_back() {
    let it = Cluster::start(short(0, 4), 1).await;
    it.gateways.script([Answer::Never]);
    until_asked(&it).await;
    let platform = it.platform.clone();
    let gateways = it.gateways.clone();
    it.stop.cancel();
    sleep(MOMENT).await;
    assert_eq!(it.events(), [Restore]);
    it.end().await;

    platform.script([Reply::Hangs]);
    let it = Cluster::lead(short(0, 4), platform, gateways);
    assert!(matches!(until_asked(&it).await[..], [Withdraw(..), Scale(0)]));
    it.stop.cancel();
    sleep(MOMENT).await;
    assert_eq!(it.events(), [Restore]);
    assert_eq!(it.end().await, Ended::Stopped);
}

#[tokio::test(start_paused = true)]
async fn news_from_the_platform_during_the_handshake_ends_it() {
    let it = Cluster::start(short(1, 4), 3).await;
    it.gateways.script([Answer::AgreeAfter(secs(1))]);
    until_asked(&it).await;
    it.platform.modify(|target| target.rollout = true);
    sleep(secs(2)).await;
    assert_eq!(it.events(), [Restore]);
    sleep(secs(60)).await;
    assert!(it.events().is_empty(), "nothing goes while replicas are exchanged");
    assert!(it.sentence().contains("replicas are being exchanged"), "{}", it.sentence());
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_does_not_lead_any_more_writes_and_tells_nothing_more() {
    let it = Cluster::start(policy(0, 4), 0).await;
    it.platform.script([Reply::Deposed]);
    sleep(secs(2)).await;
    let told = it.gateways.told().len();
    it.gateways.arrive(10_000);
    sleep(secs(60)).await;
    assert_eq!(it.events(), [Scale(4)], "and nothing is retried");
    assert_eq!(it.gateways.told().len(), told);
    let refused = Outcome::Failed("this process does not lead any more".into());
    assert_eq!(it.latest().outcome, refused);
    let (platform, gateways) = (it.platform.clone(), it.gateways.clone());
    assert_eq!(it.end().await, Ended::Deposed);
    let other = Cluster::lead(policy(0, 4), platform, gateways);
    sleep(MOMENT).await;
    assert!(matches!(other.events()[..], [Scale(_)]), "whoever leads does");
    other.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_storm_at_zero_is_one_write() {
    let it = Cluster::start(policy(0, 4), 0).await;
    sleep(Duration::from_millis(2_300)).await;
    let asked = Instant::now();
    for _ in 0..100 {
        it.gateways.arrive(100);
    }
    while it.wanted() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(asked.elapsed() <= Duration::from_millis(20), "{:?}", asked.elapsed());
    sleep(secs(10)).await;
    assert_eq!(it.events(), [Scale(4)]);
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_platform_under_load_ends_with_the_latest_decision_only() {
    let it = Cluster::start(policy(1, 8), 2).await;
    sleep(secs(400)).await;
    it.events();
    let there = it.wanted();
    it.platform.script([Reply::Unavailable; 100]);
    it.platform.modify(|target| target.unheard_since = Some(Instant::now()));
    it.gateways.arrive(5_000);
    sleep(secs(300)).await;
    assert!(it.scales().iter().all(|n| *n > there), "tried to grow, never to shrink");
    it.gateways.served();
    it.platform.replies_end();
    it.platform.modify(|target| target.unheard_since = None);
    let back = Instant::now();
    while back.elapsed() < secs(60) {
        assert!(it.wanted() >= there);
        sleep(secs(1)).await;
    }
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_gateways_are_told_each_decision_and_what_to_expect() {
    let it = Cluster::start(policy(0, 4), 0).await;
    sleep(secs(5)).await;
    assert!(it.gateways.told().iter().all(|told| *told == (0, Outlook::Asleep)));
    assert!(it.gateways.told().len() >= 5, "each second");
    it.gateways.arrive(1);
    sleep(MOMENT).await;
    assert!(
        it.gateways
            .told()
            .iter()
            .any(|(to, outlook)| (*to, outlook) == (1, &Outlook::Starting { eta: None }))
    );
    sleep(START).await;
    assert_eq!(it.gateways.told().last(), Some(&(1, Outlook::Ready)));
    it.end().await;
}
