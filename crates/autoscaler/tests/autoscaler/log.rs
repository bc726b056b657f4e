//! The log of decisions: which are kept, which are found, and what is said of those that are not.

use std::{sync::Arc, time::Duration};

use autoscaler::{
    decide::Reason,
    log::{Entry, Filter, KEPT, Limited, Log, NotKept, Outcome},
};

use crate::world::{World, policy, secs};

fn logged(world: &mut World, log: &Log, seconds: u64, rate: f64) {
    for _ in 0..seconds {
        let decision = world.tick(rate);
        let outcome = if decision.from == decision.to { Outcome::Unchanged } else { Outcome::Applied };
        log.push(Arc::new(Entry { decision, outcome, observed: None }));
    }
}

/// Ten minutes of calm, a burst that leaves a queue, and the long way down.
fn day() -> (World, Log) {
    let (mut world, log) = (World::with_ready(policy(1, 10), 2), Log::default());
    for (seconds, rate, queue) in [(600, 150.0, 0.0), (60, 500.0, 30_000.0), (1800, 50.0, 0.0)] {
        world.queue += queue;
        logged(&mut world, &log, seconds, rate);
    }
    (world, log)
}

#[test]
fn decisions_are_found_by_time_change_reason_term_and_limit() {
    let (_, log) = day();
    let select = |filter: Filter| log.select(&filter, KEPT);
    let all = select(Filter::default());
    assert!(all.windows(2).all(|pair| pair[0].decision.at > pair[1].decision.at), "newest first");
    let changes = select(Filter { changes: true, ..Filter::default() });
    assert!(!changes.is_empty() && changes.len() < all.len());
    assert!(changes.iter().all(|entry| entry.decision.from != entry.decision.to));
    let burst = Filter { since: Some(secs(601)), until: Some(secs(661)), ..Filter::default() };
    let during = select(burst.clone());
    assert!(!during.is_empty() && during.iter().all(|e| (601..661).contains(&e.decision.at.as_secs())));
    let low = select(Filter { reason: Some(Filter::reason("low_load").unwrap()), ..Filter::default() });
    assert!(!low.is_empty() && low.iter().all(|entry| entry.decision.reason == Reason::LowLoad));
    let backlog = Filter { term: Some(Filter::term("backlog").unwrap()), ..burst };
    assert!(!select(backlog.clone()).is_empty());
    assert!(select(Filter { until: Some(secs(600)), since: None, ..backlog }).is_empty(), "not before it");
    let limited = |limited| Filter { limited: Some(limited), ..Filter::default() };
    let window = select(limited(Filter::limited("down_window").unwrap()));
    assert!(!window.is_empty() && window.len() <= select(limited(Limited::Any)).len());
    let vetoed = select(limited(Filter::limited("veto").unwrap()));
    assert!(vetoed.iter().all(|entry| entry.decision.limits.iter().any(|limit| limit.kind.is_veto())));
    assert_eq!(log.select(&Filter::default(), 2).len(), 2);
}

#[test]
fn a_name_that_does_not_exist_is_answered_with_those_that_do() {
    let error = Filter::reason("lowload").unwrap_err().to_string();
    assert!(error.starts_with("there is no reason \"lowload\"; there are: steady, held, limited"), "{error}");
    assert!(Filter::term("season-of-love").unwrap_err().to_string().contains("there are: envelope"));
    assert!(Filter::limited("stal\u{7}").unwrap_err().to_string().starts_with("there is no limit \"stal\""));
}

#[test]
fn every_limit_that_is_met_has_a_name_that_can_be_asked_for() {
    let (_, log) = day();
    for entry in log.select(&Filter::default(), KEPT) {
        for limit in &entry.decision.limits {
            assert_eq!(Filter::limited(limit.kind.as_str()), Ok(Limited::By(limit.kind.as_str())));
        }
    }
}

#[test]
fn what_stood_at_a_time_is_found_with_how_long_it_stood() {
    let (world, log) = day();
    let changes = log.select(&Filter { changes: true, ..Filter::default() }, KEPT);
    let first_up = changes.last().expect("there was a burst").decision.at;
    let moment = Duration::from_millis(1);
    let before = log.stood_at(first_up - moment).expect("the log goes back that far");
    assert_eq!((before.entry.decision.to, before.until), (2, Some(first_up)));
    let at = log.stood_at(first_up).expect("the log goes back that far");
    assert_eq!(at.entry.decision.at, first_up);
    let latest = log.stood_at(world.now + secs(5)).expect("nothing came since");
    assert_eq!((latest.entry.decision.at, latest.until), (world.now, None));
}

#[test]
fn what_is_not_kept_is_told_apart_from_what_never_was() {
    let log = Log::default();
    assert_eq!(log.stood_at(secs(5)).unwrap_err(), NotKept::Nothing);
    let mut world = World::with_ready(policy(1, 10), 2);
    world.run(9, 150.0);
    logged(&mut world, &log, 1, 150.0);
    assert_eq!(log.stood_at(secs(9)).unwrap_err(), NotKept::Earlier { first: secs(10) });
    // Each is another than the one before: its outcome is.
    for n in 0..KEPT as u64 {
        let decision = world.tick(150.0);
        let outcome = if n % 2 == 0 { Outcome::Observed } else { Outcome::Unchanged };
        log.push(Arc::new(Entry { decision, outcome, observed: None }));
    }
    assert_eq!(log.recent(usize::MAX).len(), KEPT);
    assert_eq!(log.stood_at(secs(10)).unwrap_err(), NotKept::Forgotten { oldest: secs(11) });
    assert!(log.stood_at(secs(11)).is_ok());
}
