use std::time::Duration;

use serde_json::json;

use super::*;
use crate::{
    decide::decide,
    log::Outcome,
    policy::tests::up_to,
    snapshot::{FleetView, GatewayView, Gauges, Phase, ReplicaView, Report},
};

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn policy(max: u32) -> Arc<Policy> {
    Arc::new(up_to(max))
}

fn snapshot(now: Duration) -> Snapshot {
    let gauges = Gauges { queued_requests: 3, oldest: Some(Duration::from_nanos(7)), ..Gauges::default() };
    let report = Some(Report { at: now, gauges, ..Report::default() });
    let replica = ReplicaView {
        id: "~r1".into(),
        phase: Phase::Ready,
        created: secs(1),
        ready_since: Some(secs(2)),
        restarts: 1,
        trouble: Some("it said: \"no\"\n".into()),
    };
    Snapshot {
        gateways: vec![GatewayView { name: "g".into(), listed: true, report }],
        fleet: FleetView { wanted: 1, replicas: vec![replica], ..FleetView::default() },
    }
}

/// A loop that decides and records.
struct Loop {
    recorder: Recorder,
    state: State,
}

impl Loop {
    fn new(sink: &Sink) -> Self {
        let settings = Arc::new(json!({"name": "m", "slo": {"p99": "200ms"}}));
        let recorder = Recorder::new(sink.clone(), "m".into(), settings, Some(7));
        Self { recorder, state: State::default() }
    }

    fn tick(&mut self, policy: &Arc<Policy>, now: Duration) {
        let before = self.recorder.wants_state(now).then(|| self.state.clone());
        let snapshot = snapshot(now);
        self.state.observe(policy, &snapshot, now);
        let decision = decide(policy, &self.state, &snapshot, now);
        self.state.commit(&decision);
        let entry =
            Arc::new(Entry { decision, outcome: Outcome::Kept("a request came".into()), observed: None });
        self.recorder.take(policy, before, snapshot, &entry);
    }
}

/// The lines of everything that was sent, each as its name and itself.
fn lines(tape: &mut Tape) -> Vec<Line> {
    let mut lines = Vec::new();
    while let Ok(Sent::Tick(taken)) = tape.sent.try_recv() {
        lines.extend(taken.lines().lines().map(|line| Line::parse(line).unwrap()));
    }
    lines
}

fn names(tape: &mut Tape) -> Vec<&'static str> {
    let name = |line: &Line| match line {
        Line::Header(_) => "header",
        Line::Policy(_) => "policy",
        Line::State(_) => "state",
        Line::Tick(_) => "tick",
        Line::Gap(_) => "gap",
    };
    lines(tape).iter().map(name).collect()
}

#[test]
fn each_line_reads_back_as_what_was_written() {
    let sink = Sink::default();
    let mut tape = sink.tape(8);
    let mut it = Loop::new(&sink);
    it.tick(&policy(4), secs(10));
    let first: [Line; 3] = lines(&mut tape).try_into().unwrap();
    let [Line::Policy(ruled), Line::State(stated), Line::Tick(tick)] = first else { panic!("{first:?}") };
    let run = Run { model: "m".into(), number: 0 };
    assert_eq!((&ruled.run, &ruled.policy, ruled.at), (&run, &*policy(4), secs(10)));
    assert_eq!(ruled.settings["slo"]["p99"], "200ms");
    assert_eq!((&stated.run, &stated.state, stated.epoch), (&run, &State::default(), Some(7)));
    assert_eq!((&tick.run, &tick.snapshot, tick.at), (&run, &snapshot(secs(10)), secs(10)));
    assert_eq!(tick.outcome, Outcome::Kept("a request came".into()));

    for line in [
        Line::Header(Header {
            version: VERSION,
            program: "tidegate 9".into(),
            session: u64::MAX,
            part: 3,
            at: secs(3),
        }),
        Line::Gap(Gap { run, ticks: 3 }),
        Line::Policy(ruled),
        Line::State(stated),
        Line::Tick(tick),
    ] {
        let text = line.text();
        assert!(!text.contains('\n'), "{text}");
        assert_eq!(Line::parse(&text).unwrap().text(), text);
    }
}

#[test]
fn policy_and_memory_come_first_then_when_they_are_due() {
    let sink = Sink::default();
    let mut tape = sink.tape(8);
    let mut it = Loop::new(&sink);
    it.tick(&policy(4), secs(10));
    assert_eq!(names(&mut tape), ["policy", "state", "tick"]);
    it.tick(&policy(4), secs(11));
    assert_eq!(names(&mut tape), ["tick"]);
    it.tick(&policy(5), secs(12));
    assert_eq!(names(&mut tape), ["policy", "tick"]);
    it.tick(&policy(5), secs(310));
    assert_eq!(names(&mut tape), ["policy", "state", "tick"], "five minutes later");
    tape.renew();
    it.tick(&policy(5), secs(311));
    assert_eq!(names(&mut tape), ["policy", "state", "tick"], "the writer wants it");
}

#[test]
fn ticks_that_find_no_room_leave_a_gap_with_their_number() {
    let sink = Sink::default();
    let mut tape = sink.tape(2);
    let mut it = Loop::new(&sink);
    (10..15).for_each(|second| it.tick(&policy(4), secs(second)));
    assert_eq!(names(&mut tape), ["policy", "state", "tick", "tick"]);
    it.tick(&policy(4), secs(15));
    let after = lines(&mut tape);
    assert!(matches!(after.first(), Some(Line::Gap(Gap { ticks: 3, .. }))), "{after:?}");
    let Some(Line::State(stated)) = after.get(2) else { panic!("{after:?}") };
    assert_eq!(after.len(), 4);
    assert_ne!(stated.state, State::default(), "as it was before the tick");
}

#[tokio::test]
async fn a_tape_ends_after_what_was_sent_before_although_loops_go_on() {
    let sink = Sink::default();
    let tape = sink.tape(8);
    let mut it = Loop::new(&sink);
    it.tick(&policy(4), secs(10));
    sink.end().await;
    it.tick(&policy(4), secs(11));
    let ticks = tokio::task::spawn_blocking(|| tape.count()).await.unwrap();
    assert_eq!(ticks, 1);
}

#[test]
fn a_tape_ends_when_everybody_who_could_send_is_gone() {
    let sink = Sink::default();
    let tape = sink.tape(8);
    let mut it = Loop::new(&sink);
    it.tick(&policy(4), secs(10));
    drop((sink, it));
    assert_eq!(tape.count(), 1);
}

#[test]
fn nobody_is_troubled_by_a_writer_that_is_gone_and_another_one_begins_with_the_memory() {
    let sink = Sink::default();
    let mut it = Loop::new(&sink);
    it.tick(&policy(4), secs(10));
    assert!(!it.recorder.wants_state(secs(11)), "nobody writes");
    let mut first = sink.tape(8);
    it.tick(&policy(4), secs(11));
    it.tick(&policy(4), secs(12));
    assert_eq!(names(&mut first), ["policy", "state", "tick", "tick"]);
    drop(first);
    it.tick(&policy(4), secs(13));
    assert!(!it.recorder.wants_state(secs(13)));
    let mut second = sink.tape(8);
    it.tick(&policy(4), secs(14));
    assert_eq!(names(&mut second), ["policy", "state", "tick"]);
}

#[test]
fn loops_over_one_model_are_told_apart() {
    let sink = Sink::default();
    let mut tape = sink.tape(4);
    let (mut before, mut after) = (Loop::new(&sink), Loop::new(&sink));
    before.tick(&policy(4), secs(10));
    after.tick(&policy(4), secs(10));
    let runs: Vec<u64> = lines(&mut tape).iter().map(|line| line.run().unwrap().number).collect();
    assert_eq!(runs, [0, 0, 0, 1, 1, 1]);
}

#[test]
fn a_record_of_another_form_is_told_apart_from_what_is_none() {
    let newer = r#"{"header":{"version":2,"program":"tidegate 0.9.0","more":[]}}"#;
    let error = Line::parse(newer).unwrap_err().to_string();
    assert_eq!(error, "the record has form 2, not 1; tidegate 0.9.0 has written it");
    assert!(begins_record(newer));
    for text in ["", "{}", "t,x", "{\"t\": 1}", "listen: 0.0.0.0:80", "{\"header\": 3}"] {
        assert!(!begins_record(text), "{text}");
        assert!(matches!(Line::parse(text), Err(LineError::Unreadable(_))), "{text}");
    }
}
