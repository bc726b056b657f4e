//! What a check found: lines in sections, printed as people read them or as JSON.

use serde_json::{Value, json};

use crate::cli::terminal::Style;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grade {
    Fine,
    /// It runs, and somebody should look.
    Doubtful,
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    grade: Grade,
    text: String,
    /// The cause as far as it is known, and what to do; empty if nothing is.
    fix: String,
}

impl Line {
    pub(super) fn fine(text: impl Into<String>) -> Self {
        Self { grade: Grade::Fine, text: text.into(), fix: String::new() }
    }

    pub(super) fn doubtful(text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { grade: Grade::Doubtful, text: text.into(), fix: fix.into() }
    }

    pub(super) fn failed(text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { grade: Grade::Failed, text: text.into(), fix: fix.into() }
    }

    fn render(&self, style: Style) -> String {
        let mark = self.grade.mark(style);
        let fix = self.fix.lines().map(|line| format!("    {}\n", style.dim(line)));
        format!("{mark} {}\n{}", self.text, fix.collect::<String>())
    }
}

impl Grade {
    fn mark(self, style: Style) -> String {
        match self {
            Self::Fine => style.green("√"),
            Self::Doubtful => style.yellow("‼"),
            Self::Failed => style.red("×"),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Doubtful => "warning",
            Self::Failed => "failed",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) lines: Vec<Line>,
}

/// All that was found, in the order in which it was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    sections: Vec<Section>,
    /// The API server could not be asked, so nothing else is known.
    pub(super) unreachable: bool,
}

impl Findings {
    /// One with nothing in it is left out.
    pub(super) fn add(&mut self, title: &'static str, lines: Vec<Line>) {
        if !lines.is_empty() {
            self.sections.push(Section { title, lines });
        }
    }

    pub(super) fn grade(&self) -> Grade {
        self.lines().map(|line| line.grade).max().unwrap_or(Grade::Fine)
    }

    fn lines(&self) -> impl Iterator<Item = &Line> {
        self.sections.iter().flat_map(|section| &section.lines)
    }

    fn count(&self, grade: Grade) -> usize {
        self.lines().filter(|line| line.grade == grade).count()
    }

    pub(super) fn render(&self, style: Style) -> String {
        let mut text = String::new();
        for Section { title, lines } in &self.sections {
            text += &format!("{}\n{}\n", style.bold(title), "-".repeat(title.len()));
            text.extend(lines.iter().map(|line| line.render(style)));
            text += "\n";
        }
        let counts = [(Grade::Failed, "failed"), (Grade::Doubtful, "to look at")];
        let counts = counts.map(|(grade, word)| (self.count(grade), word));
        let counts: Vec<String> =
            counts.into_iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
        // What is doubtful does not make a whole doubtful.
        let whole = if self.grade() == Grade::Failed { Grade::Failed } else { Grade::Fine };
        let counts = if counts.is_empty() { String::new() } else { format!(" ({})", counts.join(", ")) };
        text + &format!("All in all: {}{counts}\n", whole.mark(style))
    }

    pub(super) fn to_json(&self) -> Value {
        let line =
            |Line { grade, text, fix }: &Line| json!({ "grade": grade.as_str(), "text": text, "fix": fix });
        let section = |section: &Section| {
            let lines: Vec<Value> = section.lines.iter().map(line).collect();
            json!({ "title": section.title, "lines": lines })
        };
        let sections: Vec<Value> = self.sections.iter().map(section).collect();
        json!({
            "ok": self.grade() != Grade::Failed,
            "failed": self.count(Grade::Failed),
            "warnings": self.count(Grade::Doubtful),
            "sections": sections,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Findings {
        let mut findings = Findings::default();
        findings.add("kubernetes-api", vec![Line::fine("can reach the API server (v1.34.1, 12 ms)")]);
        findings.add("permissions", Vec::new());
        findings.add(
            "installation",
            vec![
                Line::doubtful("Deployment tidegate/tidegate-gateway: 1 of 2 pods ready", "see why"),
                Line::failed(
                    "there is no Lease tidegate/tidegate",
                    "no autoscaler was ever up\nlook at its log",
                ),
            ],
        );
        findings
    }

    #[test]
    fn each_line_has_its_mark_and_below_it_what_to_do() {
        insta::assert_snapshot!(findings().render(Style::Plain), @r"
        kubernetes-api
        --------------
        √ can reach the API server (v1.34.1, 12 ms)

        installation
        ------------
        ‼ Deployment tidegate/tidegate-gateway: 1 of 2 pods ready
            see why
        × there is no Lease tidegate/tidegate
            no autoscaler was ever up
            look at its log

        All in all: × (1 failed, 1 to look at)
        ");
    }

    #[test]
    fn a_warning_does_not_fail_the_whole() {
        let mut findings = Findings::default();
        findings.add("leader", vec![Line::fine("a leads"), Line::doubtful("clocks differ", "set them")]);
        assert!(findings.grade() < Grade::Failed);
        let text = findings.render(Style::Plain);
        assert!(text.ends_with("All in all: √ (1 to look at)\n"), "{text}");
        let coloured = findings.render(Style::Colored);
        assert!(coloured.contains("\x1b[33m‼\x1b[0m clocks differ"), "{coloured}");
    }

    #[test]
    fn json_says_the_same() {
        let json = findings().to_json();
        assert_eq!((&json["ok"], &json["failed"], &json["warnings"]), (&json!(false), &json!(1), &json!(1)));
        let line = &json["sections"][1]["lines"][1];
        assert_eq!(
            (&line["grade"], &line["fix"]),
            (&json!("failed"), &json!("no autoscaler was ever up\nlook at its log"))
        );
    }
}
