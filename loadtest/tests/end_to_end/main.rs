//! The program against its own upstream, on free loopback ports.

mod chat;

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_loadtest");

/// A running `loadtest upstream`, ended with the test.
struct Upstream {
    process: Child,
    url: String,
}

impl Upstream {
    fn start(args: &[&str]) -> Self {
        let mut process = Command::new(PROGRAM)
            .arg("upstream")
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it speaks UTF-8");
        let url = line.trim().strip_prefix("listening on ").expect("it says where it listens").to_owned();
        Self { process, url }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

fn loadtest(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(["-q", "-o", "json", "--max-lag", "10s"]).args(args).output().expect("it runs")
}

fn report(args: &[&str]) -> Value {
    let output = loadtest(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the report is JSON")
}

fn quick(url: &str, more: &[&str]) -> Value {
    report(&[&[url, "--rate", "200", "--duration", "1s", "--spacing", "constant"], more].concat())
}

#[test]
fn every_protocol_is_answered() {
    let upstream = Upstream::start(&[]);
    for protocol in ["v1", "v2", "v2-binary", "v2-grpc"] {
        let report = quick(&upstream.url, &["--protocol", protocol, "--model", "any"]);
        assert_eq!(
            (report["ok"].as_u64(), report["requests"].as_u64()),
            (Some(200), Some(200)),
            "{protocol}: {report}"
        );
        assert!(report["request_bytes"].as_u64() > Some(200), "{protocol}");
    }
    let raw = quick(&format!("{}/v2/health/ready", upstream.url), &["--protocol", "raw"]);
    assert_eq!(raw["ok"], 200);
}

#[test]
fn the_latency_of_the_server_is_what_is_measured() {
    let upstream = Upstream::start(&["--latency", "40ms"]);
    let report = quick(&upstream.url, &["--model", "any"]);
    let p50 = report["latency"]["p50"].as_f64().unwrap();
    assert!(p50 >= 40.0, "{p50}");
    assert!(report["latency"]["p50"].as_f64() >= report["service"]["p50"].as_f64());
}

#[test]
fn waiting_for_a_busy_server_counts_from_the_intended_time() {
    // One call of 20 ms at a time is 50 a second: at twice that rate the queue grows all the time.
    let upstream = Upstream::start(&["--latency", "20ms", "--concurrency", "1"]);
    let args = ["--model", "any", "--rate", "100", "--duration", "1s", "--connections", "1"];
    let report = report(&[&[upstream.url.as_str()], &args[..]].concat());
    let latency = report["latency"]["p99"].as_f64().unwrap();
    assert!(latency > 500.0, "{latency} ms hide the queue");
    assert_eq!(report["connections_opened"], 1);
}

#[test]
fn deadlines_make_goodput() {
    let upstream = Upstream::start(&["--latency", "60ms"]);
    let report = quick(&upstream.url, &["--model", "any", "--slo", "10ms"]);
    assert_eq!((report["ok"].as_u64(), report["within_slo"].as_u64()), (Some(200), Some(0)));
}

#[test]
fn a_closed_loop_keeps_one_connection_per_client() {
    let upstream = Upstream::start(&[]);
    let args = ["--model", "any", "--clients", "8", "--duration", "1s", "--warmup", "100ms"];
    let report = report(&[&[upstream.url.as_str()], &args[..]].concat());
    assert_eq!(report["connections_opened"], 8);
    assert!(report["ok"].as_u64() > Some(8));
}

#[test]
fn a_burst_is_sent_at_once_and_answered_whole() {
    let upstream = Upstream::start(&[]);
    for protocol in ["v2", "v2-grpc"] {
        let report = report(&[&upstream.url, "--model", "any", "--burst", "300", "--protocol", protocol]);
        assert_eq!(report["ok"], 300, "{protocol}");
    }
}

#[test]
fn a_wrong_answer_is_found_and_fails_the_run() {
    // The upstream's answer is 0.1 in ten values; a sample that expects another number is a mix-up to the check.
    let upstream = Upstream::start(&[]);
    let samples = format!(r#"[{{"x":{:?},"predicted":7}}]"#, [0.0; 64]);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("samples.json");
    std::fs::write(&path, samples).unwrap();
    let data = path.to_str().unwrap();
    for protocol in ["v1", "v2", "v2-binary", "v2-grpc"] {
        let args = [
            &upstream.url,
            "--model",
            "any",
            "--burst",
            "5",
            "--data",
            data,
            "--check",
            "--protocol",
            protocol,
        ];
        let output = loadtest(&args);
        assert_eq!(output.status.code(), Some(1), "{protocol}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["wrong_answers"], 5, "{protocol}");
    }
}

#[test]
fn a_refusal_is_counted_by_its_status() {
    let upstream = Upstream::start(&[]);
    let output =
        loadtest(&[&upstream.url, "--model", "any", "--burst", "3", "--input", "x:FP32", "--rows", "5000"]);
    assert_eq!(output.status.code(), Some(1), "nothing was answered");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["outcomes"][0]["kind"], &report["outcomes"][0]["status"]),
        (&"http".into(), &413.into())
    );
}

#[test]
fn a_server_that_is_not_there_is_a_failure_in_words() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = loadtest(&[&format!("http://{closed}"), "--model", "any"]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("metadata") && message.contains("cannot connect"), "{message}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_cpu_time_of_the_server_is_reported() {
    let upstream = Upstream::start(&[]);
    let pid = upstream.process.id().to_string();
    let args = ["--model", "any", "--clients", "4", "--duration", "1s", "--cpu-of", &pid];
    let report = report(&[&[upstream.url.as_str()], &args[..]].concat());
    let process = &report["processes"][0];
    assert!(process["cpu_seconds"].as_f64() > Some(0.0), "{process}");
    assert!(process["peak_rss_bytes"].as_u64() > Some(1 << 20), "{process}");
}

#[test]
fn mistakes_on_the_command_line_are_usage_errors() {
    for args in
        [&["--rate", "5"][..], &["http://h", "--bursts", "on=1s"], &["http://h", "--steps", "5x1s", "--day"]]
    {
        assert_eq!(loadtest(args).status.code(), Some(2), "{args:?}");
    }
}
