//! `--set PATH=VALUE`: settings of a recorded model, changed in the words of a file and read by the reader of files,
//! which judges them as if they stood in one.

use serde_json::{Value as Json, json};

use super::{
    Model,
    guess::guess,
    keys::{self, Key},
    read,
    report::{Finding, Report, Severity, quoted},
    resource::tree,
    section::Findings,
    source::Source,
    yaml::{self, Entry, Node, Scalar, Span, Value},
};

/// What findings name as their file.
const NAME: &str = "--set";
const USAGE: &str = "write models.NAME.KEY=VALUE, like models.chat.scaling.max=4";
const PLACE: &str = "write a place in a list like models.chat.scaling.schedules[0].max";
/// Memory of a process that holds any queue: how much there is decides nothing here.
const MEMORY: &str = "1048576TiB";

/// One change.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    /// Its line among those that were given, from 1.
    line: usize,
    text: String,
    model: String,
    steps: Vec<Step>,
    value: Node,
}

/// One key of a path.
#[derive(Clone, Debug)]
struct Step {
    name: String,
    /// Of a member of a list.
    index: Option<usize>,
    span: Span,
}

impl Assignment {
    pub(crate) fn model(&self) -> &str {
        &self.model
    }
}

/// Reads changes of some of `models`.
///
/// # Errors
/// What is no change of a setting of one of them.
pub(crate) fn assignments(texts: &[String], models: &[&str]) -> Result<Vec<Assignment>, Report> {
    let (mut read, mut findings) = (Vec::new(), Vec::new());
    for (index, text) in texts.iter().enumerate() {
        match assignment(index + 1, text, models) {
            Ok(assignment) => read.push(assignment),
            Err(finding) => findings.push(*finding),
        }
    }
    if findings.is_empty() { Ok(read) } else { Err(Report::new(source(texts.iter()), findings)) }
}

/// The model that was recorded as `words`, with those of the `changes` that are about it.
///
/// # Errors
/// What its reader finds wrong with it.
pub(crate) fn recorded(words: &Json, changes: &[Assignment]) -> Result<Model, Report> {
    let mut root = tree(&json!({ "limits": { "memory": MEMORY }, "models": [words] }), keys::ROOT);
    let name = words.get("name").and_then(Json::as_str).unwrap_or_default();
    let mut findings = Findings::default();
    for change in changes.iter().filter(|change| change.model == name) {
        let Some(model) = first_model(&mut root) else { continue };
        if let Err((span, message)) = assign(model, model_keys(), &change.steps, &change.value) {
            let path = change.text.split_once('=').map_or("", |(path, _)| path);
            findings.error(path, Some(span), message, "");
        }
    }
    let read = read::file(&mut findings, &root);
    let findings = findings.into_inner().into_iter().map(|finding| about(finding, name));
    let errors: Vec<Finding> = findings.filter(|finding| finding.severity == Severity::Error).collect();
    match read.and_then(|read| read.config.models.into_iter().next()) {
        Some(model) if errors.is_empty() => Ok(model),
        _ => Err(Report::new(source(lines(changes).iter()), errors)),
    }
}

/// The texts of changes, each in its line.
fn lines(changes: &[Assignment]) -> Vec<String> {
    let count = changes.iter().map(|change| change.line).max().unwrap_or(0);
    let mut lines = vec![String::new(); count];
    for change in changes {
        if let Some(line) = lines.get_mut(change.line.saturating_sub(1)) {
            line.clone_from(&change.text);
        }
    }
    lines
}

fn source<'t>(texts: impl Iterator<Item = &'t String>) -> Source {
    let text = texts.map(|text| text.replace('\n', " ") + "\n").collect();
    Source { name: NAME.to_owned(), text }
}

/// A finding in the words of who wrote a change: the model goes by its name, and what was recorded has no place.
fn about(mut finding: Finding, model: &str) -> Finding {
    if let Some(rest) = finding.path.strip_prefix("models[0]") {
        finding.path = format!("models.{model}{rest}");
    }
    finding.span = finding.span.filter(|span| *span != Span::NOWHERE);
    finding
}

fn model_keys() -> &'static [Key] {
    keys::ROOT.iter().find(|key| key.name == "models").map_or(&[], Key::children)
}

fn first_model(root: &mut Node) -> Option<&mut Node> {
    let Value::Map(entries) = &mut root.value else { return None };
    let models = entries.iter_mut().find(|entry| entry.key == "models")?;
    let Value::List(models) = &mut models.value.value else { return None };
    models.first_mut()
}

fn assignment(line: usize, text: &str, models: &[&str]) -> Result<Assignment, Box<Finding>> {
    let span = |from: usize, part: &str| Span {
        line,
        column: text.get(..from).unwrap_or_default().chars().count() + 1,
        width: part.chars().count().max(1),
    };
    let wrong = |span, path: &str, message: String, hint: &str| {
        let (path, hint) = (path.to_owned(), hint.to_owned());
        Box::new(Finding { severity: Severity::Error, path, span: Some(span), message, hint })
    };
    let Some((path, value)) = text.split_once('=') else {
        return Err(wrong(span(0, text), "", "no value is given".to_owned(), USAGE));
    };
    let Some(rest) = path.strip_prefix("models.") else {
        let message = "only settings of models change decisions".to_owned();
        return Err(wrong(span(0, path), "", message, USAGE));
    };
    // A model's name may have dots in it.
    let named =
        models.iter().filter(|name| rest.strip_prefix(**name).is_some_and(|rest| rest.starts_with('.')));
    let Some(model) = named.max_by_key(|name| name.len()) else {
        let name = rest.split('.').next().unwrap_or(rest);
        let hint = match guess(name, models.iter().copied()) {
            Some(model) if model == name => USAGE.to_owned(),
            Some(model) => format!("did you mean {model}?"),
            None => format!("in the record: {}", models.join(", ")),
        };
        let message = match models.contains(&name) {
            true => "names no setting".to_owned(),
            false => format!("{} is no model of the record", quoted(name)),
        };
        return Err(wrong(span("models.".len(), name), "", message, &hint));
    };
    let steps = steps(text, "models.".len() + model.len() + 1, path.len(), &span);
    let steps = steps.map_err(|(span, message, hint)| wrong(span, path, message, hint))?;
    let node = match yaml::parse(value) {
        Ok(Some(node)) => node,
        Ok(None) => {
            Node { span: Span::START, value: Value::Scalar(Scalar { text: String::new(), quoted: false }) }
        }
        Err(broken) => return Err(wrong(span(path.len() + 1, value), path, broken.message, broken.hint)),
    };
    let (text, model) = (text.to_owned(), (*model).to_owned());
    let value = placed(node, span(path.len() + 1, value));
    Ok(Assignment { line, text, model, steps, value })
}

/// The keys of `text[at..end]`, each with its place; an error tells of what is no key, and what to write instead.
fn steps(
    text: &str,
    mut at: usize,
    end: usize,
    span: &impl Fn(usize, &str) -> Span,
) -> Result<Vec<Step>, (Span, String, &'static str)> {
    let mut keys = model_keys();
    let mut steps = Vec::new();
    while let Some(rest) = text.get(at..end) {
        // A key may have a dot in it, like p99.9.
        let ends = |name: &str| {
            rest.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let known = keys.iter().filter(|key| ends(key.name)).max_by_key(|key| key.name.len());
        let name = known.map_or_else(|| rest.split(['.', '[']).next().unwrap_or(rest), |key| key.name);
        if name.is_empty() {
            return Err((span(at, ""), "a key is missing".to_owned(), USAGE));
        }
        let step = span(at, name);
        let mut after = rest.get(name.len()..).unwrap_or_default();
        at += name.len();
        let mut index = None;
        if let Some(inside) = after.strip_prefix('[') {
            let place = inside.split_once(']').and_then(|(place, rest)| Some((place.parse().ok()?, rest)));
            let Some((place, rest)) = place else {
                let brackets = after.split_inclusive(']').next().unwrap_or(after);
                return Err((
                    span(at, brackets),
                    format!("{} is no place in a list", quoted(brackets)),
                    PLACE,
                ));
            };
            index = Some(place);
            at += after.len() - rest.len();
            after = rest;
        }
        steps.push(Step { name: name.to_owned(), index, span: step });
        if after.is_empty() {
            break;
        }
        if !after.starts_with('.') {
            let message = format!("only a dot and a key can follow, not {}", quoted(after));
            return Err((span(at, after), message, PLACE));
        }
        keys = known.map_or(&[], Key::children);
        at += 1;
    }
    Ok(steps)
}

/// The same tree, all of it at one place.
fn placed(node: Node, span: Span) -> Node {
    let value = match node.value {
        Value::Scalar(scalar) => Value::Scalar(scalar),
        Value::List(items) => Value::List(items.into_iter().map(|item| placed(item, span)).collect()),
        Value::Map(entries) => {
            let entry = |entry: Entry| Entry { value: placed(entry.value, span), key_span: span, ..entry };
            Value::Map(entries.into_iter().map(entry).collect())
        }
    };
    Node { span, value }
}

/// Puts `value` in the place that `steps` lead to; an error tells of a list without that place.
fn assign(node: &mut Node, keys: &[Key], steps: &[Step], value: &Node) -> Result<(), (Span, String)> {
    let Some((step, rest)) = steps.split_first() else {
        *node = value.clone();
        return Ok(());
    };
    if !matches!(node.value, Value::Map(_)) {
        node.value = Value::Map(Vec::new());
    }
    let Value::Map(entries) = &mut node.value else { return Ok(()) };
    if is_percentile(&step.name) {
        // Another percentile takes the place of the recorded one; two of them that are set are two too many.
        entries.retain(|entry| {
            entry.key == step.name || !is_percentile(&entry.key) || entry.key_span != Span::NOWHERE
        });
    }
    let place = entries.iter().position(|entry| entry.key == step.name).unwrap_or_else(|| {
        let empty = Node { span: step.span, value: Value::Map(Vec::new()) };
        entries.push(Entry { key: step.name.clone(), key_span: step.span, value: empty });
        entries.len() - 1
    });
    let Some(entry) = entries.get_mut(place) else { return Ok(()) };
    entry.key_span = step.span;
    let keys = keys.iter().find(|key| key.name == step.name).map_or(&[][..], Key::children);
    let Some(index) = step.index else { return assign(&mut entry.value, keys, rest, value) };
    let Value::List(items) = &mut entry.value.value else {
        return Err((step.span, "there is no list to count in".to_owned()));
    };
    let count = items.len();
    match items.get_mut(index) {
        Some(item) => assign(item, keys, rest, value),
        None => Err((step.span, format!("there are {count} of them, counted from 0"))),
    }
}

fn is_percentile(name: &str) -> bool {
    name.strip_prefix('p').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}
