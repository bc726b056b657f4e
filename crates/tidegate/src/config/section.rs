//! Walking the tree by the table of keys: unknown and duplicate keys, missing and misshapen values are found
//! here, all of them, so that the reader of a section only names its keys.

use std::collections::HashMap;

use super::{
    guess::guess,
    keys::{self, Fallback, Key, Kind},
    report::{Finding, Severity, quoted},
    scalar::{Complaint, FromScalar},
    yaml::{self, Entry, Node, Scalar, Span, Value},
};

/// What paths in a resource begin with.
const SPEC: &str = "spec";

/// Collects findings while sections are read.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

/// The keys of one section, as the file has them.
#[derive(Debug)]
pub(crate) struct Section<'t> {
    keys: &'static [Key],
    /// `models[0].slo`; empty at the top.
    pub(crate) path: String,
    /// `None`: the file does not have the section.
    pub(crate) span: Option<Span>,
    entries: Vec<&'t Entry>,
    /// It is there and not what it should be, which was reported.
    broken: bool,
    /// Keys that unknown ones were taken for; they are not reported as missing too.
    guessed: Vec<&'static str>,
}

/// A value, and where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    /// As written.
    pub(crate) text: String,
    pub(crate) path: String,
    /// `None`: it is the default.
    pub(crate) span: Option<Span>,
}

/// What stands where a word or a section may stand.
#[derive(Debug)]
pub(crate) enum WordOrSection<'t, T> {
    Word(Option<Setting<T>>),
    Section(Section<'t>),
}

impl Findings {
    pub(crate) fn error(&mut self, path: &str, span: Option<Span>, message: String, hint: impl Into<String>) {
        let (path, hint) = (path.to_owned(), hint.into());
        self.0.push(Finding { severity: Severity::Error, path, span, message, hint });
    }

    pub(crate) fn warning(
        &mut self,
        path: &str,
        span: Option<Span>,
        message: String,
        hint: impl Into<String>,
    ) {
        let (path, hint) = (path.to_owned(), hint.into());
        self.0.push(Finding { severity: Severity::Warning, path, span, message, hint });
    }

    /// Says that what stands at `setting` is understood and cannot be done.
    pub(crate) fn unsupported(&mut self, path: &str, span: Option<Span>, what: &str, hint: &str) {
        self.error(path, span, format!("{what} not supported by this version"), hint);
    }

    pub(crate) fn into_inner(self) -> Vec<Finding> {
        self.0
    }

    /// Opens the top of the file.
    pub(crate) fn root<'t>(&mut self, node: &'t Node) -> Section<'t> {
        self.open(keys::ROOT, String::new(), node)
    }

    /// Opens the spec of a `Model` resource.
    pub(crate) fn spec<'t>(&mut self, node: &'t Node) -> Section<'t> {
        self.open(keys::of_resource(), SPEC.to_owned(), node)
    }

    fn open<'t>(&mut self, keys: &'static [Key], path: String, node: &'t Node) -> Section<'t> {
        let mut section = Section::empty(keys, path);
        section.span = Some(node.span);
        let Value::Map(entries) = &node.value else {
            section.broken = true;
            self.misshapen(&section.path, node, "a section: keys with values");
            return section;
        };
        section.entries = self.distinct(&section.path, entries);
        let unknown = section.entries.iter().filter(|entry| section.find(&entry.key).is_none());
        section.guessed = unknown.filter_map(|entry| self.unknown(&section, entry)).collect();
        section
    }

    /// The entries without those that repeat a key, which are reported.
    fn distinct<'t>(&mut self, path: &str, entries: &'t [Entry]) -> Vec<&'t Entry> {
        let mut first: HashMap<&str, Span> = HashMap::new();
        let mut distinct = Vec::new();
        for entry in entries {
            if let Some(span) = first.get(entry.key.as_str()) {
                let message = format!("given twice, first in line {}", span.line);
                self.error(
                    &joined(path, &shown(&entry.key)),
                    Some(entry.key_span),
                    message,
                    "keep one of them",
                );
            } else {
                first.insert(&entry.key, entry.key_span);
                distinct.push(entry);
            }
        }
        distinct
    }

    /// Reports an unknown key, and gives the one that was meant, perhaps.
    fn unknown(&mut self, section: &Section<'_>, entry: &Entry) -> Option<&'static str> {
        let path = joined(&section.path, &shown(&entry.key));
        let names = || section.keys.iter().map(|key| key.name);
        if entry.key == "<<" {
            let message = "merge keys are not supported".to_owned();
            self.error(&path, Some(entry.key_span), message, "write the keys out");
            return None;
        }
        let all = || format!("known here: {}", names().collect::<Vec<_>>().join(", "));
        let guessed = guess(&entry.key, names());
        let (message, hint) = match (guessed, elsewhere(&entry.key, &path)) {
            (Some(name), _) => (format!("unknown key, did you mean {name}?"), String::new()),
            (None, Some(place)) => ("unknown key here".to_owned(), format!("there is {place}")),
            (None, None) => ("unknown key".to_owned(), all()),
        };
        self.error(&path, Some(entry.key_span), message, hint);
        guessed
    }

    fn misshapen(&mut self, path: &str, node: &Node, expected: &str) {
        let message = match &node.value {
            _ if node.is_null() => "has no value".to_owned(),
            Value::Scalar(scalar) => format!("{} cannot stand here", quoted(&scalar.text)),
            Value::List(_) => "a list cannot stand here".to_owned(),
            Value::Map(_) => "a section cannot stand here".to_owned(),
        };
        let hint = if node.is_null() {
            format!("write {expected}, or remove the key")
        } else {
            format!("write {expected}")
        };
        self.error(path, Some(node.span), message, hint);
    }

    /// The value of a key, its default if the file does not have it; `None` if it has neither, or it was refused.
    pub(crate) fn get<T: FromScalar>(&mut self, section: &Section<'_>, name: &str) -> Option<Setting<T>> {
        self.get_with(section, name, T::from_scalar)
    }

    /// As [`Findings::get`], with the default that holds where `protocol` is openai.
    pub(crate) fn get_openai<T: FromScalar>(
        &mut self,
        section: &Section<'_>,
        name: &str,
    ) -> Option<Setting<T>> {
        let key = section.key(name);
        match key.openai.filter(|_| !section.has(name)) {
            Some(text) => {
                Some(default(text, section.path_of(name), |scalar| T::from_scalar(scalar, &key.kind)))
            }
            None => self.get(section, name),
        }
    }

    /// As [`Findings::get`], read by `read`.
    pub(crate) fn get_with<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        read: impl FnOnce(&Scalar, &Kind) -> Result<T, Complaint>,
    ) -> Option<Setting<T>> {
        let key = section.key(name);
        let path = section.path_of(name);
        if let Some(entry) = section.entry(name) {
            return self.scalar(path, &entry.value, &key.kind, read);
        }
        match key.fallback {
            Fallback::Value(text) => Some(default(text, path, |scalar| read(scalar, &key.kind))),
            Fallback::Required => {
                self.missing(section, name);
                None
            }
            Fallback::Absent | Fallback::Shown => None,
        }
    }

    /// Reports that a section lacks a key, unless the section as a whole was refused.
    pub(crate) fn missing(&mut self, section: &Section<'_>, name: &str) {
        if section.broken || section.guessed.contains(&name) {
            return;
        }
        let sample = section.key(name).sample();
        let hint = if sample.is_empty() { format!("add {name}:") } else { format!("add {name}: {sample}") };
        let message = format!("{name} is missing");
        self.error(&section.path, section.span, message, hint);
    }

    fn scalar<T>(
        &mut self,
        path: String,
        node: &Node,
        kind: &Kind,
        read: impl FnOnce(&Scalar, &Kind) -> Result<T, Complaint>,
    ) -> Option<Setting<T>> {
        let scalar = match &node.value {
            Value::Scalar(scalar) if !node.is_null() => scalar,
            _ => {
                self.misshapen(&path, node, &kind.words());
                return None;
            }
        };
        match read(scalar, kind) {
            Ok(value) => Some(Setting { value, text: scalar.text.clone(), path, span: Some(node.span) }),
            Err(Complaint { message, hint }) => {
                self.error(&path, Some(node.span), message, hint);
                None
            }
        }
    }

    /// The section under a key; an empty one if the file does not have it.
    pub(crate) fn section<'t>(&mut self, parent: &Section<'t>, name: &str) -> Section<'t> {
        let keys = parent.key(name).children();
        let path = parent.path_of(name);
        match parent.entry(name) {
            Some(entry) => self.open(keys, path, &entry.value),
            None => Section { broken: parent.broken, ..Section::empty(keys, path) },
        }
    }

    /// A word, or a section, under a key that takes either.
    pub(crate) fn word_or_section<'t, T: FromScalar>(
        &mut self,
        parent: &Section<'t>,
        name: &str,
    ) -> WordOrSection<'t, T> {
        match parent.entry(name) {
            Some(entry) if matches!(entry.value.value, Value::Map(_)) => {
                WordOrSection::Section(self.section(parent, name))
            }
            _ => WordOrSection::Word(self.get(parent, name)),
        }
    }

    /// The sections of a list; none if the file does not have it.
    pub(crate) fn sections<'t>(&mut self, parent: &Section<'t>, name: &str) -> Vec<Section<'t>> {
        let key = parent.key(name);
        let path = parent.path_of(name);
        let mut sections = Vec::new();
        for (item, path) in self.items(parent, name, &path) {
            sections.push(self.open(key.children(), path, item));
        }
        sections
    }

    /// The values of a list, or the one value that may stand in its place.
    pub(crate) fn list<T: FromScalar>(&mut self, section: &Section<'_>, name: &str) -> Vec<Setting<T>> {
        self.list_with(section, name, T::from_scalar)
    }

    /// As [`Findings::list`], each read by `read`.
    pub(crate) fn list_with<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        read: impl Fn(&Scalar, &Kind) -> Result<T, Complaint>,
    ) -> Vec<Setting<T>> {
        let key = section.key(name);
        let path = section.path_of(name);
        let kind = match key.kind {
            Kind::List(item) | Kind::OneOrMore(item) => item,
            _ => &key.kind,
        };
        if let (Fallback::Value(text), None) = (key.fallback, section.entry(name)) {
            return default_list(text, &path, |scalar| read(scalar, kind));
        }
        let mut values = Vec::new();
        for (item, path) in self.items(section, name, &path) {
            values.extend(self.scalar(path, item, kind, &read));
        }
        values
    }

    /// The members of a list with their paths. Nothing where it is missing, which is reported if it must not be.
    fn items<'t>(&mut self, parent: &Section<'t>, name: &str, path: &str) -> Vec<(&'t Node, String)> {
        let key = parent.key(name);
        let Some(entry) = parent.entry(name) else {
            if key.fallback == Fallback::Required {
                self.missing(parent, name);
            }
            return Vec::new();
        };
        match (&entry.value.value, &key.kind) {
            (Value::List(items), _) if items.is_empty() && !matches!(key.fallback, Fallback::Value("[]")) => {
                self.error(path, Some(entry.value.span), "is empty".to_owned(), "write at least one");
                Vec::new()
            }
            (Value::List(items), _) => {
                items.iter().enumerate().map(|(i, item)| (item, format!("{path}[{i}]"))).collect()
            }
            (_, Kind::OneOrMore(_)) => vec![(&entry.value, path.to_owned())],
            _ => {
                self.misshapen(path, &entry.value, &key.kind.words());
                Vec::new()
            }
        }
    }

    /// Names of the user's own choice with their texts.
    pub(crate) fn texts(&mut self, section: &Section<'_>, name: &str) -> Vec<(Setting<String>, String)> {
        let Some(entry) = section.entry(name) else { return Vec::new() };
        let path = section.path_of(name);
        let Value::Map(entries) = &entry.value.value else {
            self.misshapen(&path, &entry.value, &section.key(name).kind.words());
            return Vec::new();
        };
        let mut texts = Vec::new();
        for entry in self.distinct(&path, entries) {
            let path = joined(&path, &shown(&entry.key));
            if let Some(text) = self.scalar(path, &entry.value, &Kind::Texts, String::from_scalar) {
                let name = Setting { value: entry.key.clone(), span: Some(entry.key_span), ..text.clone() };
                texts.push((name, text.value));
            }
        }
        texts
    }
}

impl<'t> Section<'t> {
    fn empty(keys: &'static [Key], path: String) -> Self {
        Self { keys, path, span: None, entries: Vec::new(), broken: false, guessed: Vec::new() }
    }

    /// Whether the file has this key.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    /// Whether the file has this key, with more than an empty list.
    pub(crate) fn has_items(&self, name: &str) -> bool {
        self.entry(name)
            .is_some_and(|entry| !matches!(&entry.value.value, Value::List(items) if items.is_empty()))
    }

    /// The first key that has a default.
    pub(crate) fn first_with_default(&self) -> &'static str {
        let keys = self.keys.iter().find(|key| matches!(key.fallback, Fallback::Value(_)));
        keys.expect("the reader asks only where there is one").name
    }

    /// The names of the keys that the file has, with their places.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&'t str, Span)> + '_ {
        self.entries.iter().map(|entry| (entry.key.as_str(), entry.key_span))
    }

    /// Where a key stands, or else the section.
    pub(crate) fn place_of(&self, name: &str) -> Option<Span> {
        self.entry(name).map_or(self.span, |entry| Some(entry.key_span))
    }

    /// A key's name and line, as a finding about another key mentions it.
    pub(crate) fn mention(&self, name: &str) -> String {
        let line = self.place_of(name).map(Span::mention).unwrap_or_default();
        format!("{name}{line}")
    }

    pub(crate) fn path_of(&self, name: &str) -> String {
        joined(&self.path, name)
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    fn find(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    fn key(&self, name: &str) -> &'static Key {
        self.find(name).expect("the reader asks only for keys of the table")
    }

    fn entry(&self, name: &str) -> Option<&'t Entry> {
        self.entries.iter().find(|entry| entry.key == name).copied()
    }
}

impl<T> Setting<T> {
    /// Another value that stands in the same place.
    pub(crate) fn with<U>(&self, value: U) -> Setting<U> {
        Setting { value, text: self.text.clone(), path: self.path.clone(), span: self.span }
    }

    /// Its name, value and place in words, as a finding at `path` mentions it.
    pub(crate) fn mention(&self, path: &str) -> String {
        let name = relative(&self.path, path);
        match self.span {
            Some(span) => format!("{name} {}{}", self.text, span.mention()),
            None => format!("{name} {} (the default)", self.text),
        }
    }
}

/// A default, from its text in the table.
fn default<T>(text: &str, path: String, read: impl FnOnce(&Scalar) -> Result<T, Complaint>) -> Setting<T> {
    let scalar = Scalar { text: text.to_owned(), quoted: false };
    let value = read(&scalar).expect("the table's defaults are valid");
    Setting { value, text: scalar.text, path, span: None }
}

/// The default of a list, from its text in the table.
fn default_list<T>(
    text: &str,
    path: &str,
    read: impl Fn(&Scalar) -> Result<T, Complaint>,
) -> Vec<Setting<T>> {
    let words = text.trim_matches(['[', ']']).split(", ").filter(|word| !word.is_empty());
    words.map(|word| default(word, path.to_owned(), &read)).collect()
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// `path` without the sections that it shares with `base`.
fn relative<'p>(path: &'p str, base: &str) -> &'p str {
    let shared = path.char_indices().zip(base.chars()).take_while(|((_, a), b)| a == b);
    let after_dot = shared.filter(|((_, c), _)| *c == '.').last().map_or(0, |((index, _), _)| index + 1);
    path.get(after_dot..).unwrap_or(path)
}

/// A key of the file's, safe to print.
fn shown(key: &str) -> String {
    let quoted = quoted(key);
    if quoted.len() == key.len() + 2 { key.to_owned() } else { quoted }
}

/// The sections that do have a key of this name, if they are few enough to be told to one who wrote it at `path`.
fn elsewhere(name: &str, path: &str) -> Option<String> {
    let all = keys::all();
    let same = all.iter().filter(|(_, key)| key.name == name).map(|(path, _)| path.clone());
    let places: Vec<String> = if path.starts_with(SPEC) {
        same.filter_map(|path| Some(joined(SPEC, path.strip_prefix("models[].")?))).collect()
    } else {
        same.collect()
    };
    (1..=3).contains(&places.len()).then(|| places.join(" or "))
}

/// Reads the text into a tree; a finding if it is none.
pub(crate) fn tree(text: &str) -> Result<Node, Finding> {
    match yaml::parse(text) {
        Ok(Some(node)) => Ok(node),
        Ok(None) => Err(Finding::file(
            Some(Span::START),
            "the file is empty",
            "\"tidegate config default\" prints one to start from",
        )),
        Err(broken) => Err(Finding::file(Some(broken.span), &broken.message, broken.hint)),
    }
}
