//! JSON as YAML in block style, for people to read: a key a line, long sentences folded, quotes only where a reader of
//! YAML 1.1 or 1.2 would otherwise see something else.

use serde_json::Value;

use crate::config::sample::wrapped;

/// Columns of a line that is folded.
const WIDTH: usize = 110;
/// Words that some readers take for a boolean or for nothing.
const RESERVED: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

/// The text of a document, with its keys in alphabetical order.
pub(crate) fn write(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

/// A value on lines of its own.
fn block(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(members) if !members.is_empty() => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| name.as_str());
            for (name, value) in members {
                let key = format!("{pad}{}:", text(name));
                out.push_str(&key);
                after_key(value, &key, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut lines = String::new();
                block(item, indent + 2, &mut lines);
                // The dash stands in the first line, where it takes the place of two spaces.
                out.push_str(&format!("{pad}- {}", lines.trim_start_matches(' ')));
            }
        }
        _ => out.push_str(&format!("{pad}{}\n", inline(value))),
    }
}

/// What follows a key, given with its indent.
fn after_key(value: &Value, key: &str, out: &mut String) {
    let indent = key.len() - key.trim_start_matches(' ').len();
    match value {
        Value::Object(members) if !members.is_empty() => {
            out.push('\n');
            block(value, indent + 2, out);
        }
        // A list is as far in as its key, as Kubernetes' own tools write it.
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(value, indent, out);
        }
        Value::String(sentence) if key.len() + 3 + sentence.len() > WIDTH && folds(sentence) => {
            out.push_str(" >-\n");
            for line in wrapped(sentence, WIDTH.saturating_sub(indent + 2)) {
                out.push_str(&format!("{}{line}\n", " ".repeat(indent + 2)));
            }
        }
        _ => out.push_str(&format!(" {}\n", inline(value))),
    }
}

/// Whether there is something to fold, and folding gives it back as it was.
fn folds(sentence: &str) -> bool {
    sentence.contains(' ')
        && sentence.split(' ').all(|word| !word.is_empty() && !word.contains(char::is_whitespace))
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(string) => text(string),
        // JSON is YAML: numbers, flags, nothing, and what is empty.
        other => other.to_string(),
    }
}

/// A text, in quotes unless it is sure to be taken for one without.
fn text(text: &str) -> String {
    let inside = |c: char| c.is_ascii_alphanumeric() || " ./_-,;()'".contains(c);
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(inside)
        && !text.ends_with(' ')
        && !RESERVED.contains(&text.to_ascii_lowercase().as_str());
    match text {
        text if is_plain => text.to_owned(),
        text if text.contains(char::is_control) => Value::from(text).to_string(),
        text => format!("'{}'", text.replace('\'', "''")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::yaml::{self, Node};

    #[test]
    fn lists_are_as_far_in_as_their_keys() {
        let value = json!({"b": [{"y": 1, "x": [true, null]}, [2, [3]], {}], "a": {"c": "d e"}, "e": []});
        insta::assert_snapshot!(write(&value), @r#"
        a:
          c: d e
        b:
        - x:
          - true
          - null
          'y': 1
        - - 2
          - - 3
        - {}
        e: []
        "#);
    }

    #[test]
    fn what_a_reader_could_misunderstand_is_quoted() {
        for plain in ["a", "self.min", "Kind/name", "one word and another"] {
            assert_eq!(text(plain), plain);
        }
        for quoted in ["", "off", "No", "1", "-a", "a: b", "a #b", "*a", "a ", "~", "é", "'a'", "\""] {
            assert!(text(quoted).starts_with('\''), "{quoted:?}");
        }
        for escaped in ["\u{1b}", "a\nb", "a\t'b'"] {
            assert!(text(escaped).starts_with('"'), "{escaped:?}");
        }
    }

    #[test]
    fn a_long_sentence_is_folded_and_read_back_as_it_was() {
        let sentence = "Longest that a call waits for a replica: \"ready\" # or 'not', ".repeat(9);
        for sentence in [sentence.trim_end(), &sentence, &sentence.replace(' ', "  ")] {
            let written = write(&json!({ "key": { "description": sentence } }));
            assert_eq!(only_scalar(&yaml::parse(&written).unwrap().unwrap()), sentence, "{written}");
        }
    }

    fn only_scalar(node: &Node) -> &str {
        match &node.value {
            yaml::Value::Scalar(scalar) => &scalar.text,
            yaml::Value::List(items) => only_scalar(&items[0]),
            yaml::Value::Map(entries) => only_scalar(&entries[0].value),
        }
    }
}
