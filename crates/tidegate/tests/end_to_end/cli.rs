//! The verbs for people and scripts, and their exit codes.

use std::{fs, process::Stdio};

use serde_json::Value;
use tokio::process::Command;

use crate::{
    digits::HELD_OUT,
    process::repository,
    rig::{Folder, Gateway, Model, configuration},
};

struct Said {
    code: i32,
    out: String,
    complaint: String,
}

/// Runs a verb to its end.
async fn tidegate(arguments: &[&str]) -> Said {
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
