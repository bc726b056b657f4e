//! What other days needed at this time: expected after three of them, and by one of them neither raised nor lowered.

use std::time::Duration;

use autoscaler::{
    decide::{Decision, Reason, Zero},
    demand::{Season, Why},
    explain::{sentence, turns, why},
    log::{Entry, Outcome},
    policy::IdleAfter,
    state::State,
};

use crate::world::{World, policy, secs, term};

const STEP: Duration = Duration::from_secs(10);
/// A Monday, 00:00 UTC.
const MONDAY: Duration = Duration::from_secs(1_767_571_200);

fn hours(h: f64) -> Duration {
    Duration::from_secs_f64(h * 3600.0)
}

/// A model on a Monday at midnight with a start of 100 s.
fn office() -> World {
    let mut world = World::with_ready(policy(0, 20), 0);
    world.now = MONDAY;
    world.cold_start = secs(100);
    world.policy.assumed.cold_start = secs(100);
    world
}

/// Time until `hour` of a day, looked at every ten seconds, with the rate that `rate` gives for an hour of the day.
fn until(world: &mut World, day: u32, hour: f64, rate: impl Fn(f64) -> f64) -> Decision {
    let end = MONDAY + hours(24.0) * day + hours(hour);
    loop {
        let time = (world.now - MONDAY).as_secs_f64() / 3600.0 % 24.0;
        world.pass(STEP, rate(time));
        let decision = world.decide();
        world.seen.clear();
        if decision.to != decision.from {
            world.scale(decision.to);
        }
        if world.now >= end {
            return decision;
        }
    }
}

/// Nobody at night, few by day, and a crowd at nine for ten minutes.
fn day(hour: f64) -> f64 {
    match hour {
        h if (9.0..9.17).contains(&h) => 600.0,
        h if (7.0..19.0).contains(&h) => 50.0,
        _ => 0.0,
    }
}

fn season(decision: &Decision) -> Option<Season> {
    decision.terms.iter().find_map(|term| match &term.why {
        Why::Season(season) => Some(*season),
        _ => None,
    })
}

#[test]
fn after_three_days_the_crowd_and_the_opening_are_awaited() {
    let mut world = office();
    until(&mut world, 0, 8.9, day);
    assert!(season(&world.decide()).is_none(), "nothing is known");
    until(&mut world, 1, 9.0, day);
    let shadow = until(&mut world, 2, 8.98, day);
    let found = season(&shadow).expect("two days are known");
    assert!(found.shadow && found.replicas >= 6, "{found:?}");
    assert_eq!((term(&shadow, "season"), world.wanted()), (Some(0), 1));
    let entry = Entry { decision: shadow, outcome: Outcome::Unchanged, observed: None };
    let text = why("digits", &entry, &[], &|at| format!("{}", at.as_secs()));
    assert!(text.contains("season 0 (shadow: ") && text.contains(" by 2 days so far)"), "{text}");
    // Thursday: the night is at zero, and both are awaited one start ahead.
    assert_eq!(until(&mut world, 3, 6.85, day).to, 0);
    let mut before = world.clone();
    let awake = until(&mut before, 3, 7.0, day);
    assert!(before.ready() >= 1, "{awake:?}");
    let crowd = until(&mut before, 3, 9.0, day);
    assert!(before.ready() >= 6, "{crowd:?}");
    let raised = before.decide();
    assert!(matches!(season(&raised), Some(Season { shadow: false, days: 3, .. })), "{raised:?}");
    assert!(sentence(&raised).contains("had to be served on 3 days before"), "{}", sentence(&raised));
    let change = turns(&raised).unwrap();
    assert!(change.text.contains("; no fewer: ") && change.fewer_below.is_none(), "{}", change.text);
}

#[test]
fn who_is_expected_at_zero_is_the_reason_and_keeps_the_model_up_until_then() {
    let mut world = office();
    until(&mut world, 3, 6.85, day);
    let mut reasons = Vec::new();
    let end = MONDAY + hours(24.0 * 3.0 + 7.3);
    while world.now < end {
        // Nobody comes today.
        world.pass(STEP, 0.0);
        let decision = world.decide();
        world.seen.clear();
        if decision.to != decision.from {
            reasons.push(decision.reason);
            world.scale(decision.to);
        }
        assert!(decision.to == 0 || decision.zero != Zero::Due { idle_after: secs(600) }, "{decision:?}");
    }
    assert_eq!(reasons, [Reason::Season], "no to and fro");
    let mut explicit = office();
    explicit.policy.idle_after = IdleAfter::Fixed(secs(60));
    until(&mut explicit, 3, 6.85, day);
    assert_eq!(until(&mut explicit, 3, 7.0, |_| 0.0).to, 0, "the owner's word");
}

#[test]
fn a_season_poisoned_by_a_load_test_calls_for_no_more_than_before() {
    let mut world = office();
    until(&mut world, 2, 24.0, day);
    let mut poisoned = world.clone();
    until(&mut world, 3, 24.0, day);
    until(&mut poisoned, 3, 24.0, |hour| if (11.0..15.0).contains(&hour) { 1900.0 } else { day(hour) });
    let (calm, tested) = (until(&mut world, 4, 12.0, day), until(&mut poisoned, 4, 12.0, day));
    assert_eq!(season(&tested).map(|s| s.replicas), season(&calm).map(|s| s.replicas));
    assert_eq!(term(&tested, "season"), Some(1), "{tested:?}");
}

#[test]
fn the_season_is_handed_on_and_never_lowers_anything() {
    let mut world = office();
    until(&mut world, 2, 24.0, day);
    let weight = world.state.digest().weight();
    let json = world.state.digest().to_json();
    assert!(json.contains("\"season\":"), "{json}");
    assert!(json.len() < 5 * 1024, "{} bytes", json.len());
    let mut next = world.clone();
    next.state = State::from_digest(&json, next.now).expect("was just made");
    assert_eq!(next.state.digest().weight(), weight);
    until(&mut next, 3, 8.99, day);
    assert!(next.ready() >= 6);
    // Twice what other days needed: the other terms see to that.
    let more = until(&mut next, 3, 9.2, |hour| 2.0 * day(hour));
    assert!(more.to > season(&more).map_or(0, |s| s.replicas), "{more:?}");
    // Of another epoch its days mean nothing.
    let other = State::from_digest(&json, secs(5)).expect("was just made");
    let other = other.digest();
    assert!(!other.to_json().contains("\"season\":") && other.weight() == weight, "{other:?}");
}

#[test]
fn minutes_of_a_gateway_that_is_not_heard_are_not_learned_as_silence() {
    let mut world = office();
    until(&mut world, 0, 9.0, |_| 50.0);
    let learned = |world: &World| {
        let json: serde_json::Value = serde_json::from_str(&world.state.to_json()).expect("is JSON");
        let slots = json["state"]["season"]["days"][0]["slots"].as_str().expect("this day is known");
        slots.bytes().filter(|slot| *slot != b'!').count()
    };
    let before = learned(&world);
    world.reports = false;
    until(&mut world, 0, 9.5, |_| 50.0);
    assert_eq!(learned(&world), before);
    world.reports = true;
    until(&mut world, 0, 10.0, |_| 50.0);
    assert!(learned(&world) >= before + 6);
}
