//! A valid file, spoiled in many ways: each is refused at a line and column, and nothing panics.

use proptest::prelude::*;

use super::{answer, report};
use crate::{
    cli::terminal::Style,
    config::{report::Severity, sample::sample},
};

/// What is replaced in the sample, and by what.
const MUTATIONS: [(&str, &str); 56] = [
    ("listen: 0.0.0.0:8080", "listen: 8080"),
    ("listen: 0.0.0.0:8080", "listen: \":8080\""),
    ("listen: 0.0.0.0:8080", "listen: []"),
    ("listen: 0.0.0.0:8080", "listen: 127.0.0.1:9090"),
    ("listen: 0.0.0.0:8080", "Listen: 0.0.0.0:8080"),
    ("listen: 0.0.0.0:8080", "listen: 0.0.0.0:80800"),
    ("  memory: 512MiB", "\tmemory: 512MiB"),
    ("admin: 127.0.0.1:9090", "admin: 10.0.0.1:9090"),
    ("admin: 127.0.0.1:9090", "admin: [127.0.0.1:9090]"),
    ("allowInsecureAdmin: false", "allowInsecureAdmin: no"),
    ("memory: 512MiB", "memory: 512"),
    ("memory: 512MiB", "memory: 512Mi"),
    ("memory: 512MiB", "memory: 0MiB"),
    ("memory: 512MiB", "memory: 1MiB"),
    ("memory: 512MiB", "memory: 99999999999999999999GiB"),
    ("memory: 512MiB", "memory: -1MiB"),
    ("memory: 512MiB", "memory:"),
    ("maxBody: 64MiB", "maxBody: 1GiB"),
    ("count: 100", "count: 0"),
    ("count: 100", "count: 1e2"),
    ("maxConnections: 10000", "maxConnections: 10_000"),
    ("maxStreams: 256", "maxStreams: 0x100"),
    ("maxStreams: 256", "maxStream: 256"),
    ("firstByte: 5s", "firstByte: 5"),
    ("firstByte: 5s", "firstByte: 0s"),
    ("firstByte: 5s", "firstByte: -5s"),
    ("firstByte: 5s", "firstByte: 5 s"),
    ("firstByte: 5s", "firstByte: 5sec"),
    ("firstByte: 5s", "firstByte: .inf"),
    ("drain: 30s", "drain: 400d"),
    ("drain: 30s", "drain: {seconds: 30}"),
    ("  - name: digits", "  - nam: digits"),
    ("  - name: digits", "  - name: -digits"),
    ("  - name: digits", "  - name: \"\""),
    ("  - name: digits", "  - name: digits\n    name: digits"),
    ("  - name: digits", "    name: digits"),
    ("      process:", "      procces:"),
    ("\"{port}\"]", "\"{prot}\"]"),
    ("\"{port}\"]", "\"{port}\""),
    ("command: [tidegate,", "command: [[tidegate],"),
    ("env: {}", "env: [A=b]"),
    ("env: {}", "env: {A-B: c}"),
    ("protocol: v2-grpc", "protocol: grpc"),
    ("p99: 100ms", "p99: 100"),
    ("p99: 100ms", "p98: 100ms"),
    ("p99: 100ms", "p99: 100ms\n      p95: 50ms"),
    ("default: 30s", "default: 301s"),
    ("batching: auto", "batching: {maxRows: 0}"),
    ("batching: auto", "batching: {maxHold: 100ms}"),
    ("maxRequests: 1024", "maxRequests: many"),
    ("maxBytes: 64MiB", "maxBytes: 1TiB"),
    ("concurrency: auto", "concurrency: 0"),
    ("      max: 4", "      max: \"4\""),
    ("      min: 0", "      min: 5"),
    ("schedules: []", "schedules: [{name: x}]"),
    ("mode: enforce", "mode: &a {b: *a}"),
];

#[test]
fn every_mutation_is_refused_at_a_place_near_it() {
    for (from, to) in MUTATIONS {
        let sample = sample();
        assert!(sample.contains(from), "{from}");
        let at = sample.split(from).next().unwrap().lines().count() + 1;
        let report = report(&sample.replacen(from, to, 1));
        let errors: Vec<_> = report.findings.iter().filter(|f| f.severity == Severity::Error).collect();
        assert!(!errors.is_empty(), "{to} is accepted");
        for error in &errors {
            assert!(error.span.is_some(), "{to}: {error:?}");
        }
        let named = format!("(line {at})");
        let near = errors
            .iter()
            .any(|e| e.span.is_some_and(|span| span.line.abs_diff(at) <= 3) || e.message.contains(&named));
        assert!(near, "{to} in line {at}:\n{report}");
    }
}

#[test]
fn a_file_full_of_errors_is_answered_in_part() {
    let file: String = (0..1000).map(|i| format!("key{i}: 1\n")).collect();
    let answer = answer(&file);
    assert!(answer.ends_with("… and 951 more"), "{}", answer.lines().last().unwrap());
}

/// Pieces of YAML and of this file, so that random texts get past the first character.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ \n:{}\\[\\],&*!|>'\"#%@`?-]{1,4}",
        prop::sample::select(vec![
            "models",
            "name",
            "fleet",
            "static",
            "addresses",
            "slo",
            "p99.9",
            "scaling",
            "schedules",
            "days",
            "deadline",
            ": ",
            "\n  ",
            "\n- ",
            "{",
            "}",
            "100ms",
            "µs",
            "64MiB",
            "é",
            "\u{1b}[31m",
            "\u{feff}",
            "22:00",
            "&a ",
            "*a",
            "~",
            "null",
            "1e309",
            "99999999999999999999",
            "\t",
            "\r\n",
            "\u{0}",
        ])
        .prop_map(str::to_owned),
    ]
}

fn show(text: &str) {
    let report = report(text);
    report.render(Style::Colored);
    report.to_json();
    for finding in &report.findings {
        assert!(finding.span.is_some_and(|span| span.line > 0 && span.column > 0), "{finding:?}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        show(&text);
    }

    #[test]
    fn no_yaml_panics(pieces in prop::collection::vec(piece(), 0..40)) {
        show(&pieces.concat());
    }

    #[test]
    fn no_spoiled_sample_panics(at in any::<prop::sample::Index>(), cut in 0_usize..20, put in piece()) {
        let sample = sample();
        let chars: Vec<char> = sample.chars().collect();
        let at = at.index(chars.len());
        let text: String = chars[..at].iter().copied().chain(put.chars()).chain(chars[at..].iter().copied().skip(cut)).collect();
        show(&text);
    }
}
