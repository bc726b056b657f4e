//! A model that is only observed: what it would have had, what that would have cost and kept, and that nothing is
//! touched.

use std::{sync::Arc, time::Duration};

use autoscaler::{
    decide::Reason,
    explain::{sentence, why},
    log::{Entry, Outcome},
    observe::{Observed, Shadow},
    policy::{IdleAfter, Mode, Policy},
    snapshot::{LatencyModel, Phase},
    state::State,
};
use proptest::prelude::{ProptestConfig, proptest};

use crate::world::{World, policy, secs};

/// A fixed number of real replicas, and the fleet on paper beside them.
struct Watched {
    world: World,
    shadow: Shadow,
}

impl Watched {
    fn new(policy: Policy, ready: u32) -> Self {
        let mut world = World::with_ready(Policy { mode: Mode::Observe, ..policy }, ready);
        world.decide();
        let shadow = Shadow::new(&world.state, &world.snapshot(), world.now);
        Self { world, shadow }
    }

    fn tick(&mut self, rate: f64) -> Entry {
        self.world.pass(secs(1), rate);
        let decision = self.world.decide();
        let (policy, state) = (&self.world.policy, &self.world.state);
        let observed = self.shadow.follow(policy, state, &self.world.snapshot(), self.world.now);
        Entry { decision, outcome: Outcome::Observed, observed: Some(Arc::new(observed)) }
    }

    fn run(&mut self, seconds: u64, rate: f64) -> Observed {
        let last = (0..seconds).map(|_| self.tick(rate)).last().expect("some time passes");
        Observed::clone(&last.observed.expect("it is observed"))
    }
}

fn clock(at: Duration) -> String {
    format!("{:02}:{:02}:{:02}", at.as_secs() / 3600, at.as_secs() / 60 % 60, at.as_secs() % 60)
}

#[test]
fn the_fleet_on_paper_goes_all_the_way_while_the_real_one_stays() {
    let mut watched = Watched::new(policy(1, 20), 10);
    let observed = watched.run(3600, 150.0);
    assert_eq!((observed.actual, watched.world.wanted(), observed.decision.to), (10, 10, 2));
    assert_eq!(observed.decision.reason, Reason::Steady);
    let burst = watched.run(60, 900.0);
    assert!(burst.decision.to >= 9, "{}", sentence(&burst.decision));
    assert_eq!(watched.world.wanted(), 10);
}

#[test]
fn replicas_on_paper_take_as_long_to_start_as_real_ones_are_believed_to() {
    let mut watched = Watched::new(policy(0, 20), 3);
    watched.world.policy.idle_after = IdleAfter::Fixed(secs(30));
    let asleep = watched.run(120, 0.0);
    assert_eq!((asleep.decision.to, asleep.decision.inputs.fleet.ready), (0, 0));
    let woken = watched.run(1, 5.0);
    assert_eq!((woken.decision.from, woken.decision.to, woken.decision.reason), (0, 1, Reason::FirstRequest));
    assert_eq!(watched.run(19, 5.0).decision.inputs.fleet.ready, 0, "a start is assumed to take 20 s");
    assert_eq!(watched.run(1, 5.0).decision.inputs.fleet.ready, 1);
}

#[test]
fn cost_is_counted_from_creation_on_both_sides() {
    let mut watched = Watched::new(policy(1, 20), 10);
    let totals = watched.run(3600, 150.0).totals;
    assert_eq!((totals.observed, totals.actual_replica_seconds), (secs(3600), 36_000.0));
    let saving = totals.saving().expect("there were replicas");
    // Down by a quarter a minute from the fifth on; then two of ten.
    assert!((-0.75..-0.6).contains(&saving), "{saving}");
    assert!((totals.replica_seconds / 36_000.0 - 1.0 - saving).abs() < 1e-9);
}

#[test]
fn the_slo_is_counted_as_observed_and_predicted_by_the_sizing_and_both_are_said() {
    let mut watched = Watched::new(policy(1, 20), 10);
    for second in 0..3600 {
        watched.world.counters.slo_misses += u64::from(second % 2 == 0);
        watched.tick(150.0);
    }
    watched.world.counters.slo_misses += 1;
    let entry = watched.tick(150.0);
    let totals = entry.observed.as_ref().expect("it is observed").totals;
    assert_eq!((totals.arrivals, totals.misses), (3601.0 * 150.0, 1801.0));
    assert_eq!(totals.predicted, totals.arrivals);
    let within = totals.predicted_within().expect("a call's time is known");
    // Two replicas bear 185.4 /s at 99 %, and have 150 /s; before there were more of them.
    assert!((0.99..1.0).contains(&within), "{within}");
    let text = why("digits", &entry, &[], &clock);
    assert!(text.starts_with("digits has 10 ready replicas (would want 2, min 1, max 20)\n"), "{text}");
    assert!(
        text.contains("  decision  2: what came within 5 min, served at 150 requests/s, needs 2"),
        "{text}"
    );
    assert!(text.contains("(observed only, nothing is changed)"), "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix("  observe   ")).expect("there is such a line");
    assert_eq!(
        line,
        "would have 2 replicas, has 10; in 60 min since 00:00:00 2.9 replica-hours instead of 10 (−71 %); 99.66 % of \
         540,150 requests within the SLO as observed, 99.99 % as predicted"
    );
}

#[test]
fn a_fleet_on_paper_that_is_too_small_is_predicted_to_miss() {
    let mut watched = Watched::new(policy(1, 1), 10);
    watched.run(1800, 150.0);
    let before = watched.run(1, 150.0).totals;
    let after = watched.run(100, 150.0).totals;
    assert_eq!(after.predicted_misses - before.predicted_misses, 100.0 * 150.0, "one replica serves 100 /s");
    assert_eq!(after.misses, 0.0);
}

#[test]
fn nothing_is_predicted_before_calls_were_measured_and_it_says_so() {
    let mut world = World::with_ready(Policy { mode: Mode::Observe, ..policy(1, 20) }, 2);
    (world.latency, world.state) = (LatencyModel::default(), State::default());
    world.decide();
    let shadow = Shadow::new(&world.state, &world.snapshot(), world.now);
    let mut watched = Watched { world, shadow };
    let early = watched.run(10, 50.0).totals;
    assert_eq!((early.arrivals, early.predicted, early.predicted_within()), (500.0, 0.0, None));
    let text = why("digits", &watched.tick(50.0), &[], &clock);
    assert!(
        text.contains("100 % of 550 requests within the SLO as observed, and nothing to predict from yet")
    );
}

#[test]
fn where_another_autoscaler_may_follow_what_it_is_told_that_is_reckoned_from_what_there_is() {
    let mut watched = Watched::new(policy(1, 20), 10);
    watched.run(1800, 150.0);
    let alone = watched.tick(150.0);
    assert_eq!((alone.told().from, alone.told().to), (2, 2));
    watched.world.fleet.platform.rival = Some("ScaledObject/digits".into());
    let followed = watched.tick(150.0);
    assert_eq!(followed.told(), &followed.decision);
    assert_eq!(followed.told().from, 10);
    assert_eq!(followed.observed.expect("it is observed").decision.to, 2);
}

#[test]
fn time_in_which_nobody_looked_is_not_counted() {
    let mut watched = Watched::new(policy(1, 20), 4);
    watched.run(10, 50.0);
    watched.world.pass(secs(600), 0.0);
    let totals = watched.run(10, 50.0).totals;
    assert_eq!((totals.observed, totals.actual_replica_seconds), (secs(19), 76.0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_fleet_on_paper_keeps_its_bounds_and_its_size(rates in proptest::collection::vec(0.0..2000.0f64, 1..6)) {
        let mut watched = Watched::new(policy(1, 12), 3);
        for rate in rates {
            let observed = watched.run(120, rate);
            let fleet = &observed.decision.inputs.fleet;
            assert!((1..=12).contains(&observed.decision.to) && fleet.ready + fleet.starting <= 12);
            assert!(observed.totals.predicted_misses <= observed.totals.predicted + 1e-6);
            assert_eq!(watched.world.fleet.replicas.iter().filter(|r| r.phase == Phase::Ready).count(), 3);
        }
    }
}
