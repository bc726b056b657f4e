//! Events beside the objects that they are about.

use std::time::Duration;

use fake_cluster::{Calls, Fault, Refusal, Verb};
use fleet::kubernetes::events::{Reason, Recorder, Subject};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::stage::{self, calls_of, seen_by};

/// The cluster in memory knows events by their old group only.
fn fake() -> fake_cluster::Cluster {
    let fake = stage::fake();
    let definition = json!({
        "metadata": {"name": EVENTS},
        "spec": {
            "group": "events.k8s.io", "scope": "Namespaced",
            "names": {"kind": "Event", "listKind": "EventList", "plural": "events", "singular": "event"},
            "versions": [{"name": "v1", "served": true, "storage": true}],
        },
    });
    fake.create("customresourcedefinitions", definition).unwrap();
    fake
}

const EVENTS: &str = "events.events.k8s.io";

fn subject(name: &str) -> Subject {
    Subject {
        api_version: "tidegate.dev/v1alpha1".into(),
        kind: "Model".into(),
        namespace: "ml".into(),
        name: name.into(),
        uid: Some("u".into()),
    }
}

fn told(fake: &fake_cluster::Cluster) -> Vec<Value> {
    fake.list(EVENTS, Some("ml"))
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn note(event: &Value) -> &str {
    event["note"].as_str().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_event_stands_beside_its_object() {
    let fake = fake();
    let recorder = Recorder::start(&seen_by(&fake, "a"), "tidegate-1");
    recorder.record(&subject("digits"), Reason::SloBreach, "p99 138ms, promised 100ms");
    sleep(seconds(1)).await;
    let calls = fake.log().calls(&calls_of("a").verb(Verb::Create));
    let [call] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!(call.resource, EVENTS);
    let event: Value = serde_json::from_slice(&call.body).unwrap();
    let regarding = json!({"apiVersion": "tidegate.dev/v1alpha1", "kind": "Model", "namespace": "ml",
        "name": "digits", "uid": "u"});
    assert_eq!(event["regarding"], regarding);
    assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("SLOBreach")));
    assert_eq!(note(&event), "p99 138ms, promised 100ms");
    assert_eq!(event["reportingInstance"], "tidegate-1");
}

#[tokio::test(start_paused = true)]
async fn of_one_kind_about_one_object_one_a_minute_is_told_and_repetitions_are_counted() {
    let fake = fake();
    let recorder = Recorder::start(&seen_by(&fake, "a"), "tidegate-1");
    for _ in 0..600 {
        recorder.record(&subject("digits"), Reason::ScaleLimited, "at most 4 (max)");
        sleep(seconds(1)).await;
    }
    sleep(seconds(60)).await;
    let events = told(&fake);
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["series"]["count"], 600);
    assert!(fake.log().calls(&calls_of("a")).len() <= 12);
}

#[tokio::test(start_paused = true)]
async fn different_notes_are_different_events_and_the_last_is_told() {
    let fake = fake();
    let recorder = Recorder::start(&seen_by(&fake, "a"), "tidegate-1");
    for step in 0..30 {
        recorder.record(&subject("digits"), Reason::ScaledUp, &format!("{step}→{}", step + 1));
        sleep(seconds(1)).await;
    }
    sleep(seconds(60)).await;
    let events = told(&fake);
    let mut notes: Vec<_> = events.iter().map(note).collect();
    notes.sort_unstable();
    assert_eq!(notes, ["0→1", "29→30"]);
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_answer_was_lost_is_not_told_twice() {
    let fake = fake();
    let recorder = Recorder::start(&seen_by(&fake, "a"), "tidegate-1");
    fake.faults().times(2, calls_of("a"), Fault::LoseReply);
    recorder.record(&subject("digits"), Reason::ColdStart, "ready in 3.4 s");
    sleep(seconds(60)).await;
    assert_eq!(told(&fake).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_told_is_given_up_and_the_next_is_told() {
    let fake = fake();
    let recorder = Recorder::start(&seen_by(&fake, "a"), "tidegate-1");
    let refusal = fake.faults().always(calls_of("a"), Fault::Refuse(Refusal::forbidden("no events")));
    recorder.record(&subject("digits"), Reason::ColdStart, "ready in 3.4 s");
    sleep(seconds(600)).await;
    assert_eq!(refusal.hits(), 5);
    refusal.off();
    recorder.record(&subject("digits"), Reason::ColdStart, "ready in 3.5 s");
    sleep(seconds(60)).await;
    assert_eq!(told(&fake).iter().map(note).collect::<Vec<_>>(), ["ready in 3.5 s"]);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_was_swept_away_is_made_anew() {
    let fake = fake();
    let recorder = Recorder::start(&seen_by(&fake, "a"), "tidegate-1");
    recorder.record(&subject("digits"), Reason::ScaleFrozen, "gateway b is stale");
    sleep(seconds(1)).await;
    let name = told(&fake)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    fake.delete(EVENTS, "ml", &name).unwrap();
    recorder.record(&subject("digits"), Reason::ScaleFrozen, "gateway b is stale");
    sleep(seconds(90)).await;
    assert_eq!(told(&fake).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn hundreds_at_once_are_no_storm() {
    let fake = fake();
    let recorder = Recorder::start(&seen_by(&fake, "a"), "tidegate-1");
    for index in 0..500 {
        recorder.record(&subject(&format!("m{index}")), Reason::ScaleFrozen, "no signals");
    }
    sleep(seconds(10)).await;
    assert!(fake.log().calls(&Calls::any().caller("a")).len() <= 51);
    sleep(seconds(120)).await;
    assert_eq!(told(&fake).len(), 500);
}
