//! What is on record replays to the same decisions: for every load, from any moment, and as the loop itself writes it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use autoscaler::{
    decide::{Decision, decide},
    policy::Policy,
    record::{Header, Line, Recorder, Run, Sink, StateLine, Taken, Tape, Tick, VERSION},
    snapshot::LatencyModel,
    state::State,
};
use proptest::prelude::{ProptestConfig, proptest};
use serde_json::{Value, value::to_raw_value};
use tokio::time::sleep;

use crate::{
    properties::{go_through, matters},
    reconcile::start_on_record,
    world::{World, policy, secs},
};

fn reread(line: &Line) -> Line {
    Line::parse(&line.text()).expect("was just written")
}

fn run() -> Run {
    Run { model: "m".into(), number: 0 }
}

fn reread_policy(policy: &Policy) -> Policy {
    let (policy, settings) = (policy.clone(), Value::Null);
    let line =
        Line::Policy(Box::new(autoscaler::record::PolicyLine { run: run(), at: secs(0), policy, settings }));
    let Line::Policy(line) = reread(&line) else { panic!("a policy") };
    line.policy
}

fn reread_state(state: &State) -> State {
    let line =
        Line::State(Box::new(StateLine { run: run(), at: secs(0), epoch: None, state: state.clone() }));
    let Line::State(line) = reread(&line) else { panic!("a state") };
    line.state
}

/// The decisions on record and those that its own state, policy and snapshots lead to, as text.
fn replayed(lines: &[Line]) -> (Vec<String>, Vec<String>) {
    let (mut recorded, mut again) = (Vec::new(), Vec::new());
    let (mut policy, mut state) = (None, None);
    for line in lines {
        match line {
            Line::Policy(line) => policy = Some(&line.policy),
            Line::State(line) => {
                let known = state.get_or_insert_with(|| line.state.clone());
                assert_eq!(*known, line.state, "the replay's own memory is the recorded one");
            }
            Line::Tick(tick) => {
                let (policy, state) = (policy.expect("came first"), state.as_mut().expect("came first"));
                recorded.push(tick.decision.get().to_owned());
                again.push(text(&step(policy, state, tick)));
            }
            Line::Header(_) | Line::Gap(_) => panic!("{line:?}"),
        }
    }
    (recorded, again)
}

fn step(policy: &Policy, state: &mut State, tick: &Tick) -> Decision {
    state.observe(policy, &tick.snapshot, tick.at);
    let decision = decide(policy, state, &tick.snapshot, tick.at);
    state.commit(&decision);
    decision
}

fn text(decision: &Decision) -> String {
    serde_json::to_string(decision).expect("has string keys only")
}

fn all(tape: Tape) -> Vec<Line> {
    let lines: String = tape.map(Taken::lines).collect();
    lines.lines().map(|line| Line::parse(line).expect("was just written")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_policy_and_snapshots_that_were_written_and_read_lead_to_the_same_decisions(
        phases in matters(), pause in 1u64..40, tail in 1000u32..2000,
    ) {
        let mut world = World::in_a_cluster(policy(0, 10), 2);
        world.latency = LatencyModel { tail_permille: tail, max_batch_rows: 8, ..world.latency };
        // A part of a second, so that windows hold fractions that are none of ours.
        world.pass(Duration::from_nanos(333_333_337), 17.3);
        let mut before = Vec::new();
        for (seconds, rate, matter) in phases {
            if let Some(at) = seconds.checked_sub(pause) {
                go_through(&mut world, at.max(1), rate, &matter);
            }
            before.push((reread_state(&world.state), world.state.clone(), world.seen.len()));
            let live = go_through(&mut world, pause.min(seconds), rate, &matter);
            let (mut state, exact, first) = before.pop().expect("was just pushed");
            assert_eq!(state, exact);
            let policy = reread_policy(&world.policy);
            assert_eq!(policy, world.policy);
            let seen = world.seen.get(first..).expect("seen meanwhile");
            for ((at, snapshot), decision) in seen.iter().zip(&live) {
                let tick = Tick {
                    run: run(),
                    at: *at,
                    snapshot: snapshot.clone(),
                    decision: to_raw_value(decision).expect("has string keys only"),
                    outcome: autoscaler::log::Outcome::Unchanged,
                };
                let Line::Tick(tick) = reread(&Line::Tick(Box::new(tick))) else { panic!("a tick") };
                let again = step(&policy, &mut state, &tick);
                assert_eq!(&again, decision);
                assert_eq!(text(&again), tick.decision.get());
            }
            assert_eq!(seen.len(), live.len());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_wakes_scales_and_falls_asleep_is_on_record_to_the_last_bit() {
    let sink = Sink::default();
    let tape = sink.tape(10_000);
    let recorder = Recorder::new(sink, "m".into(), Arc::new(Value::Null), None);
    let it = start_on_record(policy(0, 4), recorder);
    sleep(secs(3)).await;
    it.gateway.arrive(40);
    sleep(Duration::from_millis(20_123)).await;
    it.gateway.queued.store(0, Ordering::Relaxed);
    sleep(secs(700)).await;
    it.end().await;
    let lines = std::thread::spawn(move || all(tape)).join().expect("every recorder is gone");
    let (recorded, again) = replayed(&lines);
    assert!(recorded.len() > 700, "{}", recorded.len());
    let to = |n: u32| recorded.iter().any(|decision| decision.contains(&format!("\"to\":{n},")));
    assert!(to(0) && to(1), "it woke");
    assert_eq!(recorded, again);
    let states = lines.iter().filter(|line| matches!(line, Line::State(_))).count();
    assert_eq!(states, 3, "one each five minutes");
}

#[test]
fn a_header_says_who_wrote_the_record() {
    let header =
        Header { version: VERSION, program: "tidegate 0.1.0".into(), session: 9, part: 0, at: secs(1) };
    let Line::Header(read) = reread(&Line::Header(header.clone())) else { panic!("a header") };
    assert_eq!(read, header);
}
