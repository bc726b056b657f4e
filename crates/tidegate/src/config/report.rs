//! What is wrong with a configuration file, and how that is shown: place, path, sentence, source line, caret.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::{source::Source, yaml::Span};
use crate::cli::terminal::Style;

/// Findings beyond this are counted, not shown.
const SHOWN_MAX: usize = 50;
/// Characters of a source line that are shown before and after the place.
const CONTEXT: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Error,
    Warning,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// The key, like `models[0].slo.p99`; empty for the file as a whole.
    pub(crate) path: String,
    /// `None`: the file could not be read at all.
    pub(crate) span: Option<Span>,
    pub(crate) message: String,
    /// What to do; may be empty.
    pub(crate) hint: String,
}

/// All findings of one file, in the order of the file.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    source: Source,
    pub(super) findings: Vec<Finding>,
}

/// A finding as JSON: the contract of `-o json`.
#[derive(Serialize)]
struct Record<'a> {
    severity: Severity,
    file: &'a str,
    line: Option<usize>,
    column: Option<usize>,
    path: &'a str,
    message: &'a str,
    hint: &'a str,
}

impl Report {
    pub(crate) fn new(source: Source, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.span);
        Self { source, findings }
    }

    pub(crate) fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    pub(crate) fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|f| f.severity == severity).count()
    }

    /// The findings as text, one after another, each ending in a newline.
    pub(crate) fn render(&self, style: Style) -> String {
        let mut out = String::new();
        for finding in self.findings.iter().take(SHOWN_MAX) {
            self.render_one(&mut out, finding, style);
        }
        let hidden = self.findings.len().saturating_sub(SHOWN_MAX);
        if hidden > 0 {
            out.push_str(&format!("… and {hidden} more\n"));
        }
        out
    }

    /// The findings as a JSON array.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let records: Vec<Record<'_>> = self.findings.iter().map(|finding| self.record(finding)).collect();
        serde_json::json!(records)
    }

    fn record<'a>(&'a self, finding: &'a Finding) -> Record<'a> {
        Record {
            severity: finding.severity,
            file: &self.source.name,
            line: finding.span.map(|span| span.line),
            column: finding.span.map(|span| span.column),
            path: &finding.path,
            message: &finding.message,
            hint: &finding.hint,
        }
    }

    fn render_one(&self, out: &mut String, finding: &Finding, style: Style) {
        let sign = match finding.severity {
            Severity::Error => style.red("✗"),
            Severity::Warning => style.yellow("!"),
        };
        let mut place = printable(&self.source.name);
        if let Some(Span { line, column, .. }) = finding.span {
            place.push_str(&format!(":{line}:{column}"));
        }
        let colon = if finding.path.is_empty() { "" } else { ": " };
        let path = style.bold(&printable(&finding.path));
        out.push_str(&format!("{sign} {place}  {path}{colon}{}\n", finding.message));
        match finding.span {
            Some(span) => self.render_source(out, span, finding, style),
            None if finding.hint.is_empty() => {}
            None => out.push_str(&format!("    {}\n", finding.hint)),
        }
    }

    fn render_source(&self, out: &mut String, span: Span, finding: &Finding, style: Style) {
        let mut lines = self.source.text.lines().skip(span.line.saturating_sub(2));
        if span.line > 1 {
            let before = lines.next().unwrap_or_default();
            if !before.trim().is_empty() {
                out.push_str(&numbered(span.line - 1, &excerpt(before, 1).text, style));
            }
        }
        let shown = excerpt(lines.next().unwrap_or_default(), span.column);
        out.push_str(&numbered(span.line, &shown.text, style));
        let room = shown.text.chars().count().saturating_sub(shown.indent).max(1);
        let carets = style.red_or_yellow(finding.severity, &"^".repeat(span.width.min(room)));
        let gap = " ".repeat(shown.indent);
        let space = if finding.hint.is_empty() { "" } else { " " };
        out.push_str(&format!("{:7} {} {gap}{carets}{space}{}\n", "", style.dim("|"), finding.hint));
    }
}

impl Style {
    fn red_or_yellow(self, severity: Severity, text: &str) -> String {
        match severity {
            Severity::Error => self.red(text),
            Severity::Warning => self.yellow(text),
        }
    }
}

/// The report without colours: what goes into a log.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(Style::Plain).trim_end())
    }
}

impl std::error::Error for Report {}

fn numbered(line: usize, text: &str, style: Style) -> String {
    format!("{line:>7} {} {text}", style.dim("|")).trim_end().to_owned() + "\n"
}

struct Excerpt {
    text: String,
    /// Characters before the place.
    indent: usize,
}

/// The part of a line around a column, safe to print on a terminal.
fn excerpt(line: &str, column: usize) -> Excerpt {
    let place = column.saturating_sub(1);
    let skipped = if place > CONTEXT { place - CONTEXT / 2 } else { 0 };
    let mut text = String::new();
    if skipped > 0 {
        text.push('…');
    }
    text.extend(line.chars().skip(skipped).take(2 * CONTEXT).map(|c| if c.is_control() { ' ' } else { c }));
    if line.chars().count() > skipped + 2 * CONTEXT {
        text.push('…');
    }
    Excerpt { text, indent: place - skipped + usize::from(skipped > 0) }
}

/// A text from a file or a command line, in quotes, cut to 64 characters and safe to print.
pub(crate) fn quoted(text: &str) -> String {
    let mut chars = text.chars();
    let start: String = chars.by_ref().take(64).collect();
    let rest = if chars.next().is_some() { "…" } else { "" };
    format!("\"{}{rest}\"", escaped(&start))
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => write!(out, "{}", c.escape_default()).unwrap_or_default(),
            c => out.push(c),
        }
    }
    out
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
