//! Files that are valid and defeat themselves, by what is assumed, and by what a running autoscaler has learned.

use insta::assert_snapshot;
use serde_json::{Value, json};

use super::source;
use crate::config::{Known, parse};

const PODS: &str = "
models:
  - name: digits
    fleet: {kubernetes: {target: Deployment/digits, port: 8001}}
    slo: {p99: 200ms}
";

/// What is said of [`PODS`] with these keys of the model.
fn pods(keys: &str, known: &Known) -> String {
    let keys: String = keys.lines().map(|line| format!("    {line}\n")).collect();
    parse(source(&format!("{PODS}{keys}"))).unwrap().doubts(known).to_string()
}

/// Calls of 40 ms, four at a time: 100 a second.
fn digest() -> Value {
    json!({
        "version": 1, "at": 1000, "starts": [97000, 41000, 103000], "gaps": [], "busy": null, "targets": [],
        "latency": { "fixed": 40_000_000, "row": 0, "tail": 1200, "samples": 1000, "rows": 1, "calls": 4 },
        "peak": { "age": 0, "peak": 610.0, "unit": "requests", "in_flight": false },
    })
}

fn learned(change: impl FnOnce(&mut Value)) -> Known {
    let mut digest = digest();
    change(&mut digest);
    Known::parse(&json!({ "models": { "digits": digest } }).to_string()).unwrap()
}

fn nothing() -> Known {
    Known::default()
}

#[test]
fn a_deadline_shorter_than_a_start_is_no_use_at_zero() {
    assert_snapshot!(pods("scaling: {min: 0, max: 4}", &nothing()), @r#"
    ! tidegate.yaml:5:5  models[0].deadline.default: a call that brings no deadline has 30s (the default), and a start is assumed to take 120s; min is 0, and whoever calls at zero is refused or times out
          4 |     slo: {p99: 200ms}
          5 |     scaling: {min: 0, max: 4}
            |     ^^^^^^^ write deadline.default: 150s or more, or keep one replica
    "#);
    assert_snapshot!(pods("deadline: {default: 60s}\nscaling: {min: 0, max: 9}", &learned(|_| ())), @r#"
    ! tidegate.yaml:5:25  models[0].deadline.default: a call that brings no deadline has 60s, and a start takes 103s (p90 of 3 measured); min is 0, and whoever calls at zero is refused or times out
          4 |     slo: {p99: 200ms}
          5 |     deadline: {default: 60s}
            |                         ^^^ write deadline.default: 129s or more, or keep one replica
    "#);
    let written = "deadline: {default: 10s}\nscaling: {min: 0, max: 9, coldStartTimeout: 20s}";
    assert_snapshot!(pods(written, &nothing()), @r#"
    ! tidegate.yaml:5:25  models[0].deadline.default: a call that brings no deadline has 10s, and a start may take 20s (coldStartTimeout); min is 0, and whoever calls at zero is refused or times out
          4 |     slo: {p99: 200ms}
          5 |     deadline: {default: 10s}
            |                         ^^^ write deadline.default: 25s or more, or keep one replica
    "#);
    let night = r#"scaling:
  min: 1
  max: 4
  schedules:
    - {name: night, timezone: Europe/Prague, from: "22:00", to: "06:00", max: 0}"#;
    assert_snapshot!(pods(night, &nothing()), @r#"
    ! tidegate.yaml:5:5  models[0].deadline.default: a call that brings no deadline has 30s (the default), and a start is assumed to take 120s; schedule "night" allows none, and whoever calls at zero is refused or times out
          4 |     slo: {p99: 200ms}
          5 |     scaling:
            |     ^^^^^^^ write deadline.default: 150s or more, or keep one replica
    "#);
}

#[test]
fn a_deadline_that_a_start_keeps_and_a_model_that_never_sleeps_are_no_matter() {
    assert_eq!(pods("scaling: {min: 1, max: 9}", &nothing()), "");
    assert_eq!(pods("deadline: {default: 120s}\nscaling: {min: 0, max: 9}", &nothing()), "");
    let quick = learned(|digest| digest["starts"] = json!([2000, 3000, 4000]));
    assert_eq!(pods("scaling: {min: 0, max: 9}", &quick), "");
    let process = "models:\n  - {name: a, fleet: {process: {command: [x, \"{port}\"]}}, scaling: {max: 4}}";
    assert_eq!(parse(source(process)).unwrap().doubts(&nothing()).to_string(), "");
    let fixed = "models:\n  - {name: a, fleet: {static: {addresses: [\"a:1\"]}}}";
    assert_eq!(parse(source(fixed)).unwrap().doubts(&nothing()).to_string(), "");
}

#[test]
fn a_wait_that_is_given_up_before_a_start_is_over_is_doubtful() {
    let keys = "deadline: {default: 200s}\nscaling: {min: 0, max: 9, coldStartTimeout: 60s}";
    assert_snapshot!(pods(keys, &learned(|_| ())), @r#"
    ! tidegate.yaml:6:49  models[0].scaling.coldStartTimeout: calls wait 60s for a replica, and a start takes 103s (p90 of 3 measured)
          5 |     deadline: {default: 200s}
          6 |     scaling: {min: 0, max: 9, coldStartTimeout: 60s}
            |                                                 ^^^ write 129s or more
    "#);
    assert_eq!(pods(keys, &nothing()), "");
}

#[test]
fn fewer_than_the_slo_needs_at_the_recorded_peak_is_told_with_the_arithmetic() {
    assert_snapshot!(pods("scaling: {min: 1, max: 4}", &learned(|_| ())), @r#"
    ! tidegate.yaml:5:28  models[0].scaling.max: 4 is less than the 7 that slo.p99 200ms needs at the recorded peak of 610 requests/s: 1 replica ≈ 100 requests/s when always full, so that 4 bear 385 requests/s
          4 |     slo: {p99: 200ms}
          5 |     scaling: {min: 1, max: 4}
            |                            ^ write at least 7, or relax the SLO
    "#);
    assert_eq!(pods("scaling: {min: 1, max: 7}", &learned(|_| ())), "");
    let in_flight = learned(|digest| {
        digest["latency"] = Value::Null;
        digest["peak"] = json!({ "age": 0, "peak": 50.0, "unit": "rows", "in_flight": true });
    });
    assert_snapshot!(pods("scaling: {min: 1, max: 4}", &in_flight), @r#"
    ! tidegate.yaml:5:28  models[0].scaling.max: 4 is less than the 8 that slo.p99 200ms needs at the recorded peak of 50 rows in flight: 1 replica ≈ 6.4 rows at a time, so that 4 bear 25.6 rows in flight
          4 |     slo: {p99: 200ms}
          5 |     scaling: {min: 1, max: 4}
            |                            ^ write at least 8, or relax the SLO
    "#);
}

#[test]
fn a_peak_that_is_given_beats_the_recorded_one_and_says_what_it_assumes() {
    let mut higher = learned(|_| ());
    higher.expect("digits".to_owned(), 1000.0);
    assert_snapshot!(pods("scaling: {min: 1, max: 7}", &higher), @r#"
    ! tidegate.yaml:5:28  models[0].scaling.max: 7 is less than the 11 that slo.p99 200ms needs at the given peak of 1000 requests/s: 1 replica ≈ 100 requests/s when always full, so that 7 bear 685 requests/s
          4 |     slo: {p99: 200ms}
          5 |     scaling: {min: 1, max: 7}
            |                            ^ write at least 11, or relax the SLO
    "#);
    let mut assumed = nothing();
    assumed.expect("digits".to_owned(), 1000.0);
    assert_snapshot!(pods("scaling: {min: 1, max: 4}", &assumed), @r#"
    ! tidegate.yaml:5:28  models[0].scaling.max: 4 is less than the 6 that slo.p99 200ms needs at the given peak of 1000 requests/s: 1 replica ≈ 200 requests/s when always full, so that 4 bear 786 requests/s; assumed, as nothing was measured: a call takes 40ms, a fifth of the SLO, and 8 run at a time
          4 |     slo: {p99: 200ms}
          5 |     scaling: {min: 1, max: 4}
            |                            ^ write at least 6, or relax the SLO
    "#);
    let mut lower = learned(|_| ());
    lower.expect("digits".to_owned(), 100.0);
    assert_eq!(pods("scaling: {min: 1, max: 2}", &lower), "");
}

#[test]
fn the_streams_of_a_chat_model_are_judged_once_they_were_measured() {
    let chat = |known: &Known| {
        let text = "models:\n  - name: digits\n    fleet: {kubernetes: {target: Deployment/a, port: 8000}}\n    \
                    protocol: openai\n    slo: {ttft: {p99: 2s}, tpot: {p95: 60ms}}\n    scaling: {min: 1, max: 2}\n";
        parse(source(text)).unwrap().doubts(known).to_string()
    };
    let mut unknown = nothing();
    unknown.expect("digits".to_owned(), 5.0);
    assert_snapshot!(chat(&unknown), @r#"
    ! tidegate.yaml:6:28  models[0].scaling.max: nothing is known of how long the streams of digits take, so its peak cannot be judged
          5 |     slo: {ttft: {p99: 2s}, tpot: {p95: 60ms}}
          6 |     scaling: {min: 1, max: 2}
            |                            ^ add --state with what a running autoscaler has learned
    "#);
    let mut measured = learned(|digest| {
        digest["latency"] = Value::Null;
        digest["peak"] = Value::Null;
        digest["chat"] = json!({
            "ttft": 300_000_000, "fixed": 20_000_000, "stream": 2_000_000, "tail": 1200, "tokens": 250_000,
            "samples": 500,
        });
    });
    assert_eq!(chat(&measured), "", "no peak is known");
    measured.expect("digits".to_owned(), 5.0);
    assert_snapshot!(chat(&measured), @r#"
    ! tidegate.yaml:6:28  models[0].scaling.max: 2 is less than the 8 that slo.ttft.p99 2s with slo.tpot.p95 60ms needs at the given peak of 5 requests/s: 1 replica ≈ 8 streams at a time, 0.9 requests/s when always full, so that 2 bear 1 requests/s
          5 |     slo: {ttft: {p99: 2s}, tpot: {p95: 60ms}}
          6 |     scaling: {min: 1, max: 2}
            |                            ^ write at least 8, or relax the SLO
    "#);
}

#[test]
fn a_window_that_is_over_before_its_replicas_are_ready_is_doubtful() {
    let keys = r#"scaling:
  min: 1
  max: 9
  schedules:
    - {name: blink, timezone: Europe/Prague, from: "07:00", to: "07:05", min: 3, prewarm: 150s}"#;
    let slow = learned(|digest| digest["starts"] = json!([400_000, 410_000, 420_000]));
    assert_snapshot!(pods(keys, &slow), @r#"
    ! tidegate.yaml:9:69  models[0].scaling.schedules[0].to: the window lasts 300s, and a start takes 420s (p90 of 3 measured)
          8 |       schedules:
          9 | …pe/Prague, from: "07:00", to: "07:05", min: 3, prewarm: 150s}
            |                                ^^^^^^^ let it last longer: one late replica is none
    ! tidegate.yaml:9:95  models[0].scaling.schedules[0].prewarm: replicas are asked for 150s ahead, and a start takes 420s (p90 of 3 measured): the window would begin without them
          8 |       schedules:
          9 | …to: "07:05", min: 3, prewarm: 150s}
            |                                ^^^^ write auto: starts are measured
    "#);
    let soon = keys.replace("07:05", "07:01").replace("150s", "90s");
    assert_eq!(pods(&soon, &nothing()).matches("assumed to take").count(), 2, "by the reader");
    let quick = learned(|digest| digest["starts"] = json!([20_000, 30_000, 40_000]));
    assert_eq!(pods(&soon, &quick), "", "what is measured is better than what is assumed");
    assert_eq!(pods(&soon, &slow).matches("! tidegate.yaml").count(), 2, "and is said once");
}

#[test]
fn a_call_that_takes_the_whole_slo_is_told_by_itself_and_with_its_hold() {
    let slow = |ms: u64| learned(move |digest| digest["latency"]["fixed"] = json!(ms * 1_000_000));
    assert_snapshot!(pods("scaling: {min: 1, max: 40}", &slow(180)), @r#"
    ! tidegate.yaml:4:5  models[0].slo: a call of one row takes 216ms (p95 of 1000 measured): no number of replicas keeps slo.p99 200ms
          3 |     fleet: {kubernetes: {target: Deployment/digits, port: 8001}}
          4 |     slo: {p99: 200ms}
            |     ^^^ write at least 432ms
    "#);
    let hold = "scaling: {min: 1, max: 40}\nbatching: {maxHold: 50ms}";
    assert_snapshot!(pods(hold, &slow(140)), @r#"
    ! tidegate.yaml:6:25  models[0].batching.maxHold: a call of one row takes 168ms (p95 of 1000 measured): with a hold of 50ms that is 218ms, and slo.p99 200ms allows 200ms
          5 |     scaling: {min: 1, max: 40}
          6 |     batching: {maxHold: 50ms}
            |                         ^^^^ try at most 8ms, or batching: auto
    "#);
    assert_eq!(pods(hold, &slow(40)), "");
    let half = format!("{PODS}    scaling: {{min: 1, max: 40}}").replace("p99", "p50");
    assert_eq!(parse(source(&half)).unwrap().doubts(&slow(180)).to_string(), "", "half of them are quicker");
}

#[test]
fn what_was_learned_is_read_as_the_admin_port_and_as_a_config_map_tell_it() {
    let value = json!({ "weight": 3, "state": digest() }).to_string();
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": { "digits": value } });
    let told = Known::parse(&map.to_string()).unwrap();
    let keys = "scaling: {min: 1, max: 4}";
    assert_eq!(pods(keys, &told), pods(keys, &learned(|_| ())));
    let refused = |text: &str| format!("{:#}", Known::parse(text).unwrap_err());
    assert!(refused("nonsense").starts_with("it is not JSON of the right form: "));
    assert!(refused(r#"{"kind": "Secret"}"#).starts_with("it is neither what /api/learned"));
    assert!(refused("{}").starts_with("it is neither what /api/learned"));
    let other = r#"{"models": {"digits": {"version": 7}}}"#;
    assert_eq!(refused(other), "what it says of model digits: the saved state has form 7, not 1");
}
