use autoscaler::{
    log::Outcome,
    record::Run,
    snapshot::{GatewayView, ReplicaView, Snapshot},
};
use serde_json::value::to_raw_value;

use super::*;

const BEGIN: Duration = Duration::from_secs(1_000_000);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn report(at: Duration, arrivals: u64) -> Report {
    let counters = Counters {
        arrivals,
        arrival_rows: arrivals * 2,
        completions: arrivals,
        slo_misses: arrivals / 10,
        ..Counters::default()
    };
    Report { at, counters, ..Report::default() }
}

fn tick(at: u64, reports: Vec<(&str, Report)>, replicas: Vec<ReplicaView>) -> Tick {
    let views = reports.into_iter().map(|(name, report)| GatewayView {
        name: name.into(),
        listed: true,
        report: Some(report),
    });
    let wanted = replicas.len() as u32;
    let fleet = FleetView { wanted, replicas, ..FleetView::default() };
    Tick {
        run: Run { model: "m".into(), number: 0 },
        at: BEGIN + ms(at),
        snapshot: Snapshot { gateways: views.collect(), fleet },
        decision: to_raw_value(&0).unwrap(),
        outcome: Outcome::Unchanged,
    }
}

/// Ticks at these milliseconds, at each of which one gateway has had so many arrivals since it started.
fn taken(ticks: &[(u64, u64)]) -> Signals {
    let mut signals = Signals::default();
    for (at, arrivals) in ticks {
        signals.take(&tick(*at, vec![("g", report(BEGIN + ms(*at), *arrivals))], Vec::new()), true);
    }
    signals
}

fn per_second(signals: &Signals) -> Vec<u32> {
    let schedule = signals.trace().unwrap().replay(arrivals::trace::Replay::AS_IT_IS).unwrap();
    let mut seconds = vec![0; schedule.length().as_secs_f64().ceil() as usize];
    for arrival in schedule.arrivals(1) {
        seconds[arrival.at.as_secs() as usize] += 1;
    }
    seconds
}

#[test]
fn arrivals_are_what_counters_gained_from_one_report_to_the_next() {
    let signals = taken(&[(0, 500), (1000, 503), (2000, 503), (3000, 513), (4000, 513)]);
    assert_eq!((signals.requests, signals.rows, signals.misses), (13, 26, 1));
    assert_eq!(per_second(&signals), [3, 0, 10, 0]);
}

#[test]
fn a_counter_that_fell_was_reset_and_a_gap_is_filled_evenly() {
    let signals = taken(&[(0, 100), (1000, 7), (5000, 47)]);
    assert_eq!(per_second(&signals), [7, 10, 10, 10, 10]);
}

#[test]
fn reports_at_odd_moments_lose_and_invent_nothing() {
    let signals = taken(&[(0, 0), (1003, 17), (1504, 18), (2490, 40), (3600, 41)]);
    assert_eq!(per_second(&signals).iter().sum::<u32>(), 41);
    assert_eq!(per_second(&signals).len(), 4);
}

#[test]
fn a_record_that_begins_before_the_clock_was_set_makes_no_trace() {
    let mut signals = Signals::default();
    for at in [Duration::from_secs(3), Duration::from_secs(1_700_000_000)] {
        signals.take(&Tick { at, ..tick(0, Vec::new(), Vec::new()) }, true);
    }
    let said = signals.trace().unwrap_err().to_string();
    assert!(said.starts_with("the record spans 19675 days, and a trace has 400 at most"), "{said}");
}

#[test]
fn gateways_are_counted_each_by_itself() {
    let mut signals = Signals::default();
    for second in 0..4 {
        let at = BEGIN + ms(second * 1000);
        let reports = vec![("a", report(at, 10 * second)), ("b", report(at, 1000 + second))];
        signals.take(&tick(second * 1000, reports, Vec::new()), true);
    }
    assert_eq!(per_second(&signals), [11, 11, 11]);
}

#[test]
fn what_came_before_the_window_is_not_counted_and_only_where_its_counters_stood_is_known() {
    let mut signals = Signals::default();
    for (at, arrivals, within) in [(0, 0, false), (1000, 50, false), (2000, 54, true), (3000, 57, true)] {
        signals.take(&tick(at, vec![("g", report(BEGIN + ms(at), arrivals))], Vec::new()), within);
    }
    assert_eq!(signals.begins, Some(BEGIN + ms(2000)));
    assert_eq!(per_second(&signals).iter().sum::<u32>() as u64, signals.requests);
}

#[test]
fn replicas_cost_from_creation_and_starts_are_measured_once() {
    let replica = |id: &str, phase, created: u64, ready: Option<u64>| ReplicaView {
        id: id.into(),
        phase,
        created: BEGIN + ms(created),
        ready_since: ready.map(|at| BEGIN + ms(at)),
        restarts: 0,
        trouble: None,
    };
    let mut signals = Signals::default();
    let a = || replica("a", Phase::Ready, 0, Some(0));
    signals.take(&tick(0, Vec::new(), vec![a()]), true);
    signals.take(&tick(1000, Vec::new(), vec![a(), replica("b", Phase::Starting, 1000, None)]), true);
    signals.take(&tick(4000, Vec::new(), vec![a(), replica("b", Phase::Ready, 1000, Some(3500))]), true);
    signals.take(&tick(5000, Vec::new(), vec![replica("b", Phase::Ready, 1000, Some(3500))]), true);
    signals.take(&tick(6000, Vec::new(), vec![replica("b", Phase::Ready, 1000, Some(3500))]), true);
    assert_eq!(signals.replica_time, ms(1000 + 2 * 3000 + 2 * 1000 + 1000));
    assert_eq!((signals.initial, signals.most, signals.changes), (1, 2, 2));
    assert_eq!(signals.starts, [ms(2500)]);
    assert_eq!(signals.cold_start(), Some(ColdStart::Measured(vec![ms(2500)])));
}

#[test]
fn what_a_call_takes_is_what_the_gateway_has_learned_once_it_is_believed() {
    let model = LatencyModel {
        fixed: ms(8),
        per_row: ms(1),
        tail_permille: 1329,
        samples: 300,
        max_batch_rows: 32,
        concurrency: 4,
    };
    let learned = |latency: LatencyModel| {
        let mut signals = Signals::default();
        for (at, arrivals) in [(0, 0), (1000, 10)] {
            let report = Report { latency, ..report(BEGIN + ms(at), arrivals) };
            signals.take(&tick(at, vec![("g", report)], Vec::new()), true);
        }
        signals.measured()
    };
    assert_eq!(learned(LatencyModel { samples: 199, ..model }), None);
    let merged = learned(model).unwrap();
    // Two rows a request.
    assert_eq!(merged.service, Service::Batch { fixed: ms(8), per_row: ms(2), rows: 16 });
    assert!((merged.variation - 0.2).abs() < 1e-9 && merged.slots == Some(4), "{merged:?}");
    let single = learned(LatencyModel { max_batch_rows: 1, ..model }).unwrap();
    assert_eq!(single.service, Service::Single { time: ms(10) });
    assert_eq!(learned(LatencyModel { fixed: ms(0), per_row: ms(0), ..model }), None);
}

#[test]
fn of_streams_it_is_what_their_tokens_take_once_enough_were_seen() {
    let model = ChatModel {
        ttft: ms(300),
        tpot_fixed: ms(20),
        tpot_per_stream: ms(2),
        tpot_tail_permille: 1329,
        output_tokens_milli: 250_400,
        samples: 300,
    };
    let learned = |chat: ChatModel| {
        let mut signals = Signals::default();
        let report = Report { chat: Some(chat), ..report(BEGIN, 0) };
        signals.take(&tick(0, vec![("g", report)], Vec::new()), true);
        signals.measured()
    };
    assert_eq!(learned(ChatModel { samples: 199, ..model }), None);
    let found = learned(model).unwrap();
    let service = Service::Chat { first: ms(300), prompt: ms(0), token: ms(20), per_stream: ms(2) };
    assert_eq!((found.service, found.slots, found.answer), (service, None, Some(250)));
    assert!((found.variation - 0.2).abs() < 1e-9);
}
