//! One simulation: nothing is lost, nothing is random, and replicas are paid for from their creation to their end.

use std::time::Duration;

use arrivals::{Listed, Schedule};
use plan::{
    judge::Score,
    policy::{Fixed, Hpa, Keda, Kpa, Policy, Seen},
    world::{Counted, World},
};
use proptest::prelude::{ProptestConfig, prop, proptest};

use crate::world::{run, run_ours, secs, settings, steps};

const SERVICES: [&str; 3] = ["40ms", "8ms+1ms/row", "20ms+1ms/token+0.2ms/stream"];

/// Asks for these numbers at these seconds.
#[derive(Debug)]
struct Script(&'static [(u64, u32)]);

impl Policy for Script {
    fn decide(&mut self, _: &Seen<'_>, now: Duration) -> Option<u32> {
        let second = (now - secs(1_767_225_600)).as_secs();
        self.0.iter().rev().find(|(at, _)| *at <= second).map(|(_, replicas)| *replicas)
    }

    fn initial(&self, _: u32) -> u32 {
        0
    }
}

fn at(seconds: &[f64]) -> Schedule {
    Schedule::Listed(seconds.iter().copied().map(Listed::untold).collect())
}

#[test]
fn every_arrival_ends_exactly_once_whoever_decides() {
    let load = steps("0x1m,40x1m,200x1m,5x1m,0x5m,60x20s");
    for service in SERVICES {
        let settings = settings(service);
        let policies: [Box<dyn Policy>; 5] = [
            Box::new(Fixed(2)),
            Box::new(Hpa::new(3.0, 0)),
            Box::new(Keda::new(3.0, 0)),
            Box::new(Kpa::new(3.0, plan::policy::Delay::None, 0)),
            Box::new(plan::policy::Ours::new(crate::world::rules(&settings))),
        ];
        for mut policy in policies {
            let run = run(&settings, &load, &mut *policy, 3);
            assert!(run.arrivals > 15_000, "{}", run.arrivals);
            assert_eq!(run.counted.all(), run.arrivals, "{service}: {policy:?}");
            assert!(run.counted.met + run.counted.late > 1_000, "{service}: {:?} {policy:?}", run.counted);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    let settings = settings("40ms");
    let load = steps("50x2m,200x1m,0x15m,20x1m");
    let (a, b, c) =
        (run_ours(&settings, &load, 1), run_ours(&settings, &load, 1), run_ours(&settings, &load, 2));
    assert_eq!((a.counted, a.replica_time, &a.changes), (b.counted, b.replica_time, &b.changes));
    assert_ne!(a.counted, c.counted);
}

#[test]
fn a_replica_costs_from_its_creation_to_its_end_and_serves_after_its_start() {
    let mut settings = settings("40ms");
    settings.variation = 0.0;
    let schedule = at(&[5.0, 40.0, 95.0]);
    let run = World::new(&settings, &schedule, 1).run(&mut Script(&[(10, 1), (80, 0)]));
    // Created at 10, gone at 80; ready at 30: the first waits, the second does not, the third finds none.
    assert_eq!(run.replica_time, secs(70));
    assert_eq!(run.counted, Counted { met: 1, late: 1, shed: 0, timed_out: 1 });
    assert_eq!(run.wasted, 0);
}

#[test]
fn replicas_that_start_go_first_and_have_served_nobody() {
    let settings = settings("40ms");
    let script = &[(0, 1), (30, 3), (40, 1)];
    let run = World::new(&settings, &at(&[25.0, 100.0]), 1).run(&mut Script(script));
    assert_eq!(run.wasted, 2);
    assert_eq!(run.replica_time, secs(100 + 10 + 10));
}

#[test]
fn a_draining_replica_finishes_its_work_and_costs_until_then() {
    let mut settings = settings("15s");
    (settings.variation, settings.slo.target) = (0.0, secs(20));
    let run = World::new(&settings, &at(&[25.0, 100.0]), 1).run(&mut Script(&[(0, 1), (30, 0)]));
    assert_eq!(run.counted.met, 1, "begun at 25, done at 40");
    assert_eq!(run.replica_time, secs(40));
}

#[test]
fn what_cannot_be_in_time_is_refused_and_overload_stays_useful() {
    let mut settings = settings("40ms");
    settings.deadline = Duration::from_millis(400);
    // One replica takes 100 a second.
    let run = run(&settings, &steps("200x2m"), &mut Fixed(1), 1);
    let answered = run.counted.met + run.counted.late;
    assert!(answered as f64 > 0.95 * 100.0 * 120.0, "{:?}", run.counted);
    assert!(run.counted.shed > 10 * run.counted.timed_out, "{:?}", run.counted);
}

#[test]
fn merged_calls_serve_what_single_ones_cannot() {
    // 5 ms + 1 ms a row: 167/s one by one, 865/s in batches of 32.
    let run = run(&settings("5ms+1ms/row"), &steps("600x30s"), &mut Fixed(1), 1);
    assert!(Score::of(&run).met > 0.98, "{:?}", run.counted);
}

#[test]
fn a_pool_of_fixed_size_waits_as_erlang_says() {
    // M/M/4 at 80 %: the exponential service has a variation of 1. P(wait) = 0.5964; P(wait > t) falls with 20/s.
    let mut settings = settings("40ms");
    settings.variation = 1.0;
    settings.slo.target = secs(20);
    let load = steps("80x20m");
    let within = |seconds: f64| {
        let mut settings = settings.clone();
        settings.slo.target = Duration::from_secs_f64(seconds);
        Score::of(&run(&settings, &load, &mut Fixed(1), 1)).met
    };
    // P(T ≤ t) for M/M/c, with μ = 25, cμ − λ = 20 and the Erlang probability above.
    let exact = |t: f64| {
        let (mu, rest, wait) = (25.0, 20.0, 0.5964);
        1.0 - (-mu * t).exp() - wait * mu / (mu - rest) * ((-rest * t).exp() - (-mu * t).exp())
    };
    for t in [0.05, 0.1, 0.2] {
        assert!((within(t) - exact(t)).abs() < 0.015, "{t}: {} against {}", within(t), exact(t));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_load_loses_or_doubles_a_request(
        times in prop::collection::vec(0.0..300.0f64, 1..300),
        service in 0..3usize,
        seed in 0..100u64,
    ) {
        let mut times = times;
        times.sort_by(f64::total_cmp);
        let mut settings = settings(SERVICES[service]);
        settings.cold_start = "1s..60s".parse().unwrap();
        settings.queue = 20;
        let mut ours = plan::policy::Ours::new(crate::world::rules(&settings));
        let run = World::new(&settings, &at(&times), seed).run(&mut ours);
        assert_eq!(run.counted.all(), times.len() as u64);
        assert_eq!(run.arrivals, times.len() as u64);
    }
}
