//! Decisions on record: made again they come out as they did, and other settings come to others.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::Path,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    cli::{Said, tidegate},
    digits::{INFER, Load, ONE},
    process::until,
    rig::{Folder, Gateway, Model, configuration, on_record},
    town::Town,
};

/// One call at a time as long as nothing is measured: a few callers are a crowd.
const CROWDED: Model<'_> = Model {
    server: ", --start-delay, 200ms, --pace, 8ms+1ms",
    keys: "slo: {p99: 100ms}\nconcurrency: 1",
    scaling: "{min: 0, max: 3, idleAfter: 2s}",
    ..Model::DIGITS
};

/// A gateway that went from zero to three replicas, was told of another maximum, fell asleep and woke again: its record.
async fn recorded(folder: &Folder) -> String {
    let mut gateway = Gateway::start_on_record(&[CROWDED.yaml()]).await;
    let load = Load::start(gateway.clients, 16, Duration::from_millis(2));
    gateway.until_ready("digits", 3).await;
    let fewer = Model { scaling: "{min: 0, max: 2, idleAfter: 2s}", ..CROWDED };
    gateway.rewrite_as(&on_record(&[fewer.yaml()], &gateway.record()));
    gateway.until_ready("digits", 2).await;
    until("there are some hundred answers", async || {
        (gateway.metrics().await.sum("tidegate_requests_total", &["model=\"digits\""]) > 500.0).then_some(())
    })
    .await;
    assert_eq!(load.stop().await.1, [""; 0]);
    until("the replicas are gone", async || gateway.replicas().is_empty().then_some(())).await;
    assert_eq!(gateway.connect().await.post(INFER, ONE).await.status, 200);
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.ended().await, Some(0));
    let file = folder.file("kept.jsonl");
    fs::copy(gateway.record(), &file).unwrap();
    file.display().to_string()
}

async fn replay(record: &str, arguments: &[&str]) -> Said {
    tidegate(&[&["plan", "--record", record, "--quiet", "--seeds", "2"], arguments].concat()).await
}

async fn replay_json(record: &str, arguments: &[&str]) -> Value {
    let said = replay(record, &[arguments, &["-o", "json"]].concat()).await;
    assert_eq!(said.code, 0, "{}{}", said.out, said.complaint);
    serde_json::from_str(&said.out).unwrap()
}

#[tokio::test]
async fn what_a_gateway_decided_is_decided_again_and_other_settings_decide_otherwise() {
    let folder = Folder::new();
    let record = recorded(&folder).await;
    as_recorded(&record).await;
    with_other_settings(&record).await;
    as_a_load(&folder, &record).await;
    what_is_wrong_is_said(&folder, &record).await;
}

async fn as_recorded(record: &str) {
    let text = fs::read_to_string(record).unwrap();
    for secret in ["hidden-value", "SECRET_OF_THE_MODEL", "digits.onnx", "--pace"] {
        assert!(!text.contains(secret), "{secret} is on record");
    }
    let told = replay_json(record, &[]).await;
    let digits = &told["models"][0];
    let replay = &digits["replay"];
    assert_eq!((&digits["model"], &digits["identical"]), (&"digits".into(), &true.into()), "{replay:#}");
    assert!(replay["ticks"].as_u64().unwrap() > 10, "{replay:#}");
    assert_eq!(replay["policy_changes"], 1);
    for none in ["skipped", "gaps", "other_memories"] {
        assert_eq!(replay[none], 0, "{none}: {replay:#}");
    }
    let said = replay_text(record, &["--model", "digits"]).await;
    assert!(
        said.contains("every decision as recorded") && said.contains("its settings changed 1 time"),
        "{said}"
    );
    assert!(!said.contains("loop:"), "{said}");
    let later = replay_json(record, &["--from", "2s"]).await;
    let ticks = |told: &Value| told["models"][0]["replay"]["ticks"].as_u64().unwrap();
    assert!(ticks(&later) < ticks(&told) && later["models"][0]["identical"] == true, "{later:#}");
}

async fn replay_text(record: &str, arguments: &[&str]) -> String {
    let said = replay(record, arguments).await;
    assert_eq!(said.code, 0, "{}{}", said.out, said.complaint);
    said.out
}

async fn with_other_settings(record: &str) {
    let set =
        ["--set", "models.digits.scaling.max=1", "--set", "models.digits.slo.p99=1s", "--service", "10ms"];
    let told = replay_json(record, &set).await;
    let open = &told["models"][0]["replay"]["open_loop"];
    assert!(open["other"].as_u64().unwrap() > 0, "{open:#}");
    assert_eq!((&open["recorded"]["most"], &open["changed"]["most"]), (&3.into(), &1.into()), "{open:#}");
    let rows = told["models"][0]["closed_loop"]["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["recorded settings", "recorded settings, by the changed SLO", "changed settings"]);
    assert_eq!(rows[2]["result"]["most_replicas"]["mean"], 1.0, "{rows:#?}");
    assert_eq!(rows[1]["result"]["requests"], rows[2]["result"]["requests"]);

    let said = replay_text(record, &set).await;
    for part in ["Open loop: ", "Closed loop: ", "as it was ", "changed: ", "99 % within 1s"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

async fn as_a_load(folder: &Folder, record: &str) {
    let config = folder.file("plan.yaml");
    fs::write(&config, configuration(&[CROWDED.yaml()])).unwrap();
    let config = config.display().to_string();
    let plan = ["plan", "--config", &config, "--trace", record, "--seeds", "2", "--quiet", "-o", "json"];
    let said = tidegate(&[&plan[..], &["--service", "10ms", "--against", "static"]].concat()).await;
    assert_eq!(said.code, 0, "{}", said.complaint);
    let told: Value = serde_json::from_str(&said.out).unwrap();
    let requests = replay_json(record, &[]).await["models"][0]["replay"]["signals"]["requests"].as_f64();
    assert_eq!(told["results"]["summaries"][0]["requests"]["mean"].as_f64(), requests, "{told:#}");
}

async fn what_is_wrong_is_said(folder: &Folder, record: &str) {
    let said = replay(record, &["--set", "models.digits.scaling.maxx=1"]).await;
    assert!(said.code == 2 && said.complaint.contains("did you mean max?"), "{}", said.complaint);
    let said = replay(record, &["--model", "dogs"]).await;
    assert!(said.code == 2 && said.complaint.contains("there are: digits"), "{}", said.complaint);

    let text = fs::read_to_string(record).unwrap();
    let spoiled = |name: &str, text: String| {
        let file = folder.file(name);
        fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let other = spoiled("other.jsonl", text.replacen("\"target\":1", "\"target\":7", 1));
    let said = replay(&other, &[]).await;
    assert_eq!(said.code, 1, "{}", said.out);
    assert!(
        said.out.contains("1 decided otherwise") && said.out.contains("differs in /target"),
        "{}",
        said.out
    );

    let torn = spoiled("torn.jsonl", text.trim_end()[..text.len() - 40].to_owned());
    let said = replay(&torn, &[]).await;
    assert!(said.code == 0 && said.out.contains("1 of its lines cannot be read"), "{}", said.out);

    let newer = spoiled("newer.jsonl", text.replacen("\"version\":1", "\"version\":9", 1));
    let said = replay(&newer, &[]).await;
    assert_eq!(said.code, 1, "{}", said.out);
    assert!(said.complaint.contains("the record has form 9, not 1; tidegate "), "{}", said.complaint);

    let said = replay("examples/digits.yaml", &[]).await;
    assert!(said.code == 1 && said.complaint.contains("is no record of decisions"), "{}", said.complaint);
}

#[tokio::test]
async fn recording_begins_and_ends_with_the_configuration_and_replicas_stay() {
    let gateway = Gateway::start(&[Model::DIGITS.yaml()]).await;
    assert_eq!(gateway.connect().await.post(INFER, ONE).await.status, 200);
    let replicas = gateway.replicas();
    gateway.rewrite_as(&on_record(&[Model::DIGITS.yaml()], &gateway.record()));
    let ticks = || fs::read_to_string(gateway.record()).unwrap_or_default().matches("{\"tick\"").count();
    until("there are some decisions on record", async || (ticks() >= 3).then_some(())).await;
    gateway.rewrite(&[Model::DIGITS.yaml()]);
    gateway.until_logged("decisions are not recorded any more").await;
    let then = ticks();
    let told = replay_json(&gateway.record().display().to_string(), &[]).await;
    assert_eq!(told["models"][0]["identical"], true, "{told:#}");
    assert_eq!(told["models"][0]["replay"]["ticks"], then);
    assert_eq!((ticks(), gateway.replicas()), (then, replicas));
}

#[tokio::test]
async fn what_one_leader_after_another_decided_is_decided_again() {
    let town = Town::new().await;
    town.list_gateways(&["gateway-1"]);
    let record = town.put_on_record();
    let mut first = town.start("autoscaler", "autoscaler-1").await;
    let gateway = town.start("gateway", "gateway-1").await;
    let mut client = gateway.connect().await;
    assert_eq!(client.post(INFER, ONE).await.status, 200);
    until("it has woken the model", async || first.why().await.contains("0→1").then_some(())).await;
    // Killed while it may be writing, it leaves what it has written.
    first.signal(Signal::SIGKILL);
    first.ended().await;
    let mut second = town.start("autoscaler", "autoscaler-2").await;
    until("the other leads", async || (town.leader() == "autoscaler-2").then_some(())).await;
    until("and decides", async || second.why().await.contains("1 gateway reporting").then_some(())).await;
    second.signal(Signal::SIGTERM);
    assert_eq!(second.ended().await, Some(0));

    let text = fs::read_to_string(&record).unwrap();
    let epochs: BTreeSet<u64> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["state"]["epoch"].as_u64())
        .collect();
    assert_eq!((epochs.len(), text.matches("{\"header\"").count()), (2, 2), "{epochs:?}");
    let told = replay_json(&record.display().to_string(), &[]).await;
    let digits = &told["models"][0];
    assert_eq!((&digits["identical"], &digits["replay"]["skipped"]), (&true.into(), &0.into()), "{digits:#}");
}

#[tokio::test]
async fn a_record_that_cannot_be_written_keeps_nobody_from_being_served() {
    let folder = Folder::new();
    let full = on_record(&[Model::DIGITS.yaml()], Path::new("/dev/full"));
    let gateway = Gateway::start_in(folder, &[], &full).await;
    gateway.until_logged("nothing is recorded: cannot open /dev/full: it is not a regular file").await;
    assert_eq!(gateway.connect().await.post(INFER, ONE).await.status, 200);
}

#[tokio::test]
async fn a_hangup_begins_a_recording_whose_file_another_process_held() {
    let folder = Folder::new();
    let record = folder.file("held.jsonl");
    let held = File::create(&record).unwrap();
    held.lock().unwrap();
    let gateway = Gateway::start_in(folder, &[], &on_record(&[Model::DIGITS.yaml()], &record)).await;
    gateway.until_logged("nothing is recorded: another process writes").await;
    let says = async |value: f64| {
        let metrics = gateway.metrics().await;
        let is_there = metrics.names().iter().any(|name| name == "tidegate_recording gauge");
        (is_there && metrics.sum("tidegate_recording", &[]) == value).then_some(())
    };
    until("the metric says that nothing is recorded", async || says(0.0).await).await;
    drop(held);
    gateway.signal(Signal::SIGHUP);
    gateway.until_logged("decisions are recorded in").await;
    until("the metric says that decisions are recorded", async || says(1.0).await).await;
}
