//! One table of keys: nothing is read that is not in it, and nothing is in it that is not read.

use std::{fs, path::Path};

use super::{answer, report};
use crate::config::{
    explain,
    keys::{self, Fallback, Key, Kind},
    load, parse,
    report::Severity,
    sample::sample,
    schema::schema,
};

/// A file with `value` under one key, and whatever that key needs around it.
fn file_with(path: &str, value: &str) -> String {
    let mut steps: Vec<&str> = path.split('.').collect();
    // Keys of chat models are nothing elsewhere.
    let chat =
        [".slo.t", ".firstToken", ".betweenTokens", "].routing"].iter().any(|part| path.contains(part));
    if path.ends_with("p99.9") {
        steps.truncate(steps.len() - 2);
        steps.push("p99.9");
    }
    let nested = steps.iter().rev().fold(value.to_owned(), |inner, step| match step.strip_suffix("[]") {
        Some(name) if inner == value => format!("{name}: {inner}"),
        Some(name) => format!("{name}: [{{{inner}}}]"),
        None if inner == value => format!("{step}: {inner}"),
        None => format!("{step}: {{{inner}}}"),
    });
    if path.starts_with("models[].fleet") || !path.starts_with("models[].") {
        return format!("{{{nested}}}\n");
    }
    let fleet = match chat {
        true => r#"protocol: openai, fleet: {process: {command: [serve, "{port}"]}}"#,
        false => r#"fleet: {process: {command: [serve, "{port}"]}}"#,
    };
    format!("{{{}}}\n", nested.replacen("[{", &format!("[{{{fleet}, "), 1))
}

/// Errors about the key itself or what is in it, in the file's words.
fn errors_at(path: &str, file: &str) -> Vec<String> {
    let path = path.replace("[]", "[0]");
    let name = path.strip_suffix("[0]").unwrap_or(&path).to_owned();
    let errors = report(file).findings.into_iter().filter(|f| f.severity == Severity::Error);
    errors.filter(|f| f.path.starts_with(&name)).map(|f| f.message).collect()
}

fn is_unsupported(message: &str) -> bool {
    message.contains("not supported by this version")
}

#[test]
fn every_key_of_the_table_is_read() {
    for (path, _) in keys::all() {
        let file = file_with(&path, "[[]]");
        let errors = errors_at(&path, &file);
        assert!(errors.iter().any(|e| e.contains("cannot stand here")), "{path} in {file}: {errors:?}");
    }
}

#[test]
fn every_default_example_and_choice_of_the_table_is_accepted() {
    for (path, key) in keys::all() {
        for value in values(key) {
            let file = file_with(&path, &value);
            let errors = errors_at(&path, &file);
            assert!(
                errors.iter().all(|e| is_unsupported(e) || needs_more(e)),
                "{path} in {file}: {errors:?}"
            );
        }
    }
}

fn values(key: &Key) -> Vec<String> {
    let mut values = Vec::new();
    if let Fallback::Value(text) = key.fallback {
        values.push(text.to_owned());
    }
    if !key.example.is_empty() {
        values.push(key.example.to_owned());
    }
    match &key.kind {
        Kind::Choice(choices) | Kind::ChoiceOrSection(choices, _) => {
            values.extend(choices.iter().map(|(word, _)| (*word).to_owned()));
        }
        Kind::Duration { or } | Kind::Number { or, .. } => values.extend(or.iter().map(ToString::to_string)),
        _ => {}
    }
    values
}

/// A key alone may lack company; that is another key's error.
fn needs_more(message: &str) -> bool {
    message.ends_with("is missing") || message.contains("is more than") || message.contains("is less than")
}

#[test]
fn every_key_has_a_meaning_and_a_value_to_show() {
    for (path, key) in keys::all() {
        assert!(key.meaning.ends_with('.'), "{path}: {:?}", key.meaning);
        let shows = !key.sample().is_empty() || !key.children().is_empty();
        assert!(shows, "{path} has neither default nor example");
    }
}

#[test]
fn the_sample_is_valid_without_a_warning_and_names_every_key() {
    assert_eq!(answer(&sample()), "");
    for (path, key) in keys::all().iter().filter(|(path, _)| path.matches('.').count() < 3) {
        assert!(sample().contains(&format!("{}:", key.name)), "{path}");
    }
}

#[test]
fn the_sample_says_what_a_file_without_those_keys_means() {
    let file = r#"
models:
  - name: digits
    fleet:
      process: {command: [tidegate, model-server, --onnx, examples/models/digits.onnx, --port, "{port}"]}
    scaling: {max: 4}
"#;
    let short = super::config(file);
    assert_eq!(super::config(&sample()), short);
}

#[test]
fn the_sample_with_its_comments_taken_off_has_only_errors_of_choice() {
    let uncommented: String = sample().lines().map(|line| uncomment(line) + "\n").collect();
    for finding in report(&uncommented).findings {
        let expected = is_unsupported(&finding.message)
            || finding.message.contains("for protocol openai")
            || finding.message.contains("already")
            || finding.message.contains("given twice");
        assert!(expected || finding.severity == Severity::Warning, "{}: {}", finding.path, finding.message);
    }
}

/// A commented key as the key; a sentence stays a comment.
fn uncomment(line: &str) -> String {
    let Some((pad, text)) = line.split_once("# ") else { return line.to_owned() };
    let name = text.split(':').next().unwrap_or_default();
    let is_key = keys::all().iter().any(|(_, key)| key.name == name);
    if pad.trim().is_empty() && is_key { format!("{pad}{text}") } else { line.to_owned() }
}

#[test]
fn every_key_is_explained_by_its_path_with_or_without_indexes() {
    for (path, _) in keys::all() {
        for path in [path.clone(), path.replace("[]", ""), path.replace("[]", "[7]")] {
            assert_eq!(explain::find(&path).map(|found| found.len()), Ok(1), "{path}");
        }
    }
}

#[test]
fn the_schema_has_every_key_and_no_other() {
    let mut paths = Vec::new();
    collect(&schema(), "", &mut paths);
    paths.sort();
    let mut expected: Vec<String> = keys::all().into_iter().map(|(path, _)| path).collect();
    expected.sort();
    assert_eq!(paths, expected);
}

fn collect(schema: &serde_json::Value, prefix: &str, paths: &mut Vec<String>) {
    let alternatives = schema["anyOf"].as_array().into_iter().flatten();
    alternatives.for_each(|alternative| collect(alternative, prefix, paths));
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let is_list = property["items"]["properties"].is_object();
        let path = format!("{prefix}{name}{}", if is_list { "[]" } else { "" });
        let inside = if is_list { &property["items"] } else { property };
        collect(inside, &format!("{path}."), paths);
        paths.push(path);
    }
}

#[test]
fn every_example_file_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    assert!(!files.is_empty());
    for file in files {
        let loaded = load(&file).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(loaded.warnings.to_string(), "", "{}", file.display());
    }
}

#[test]
fn the_configuration_of_an_installation_is_valid() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests/base/tidegate.yaml");
    let loaded = load(&file).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(loaded.warnings.to_string(), "");
}

#[test]
fn a_valid_file_is_valid_as_json_too() {
    let file = r#"{"models": [{"name": "m", "fleet": {"static": {"addresses": ["[::1]:80"]}}}]}"#;
    assert!(parse(super::source(file)).is_ok());
}
