//! What holds for every load.

use std::time::Duration;

use autoscaler::{
    decide::{Decision, LimitKind, Reason, decide},
    explain::{sentence, turns},
    policy::{IdleAfter, Policy},
    snapshot::{Platform, Snapshot},
    state::State,
};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use crate::world::{Luck, World, limits, policy, secs};

fn phases() -> impl Strategy<Value = Vec<(u64, f64)>> {
    let rate = prop_oneof![Just(0.0), 0.1..5.0, 5.0..3000.0];
    proptest::collection::vec((1u64..120, rate), 1..8)
}

/// What may be the matter on a platform.
#[derive(Clone, Debug)]
pub(crate) enum Matter {
    Nothing,
    Unheard,
    Rollout,
    Rival,
    CutOff,
    Quota(usize),
    Edit(u32),
}

pub(crate) fn matters() -> impl Strategy<Value = Vec<(u64, f64, Matter)>> {
    let rate = prop_oneof![Just(0.0), 0.1..5.0, 5.0..3000.0];
    let matter = prop_oneof![
        Just(Matter::Nothing),
        Just(Matter::Unheard),
        Just(Matter::Rollout),
        Just(Matter::Rival),
        Just(Matter::CutOff),
        (0usize..4).prop_map(Matter::Quota),
        (0u32..20).prop_map(Matter::Edit),
    ];
    proptest::collection::vec((1u64..150, rate, matter), 1..8)
}

/// Runs a phase in which something is the matter.
pub(crate) fn go_through(world: &mut World, seconds: u64, rate: f64, matter: &Matter) -> Vec<Decision> {
    world.fleet.platform = Platform { shared: true, ..Platform::default() };
    (world.cut_off, world.quota) = (None, usize::MAX);
    match matter {
        Matter::Nothing | Matter::Unheard => {}
        Matter::Rollout => world.fleet.platform.rollout = true,
        Matter::Rival => world.fleet.platform.rival = Some("HorizontalPodAutoscaler/digits".into()),
        Matter::CutOff => world.cut_off = Some("gateway-b"),
        Matter::Quota(most) => world.quota = *most,
        Matter::Edit(wanted) => world.edit("kubectl", *wanted),
    }
    let tick = |second| {
        if matches!(matter, Matter::Unheard) {
            world.fleet.platform.unheard = Some(secs(second));
        }
        world.tick(rate)
    };
    (1..=seconds).map(tick).collect()
}

fn replay(policy: &Policy, lines: &[String]) -> Vec<Decision> {
    let mut state = State::default();
    let decided = lines.iter().map(|line| {
        let (now, snapshot): (Duration, Snapshot) = serde_json::from_str(line).expect("was recorded so");
        state.observe(policy, &snapshot, now);
        let decision = decide(policy, &state, &snapshot, now);
        state.commit(&decision);
        decision
    });
    decided.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bounds_are_always_kept(phases in phases(), min in 0u32..4, extra in 0u32..8, start in 0u32..20, luck in 0..3) {
        let mut world = World::with_ready(policy(min, min + extra), start);
        world.luck = [Luck::Starts, Luck::Crashes, Luck::FindsNoPlace][luck as usize];
        for (seconds, rate) in phases {
            for _ in 0..seconds {
                let decision = world.tick(rate);
                assert!((min..=min + extra).contains(&decision.to), "{decision:?}");
            }
        }
    }

    #[test]
    fn constant_load_does_not_flap(rate in 0.5f64..3000.0, explicit in any::<bool>()) {
        let mut world = World::new(policy(0, 100));
        if explicit {
            world.policy.idle_after = IdleAfter::Fixed(secs(60));
        }
        world.run(1100, rate);
        world.writes.clear();
        world.run(1000, rate);
        assert!(world.writes.len() <= 1, "{rate}/s: {:?}", world.writes);
    }

    #[test]
    fn bounds_are_kept_on_a_platform_too_except_where_somebody_else_set_the_number(
        phases in matters(), min in 0u32..4, extra in 0u32..8,
    ) {
        let mut world = World::in_a_cluster(policy(min, min + extra), min);
        for (seconds, rate, matter) in phases {
            for decision in go_through(&mut world, seconds, rate, &matter) {
                let kept = (min..=min + extra).contains(&decision.to);
                assert!(kept || decision.reason == Reason::Override, "{decision:?}");
            }
        }
    }

    #[test]
    fn nothing_goes_while_the_platform_or_a_gateway_is_not_heard_or_replicas_are_exchanged(phases in matters()) {
        let mut world = World::in_a_cluster(policy(0, 20), 3);
        world.policy.idle_after = IdleAfter::Fixed(secs(20));
        world.run(100, 500.0);
        for (seconds, rate, matter) in phases {
            let decisions = go_through(&mut world, seconds, rate, &matter);
            let unsure = matches!(matter, Matter::Unheard | Matter::Rollout);
            let silent = matches!(matter, Matter::CutOff).then_some(4);
            let from = silent.or(unsure.then_some(0)).unwrap_or(usize::MAX);
            for decision in decisions.iter().skip(from).filter(|d| d.from <= 20) {
                assert!(decision.to >= decision.from, "{matter:?}: {decision:?}");
            }
        }
    }

    #[test]
    fn constant_load_does_not_flap_behind_two_gateways(rate in 0.5f64..3000.0) {
        let mut world = World::in_a_cluster(policy(0, 100), 1);
        world.run(1100, rate);
        world.writes.clear();
        world.run(1000, rate);
        assert!(world.writes.len() <= 1, "{rate}/s: {:?}", world.writes);
    }

    #[test]
    fn what_a_platform_did_replays_to_the_same_decisions_too(phases in matters()) {
        let mut world = World::in_a_cluster(policy(0, 10), 2);
        let first = world.seen.len();
        let mut live = Vec::new();
        for (seconds, rate, matter) in phases {
            live.extend(go_through(&mut world, seconds, rate, &matter));
        }
        let lines: Vec<_> = world.seen.iter().skip(first).map(record).collect();
        assert_eq!(replay(&world.policy, &lines), live);
    }

    #[test]
    fn more_load_never_means_fewer_replicas(rate in 0.5f64..2000.0, more in 1.0f64..3.0) {
        let settled = |rate: f64| {
            let mut world = World::new(policy(0, 100));
            world.run(600, rate).target
        };
        let (low, high) = (settled(rate), settled(rate * more));
        assert!(low <= high, "{rate}/s → {low}, {}/s → {high}", rate * more);
    }

    #[test]
    fn load_that_wobbles_by_a_few_per_cent_does_not_flap(
        rate in 5.0f64..3000.0, wobble in 0.0f64..0.04, period in 2u64..90,
    ) {
        let mut world = World::new(policy(0, 100));
        let run = |world: &mut World, seconds: u64| {
            for second in 0..seconds {
                let sign = if second / period % 2 == 0 { 1.0 } else { -1.0 };
                world.tick(rate * (1.0 + sign * wobble));
            }
        };
        run(&mut world, 1300);
        world.writes.clear();
        run(&mut world, 1200);
        assert!(world.writes.len() <= 1, "{rate}/s ± {wobble}: {:?}", world.writes);
    }

    #[test]
    fn a_longer_queue_never_means_fewer_replicas(
        rate in 0.0f64..1000.0, queue in 0.0f64..5000.0, more in 0.0f64..20000.0,
    ) {
        let mut world = World::with_ready(policy(0, 100), 5);
        world.run(60, rate);
        let target = |queue: f64| {
            let mut world = world.clone();
            world.queue = queue;
            world.decide().target
        };
        assert!(target(queue) <= target(queue + more), "{rate}/s, {queue} and {more} more");
    }

    #[test]
    fn every_decision_is_put_in_words_and_what_would_change_it_lies_in_order(
        phases in matters(), min in 0u32..4, extra in 0u32..8,
    ) {
        let mut world = World::in_a_cluster(policy(min, min + extra), min);
        for (seconds, rate, matter) in phases {
            for decision in go_through(&mut world, seconds, rate, &matter) {
                let sentence = sentence(&decision);
                let numbers = [format!("{}", decision.to), format!("{}→{}", decision.from, decision.to)];
                assert!(numbers.iter().any(|n| sentence.contains(n)), "{sentence}: {decision:?}");
                assert!(!sentence.contains("a limit"), "the limit has no name in {decision:?}");
                assert!(limits(&decision).iter().all(|name| LimitKind::NAMES.contains(name)), "{decision:?}");
                let Some(turns) = turns(&decision) else { continue };
                assert!(!turns.text.is_empty() || decision.to == 1, "{decision:?}");
                if let (Some(more), Some(fewer)) = (turns.more_above, turns.fewer_below) {
                    assert!(0.0 < fewer && fewer < more, "{turns:?}");
                }
            }
        }
    }

    #[test]
    fn the_unknown_never_scales_down(phases in phases(), start in 1u32..10) {
        let mut world = World::with_ready(policy(0, 10), start);
        world.run(20, 10.0);
        world.reports = false;
        world.run(4, 0.0);
        let mut least = world.wanted();
        for (seconds, rate) in phases {
            for _ in 0..seconds {
                let decision = world.tick(rate);
                assert!(decision.to >= least, "{decision:?}");
                least = decision.to;
            }
        }
    }

    #[test]
    fn what_was_recorded_replays_to_the_same_decisions(phases in phases(), start in 0u32..6, tail in 1000u32..2000) {
        let mut world = World::with_ready(policy(0, 10), start);
        world.latency.tail_permille = tail;
        let mut live = replay(&world.policy, &[record(&world.seen[0])]);
        for (seconds, rate) in phases {
            live.extend((0..seconds).map(|_| world.tick(rate)));
        }
        let lines: Vec<_> = world.seen.iter().map(record).collect();
        assert_eq!(replay(&world.policy, &lines), live);
    }

    #[test]
    fn a_state_saved_and_read_in_between_loses_nothing_that_it_needs(phases in phases()) {
        let mut world = World::new(policy(0, 10));
        for (seconds, rate) in phases {
            world.run(seconds, rate);
        }
        let restored = State::from_json(&world.state.to_json(), world.now).expect("was just saved");
        world.state = restored;
        let least = world.wanted().min(world.policy.bounds.max);
        assert!(world.tick(0.0).to >= least, "a restart is no reason to shrink");
    }
}

fn record(seen: &(Duration, Snapshot)) -> String {
    serde_json::to_string(seen).expect("has string keys only")
}

/// Prints what a decision costs; run by hand with `--release -- --nocapture`. The bound leaves room for slow,
/// unoptimised and busy machines and still finds a cost that grows with the wrong thing.
#[test]
fn a_decision_is_cheap() {
    let mut world = World::with_ready(policy(1, 64), 64);
    world.latency.max_batch_rows = 32;
    world.latency.per_row = Duration::from_micros(500);
    world.run(700, 2000.0);
    let snapshot = world.snapshot();
    let start = tokio::time::Instant::now();
    for _ in 0..200 {
        std::hint::black_box(decide(&world.policy, &world.state, &snapshot, world.now));
    }
    let each = start.elapsed() / 200;
    println!("decide: {each:?}");
    assert!(each < Duration::from_millis(5), "{each:?}");
}
