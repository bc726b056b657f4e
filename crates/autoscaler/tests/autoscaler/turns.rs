//! What is said to change the number does, and a little less does not.

use autoscaler::{
    decide::Decision,
    explain::{Turns, turns},
    policy::Policy,
};

use crate::world::{World, policy, secs};

/// Longer than the envelope and the memory of the way down together.
const LONG: u64 = 1200;

fn settled(policy: Policy, ready: u32, rate: f64) -> (World, Decision, Turns) {
    let mut world = World::with_ready(policy, ready);
    let decision = world.run(2 * LONG, rate);
    let turns = turns(&decision).expect("there are replicas and nobody has set their number");
    (world, decision, turns)
}

#[test]
fn one_more_is_called_for_above_the_peak_that_is_named_and_not_below_it() {
    for (ready, rate) in [(1, 30.0), (2, 150.0), (4, 330.0), (12, 1100.0)] {
        let (world, decision, turns) = settled(policy(1, 40), ready, rate);
        let above = turns.more_above.expect("there is room for more");
        assert_eq!(world.clone().run(LONG, above * 0.98).to, decision.to, "{rate}/s: {}", turns.text);
        assert_eq!(world.clone().run(LONG, above * 1.02).to, decision.to + 1, "{rate}/s: {}", turns.text);
    }
}

#[test]
fn one_fewer_is_enough_below_the_peak_that_is_named_and_not_above_it() {
    for (ready, rate) in [(2, 150.0), (4, 330.0), (12, 1100.0)] {
        let (world, decision, turns) = settled(policy(1, 40), ready, rate);
        let below = turns.fewer_below.expect("there is room for fewer");
        assert_eq!(world.clone().run(LONG, below * 0.97).to, decision.to - 1, "{rate}/s: {}", turns.text);
        assert_eq!(world.clone().run(LONG, below * 1.03).to, decision.to, "{rate}/s: {}", turns.text);
    }
}

#[test]
fn before_a_call_was_measured_it_is_what_is_in_flight_that_counts() {
    let mut world = World::with_ready(policy(1, 10), 2).unmeasured();
    let decision = world.run(LONG, 150.0);
    let turns = turns(&decision).expect("there are replicas");
    // Five at a time, of which four count: 2 · 4, and 4 ÷ 1.1.
    assert_eq!((turns.unit.as_str(), turns.more_above), ("requests in flight", Some(8.0)));
    assert_eq!(turns.fewer_below, Some(4.0 / 1.1));
    assert_eq!(
        turns.text,
        "one more above a peak of 8 requests in flight; one fewer once the peak within 5 min was below 3.6 requests \
         in flight for 5 min"
    );
}

#[test]
fn where_load_changes_nothing_no_load_is_named() {
    let (_, decision, most) = settled(policy(1, 3), 3, 900.0);
    assert_eq!((decision.to, most.more_above), (3, None));
    let (_, decision, least) = settled(policy(2, 5), 2, 0.0);
    assert_eq!((decision.to, least.fewer_below), (2, None));
    assert_eq!(least.text, "one more above a peak of 185 requests/s; no fewer: never fewer than 2");
    let mut asleep = World::new(policy(0, 4));
    assert_eq!(turns(&asleep.run(5, 0.0)), None, "the next request wakes it");
    let mut edited = World::in_a_cluster(policy(1, 10), 2);
    edited.run(LONG, 150.0);
    edited.edit("kubectl", 7);
    assert_eq!(turns(&edited.tick(150.0)), None, "it stands whatever comes");
    let mut pending = World::with_ready(policy(1, 40), 2);
    pending.cold_start = secs(600);
    let decision = pending.run(20, 3000.0);
    let text = turns(&decision).expect("there are replicas").text;
    assert!(text.starts_with("no more for now: at most 4 more, or twice as many, in 15 s"), "{text}");
}
