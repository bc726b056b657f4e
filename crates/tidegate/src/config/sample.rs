//! `config default`: a file with every key, its meaning and its default, that is itself valid.

use super::keys::{self, Fallback, Key, Kind};

const WIDTH: usize = 100;

/// The file. Keys without a default are shown as comments, except those that a model needs.
pub(crate) fn sample() -> String {
    let mut out = String::from(
        "# Tidegate's configuration with every key at its default. A file needs only what it changes:\n\
         # all of it is optional but models (unless cluster.models serves Model resources), and of each\n\
         # its name, its fleet and, where replicas are started and stopped, scaling.max.\n",
    );
    for key in keys::ROOT {
        out.push('\n');
        key_lines(key, 0, &mut out);
    }
    out
}

fn key_lines(key: &Key, indent: usize, out: &mut String) {
    meaning(key, indent, out);
    let pad = " ".repeat(indent);
    let shown = matches!(key.fallback, Fallback::Required | Fallback::Shown) || is_section_of_defaults(key);
    match (&key.kind, key.fallback) {
        (Kind::Section(keys), _) if shown => {
            out.push_str(&format!("{pad}{}:\n", key.name));
            keys.iter().for_each(|key| key_lines(key, indent + 2, out));
        }
        (Kind::Sections(keys), _) if shown => {
            out.push_str(&format!("{pad}{}:\n", key.name));
            out.push_str(&item(keys, indent + 2));
        }
        (_, Fallback::Value(default)) => out.push_str(&format!("{pad}{}: {default}\n", key.name)),
        _ if shown => out.push_str(&format!("{pad}{}: {}\n", key.name, key.example)),
        _ => out.push_str(&format!("{pad}# {}: {}\n", key.name, key.sample())),
    }
    if let Fallback::Value(default) = key.fallback
        && !key.example.is_empty()
        && key.example != default
    {
        out.push_str(&format!("{pad}# {}: {}\n", key.name, key.example));
    }
}

/// Whether a section stands for its keys' defaults, and not for a choice that is not taken.
fn is_section_of_defaults(key: &Key) -> bool {
    matches!(key.kind, Kind::Section(_)) && key.example.is_empty()
}

/// One member of a list, with its dash before the first key.
fn item(keys: &[Key], indent: usize) -> String {
    let mut lines = String::new();
    keys.iter().for_each(|key| key_lines(key, indent + 2, &mut lines));
    let pad = " ".repeat(indent);
    let first = keys.first().map_or("", |key| key.name);
    lines.replacen(&format!("\n{pad}  {first}:"), &format!("\n{pad}- {first}:"), 1)
}

fn meaning(key: &Key, indent: usize, out: &mut String) {
    for line in wrapped(&key.meaning_in_full(), WIDTH.saturating_sub(indent + 2)) {
        out.push_str(&format!("{}# {line}\n", " ".repeat(indent)));
    }
}

/// The words of `text` in lines of at most `width` characters.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
