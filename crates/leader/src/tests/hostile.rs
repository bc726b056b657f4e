//! Whatever is said, nobody panics, and what is kept has bounds.

use std::sync::Arc;

use autoscaler::reconcile::Source as _;
use proptest::prelude::*;
use proto::signals::{
    ChatModel, Counters, Gauges, Hello, LatencyModel, ModelReport, ReplicaLoad, Reports, Withdrawal,
};
use tokio::sync::watch;

use super::net::{MODEL, secs, view};
use crate::collector::{Collector, Listed, ModelSource, Refusal};

fn collector(listed: &[&str]) -> Collector {
    let listed: Listed = Arc::new(listed.iter().map(|name| Arc::from(*name)).collect());
    Collector::new(watch::channel(listed).1)
}

fn hello(gateway: &str) -> Hello {
    Hello { gateway: gateway.into(), version: "\u{0}".repeat(1000) }
}

fn a_number() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), 0..10u64]
}

fn a_message() -> impl Strategy<Value = ModelReport> {
    let load = (".{0,9}", any::<u32>()).prop_map(|(replica, in_flight)| ReplicaLoad { replica, in_flight });
    let numbers = prop::collection::vec(a_number(), 16);
    (numbers, prop::collection::vec(load, 0..4), any::<(bool, bool, bool, bool)>()).prop_map(
        |(n, replicas, (counters, gauges, latency, wake))| ModelReport {
            model: MODEL.into(),
            counters: counters.then(|| Counters {
                arrivals: n[0],
                arrival_rows: n[1],
                arrival_work_nanos: n[2],
                completions: n[3],
                slo_misses: n[4],
                shed: n[5],
                held_cold: n[6],
            }),
            gauges: gauges.then(|| Gauges {
                queued_requests: n[7],
                queued_rows: n[8],
                oldest_nanos: wake.then_some(n[9]),
                in_flight_requests: n[10],
                in_flight_rows: n[11],
            }),
            latency: latency.then(|| LatencyModel {
                fixed_nanos: n[12],
                per_row_nanos: n[13],
                tail_permille: n[12] as u32,
                samples: n[14],
                max_batch_rows: n[15] as u32,
                concurrency: n[13] as u32,
            }),
            replicas,
            wake,
            withdrawal: n[15],
            chat: latency.then(|| ChatModel {
                ttft_nanos: n[12],
                tpot_fixed_nanos: n[13],
                tpot_per_stream_nanos: n[14],
                tpot_tail_permille: n[15] as u32,
                output_tokens_milli: n[12],
                samples: n[13],
            }),
        },
    )
}

/// What a reconcile loop would make of it.
fn decide(source: &ModelSource, seconds: u64, state: &mut autoscaler::state::State) {
    use autoscaler::{
        policy::{Assumed, Bounds, IdleAfter, Mode, Objective, Policy, Slo},
        snapshot::{FleetView, Snapshot},
    };
    let policy = Policy {
        bounds: Bounds { min: 0, max: 20 },
        slo: Slo::Latency(Objective { target: secs(1), percentile: 0.99 }),
        idle_after: IdleAfter::Auto,
        mode: Mode::Enforce,
        assumed: Assumed { concurrency: 4, cold_start: secs(20) },
        schedules: Vec::new(),
    };
    let snapshot = Snapshot { gateways: source.gateways(secs(seconds)), fleet: FleetView::default() };
    state.observe(&policy, &snapshot, secs(seconds));
    let decision = autoscaler::decide::decide(&policy, state, &snapshot, secs(seconds));
    state.commit(&decision);
    assert!(decision.to <= 20);
    assert!(!autoscaler::explain::sentence(&decision).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_decision_can_be_taken_whatever_gateways_say(
        said in prop::collection::vec((0..2usize, a_message(), any::<bool>()), 1..12),
    ) {
        let collector = collector(&["gateway-0"]);
        let source = collector.source(MODEL.into());
        let calls = [0, 1].map(|n| collector.join(&hello(&format!("gateway-{n}"))).expect("there is room"));
        let mut state = autoscaler::state::State::default();
        for (second, (gateway, message, complete)) in said.into_iter().enumerate() {
            calls[gateway].hear(Reports { models: vec![message], complete });
            decide(&source, 100 + second as u64, &mut state);
        }
    }
}

#[test]
fn of_models_nobody_decides_for_nothing_is_kept() {
    let collector = collector(&[]);
    let call = collector.join(&hello("gateway-a")).expect("there is room");
    let model = |n: usize| ModelReport { model: format!("model-{n}"), ..Default::default() };
    call.hear(Reports { models: (0..5000).map(model).collect(), complete: false });
    let source = collector.source("model-7".into());
    assert!(view(&source, "gateway-a").is_some_and(|view| view.report.is_none()));
}

#[test]
fn replicas_are_kept_up_to_a_bound_per_gateway() {
    let collector = collector(&[]);
    let sources: Vec<_> = (0..20).map(|n| collector.source(format!("model-{n}").into())).collect();
    let call = collector.join(&hello("gateway-a")).expect("there is room");
    let load = |n: u32| ReplicaLoad { replica: format!("replica-{n}"), in_flight: n };
    for _ in 0..3 {
        let model = |n: usize| ModelReport {
            model: format!("model-{n}"),
            replicas: (0..5000).map(load).collect(),
            ..Default::default()
        };
        call.hear(Reports { models: (0..20).map(model).collect(), complete: false });
    }
    let kept =
        |source| view(source, "gateway-a").and_then(|view| view.report).map_or(0, |r| r.replicas.len());
    assert_eq!(kept(&sources[0]), 2048);
    assert_eq!(sources.iter().map(kept).sum::<usize>(), 16_384);
}

#[test]
fn gateways_that_are_not_listed_are_taken_in_up_to_a_bound() {
    let collector = collector(&["gateway-listed"]);
    let calls: Vec<_> =
        (0..256).map(|n| collector.join(&hello(&format!("gateway-{n}"))).expect("there is room")).collect();
    assert_eq!(collector.join(&hello("gateway-256")).map(drop), Err(Refusal::TooMany));
    collector.join(&hello("gateway-listed")).expect("who is listed is always taken in");
    collector.join(&hello("gateway-7")).expect("who is known too");
    drop(calls);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_says_nonsense_is_not_obeyed_and_not_died_of() {
    use crate::reporter::{Config, Reporter};
    let reporter = Reporter::start(
        Config { gateway: "gateway-a".into(), version: "".into() },
        watch::channel(Some("not an address".into())).1,
    );
    let model = reporter.model(MODEL.into(), Arc::new(Default::default));
    tokio::time::sleep(secs(10)).await;
    assert!(!*reporter.connected().borrow());
    assert!(model.directive().borrow().is_none());
    let withdrawal =
        Withdrawal { number: 7, replicas: vec![String::new(), "x".repeat(300), "digits-0".into()] };
    let (number, replicas) = crate::wire::withdrawal(Some(withdrawal));
    assert_eq!((number, &*replicas), (7, &*super::net::ids(&["digits-0"])));
}
