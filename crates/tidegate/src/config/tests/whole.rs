//! What a valid file becomes, and what is said of files that cannot be read.

use std::{net::TcpListener, path::Path, sync::Arc, time::Duration};

use insta::assert_snapshot;
use pipeline::{Batching, Concurrency};

use super::{answer, config, source};
use crate::config::{
    Bounds, Fleet, Mode, Objective, Protocol, Routing, Slo, TokenDeadlines, changes, load, parse,
};

const FULL: &str = r#"
listen: [127.0.0.1:8080, "[::1]:8080"]
admin: 0.0.0.0:9090
allowInsecureAdmin: true
limits: {memory: 1.5GiB, maxHeaders: {count: 64}, timeouts: {idle: 1m30s}}
models:
  - name: echo
    fleet: {process: {command: [serve], env: {PORT: "{port}", THREADS: 4}}}
    protocol: v1
    slo: {p99.9: 0.25s}
    batching: {maxRows: 8}
    concurrency: 3
    idempotent: false
    scaling:
      min: 1
      max: 2
      idleAfter: 10m
      mode: observe
      schedules:
        - {name: night, timezone: Europe/Prague, days: [fri], from: 22:00, to: 24:00, max: 0, prewarm: 2m}
  - name: fixed
    fleet: {static: {addresses: [10.0.0.4:8001, mlserver:8001]}}
"#;

#[test]
fn a_full_file_is_taken_at_its_word() {
    let config = config(FULL);
    assert_eq!(config.listen.len(), 2);
    assert_eq!(config.limits.memory, 3 << 29);
    assert_eq!(config.limits.max_headers.count, 64);
    assert_eq!(config.limits.timeouts.idle, Duration::from_secs(90));
    let [echo, fixed] = config.models.as_slice() else { panic!("two models") };
    assert_eq!(echo.protocol, Protocol::V1);
    assert_eq!(echo.slo, Slo::Latency(Objective { quantile: 0.999, latency: Duration::from_millis(250) }));
    assert_eq!(echo.batching, Batching::Merge { max_rows: 8, max_hold: Duration::from_millis(2) });
    assert_eq!(echo.concurrency, Concurrency::Fixed(3));
    assert!(!echo.idempotent);
    let Fleet::Process(process) = &echo.fleet else { panic!("a process fleet") };
    assert_eq!(process.env.get("THREADS").map(String::as_str), Some("4"));
    assert_eq!((process.scaling.min, process.scaling.max, process.scaling.mode), (1, 2, Mode::Observe));
    assert_eq!(process.scaling.idle_after, Some(Duration::from_mins(10)));
    let [night] = process.scaling.schedules.as_slice() else { panic!("one schedule") };
    assert_eq!((night.from, night.to), (22 * 60, 24 * 60));
    assert_eq!(night.bounds, Bounds::Between { floor: None, cap: Some(0) });
    assert_eq!(
        fixed.fleet,
        Fleet::Static { addresses: vec!["10.0.0.4:8001".to_owned(), "mlserver:8001".to_owned()] }
    );
    assert_eq!(fixed.slo, Slo::Latency(Objective { quantile: 0.99, latency: Duration::from_millis(100) }));
}

const CHAT: &str = r#"
models:
  - name: chat
    fleet: {static: {addresses: [10.0.0.4:8000]}}
    protocol: openai
"#;

#[test]
fn a_chat_model_has_defaults_of_its_own() {
    let config = config(CHAT);
    let [chat] = config.models.as_slice() else { panic!("one model") };
    let objective = |quantile, latency| Objective { quantile, latency: Duration::from_millis(latency) };
    assert_eq!(chat.protocol, Protocol::OpenAi);
    assert_eq!(chat.slo, Slo::Chat { ttft: objective(0.99, 2000), tpot: objective(0.95, 100) });
    let deadline = &chat.deadline;
    assert_eq!((deadline.default, deadline.max), (Duration::from_mins(5), Duration::from_mins(5)));
    let tokens = TokenDeadlines { first: Duration::from_mins(1), between: Duration::from_secs(30) };
    assert_eq!(deadline.tokens, Some(tokens));
    let routing =
        Routing { prefix_affinity: true, load_factor: 1.25, session_header: "x-session-id".to_owned() };
    assert_eq!(chat.routing, Some(routing));
}

#[test]
fn objectives_of_a_chat_model_are_given_one_by_one() {
    let slo = |slo: &str| config(&format!("{CHAT}    slo: {slo}\n")).models[0].slo;
    let objective = |quantile, latency| Objective { quantile, latency: Duration::from_millis(latency) };
    let (ttft, tpot) = (objective(0.99, 2000), objective(0.95, 100));
    assert_eq!(slo("{}"), Slo::Chat { ttft, tpot });
    assert_eq!(slo("{tpot: {p95: 60ms}}"), Slo::Chat { ttft, tpot: objective(0.95, 60) });
    assert_eq!(slo("{ttft: {p50: 1s}}"), Slo::Chat { ttft: objective(0.5, 1000), tpot });
    assert_eq!(slo("{p99: 80ms}"), Slo::Latency(objective(0.99, 80)), "embeddings only");
}

#[test]
fn a_chat_models_routing_is_taken_at_its_word() {
    let file =
        format!("{CHAT}    routing: {{prefixAffinity: false, loadFactor: 2, sessionHeader: X-Chat}}\n");
    let routing = Routing { prefix_affinity: false, load_factor: 2.0, session_header: "x-chat".to_owned() };
    assert_eq!(config(&file).models[0].routing, Some(routing));
    let told = changes(&config(CHAT), &config(&file)).to_string();
    assert_eq!(told, "changed chat (routing)");
}

#[test]
fn an_alias_stands_for_its_anchor() {
    let file = FULL.replace("echo\n", "echo\n    queue: &small {maxRequests: 7}\n");
    let file = file + "    queue: *small\n";
    let requests: Vec<u32> = config(&file).models.iter().map(|model| model.queue.requests).collect();
    assert_eq!(requests, [7, 7]);
}

#[test]
fn changes_are_told_by_model_and_key() {
    let old = config(FULL);
    let new = FULL
        .replace("name: fixed", "name: moved")
        .replace("max: 2", "max: 3")
        .replace("idempotent: false", "idempotent: true")
        .replace("memory: 1.5GiB", "memory: 2GiB");
    let told = changes(&old, &config(&new)).to_string();
    assert_eq!(told, "added moved; removed fixed; changed echo (idempotent, scaling); changed limits");
    assert_eq!(changes(&old, &old).to_string(), "nothing changed");
    let restarted = changes(&old, &config(&FULL.replace("[serve]", "[serve, -v]")));
    assert_eq!(restarted.changed, [(Arc::from("echo"), vec!["fleet"])]);
}

#[test]
fn an_address_in_use_is_told_where_it_is_written() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let file = FULL.replace("0.0.0.0:9090", "127.0.0.1:0").replace("\"[::1]:8080\"", "127.0.0.1:0");
    let loaded = parse(source(&file.replace("127.0.0.1:8080", &address.to_string()))).unwrap();
    let report = loaded.try_binding().unwrap_err();
    let first = report.to_string().lines().next().unwrap().to_owned();
    assert!(first.starts_with("✗ tidegate.yaml:1:10  listen[0]: cannot listen on 127.0.0.1:"), "{first}");
    drop(taken);
    loaded.try_binding().unwrap();
}

#[test]
fn what_is_no_file_is_not_opened() {
    let said = |path: &str| load(Path::new(path)).unwrap_err().to_string();
    assert_snapshot!(said("no/such.yaml"), @"✗ no/such.yaml  there is no such file");
    assert_snapshot!(said("/"), @r"
    ✗ /  is a directory
        name a file in it
    ");
    assert_snapshot!(said("/dev/zero"), @r#"
    ✗ /dev/zero  is not a regular file
        write "-" to read standard input
    "#);
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_no_error() {
    let file = format!("\u{feff}{}", FULL.trim_start().replace('\n', "\r\n"));
    assert!(!answer(&file).contains('✗'), "{}", answer(&file));
}
