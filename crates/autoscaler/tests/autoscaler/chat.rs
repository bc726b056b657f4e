//! A model whose answers are streams of tokens: one replica has 15 of them at a time at the objective, and each
//! lasts 12.8 s.

use std::time::Duration;

use autoscaler::{
    capacity::Unit,
    decide::{Decision, decide},
    explain::{sentence, why},
    log::{Entry, Outcome},
    policy::{IdleAfter, Objective, Policy, Slo},
    snapshot::{
        ChatModel, Counters, FleetView, GatewayView, Gauges, LatencyModel, Phase, ReplicaView, Report,
        Snapshot,
    },
    state::State,
};
use proptest::prelude::{ProptestConfig, proptest};

use crate::world::{limits, policy, secs, term};

/// 60 ms / 1.2 = 50 ms = 20 ms + 15 · 2 ms, and 0.3 s + 250 · 50 ms = 12.8 s.
const LEARNED: ChatModel = ChatModel {
    ttft: Duration::from_millis(300),
    tpot_fixed: Duration::from_millis(20),
    tpot_per_stream: Duration::from_millis(2),
    tpot_tail_permille: 1200,
    output_tokens_milli: 250_000,
    samples: 1000,
};
const SLOTS: f64 = 15.0;
const COLD_START: Duration = Duration::from_secs(20);

fn chat_policy(min: u32, max: u32) -> Policy {
    let ttft = Objective { target: secs(2), percentile: 0.99 };
    let tpot = Objective { target: Duration::from_millis(60), percentile: 0.95 };
    Policy { slo: Slo::Chat { ttft, tpot }, ..policy(min, max) }
}

/// Streams in one-second steps: each occupies a slot for `length`, the others wait.
struct World {
    policy: Policy,
    state: State,
    now: Duration,
    fleet: FleetView,
    model: Option<ChatModel>,
    length: f64,
    /// When each running stream ends.
    running: Vec<f64>,
    queued: u64,
    arrived: f64,
    completions: u64,
    born: u32,
}

impl World {
    fn new(policy: Policy, ready: u32) -> Self {
        let mut world = Self {
            policy,
            state: State::default(),
            now: secs(0),
            fleet: FleetView::default(),
            model: Some(LEARNED),
            length: 12.8,
            running: Vec::new(),
            queued: 0,
            arrived: 0.0,
            completions: 0,
            born: 0,
        };
        world.scale(ready);
        for replica in &mut world.fleet.replicas {
            replica.phase = Phase::Ready;
            replica.ready_since = Some(secs(0));
        }
        world.decide();
        world
    }

    fn ready(&self) -> u32 {
        self.fleet.replicas.iter().filter(|replica| replica.phase == Phase::Ready).count() as u32
    }

    fn tick(&mut self, rate: f64) -> Decision {
        self.now += secs(1);
        for replica in self.fleet.replicas.iter_mut().filter(|replica| replica.phase != Phase::Ready) {
            if self.now >= replica.created + COLD_START {
                (replica.phase, replica.ready_since) = (Phase::Ready, Some(self.now));
            }
        }
        let before = self.arrived as u64;
        self.arrived += rate;
        self.queued += self.arrived as u64 - before;
        self.run_streams();
        let decision = self.decide();
        self.scale(decision.to);
        decision
    }

    fn run(&mut self, seconds: u64, rate: f64) -> Decision {
        (1..seconds).for_each(|_| drop(self.tick(rate)));
        self.tick(rate)
    }

    fn run_streams(&mut self) {
        let now = self.now.as_secs_f64();
        let before = self.running.len();
        self.running.retain(|end| *end > now);
        self.completions += (before - self.running.len()) as u64;
        let room = (f64::from(self.ready()) * SLOTS) as usize;
        while self.queued > 0 && self.running.len() < room {
            self.queued -= 1;
            self.running.push(now + self.length);
        }
    }

    fn snapshot(&self) -> Snapshot {
        let arrivals = self.arrived as u64;
        let counters = Counters {
            arrivals,
            arrival_rows: arrivals,
            completions: self.completions,
            ..Counters::default()
        };
        let streams = self.running.len() as u64;
        let gauges = Gauges {
            queued_requests: self.queued,
            queued_rows: self.queued,
            oldest: (self.queued > 0).then_some(secs(1)),
            in_flight_requests: streams,
            in_flight_rows: streams,
        };
        let latency = LatencyModel { concurrency: 64, max_batch_rows: 1, ..LatencyModel::default() };
        let (chat, replicas) = (self.model, Vec::new());
        let report = Report { at: self.now, counters, gauges, latency, chat, replicas };
        let gateways = vec![GatewayView { name: "gateway".into(), listed: true, report: Some(report) }];
        Snapshot { gateways, fleet: self.fleet.clone() }
    }

    fn decide(&mut self) -> Decision {
        let snapshot = self.snapshot();
        self.state.observe(&self.policy, &snapshot, self.now);
        let decision = decide(&self.policy, &self.state, &snapshot, self.now);
        self.state.commit(&decision);
        decision
    }

    fn scale(&mut self, wanted: u32) {
        self.fleet.wanted = wanted;
        self.fleet.replicas.truncate(wanted as usize);
        while self.fleet.replicas.len() < wanted as usize {
            self.born += 1;
            self.fleet.replicas.push(ReplicaView {
                id: format!("r{}", self.born).into(),
                phase: Phase::Starting,
                created: self.now,
                ready_since: None,
                restarts: 0,
                trouble: None,
            });
        }
    }
}

#[test]
fn a_burst_goes_up_in_one_decision_as_far_as_the_pace_allows() {
    let mut world = World::new(chat_policy(1, 40), 2);
    world.run(600, 1.0);
    assert_eq!(world.fleet.wanted, 2, "1 stream/s of 12.8 s fills 13 of 30 slots");
    let mut decision = world.tick(10.0);
    for _ in 0..4 {
        if decision.to > 2 {
            break;
        }
        decision = world.tick(10.0);
    }
    // At most four more within 15 s, and what ten times the streams need is more.
    assert_eq!((decision.from, decision.to), (2, decision.target.min(6)), "{}", sentence(&decision));
    let mut most_waiting = 0;
    for _ in 0..300 {
        world.tick(10.0);
        most_waiting = most_waiting.max(world.queued);
    }
    // 10/s · 12.8 s = 128 streams, 8.5 replicas' worth; what piled up until the first of them was there needs more.
    assert!((9..=24).contains(&world.ready()), "{} ready", world.ready());
    assert_eq!(world.queued, 0);
    assert!(most_waiting < 10 * 60, "{most_waiting}");
    world.run(2400, 10.0);
    assert!((9..=14).contains(&world.ready()), "{} ready", world.ready());
}

#[test]
fn long_streams_keep_their_replicas_although_nothing_arrives() {
    let mut world = World::new(chat_policy(0, 10), 3);
    world.policy.idle_after = IdleAfter::Fixed(secs(30));
    world.length = 900.0;
    world.run(9, 5.0);
    for _ in 0..600 {
        let decision = world.tick(0.0);
        // 45 streams fill three replicas.
        assert_eq!(world.running.len(), 45);
        assert_eq!(term(&decision, "occupancy"), Some(3));
        assert!(decision.to >= 3, "{}", sentence(&decision));
    }
    world.run(400, 0.0);
    assert_eq!((world.running.len(), world.fleet.wanted), (0, 0), "idle");
}

#[test]
fn a_step_down_leaves_a_fifth_of_the_slots_free() {
    let mut world = World::new(chat_policy(0, 10), 4);
    world.length = 3000.0;
    // 40 streams need three replicas, which have 45 slots: more than four fifths of them would be taken.
    world.run(10, 4.0);
    let decision = world.run(1500, 0.0);
    assert_eq!((term(&decision, "occupancy"), decision.to), (Some(3), 4));
    assert!(limits(&decision).contains(&"consolidation"), "{:?}", limits(&decision));
    // 36 are four fifths.
    world.running.truncate(35);
    let decision = world.run(120, 0.0);
    assert_eq!(decision.to, 3, "{:?}", decision.limits);
}

#[test]
fn streams_are_explained_by_the_pace_that_they_keep() {
    let mut world = World::new(chat_policy(1, 10), 3);
    world.length = 900.0;
    let decision = world.run(10, 4.1);
    assert_eq!(world.running.len(), 41);
    let entry = Entry { decision: decision.clone(), outcome: Outcome::Unchanged, observed: None };
    let text = why("assistant", &entry, &[], &|at| format!("{} s", at.as_secs()));
    let capacity = "1 replica ≈ 15 streams at TPOT p95 60 ms, 1.2 requests/s, each 13 s long (learned from 1,000 \
                    streams); SLO TTFT p99 2 s and TPOT p95 60 ms";
    assert!(text.contains(capacity), "{text}");
    assert!(text.contains("requests/s, 41 in flight, 0 waiting"), "{text}");
    let later = world.run(1000, 0.0);
    assert_eq!(later.inputs.capacity.unit, Unit::Streams);
    world.length = 9000.0;
    world.running = vec![1e6; 41];
    let sentence = sentence(&world.run(700, 0.0));
    assert!(sentence.contains("41 streams in flight, 15 per replica at TPOT p95 60 ms"), "{sentence}");
}

#[test]
fn until_streams_are_measured_four_fifths_of_the_concurrency_count() {
    let mut world = World::new(chat_policy(1, 10), 1);
    world.model = Some(ChatModel { samples: 199, ..LEARNED });
    world.policy.assumed.concurrency = 10;
    world.state = State::default();
    world.running = vec![1e6; 15];
    let decision = world.decide();
    assert_eq!((decision.inputs.capacity.slots, term(&decision, "occupancy")), (8.0, Some(2)));
    world.model = Some(LEARNED);
    assert_eq!(world.decide().inputs.capacity.slots, 15.0);
}

#[test]
fn what_was_learned_of_streams_outlives_the_process() {
    let mut world = World::new(chat_policy(0, 10), 1);
    world.run(5, 1.0);
    let digest = world.state.digest().to_json();
    assert!(digest.len() < 2048);
    world.state = State::from_digest(&digest, world.now).unwrap();
    world.model = None;
    assert_eq!(world.decide().inputs.capacity.slots, SLOTS);
    let json = world.state.to_json();
    world.state = State::from_json(&json, world.now).unwrap();
    assert_eq!(world.decide().inputs.capacity.slots, SLOTS);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn more_streams_never_call_for_fewer_replicas(
        seconds in 1u64..90, rate in 0.0..20.0f64, more in 1.0..4.0f64, streams in 0usize..200,
    ) {
        let target = |rate: f64, streams: usize| {
            let mut world = World::new(chat_policy(1, 50), 8);
            world.running = vec![1e6; streams];
            world.run(seconds, rate);
            world.fleet.replicas.truncate(8);
            world.decide().terms
        };
        let (less, more) = (target(rate, streams), target(rate * more, streams + 10));
        for term in less.iter().filter(|term| term.why.name() == "occupancy") {
            let other = more.iter().find(|other| other.why.name() == "occupancy");
            assert!(other.is_some_and(|other| other.replicas >= term.replicas), "{less:?} {more:?}");
        }
    }
}
