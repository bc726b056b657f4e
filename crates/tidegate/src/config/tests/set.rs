//! A model in the words of a record, and `--set` on it.

use std::time::Duration;

use insta::assert_snapshot;

use super::config;
use crate::{
    config::{Model, Objective, Slo, assignments, recorded, sample::sample, words},
    serve::policy::policy,
};

const FILE: &str = r#"
models:
  - name: gpt-4.1
    fleet: {kubernetes: {namespace: ml, target: Deployment/chat, port: http}}
    protocol: openai
    slo: {ttft: {p99.9: 2s}, tpot: {p95: 62500us}}
    deadline: {default: 20s, firstToken: 10s}
    concurrency: 16
    scaling:
      min: 1
      max: 8
      idleAfter: 90s
      schedules:
        - {name: night, timezone: Europe/Prague, days: [fri], from: "22:00", to: "07:00", max: 0, onRequest: reject}
        - {name: day, timezone: UTC, from: "08:05", to: "24:00", min: 2, prewarm: 2m}
        - {name: noon, timezone: UTC, from: "12:00", to: "13:00", replicas: 3}
  - name: gpt-4
    fleet: {process: {command: [serve, --token, of-the-command, "{port}"], env: {TOKENS: of-the-environment}}}
    slo: {p90: 80ms}
    batching: {maxRows: 8, maxHold: 1ms}
    queue: {maxRequests: 7, maxBytes: 3MiB}
    scaling: {max: 2, mode: observe}
"#;

fn models() -> Vec<Model> {
    config(FILE).models
}

fn changed(text: &[&str]) -> Result<Vec<Model>, String> {
    let texts: Vec<String> = text.iter().map(ToString::to_string).collect();
    let changes = assignments(&texts, &["gpt-4.1", "gpt-4"]).map_err(|report| report.to_string())?;
    let models = models();
    models
        .iter()
        .map(|model| recorded(&words(model), &changes).map_err(|report| report.to_string()))
        .collect()
}

fn said(text: &[&str]) -> String {
    changed(text).unwrap_err()
}

#[test]
fn a_model_in_words_is_scaled_as_the_model_is() {
    let all = models().into_iter().chain(config(&sample()).models);
    for model in all.filter(|model| model.fleet.scaling().is_some()) {
        let again = recorded(&words(&model), &[]).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(policy(&again), policy(&model));
        assert_eq!(
            (again.deadline, again.queue, again.batching),
            (model.deadline, model.queue, model.batching)
        );
        assert_eq!(again.cold_start_timeout, model.cold_start_timeout);
    }
}

#[test]
fn commands_and_environments_are_not_in_the_words() {
    let text: String = models().iter().map(|model| words(model).to_string()).collect();
    assert!(!text.contains("of-the-") && !text.contains("TOKENS"), "{text}");
}

#[test]
fn a_setting_is_changed_by_its_path() {
    let [chat, calls] = changed(&[
        "models.gpt-4.1.slo.ttft.p99=1s",
        "models.gpt-4.1.scaling.schedules[1].min=4",
        "models.gpt-4.slo.p99.9=1.5s",
        "models.gpt-4.scaling.max=9",
        "models.gpt-4.batching.maxRows=2",
    ])
    .unwrap()
    .try_into()
    .unwrap();
    let objective = |quantile, millis| Objective { quantile, latency: Duration::from_millis(millis) };
    let tpot = Objective { quantile: 0.95, latency: Duration::from_micros(62_500) };
    assert_eq!(chat.slo, Slo::Chat { ttft: objective(0.99, 1000), tpot });
    assert_eq!(calls.slo, Slo::Latency(objective(0.999, 1500)));
    let scaling = |model: &Model| model.fleet.scaling().cloned().unwrap();
    assert_eq!((scaling(&calls).max, scaling(&chat).max), (9, 8));
    assert_eq!(
        scaling(&chat).schedules[1].bounds,
        crate::config::Bounds::Between { floor: Some(4), cap: None }
    );
    let [unscheduled, _] = changed(&["models.gpt-4.1.scaling.schedules=[]"]).unwrap().try_into().unwrap();
    assert_eq!(scaling(&unscheduled).schedules, []);
}

#[test]
fn what_is_wrong_with_a_change_is_said_as_of_a_file() {
    assert_snapshot!(said(&["models.gpt-4.scaling.max=4", "models.gpt-4.scaling.mni=1"]), @r#"
    ✗ --set:2:22  models.gpt-4.scaling.mni: unknown key, did you mean min?
          1 | models.gpt-4.scaling.max=4
          2 | models.gpt-4.scaling.mni=1
            |                      ^^^
    "#);
    assert_snapshot!(said(&["models.gpt-4.slo.p99=soon"]), @r#"
    ✗ --set:1:22  models.gpt-4.slo.p99: "soon" is no duration
          1 | models.gpt-4.slo.p99=soon
            |                      ^^^^ write a duration with its unit, like 200ms, 1.5s or 10m
    "#);
    assert_snapshot!(said(&["models.gpt-4.1.scaling.max=0"]), @r#"
    ✗ --set:1:28  models.gpt-4.1.scaling.max: 0 is out of range
          1 | models.gpt-4.1.scaling.max=0
            |                            ^ write a whole number from 1 to 10000
    "#);
    assert_snapshot!(said(&["models.gpt-4.1.scaling.min=9"]), @r#"
    ✗ --set:1:28  models.gpt-4.1.scaling.min: 9 is more than max 8
          1 | models.gpt-4.1.scaling.min=9
            |                            ^
    "#);
    assert_snapshot!(said(&["models.gpt-4.1.scaling.schedules[3].min=9"]), @r#"
    ✗ --set:1:24  models.gpt-4.1.scaling.schedules[3].min: there are 3 of them, counted from 0
          1 | models.gpt-4.1.scaling.schedules[3].min=9
            |                        ^^^^^^^^^
    "#);
    assert_snapshot!(said(&["models.gpt-4.slo.p99=1s", "models.gpt-4.slo.p50=1s"]), @r#"
    ✗ --set:1:18  models.gpt-4.slo.p99: only one percentile can be the objective, and there is p50 (line 2) already
          1 | models.gpt-4.slo.p99=1s
            |                  ^^^ remove one of them
    "#);
    assert_snapshot!(said(&["models.gtp-4.slo.p99=1s", "limits.memory=1GiB", "models.gpt-4=1", "x", "models.gpt-4.slo={"]), @r#"
    ✗ --set:1:8  "gtp-4" is no model of the record
          1 | models.gtp-4.slo.p99=1s
            |        ^^^^^ did you mean gpt-4?
    ✗ --set:2:1  only settings of models change decisions
          1 | models.gtp-4.slo.p99=1s
          2 | limits.memory=1GiB
            | ^^^^^^^^^^^^^ write models.NAME.KEY=VALUE, like models.chat.scaling.max=4
    ✗ --set:3:8  names no setting
          2 | limits.memory=1GiB
          3 | models.gpt-4=1
            |        ^^^^^ write models.NAME.KEY=VALUE, like models.chat.scaling.max=4
    ✗ --set:4:1  no value is given
          3 | models.gpt-4=1
          4 | x
            | ^ write models.NAME.KEY=VALUE, like models.chat.scaling.max=4
    ✗ --set:5:18  models.gpt-4.slo: not valid YAML: unclosed bracket '{'
          4 | x
          5 | models.gpt-4.slo={
            |                  ^
    "#);
}

#[test]
fn a_path_is_read_to_its_end_or_refused() {
    assert_snapshot!(said(&[
        "models.gpt-4.1.scaling.schedules[0]xmax=1",
        "models.gpt-4.1.scaling.schedules[first].max=1",
        "models.gpt-4.1.scaling.schedules[0.max=1",
        "models.gpt-4.1.scaling.schedules[0][1]=1",
        "models.gpt-4.scaling.={max: 1}",
        "models.gpt-4.scaling..max=1",
        "models.gpt-4.=1",
    ]), @r#"
    ✗ --set:1:36  models.gpt-4.1.scaling.schedules[0]xmax: only a dot and a key can follow, not "xmax"
          1 | models.gpt-4.1.scaling.schedules[0]xmax=1
            |                                    ^^^^ write a place in a list like models.chat.scaling.schedules[0].max
    ✗ --set:2:33  models.gpt-4.1.scaling.schedules[first].max: "[first]" is no place in a list
          1 | models.gpt-4.1.scaling.schedules[0]xmax=1
          2 | models.gpt-4.1.scaling.schedules[first].max=1
            |                                 ^^^^^^^ write a place in a list like models.chat.scaling.schedules[0].max
    ✗ --set:3:33  models.gpt-4.1.scaling.schedules[0.max: "[0.max" is no place in a list
          2 | models.gpt-4.1.scaling.schedules[first].max=1
          3 | models.gpt-4.1.scaling.schedules[0.max=1
            |                                 ^^^^^^ write a place in a list like models.chat.scaling.schedules[0].max
    ✗ --set:4:36  models.gpt-4.1.scaling.schedules[0][1]: only a dot and a key can follow, not "[1]"
          3 | models.gpt-4.1.scaling.schedules[0.max=1
          4 | models.gpt-4.1.scaling.schedules[0][1]=1
            |                                    ^^^ write a place in a list like models.chat.scaling.schedules[0].max
    ✗ --set:5:22  models.gpt-4.scaling.: a key is missing
          4 | models.gpt-4.1.scaling.schedules[0][1]=1
          5 | models.gpt-4.scaling.={max: 1}
            |                      ^ write models.NAME.KEY=VALUE, like models.chat.scaling.max=4
    ✗ --set:6:22  models.gpt-4.scaling..max: a key is missing
          5 | models.gpt-4.scaling.={max: 1}
          6 | models.gpt-4.scaling..max=1
            |                      ^ write models.NAME.KEY=VALUE, like models.chat.scaling.max=4
    ✗ --set:7:14  models.gpt-4.: a key is missing
          6 | models.gpt-4.scaling..max=1
          7 | models.gpt-4.=1
            |              ^ write models.NAME.KEY=VALUE, like models.chat.scaling.max=4
    "#);
}
