//! The verbs for people and scripts, and their exit codes.

use std::{fs, process::Stdio};

use serde_json::Value;
use tokio::process::Command;

use crate::{
    digits::HELD_OUT,
    process::repository,
    rig::{Folder, Gateway, Model, configuration},
};

pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) complaint: String,
}

/// Runs a verb to its end.
pub(crate) async fn tidegate(arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .current_dir(repository())
        .env_remove("TIDEGATE_ADMIN")
        .env_remove("TIDEGATE_ADDRESS")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), out: text(output.stdout), complaint: text(output.stderr) }
}

#[tokio::test]
async fn a_running_gateway_is_asked_from_the_command_line() {
    let gateway = Gateway::start(&[Model::DIGITS.yaml()]).await;
    let (clients, admin) = (gateway.clients.to_string(), gateway.admin.to_string());

    let predicted = tidegate(&["predict", "digits", "--address", &clients]).await;
    assert_eq!(predicted.code, 0, "{}", predicted.complaint);
    let answer: Value = serde_json::from_str(&predicted.out).unwrap();
    assert_eq!(answer["outputs"][0]["name"], "class");

    let data =
        ["predict", "digits", "--address", &clients, "-o", "json", "-d", "@examples/requests/digits-v2.json"];
    let answer: Value = serde_json::from_str(&tidegate(&data).await.out).unwrap();
    assert_eq!(answer["outputs"][0]["data"][0], HELD_OUT[0].class);

    let status = tidegate(&["status", "-o", "json", "--admin", &admin]).await;
    assert_eq!(status.code, 0, "{}", status.complaint);
    let status: Value = serde_json::from_str(&status.out).unwrap();
    assert_eq!(status["models"][0]["replicas"]["ready"], 1, "{status:#}");
    let table = tidegate(&["status", "--admin", &admin]).await.out;
    assert!(table.starts_with("MODEL"), "{table}");

    let why = tidegate(&["why", "digits", "--admin", &admin]).await;
    assert_eq!(why.code, 0, "{}", why.complaint);
    assert!(why.out.starts_with("digits has 1 ready replica"), "{}", why.out);
    assert!(why.out.contains("0→1: first request"), "{}", why.out);
    assert!(!why.out.contains('\u{1b}'), "no colours where nobody sees them");
}

#[tokio::test]
async fn decisions_are_listed_and_looked_up_from_the_command_line() {
    let gateway = Gateway::ready(&Model { scaling: "{min: 1, max: 2}", ..Model::DIGITS }).await;
    let admin = gateway.admin.to_string();
    let why = async |arguments: &[&str]| {
        tidegate(&[&["why", "digits", "--admin", &admin], arguments].concat()).await
    };
    let changes = why(&["--since", "-1h", "--changes", "--reason", "min_replicas"]).await;
    assert!(changes.out.trim_end().ends_with("0→1: never fewer than 1"), "{}", changes.out);
    assert_eq!(changes.out.lines().count(), 1, "{}", changes.out);
    let none = why(&["--limit", "stale"]).await;
    assert!(none.out.starts_with("none; the oldest decision that is kept is from 20"), "{}", none.out);
    let json: Value = serde_json::from_str(&why(&["--limit", "min", "-o", "json"]).await.out).unwrap();
    assert_eq!(json["decisions"][0]["decision"]["limits"][0]["kind"], "min", "{json:#}");
    let stood = why(&["--at", "-0s"]).await;
    assert!(stood.out.contains("\n  decided   at ") && stood.out.contains("\n  change "), "{}", stood.out);
    let early = why(&["--at", "-1h"]).await;
    assert_eq!((early.code, early.out.as_str()), (69, ""));
    assert!(early.complaint.contains("began to decide, at "), "{}", early.complaint);
    let unknown = why(&["--term", "backlok"]).await;
    assert!(unknown.complaint.contains("there are: envelope, backlog"), "{}", unknown.complaint);
    assert_eq!(why(&["--at", "10:00", "--changes"]).await.code, 2);
}

#[tokio::test]
async fn a_configuration_is_judged_by_what_a_running_gateway_has_learned() {
    let gateway = Gateway::ready(&Model { scaling: "{min: 1, max: 2}", ..Model::DIGITS }).await;
    let folder = Folder::new();
    let state = folder.file("learned.json").display().to_string();
    fs::write(&state, gateway.admin("/api/learned").await.text()).unwrap();
    let check = async |arguments: &[&str]| {
        tidegate(&[&["config", "check", "examples/digits.yaml"], arguments].concat()).await
    };
    let judged = check(&["--state", &state]).await;
    assert_eq!(judged.code, 0, "{}{}", judged.out, judged.complaint);
    let crowded = check(&["--state", &state, "--peak", "digits=1000000"]).await;
    assert!(crowded.out.contains("at the given peak of 1000000 requests/s"), "{}", crowded.out);
    assert_eq!(crowded.code, 0, "a warning is no error");
    assert_eq!(check(&["--peak", "nobody=5"]).await.code, 2);
    assert_eq!(check(&["--peak", "digits"]).await.code, 2);
    assert_eq!(check(&["--state", "examples/digits.yaml"]).await.code, 2);
}

#[tokio::test]
async fn what_fails_at_the_model_is_a_failure() {
    let gateway = Gateway::start(&[Model::DIGITS.yaml()]).await;
    let clients = gateway.clients.to_string();
    let refused = tidegate(&["predict", "digits", "--address", &clients, "-d", "{}"]).await;
    assert_eq!(refused.code, 1, "{}", refused.complaint);
    assert!(refused.out.contains("bad_request"), "{}", refused.out);
}

#[tokio::test]
async fn nobody_at_the_address_is_unavailable() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    for arguments in [
        &["status", "--admin", &address][..],
        &["why", "digits", "--admin", &address],
        &["predict", "digits", "--address", &address],
    ] {
        let said = tidegate(arguments).await;
        assert_eq!(said.code, 69, "{arguments:?}: {}", said.complaint);
        assert!(said.complaint.contains(&address), "{}", said.complaint);
    }
}

#[tokio::test]
async fn wrong_usage_is_told_apart() {
    for arguments in
        [&["serve", "--port"][..], &["nonsense"], &["why"], &["config", "explain", "no.such.key"]]
    {
        assert_eq!(tidegate(arguments).await.code, 2, "{arguments:?}");
    }
}

#[tokio::test]
async fn a_bad_configuration_is_refused_with_its_place() {
    let folder = Folder::new();
    let file = folder.file("bad.yaml");
    fs::write(&file, "models:\n  - name: digits\n    scailng: {max: 1}\n").unwrap();
    let file = file.display().to_string();
    for arguments in [&["config", "check", &file][..], &["serve", "--config", &file]] {
        let said = tidegate(arguments).await;
        assert_eq!(said.code, 78, "{}", said.complaint);
        let text = said.out + &said.complaint;
        assert!(text.contains(":3:5") && text.contains("did you mean"), "{text}");
    }
    let missing = folder.file("missing.yaml").display().to_string();
    assert_eq!(tidegate(&["serve", "--config", &missing]).await.code, 78);
}

#[tokio::test]
async fn an_address_that_is_taken_is_a_failure() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = Folder::new();
    let address = taken.local_addr().unwrap().to_string();
    let text = configuration(&[Model::DIGITS.yaml()]).replacen("127.0.0.1:0", &address, 1);
    fs::write(folder.file("taken.yaml"), text).unwrap();
    let said = tidegate(&["serve", "--config", &folder.file("taken.yaml").display().to_string()]).await;
    assert_eq!(said.code, 1, "{}", said.complaint);
    assert!(said.complaint.contains(&address), "{}", said.complaint);
}

#[tokio::test]
async fn good_configurations_are_approved() {
    for file in ["examples/digits.yaml", "examples/edge.yaml", "examples/mlserver.yaml"] {
        let said = tidegate(&["config", "check", file]).await;
        assert_eq!(said.code, 0, "{file}: {}", said.out);
    }
}

#[tokio::test]
async fn a_plan_is_a_table_and_json_and_a_report() {
    let folder = Folder::new();
    let report = folder.file("report.html").display().to_string();
    let arguments = [
        "plan",
        "--config",
        "loadtest/compare/plan.yaml",
        "--model",
        "calls",
        "--steps",
        "5x2m,20x2m",
        "--service",
        "1s",
        "--cold-start",
        "10s",
        "--seeds",
        "2",
        "--against",
        "keda,static",
    ];
    let said = tidegate(&[&arguments[..], &["--html", &report]].concat()).await;
    assert_eq!(said.code, 0, "{}", said.complaint);
    let lines: Vec<_> = said.out.lines().collect();
    let starts = |start: &str| lines.iter().any(|line| line.starts_with(start));
    assert!(
        starts("POLICY ") && starts("tidegate p99 ") && starts("keda ") && starts("static "),
        "{}",
        said.out
    );
    assert!(said.complaint.contains("100 %"), "{}", said.complaint);
    let html = fs::read_to_string(&report).unwrap();
    assert_eq!((html.matches("<svg").count(), html.matches("<section").count()), html_parts(&html));
    assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("<script"));
    let said = tidegate(&[&arguments[..], &["--quiet", "-o", "json"]].concat()).await;
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(json["results"]["at_equal_slo"].as_array().unwrap().len(), 2);
    assert!(said.complaint.is_empty(), "{}", said.complaint);
}

/// What is opened in a page is closed.
fn html_parts(html: &str) -> (usize, usize) {
    (html.matches("</svg>").count(), html.matches("</section>").count())
}

#[tokio::test]
async fn a_plan_without_a_load_tells_of_the_week_and_a_wrong_one_says_what_is_wrong() {
    let plan = ["plan", "--config", "loadtest/compare/plan.yaml"];
    let said = tidegate(&[&plan[..], &["--model", "chat"]].concat()).await;
    assert!(said.code == 0 && said.out.contains("0 to 40 replicas all week"), "{}", said.out);
    let said = tidegate(&plan).await;
    assert!(said.code == 2 && said.complaint.contains("calls, chat"), "{}", said.complaint);
    for (arguments, part) in [
        (&["--trace", "absent.csv"][..], "absent.csv"),
        (&["--steps", "5x2m", "--service", "slow"], "slow"),
        (&["--steps", "5x2m", "--cold-start", "9s..1s"], "60s..180s"),
        (&["--office", "peak=0"], "not a rate"),
    ] {
        let said = tidegate(&[&plan[..], &["--model", "calls"], arguments].concat()).await;
        assert!(said.code != 0 && said.complaint.contains(part), "{arguments:?}: {}", said.complaint);
    }
}

#[tokio::test]
async fn a_plan_of_a_model_with_an_slo_of_tokens_judges_the_first_and_the_others() {
    let folder = Folder::new();
    let text = "models:\n  - name: assistant\n    fleet: {kubernetes: {target: Deployment/a, port: 8000}}\n    \
                protocol: openai\n    slo: {ttft: {p99: 2s}, tpot: {p95: 60ms}}\n    scaling: {min: 0, max: 4}\n";
    fs::write(folder.file("chat.yaml"), text).unwrap();
    let config = folder.file("chat.yaml").display().to_string();
    let report = folder.file("report.html").display().to_string();
    let said = tidegate(&["plan", "--config", &config]).await;
    assert!(
        said.code == 0 && said.out.contains("0 to 4 replicas all week"),
        "{} {}",
        said.out,
        said.complaint
    );
    // 5/s of 200 tokens on average; 80 streams of a replica have 60 ms a token each.
    let trace: String = (0..1500).map(|n| format!("{:.1},{}\n", f64::from(n) / 5.0, 100 + n % 200)).collect();
    fs::write(folder.file("trace.csv"), format!("TIMESTAMP,GeneratedTokens\n{trace}")).unwrap();
    let trace = folder.file("trace.csv").display().to_string();
    let arguments =
        ["plan", "--config", &config, "--trace", &trace, "--cold-start", "5s", "--seeds", "2", "--quiet"];
    let service = ["--service", "300ms+20ms/token+0.5ms/stream", "--against", "hpa,static"];
    let said = tidegate(&[&arguments[..], &service, &["--html", &report]].concat()).await;
    assert_eq!(said.code, 0, "{}", said.complaint);
    let lines: Vec<_> = said.out.lines().collect();
    assert!(lines[0].contains("TTFT 99 % within 2s, TPOT 95 % within 60ms"), "{}", said.out);
    assert!(
        lines[1].contains("500us for each stream, as many streams as keep the TPOT (80)"),
        "{}",
        said.out
    );
    assert!(said.out.contains("IN SLO") && said.out.contains("  TTFT  ") && said.out.contains("  TPOT  "));
    let html = fs::read_to_string(&report).unwrap();
    assert_eq!((html.matches("<svg").count(), html.matches("<section").count()), html_parts(&html));
    assert!(html.contains("p99 TTFT") && html.contains("TPOT in time") && !html.contains("p99 latency"));
    let json = async |more: &[&str]| -> serde_json::Value {
        let said = tidegate(&[&arguments[..], &service, more, &["-o", "json"]].concat()).await;
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.complaint))
    };
    let kept = |json: &serde_json::Value, part: &str| {
        let fixed = |summary: &&serde_json::Value| summary["name"] == "static 1";
        let summaries = json["results"]["summaries"].as_array().unwrap();
        summaries.iter().find(fixed).unwrap()[part]["mean"].as_f64().unwrap()
    };
    let adaptive = json(&[]).await;
    assert_eq!(adaptive["slo"]["tpot"], serde_json::json!({ "seconds": 0.06, "percentile": 0.95 }));
    assert!(kept(&adaptive, "tpot_met") > 0.99 && kept(&adaptive, "ttft_met") > 0.99, "{adaptive}");
    // The same with so few at a time that first tokens wait.
    let few = json(&["--slots", "10"]).await;
    assert!(kept(&few, "ttft_met") < 0.8 && kept(&few, "met") <= kept(&few, "ttft_met"), "{few}");
    let said = tidegate(&[&arguments[..], &["--service", "250ms"]].concat()).await;
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{}", said.complaint);
    assert!(said.complaint.contains("300ms+20ms/token"), "{}", said.complaint);
}
