//! How long one decision takes: at 64 replicas and three gateways, and a tick of 500 such models on one core.
//!
//!     cargo bench -p autoscaler

use std::{
    hint::black_box,
    io::{self, Write as _},
    time::Duration,
};

use autoscaler::{
    decide::decide,
    policy::{Assumed, Bounds, IdleAfter, Mode, Objective, Policy, Slo},
    snapshot::{
        Counters, FleetView, GatewayView, Gauges, LatencyModel, Phase, ReplicaLoad, ReplicaView, Report,
        Snapshot,
    },
    state::State,
};
use tokio::time::Instant;

const REPLICAS: u32 = 64;
const GATEWAYS: u64 = 3;
const MODELS: usize = 500;
/// Seconds of history before anything is timed: three days, so that there is a season, in steps of ten.
const STEP: u64 = 10;
const BEFORE: u64 = 4 * 24 * 3600;
const TIMED: u64 = 2000;
/// A Monday, 00:00 UTC.
const BEGINS: u64 = 1_767_571_200;

fn policy(cold_start: u64) -> Policy {
    Policy {
        bounds: Bounds { min: 0, max: 200 },
        slo: Slo::Latency(Objective { target: Duration::from_secs(2), percentile: 0.99 }),
        idle_after: IdleAfter::Auto,
        mode: Mode::Enforce,
        assumed: Assumed { concurrency: 16, cold_start: Duration::from_secs(cold_start) },
        schedules: Vec::new(),
    }
}

/// What is seen at `second`: 1,500 requests a second, and now and then twice as many.
fn snapshot(second: u64, arrivals: &mut u64, since: u64) -> Snapshot {
    let rate = 1500 + second.wrapping_mul(6_364_136_223_846_793_005) % 200;
    let burst = if second % 600 < 20 { 2 } else { 1 };
    *arrivals += rate * burst * since / GATEWAYS;
    let at = Duration::from_secs(second);
    let id = |n: u32| format!("replica-{n}").into();
    let replicas = (0..REPLICAS).map(|n| ReplicaLoad { id: id(n), in_flight: n % 4 }).collect::<Vec<_>>();
    let counters = Counters {
        arrivals: *arrivals,
        arrival_rows: *arrivals,
        arrival_work: Duration::from_millis(*arrivals * 400),
        completions: *arrivals,
        ..Counters::default()
    };
    let gauges = Gauges { in_flight_requests: 200, in_flight_rows: 200, ..Gauges::default() };
    let latency = LatencyModel {
        fixed: Duration::from_millis(400),
        tail_permille: 1300,
        samples: 10_000,
        max_batch_rows: 1,
        concurrency: 16,
        ..LatencyModel::default()
    };
    let report = Report { at, counters, gauges, latency, chat: None, replicas };
    let gateway =
        |n| GatewayView { name: format!("gateway-{n}").into(), listed: true, report: Some(report.clone()) };
    let replica = |n| ReplicaView {
        id: id(n),
        phase: Phase::Ready,
        created: Duration::from_secs(BEGINS),
        ready_since: Some(Duration::from_secs(BEGINS + 100)),
        restarts: 0,
        trouble: None,
    };
    Snapshot {
        gateways: (0..GATEWAYS).map(gateway).collect(),
        fleet: FleetView {
            wanted: REPLICAS,
            replicas: (0..REPLICAS).map(replica).collect(),
            ..FleetView::default()
        },
    }
}

/// A state with days behind it, and the arrivals so far.
fn aged(policy: &Policy) -> (State, u64) {
    let (mut state, mut arrivals) = (State::default(), 0);
    for second in (0..BEFORE).step_by(STEP as usize) {
        let now = BEGINS + second;
        state.observe(policy, &snapshot(now, &mut arrivals, STEP), Duration::from_secs(now));
        if second % 60 == 0 {
            let seen = snapshot(now, &mut arrivals, 0);
            state.commit(&decide(policy, &state, &seen, Duration::from_secs(now)));
        }
    }
    (state, arrivals)
}

fn micros(mut times: Vec<Duration>, part: f64) -> f64 {
    times.sort_unstable();
    let index = (times.len() as f64 * part) as usize;
    times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

fn main() -> io::Result<()> {
    let mut out = io::stdout();
    for cold_start in [20, 103, 300, 1800] {
        let policy = policy(cold_start);
        let (mut state, mut arrivals) = aged(&policy);
        let (mut decided, mut ticked) = (Vec::new(), Vec::new());
        for second in BEGINS + BEFORE..BEGINS + BEFORE + TIMED {
            let (seen, now) = (snapshot(second, &mut arrivals, 1), Duration::from_secs(second));
            let began = Instant::now();
            state.observe(&policy, &seen, now);
            let before = Instant::now();
            let decision = black_box(decide(&policy, &state, black_box(&seen), now));
            decided.push(before.elapsed());
            state.commit(&decision);
            ticked.push(began.elapsed());
        }
        writeln!(
            out,
            "start {cold_start:4} s: decide median {:.1} µs, p99 {:.1} µs; observe, decide and commit median {:.1} µs",
            micros(decided.clone(), 0.5),
            micros(decided, 0.99),
            micros(ticked, 0.5),
        )?;
    }
    let policy = policy(103);
    let (state, mut arrivals) = aged(&policy);
    let mut states = vec![state; MODELS];
    let now = BEGINS + BEFORE;
    let seen: Vec<Snapshot> = (0..10).map(|tick| snapshot(now + tick, &mut arrivals, 1)).collect();
    let began = Instant::now();
    for (tick, seen) in (0..).zip(&seen) {
        for state in &mut states {
            let now = Duration::from_secs(now + tick);
            state.observe(&policy, seen, now);
            let decision = decide(&policy, state, seen, now);
            state.commit(&black_box(decision));
        }
    }
    writeln!(
        out,
        "a tick of {MODELS} models: {:.1} ms",
        began.elapsed().as_secs_f64() * 1e3 / seen.len() as f64
    )
}
