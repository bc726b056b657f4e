//! `config explain`: what a key means, by its path with or without indexes, or by its end.

use serde_json::json;

use super::{
    guess::guess,
    keys::{self, Fallback, Key, Kind},
    report::quoted,
    sample::wrapped,
};
use crate::cli::terminal::Style;

const WIDTH: usize = 88;

/// A key and its path in the file.
#[derive(Debug)]
pub(crate) struct Explained {
    path: String,
    key: &'static Key,
}

/// Every key, in the order of the file.
pub(crate) fn all() -> Vec<Explained> {
    keys::all().into_iter().map(|(path, key)| Explained { path, key }).collect()
}

/// The keys that `path` names: one, or several that end like it.
///
/// # Errors
/// A sentence, with a guess, if there is none.
pub(crate) fn find(path: &str) -> Result<Vec<Explained>, String> {
    let wanted = bare(path);
    let (exact, rest): (Vec<_>, Vec<_>) = all().into_iter().partition(|key| bare(&key.path) == wanted);
    if !exact.is_empty() {
        return Ok(exact);
    }
    let tail = format!(".{wanted}");
    let (ending, others): (Vec<_>, Vec<_>) =
        rest.into_iter().partition(|key| bare(&key.path).ends_with(&tail));
    if !ending.is_empty() {
        return Ok(ending);
    }
    let paths: Vec<String> = others.iter().map(|key| bare(&key.path)).collect();
    let near = guess(&wanted, paths.iter().map(String::as_str))
        .or_else(|| guess(&wanted, others.iter().map(|key| key.key.name)));
    let hint = near.map_or_else(
        || "\"tidegate config explain\" lists all keys".to_owned(),
        |name| format!("did you mean {name}?"),
    );
    Err(format!("there is no key {}: {hint}", quoted(path)))
}

/// A path without its indexes.
fn bare(path: &str) -> String {
    let mut bare = String::with_capacity(path.len());
    let mut depth = 0_usize;
    for c in path.trim_matches('.').chars() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            c if depth == 0 => bare.push(c),
            _ => {}
        }
    }
    bare
}

impl Explained {
    /// One line: the path and its default.
    pub(crate) fn line(&self, style: Style) -> String {
        let default = match self.key.fallback {
            Fallback::Required => "required".to_owned(),
            _ => self.key.default_in_words().unwrap_or_default(),
        };
        // Padded before it is painted: escape codes have no width.
        let path = format!("{:<44}", self.path);
        format!("{} {}\n", path, style.dim(&default)).trim_end().to_owned() + "\n"
    }

    /// A paragraph: type, default, meaning, example, and the keys inside.
    pub(crate) fn paragraph(&self, style: Style) -> String {
        let mut out = format!("{}\n", style.bold(&self.path));
        for (label, text) in self.facts() {
            for (index, line) in wrapped(&text, WIDTH).into_iter().enumerate() {
                let label = if index == 0 { label } else { "" };
                out.push_str(&format!("  {label:<9} {line}\n"));
            }
        }
        out
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let key = self.key;
        let mut facts = vec![("type", key.kind.words()), ("default", self.default_in_words())];
        facts.push(("meaning", key.meaning.to_owned()));
        if let Kind::Choice(choices) | Kind::ChoiceOrSection(choices, _) = &key.kind {
            facts.extend(choices.iter().map(|(word, meaning)| ("", format!("{word}: {meaning}"))));
        }
        let sample = if key.example.is_empty() { key.sample() } else { key.example };
        if !sample.is_empty() {
            facts.push(("example", format!("{}: {sample}", key.name)));
        }
        if !key.children().is_empty() {
            let names: Vec<&str> = key.children().iter().map(|key| key.name).collect();
            facts.push(("inside", names.join(", ")));
        }
        facts
    }

    fn default_in_words(&self) -> String {
        if let Some(default) = self.key.default_in_words() {
            return default;
        }
        match self.key.fallback {
            Fallback::Required => "none: it is required".to_owned(),
            _ if self.key.children().is_empty() || self.key.is_repeated() => "none".to_owned(),
            _ => "those of the keys inside".to_owned(),
        }
    }

    /// The same as an object: the contract of `-o json`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let default = match self.key.fallback {
            Fallback::Value(text) => Some(text),
            _ => None,
        };
        json!({
            "path": self.path,
            "type": self.key.kind.words(),
            "default": default,
            "default_openai": self.key.openai,
            "required": self.key.fallback == Fallback::Required,
            "meaning": self.key.meaning,
            "example": self.key.example,
        })
    }
}
