//! A simulation on record, replayed: all of it, parts of it, with holes, and with another policy.

use std::{ops::RangeInclusive, sync::LazyLock, time::Duration};

use arrivals::trace::Replay as AsIs;
use autoscaler::{
    decide::decide,
    log::Outcome,
    policy::{Bounds, Policy as Rules},
    record::{Gap, Line, PolicyLine, Run, StateLine, Tick},
    state::State,
};
use plan::{
    load::Load,
    policy::{Ours, Policy, Seen},
    replay::{Replay, Replayed},
    service::Service,
    world::Run as Simulated,
};
use serde_json::{Value, value::to_raw_value};

use crate::world::{rules, run, secs, settings, steps};

const WHOLE: RangeInclusive<Duration> = Duration::ZERO..=Duration::MAX;
/// Ticks after which the memory is on record again.
const STATES: usize = 100;

/// Tidegate's rules, on record.
#[derive(Debug)]
struct Recording {
    rules: Rules,
    state: State,
    lines: Vec<String>,
    ticks: usize,
}

fn named(number: u64) -> Run {
    Run { model: "m".into(), number }
}

impl Recording {
    fn new(rules: Rules) -> Self {
        Self { rules, state: State::default(), lines: Vec::new(), ticks: 0 }
    }

    fn write(&mut self, line: &Line) {
        self.lines.push(line.text());
    }
}

impl Policy for Recording {
    fn decide(&mut self, seen: &Seen<'_>, now: Duration) -> Option<u32> {
        if self.ticks.is_multiple_of(STATES) {
            let (policy, settings) = (self.rules.clone(), Value::Null);
            self.write(&Line::Policy(Box::new(PolicyLine { run: named(0), at: now, policy, settings })));
            let state = self.state.clone();
            self.write(&Line::State(Box::new(StateLine { run: named(0), at: now, epoch: None, state })));
        }
        self.ticks += 1;
        self.state.observe(&self.rules, seen.snapshot, now);
        let decision = decide(&self.rules, &self.state, seen.snapshot, now);
        self.state.commit(&decision);
        self.write(&Line::Tick(Box::new(Tick {
            run: named(0),
            at: now,
            snapshot: seen.snapshot.clone(),
            decision: to_raw_value(&decision).expect("has string keys only"),
            outcome: Outcome::Unchanged,
        })));
        Some(decision.to)
    }
}

/// Some minutes with a crowd in them.
fn recorded() -> (Simulated, Vec<String>) {
    static RECORDED: LazyLock<(Simulated, Vec<String>)> = LazyLock::new(|| {
        let settings = settings("40ms");
        let mut policy = Recording::new(rules(&settings));
        let simulated = run(&settings, &steps("20x2m,300x2m,0x30s,30x2m"), &mut policy, 1);
        (simulated, policy.lines)
    });
    RECORDED.clone()
}

fn replay<'l>(
    lines: impl IntoIterator<Item = &'l String>,
    window: RangeInclusive<Duration>,
    other: Option<&Rules>,
) -> Replayed {
    let mut replay = Replay::new(window);
    for line in lines {
        match Line::parse(line) {
            Ok(Line::Header(_)) => replay.began(),
            Ok(Line::Policy(line)) => replay.ruled(*line, other.cloned()),
            Ok(Line::State(line)) => replay.stated(*line),
            Ok(Line::Tick(tick)) => replay.tick(&tick),
            Ok(Line::Gap(gap)) => replay.missed(&gap),
            Err(_) => replay.tore(),
        }
    }
    replay.finish()
}

fn is_tick(line: &str) -> bool {
    line.starts_with("{\"tick\"")
}

#[test]
fn every_decision_of_a_simulation_comes_out_again_and_so_does_its_memory() {
    let (simulated, lines) = recorded();
    let replayed = replay(&lines, WHOLE, None);
    assert!(replayed.is_identical(), "{:?}", replayed.differences);
    assert!(simulated.changes.len() >= 2 && replayed.ticks >= 390, "{}", replayed.ticks);
    assert_eq!((replayed.skipped, replayed.other_memories, replayed.policy_changes), (0, 0, 0));
    assert!(replayed.open_loop.is_none());
}

#[test]
fn a_decision_that_is_not_the_one_on_record_is_told_with_both_reasons() {
    let (_, mut lines) = recorded();
    let place = lines.iter().rposition(|line| is_tick(line)).expect("there are ticks");
    lines[place] = lines[place].replacen("\"to\":", "\"to\":1", 1);
    let replayed = replay(&lines, WHOLE, None);
    assert_eq!((replayed.ticks - replayed.identical, replayed.is_identical()), (1, false));
    let difference = &replayed.differences[0];
    assert_eq!(difference.places, ["/to"]);
    assert_ne!(difference.recorded, difference.replayed);
}

#[test]
fn after_a_gap_or_a_torn_line_replay_waits_for_the_next_memory() {
    let (_, mut lines) = recorded();
    let gap = Line::Gap(Gap { run: named(0), ticks: 40 }).text();
    lines.splice(130..170, [gap]);
    let torn = lines[310].get(..60).expect("is longer").to_owned();
    lines[310] = torn;
    let replayed = replay(&lines, WHOLE, None);
    assert!(replayed.is_identical(), "{:?}", replayed.differences);
    assert_eq!((replayed.gaps, replayed.missed), (1, 40));
    assert!((60..240).contains(&replayed.skipped), "{}", replayed.skipped);
}

#[test]
fn a_part_is_replayed_from_the_memory_before_it() {
    let (simulated, lines) = recorded();
    let begins = replay(&lines, WHOLE, None).signals.begins.expect("there are ticks");
    let window = begins + secs(130)..=begins + secs(230);
    let replayed = replay(&lines, window, None);
    assert!(replayed.is_identical() && (101..120).contains(&replayed.ticks), "{}", replayed.ticks);
    assert!(replayed.signals.requests < simulated.arrivals);
    assert_eq!(replayed.signals.length(), secs(100));
}

#[test]
fn a_record_without_its_beginning_is_replayed_from_its_first_memory() {
    let (_, lines) = recorded();
    let replayed = replay(&lines[150..], WHOLE, None);
    assert!(replayed.is_identical() && replayed.skipped > 0, "{}", replayed.skipped);
}

#[test]
fn a_loop_that_ends_beside_its_successor_does_not_disturb_it() {
    let (_, lines) = recorded();
    let successor = |line: &String| line.replacen("\"number\":0", "\"number\":1", 1);
    // Both go through the same moments, the successor a little later.
    let both: Vec<String> = lines[..60]
        .iter()
        .cloned()
        .chain((60..300).flat_map(|n| [lines[n].clone(), successor(&lines[n - 60])]))
        .collect();
    let replayed = replay(&both, WHOLE, None);
    assert!(replayed.is_identical(), "{:?}", replayed.differences);
    let ticks = both.iter().filter(|line| is_tick(line)).count();
    assert_eq!(replayed.ticks, ticks as u64);
}

#[test]
fn arrivals_calls_and_starts_are_read_off_a_record() {
    let (simulated, lines) = recorded();
    let signals = replay(&lines, WHOLE, None).signals;
    assert_eq!(signals.requests, simulated.arrivals);
    let trace = signals.trace().expect("there are ticks");
    let schedule = trace.replay(AsIs::AS_IT_IS).expect("there are requests");
    assert_eq!(schedule.arrivals(3).count() as u64, simulated.arrivals);
    let Some(Service::Single { time }) = signals.measured().map(|measured| measured.service) else {
        panic!("{signals:?}")
    };
    assert!((time.as_secs_f64() / 0.04 - 1.0).abs() < 0.1, "{time:?}");
    assert_eq!(signals.cold_start().map(|start| start.mean().as_secs()), Some(20));
    let hours = (signals.replica_time.as_secs_f64(), simulated.replica_time.as_secs_f64());
    assert!((hours.0 / hours.1 - 1.0).abs() < 0.02, "{hours:?}");
}

#[test]
fn simulated_again_from_its_record_a_load_comes_to_the_same_again() {
    let (simulated, lines) = recorded();
    let signals = replay(&lines, WHOLE, None).signals;
    let load = Load::Trace(signals.trace().expect("there are ticks"), AsIs::AS_IT_IS);
    let settings = settings("40ms");
    let again = run(&settings, &load, &mut Ours::new(rules(&settings)), 7);
    let met = |run: &Simulated| run.counted.met as f64 / run.arrivals as f64;
    assert!((met(&again) - met(&simulated)).abs() < 0.03, "{} {}", met(&again), met(&simulated));
    let time = again.replica_time.as_secs_f64() / simulated.replica_time.as_secs_f64();
    assert!((0.9..1.1).contains(&time), "{time}");
}

#[test]
fn another_policy_calls_for_others_on_the_same_signals() {
    let (_, lines) = recorded();
    let fewer = Rules { bounds: Bounds { min: 0, max: 1 }, ..rules(&settings("40ms")) };
    let replayed = replay(&lines, WHOLE, Some(&fewer));
    assert!(replayed.is_identical(), "the record is replayed as it was all the same");
    let open = replayed.open_loop.expect("there is another policy");
    assert!(open.other > 60 && open.ticks == replayed.ticks, "{open:?}");
    assert!(open.recorded.most > 1 && open.changed.most == 1, "{open:?}");
    assert!(open.changed.replica_time < open.recorded.replica_time);
    assert!(open.moments[0].changed.contains("never more than 1"), "{:?}", open.moments);
    let same = replay(&lines, WHOLE, Some(&rules(&settings("40ms")))).open_loop.expect("the same");
    assert_eq!((same.other, same.recorded.replica_time), (0, same.changed.replica_time));
}
