//! The status of Model objects: written seldom, and right in the end.

use std::time::Duration;

use fake_cluster::{Calls, Fault, Refusal, Verb};
use fleet::kubernetes::{
    lease::Fence,
    status::{
        Condition, Fact, LastDecision, ModelState, ModelStatus, Observed, Ready, Replicas, StatusWriter,
    },
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::stage::{calls_of, fake, install_kind, install_lease, leads, model, object, seen_by, stand};

/// One model, and who writes its status.
struct Stage {
    fake: fake_cluster::Cluster,
    uid: String,
}

fn stage() -> Stage {
    let fake = fake();
    install_kind(&fake);
    let made = fake.create("models.tidegate.dev", model("ml", "digits")).unwrap();
    Stage { fake, uid: made["metadata"]["uid"].as_str().unwrap().into() }
}

fn status(ready: u32) -> ModelStatus {
    ModelStatus {
        observed_generation: 1,
        state: ModelState::Ready,
        target: "Deployment/digits".to_owned(),
        replicas: Replicas { current: ready, ready, desired: ready },
        observed: Some(Observed {
            rps: 57.2,
            p99: Some(Duration::from_millis(138)),
            queue: 3,
            as_of: Timestamp::UNIX_EPOCH,
        }),
        last_decision: Some(LastDecision {
            time: Timestamp::UNIX_EPOCH,
            from: 1,
            to: ready,
            reason: "Load".to_owned(),
            summary: "want 2: queue 31 ÷ 20 per replica".to_owned(),
            epoch: 1,
        }),
        conditions: vec![Condition { fact: Fact::Ready(Ready::SloMet), message: "p99 138ms".to_owned() }],
    }
}

impl Stage {
    fn writer(&self, process: &str) -> StatusWriter {
        StatusWriter::start(&seen_by(&self.fake, process), Fence::always(1))
    }

    fn set(&self, writer: &StatusWriter, status: &ModelStatus) {
        writer.set(&object("ml", "digits", &self.uid), status).unwrap();
    }

    fn written(&self) -> Value {
        self.fake.get("models.tidegate.dev", "ml", "digits").unwrap()["status"].clone()
    }

    fn writes(&self) -> Vec<Instant> {
        let calls = self.fake.log().calls(&Calls::writes().resource("models.tidegate.dev/status"));
        calls.into_iter().map(|call| call.at).collect()
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_at_once_in_the_form_that_kubectl_shows() {
    let stage = stage();
    let writer = stage.writer("a");
    stage.set(&writer, &status(2));
    sleep(seconds(1)).await;
    let mut written = stage.written();
    assert!(written["conditions"][0]["lastTransitionTime"].take().is_string());
    assert_eq!(
        written,
        json!({
            "observedGeneration": 1,
            "state": "Ready",
            "target": "Deployment/digits",
            "replicas": {"current": 2, "ready": 2, "desired": 2},
            "observed": {"rps": 57.2, "p99": "138ms", "queue": 3, "asOf": "1970-01-01T00:00:00Z"},
            "lastDecision": {"time": "1970-01-01T00:00:00Z", "from": 1, "to": 2, "reason": "Load",
                "summary": "want 2: queue 31 ÷ 20 per replica", "epoch": 1},
            "conditions": [{"type": "Ready", "status": "True", "reason": "SLOMet", "message": "p99 138ms",
                "observedGeneration": 1, "lastTransitionTime": null}],
        })
    );
    stage.set(&writer, &ModelStatus { observed: None, last_decision: None, ..status(3) });
    sleep(seconds(1)).await;
    let written = stage.written();
    assert_eq!((written.get("observed"), written.get("lastDecision")), (None, None));
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_changes_each_second_is_two_writes_a_minute_and_ends_with_the_last() {
    let stage = stage();
    let writer = stage.writer("a");
    for second in 0..3_600 {
        stage.set(&writer, &status(second % 50));
        sleep(seconds(1)).await;
    }
    sleep(seconds(60)).await;
    let writes = stage.writes();
    assert!(writes.windows(3).all(|three| three[2] - three[0] >= seconds(60)), "{writes:?}");
    assert!(writes.len() >= 100, "{}", writes.len());
    assert_eq!(stage.written()["replicas"]["ready"], 3_599 % 50);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_change_is_not_written_nor_read_again() {
    let stage = stage();
    let writer = stage.writer("a");
    stage.set(&writer, &status(2));
    sleep(seconds(5)).await;
    let start = Instant::now();
    for second in 0..600 {
        let mut same = status(2);
        let observed = same.observed.as_mut().unwrap();
        observed.rps += f64::from(second % 10);
        observed.as_of = Timestamp::from_second(second.into()).unwrap();
        stage.set(&writer, &same);
        sleep(seconds(1)).await;
    }
    assert_eq!(stage.fake.log().count_since(start, &calls_of("a")), 0);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_reads_first_and_leaves_what_is_right() {
    let stage = stage();
    stage.set(&stage.writer("nobody"), &status(9));
    let writer = stage.writer("a");
    stage.set(&writer, &status(2));
    sleep(seconds(5)).await;
    let since = stage.written()["conditions"][0]["lastTransitionTime"].clone();
    let start = Instant::now();
    let writer = stage.writer("b");
    stage.set(&writer, &status(2));
    sleep(seconds(60)).await;
    assert_eq!(stage.fake.log().count_since(start, &Calls::writes().caller("b")), 0);
    assert_eq!(stage.fake.log().count_since(start, &calls_of("b")), 1);
    stage.set(&writer, &status(3));
    sleep(seconds(5)).await;
    assert_eq!(stage.written()["replicas"]["ready"], 3);
    assert_eq!(stage.written()["conditions"][0]["lastTransitionTime"], since);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_somebody_changes_meanwhile_is_read_again() {
    let stage = stage();
    let writer = stage.writer("a");
    stage.set(&writer, &status(2));
    sleep(seconds(5)).await;
    let spec = json!({"spec": {"slo": {"p99": "1s"}}});
    stage.fake.merge("models.tidegate.dev", "ml", "digits", &spec).unwrap();
    stage.set(&writer, &status(3));
    sleep(seconds(61)).await;
    assert_eq!(stage.written()["replicas"]["ready"], 3);
    assert_eq!(stage.fake.get("models.tidegate.dev", "ml", "digits").unwrap()["spec"]["slo"]["p99"], "1s");
}

#[tokio::test(start_paused = true)]
async fn through_failures_of_all_kinds_the_last_state_is_written_in_the_end() {
    for fault in [
        Fault::Refuse(Refusal::internal("etcd")),
        Fault::Refuse(Refusal::too_many_requests(seconds(20))),
        Fault::Refuse(Refusal::scripted_conflict()),
        Fault::LoseReply,
        Fault::Hang,
        Fault::Drop,
    ] {
        let stage = stage();
        stage.fake.faults().times(7, Calls::any().caller("a"), fault);
        let writer = stage.writer("a");
        stage.set(&writer, &status(2));
        sleep(seconds(30)).await;
        stage.set(&writer, &status(4));
        sleep(seconds(600)).await;
        assert_eq!(stage.written()["replicas"]["ready"], 4);
        let writes = stage.writes();
        assert!(writes.windows(3).all(|three| three[2] - three[0] >= seconds(60)), "{writes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_who_leads_writes() {
    let stage = stage();
    install_lease(&stage.fake);
    let a = stand(&stage.fake, "a");
    leads(&a).await;
    let writer = StatusWriter::start(&seen_by(&stage.fake, "a-status"), a.fence());
    stage.set(&writer, &status(2));
    sleep(seconds(5)).await;
    stage.fake.faults().always(calls_of("a"), Fault::Hang);
    sleep(seconds(15)).await;
    stage.set(&writer, &status(3));
    sleep(seconds(120)).await;
    assert_eq!(stage.written()["replicas"]["ready"], 2);
    stage.fake.faults().clear();
    sleep(seconds(30)).await;
    assert_eq!(stage.written()["replicas"]["ready"], 3);
}

#[tokio::test(start_paused = true)]
async fn an_object_of_the_same_name_gets_nothing_that_was_meant_for_its_predecessor() {
    let stage = stage();
    stage.fake.delete("models.tidegate.dev", "ml", "digits").unwrap();
    let made = stage.fake.create("models.tidegate.dev", model("ml", "digits")).unwrap();
    let writer = stage.writer("a");
    stage.set(&writer, &status(2));
    sleep(seconds(60)).await;
    assert!(stage.written().is_null());
    let uid = made["metadata"]["uid"].as_str().unwrap();
    writer.set(&object("ml", "digits", uid), &status(2)).unwrap();
    sleep(seconds(5)).await;
    assert_eq!(stage.written()["replicas"]["ready"], 2);
}

#[tokio::test(start_paused = true)]
async fn after_a_change_of_leader_hundreds_of_models_are_no_storm() {
    let stage = stage();
    let writer = stage.writer("a");
    let start = Instant::now();
    for index in 0..300 {
        let name = format!("m{index}");
        let made = stage.fake.create("models.tidegate.dev", model("ml", &name)).unwrap();
        let uid = made["metadata"]["uid"].as_str().unwrap();
        writer.set(&object("ml", &name, uid), &status(2)).unwrap();
    }
    sleep(seconds(10)).await;
    assert!(stage.fake.log().count_since(start, &calls_of("a")) <= 51);
    sleep(seconds(170)).await;
    assert_eq!(stage.fake.log().count_since(start, &calls_of("a").verb(Verb::Patch)), 300);
}
