//! Decisions in words: true sentences with their arithmetic.

use std::{sync::Arc, time::Duration};

use autoscaler::{
    explain::{sentence, why},
    log::{Entry, Outcome},
    policy::IdleAfter,
};

use crate::world::{Luck, World, policy, secs};

fn clock(at: Duration) -> String {
    format!("{:02}:{:02}:{:02}", at.as_secs() / 3600, at.as_secs() / 60 % 60, at.as_secs() % 60)
}

#[test]
fn the_sentences_carry_their_arithmetic() {
    let mut world = World::new(policy(0, 4));
    world.run(5, 0.0);
    assert_eq!(sentence(&world.tick(0.0)), "0: nobody asks");
    assert_eq!(
        sentence(&world.tick(1.0)),
        "0→1: first request, 1 waiting and 0 in flight (requests); a start takes up to 20 s"
    );
    let mut unmeasured = World::with_ready(policy(0, 10), 1).unmeasured();
    unmeasured.policy.assumed.concurrency = 25;
    unmeasured.queue = 31.0;
    assert_eq!(sentence(&unmeasured.decide()), "1→2: queue 31 ÷ 20 per replica");
}

#[test]
fn what_is_kept_and_what_is_missing_is_said_with_its_limit() {
    let mut stale = World::with_ready(policy(0, 10), 3);
    stale.run(700, 10.0);
    stale.scale(3);
    stale.reports = false;
    assert_eq!(sentence(&stale.run(8, 0.0)), "want 1, keep 3: gateway-a was not heard for 8 s");
    let mut full = World::with_ready(policy(0, 2), 2);
    let text = sentence(&full.run(30, 1000.0));
    assert!(text.starts_with("want ") && text.contains(", have 2: never more than 2; "), "{text}");
    let mut stuck = World::with_ready(policy(1, 9), 1);
    stuck.run(30, 50.0);
    stuck.luck = Luck::FindsNoPlace;
    let text = sentence(&stuck.run(90, 400.0));
    assert!(text.contains("pending without a place to run (insufficient nvidia.com/gpu)"), "{text}");
}

#[test]
fn going_to_zero_says_after_how_long() {
    let mut world = World::with_ready(policy(0, 4), 1);
    world.policy.idle_after = IdleAfter::Fixed(secs(30));
    world.run(10, 5.0);
    world.run(29, 0.0);
    assert_eq!(sentence(&world.tick(0.0)), "1→0: idle for 30 s");
}

#[test]
fn the_whole_picture_has_state_load_capacity_decision_next_and_last() {
    let mut world = World::new(policy(0, 10));
    let mut log = Vec::new();
    for rate in [0.0; 5].into_iter().chain([3.0; 60]).chain([0.0; 20]) {
        let decision = world.tick(rate);
        let outcome = if decision.from == decision.to { Outcome::Unchanged } else { Outcome::Applied };
        log.insert(0, Arc::new(Entry { decision, outcome, observed: None }));
    }
    let text = why("digits", &log[0], &log, &clock);
    let expected = "\
digits has 1 ready replica (want 1, min 0, max 10)
  load      0 requests/s, 0 in flight, 0 waiting (1 gateway reporting, newest 0 ms ago)
  capacity  1 replica ≈ 85.8 requests/s at p99 200 ms, 100 when full, 4 at a time in 40 ms (learned from 1,000 calls)
  terms     envelope 1 · waiting 0 · backlog 0 · warm 1
  decision  1: what came within 78 s, served at 3 requests/s, needs 1 (1 replica ≈ 85.8 requests/s at p99 200 ms, 100 when full)
  change    one more once what came within 78 s needs more than 85.8 requests/s
  next      to zero at 00:11:05 if nobody comes
  last      00:00:06 0→1: first request, 3 waiting and 0 in flight (requests); a start takes up to 20 s";
    assert_eq!(text, expected);
}
