//! What another process is told when it takes over.

use autoscaler::{
    capacity::Basis,
    demand::{Measure, Why},
    policy::IdleAfter,
    state::{Digest, RestoreError, State},
};

use crate::world::{World, policy, secs, term};

fn restored(world: &World, later: u64) -> World {
    let mut next = world.clone();
    next.now += secs(later);
    next.state = State::from_digest(&world.state.digest().to_json(), next.now).expect("was just made");
    next
}

#[test]
fn cold_starts_idle_gaps_and_latency_are_handed_on() {
    let mut world = World::in_a_cluster(policy(0, 10), 0);
    for _ in 0..3 {
        world.run(5, 0.0);
        world.tick(1.0);
        world.run(30, 1.0);
        world.scale(0);
        world.run(120, 0.0);
    }
    let mut next = restored(&world, 20);
    assert_eq!(next.state.digest().weight(), world.state.digest().weight());
    next.latency = Default::default();
    let decision = next.tick(0.0);
    assert_eq!(decision.inputs.cold_start, secs(20));
    assert!(matches!(decision.inputs.capacity.basis, Basis::Learned(learned) if learned.samples == 1000));
}

#[test]
fn idleness_that_was_learned_is_obeyed_by_the_next_leader() {
    let gaps = |state: &State| {
        let json: serde_json::Value = serde_json::from_str(&state.digest().to_json()).expect("is JSON");
        json.get("gaps").cloned()
    };
    let mut world = World::in_a_cluster(policy(1, 10), 1);
    for _ in 0..60 {
        world.run(899, 0.0);
        world.tick(1.0);
    }
    assert_eq!(gaps(&restored(&world, 20).state), gaps(&world.state));
}

#[test]
fn the_highest_peak_of_a_week_is_recorded_over_leaders_and_then_forgotten() {
    let recorded = |world: &World| world.state.digest().learned().peak.map(|peak| peak.amount.round());
    let mut world = World::in_a_cluster(policy(1, 10), 4);
    assert_eq!(recorded(&world), None, "nothing has come yet");
    world.run(100, 50.0);
    world.run(100, 330.0);
    world.run(3000, 50.0);
    assert_eq!(recorded(&world), Some(330.0));
    let mut next = restored(&world, 20);
    next.run(2000, 50.0);
    assert_eq!(recorded(&next), Some(330.0));
    next.now += secs(7 * 24 * 3600);
    next.run(2000, 50.0);
    assert_eq!(recorded(&next), Some(50.0), "that was last week");
}

#[test]
fn the_peak_of_the_horizon_counts_until_it_is_too_long_ago() {
    let mut world = World::in_a_cluster(policy(1, 10), 4);
    world.run(1000, 330.0);
    let before = world.wanted();
    let mut next = restored(&world, 20);
    let decision = next.run(120, 50.0);
    assert!(term(&decision, "envelope") >= Some(before - 1), "{decision:?}");
    let envelope = decision.terms.iter().find_map(|term| match &term.why {
        Why::Envelope(envelope) => Some(*envelope),
        _ => None,
    });
    assert!(matches!(envelope, Some(e) if e.measure == Measure::Rate && e.peak >= 329.0), "{envelope:?}");
    // What the second leader hands on is as old as it was.
    let mut third = restored(&next, 20);
    third.run(100, 50.0);
    assert!(term(&third.tick(50.0), "envelope") >= Some(before - 1));
    assert_eq!(term(&third.run(200, 50.0), "envelope"), Some(1));
}

#[test]
fn a_digest_is_small_however_long_and_varied_a_life_was() {
    let mut world = World::in_a_cluster(policy(0, 10), 3);
    world.policy.idle_after = IdleAfter::Fixed(secs(70));
    world.latency.fixed = std::time::Duration::from_nanos(u64::from(u32::MAX) * 7);
    world.latency.samples = u64::MAX;
    let mut most = 0;
    for gap in 0..400u64 {
        world.run(3, 333.3 + gap as f64);
        world.queue = 0.0;
        world.pass(secs(60 + gap * 37 % 7200), 0.0);
        most = most.max(world.state.digest().to_json().len());
    }
    assert!(most < 2048, "{most} bytes");
}

#[test]
fn who_has_learned_less_weighs_less() {
    let mut world = World::in_a_cluster(policy(0, 10), 0);
    assert_eq!(State::default().digest().weight(), 0);
    world.run(5, 0.0);
    world.tick(1.0);
    world.run(30, 1.0);
    let one_start = world.state.digest();
    assert_eq!(one_start.weight(), 201, "a start, and as many calls as make a model believed");
    let read = Digest::from_json(&one_start.to_json()).expect("was just made");
    assert_eq!(read, one_start);
}

#[test]
fn times_of_another_epoch_are_not_believed() {
    let mut world = World::in_a_cluster(policy(1, 10), 4);
    world.run(1000, 330.0);
    let json = world.state.digest().to_json();
    let mut next = World::in_a_cluster(policy(1, 10), 4);
    next.state = State::from_digest(&json, next.now).expect("was just made");
    let decision = next.run(30, 10.0);
    assert_eq!(term(&decision, "envelope"), Some(1));
    assert!(matches!(decision.inputs.capacity.basis, Basis::Learned(_)), "that has no time in it");
}

#[test]
fn a_digest_of_another_form_is_not_read() {
    let other = State::default().digest().to_json().replacen("\"version\":1", "\"version\":7", 1);
    assert!(matches!(State::from_digest(&other, secs(0)), Err(RestoreError::Version { found: 7, known: 1 })));
    assert!(matches!(State::from_digest("nonsense", secs(0)), Err(RestoreError::Unreadable(_))));
    assert!(matches!(Digest::from_json("{\"version\":1}"), Err(RestoreError::Unreadable(_))));
}
