//! `tidegate why`: the decision that stands or stood, with its arithmetic, in words; or those of some time, filtered.

use std::{fmt::Write as _, io, process::ExitCode};

use clap::Args;
use serde_json::Value;

use super::{
    client::{AdminSource, block_on},
    output::Output,
    terminal::{Style, print},
};

/// What stands for itself in the value of a query; all else is percent-encoded.
const PLAIN: &[u8] = b"-._~:";

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    model: String,
    /// The decision that stood then: 15:04 (the last time it was), an RFC 3339 time, or -10m, by the gateway's clock
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, conflicts_with = "ListArgs")]
    at: Option<String>,
    #[command(flatten)]
    list: ListArgs,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    admin: AdminSource,
}

/// Any of these lists decisions instead, one a line, newest first
#[derive(Debug, Args)]
#[command(next_help_heading = "Decisions")]
struct ListArgs {
    /// Decided then or later; a TIME as for --at, so that 1h is an hour ago
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Decided before then
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Only those that call for another number than before
    #[arg(long)]
    changes: bool,
    /// Only those with this reason: low_load, first_request, backlog, …
    #[arg(long)]
    reason: Option<String>,
    /// Only those in which this term called for most: envelope, backlog, schedule, …
    #[arg(long)]
    term: Option<String>,
    /// Only those with this limit: max, up_pace, stale, …; or veto, or any
    #[arg(long)]
    limit: Option<String>,
    /// Most that are listed; 1000 of a model are kept [default: 50]
    #[arg(short, long = "number", value_name = "N")]
    n: Option<u32>,
}

pub(crate) fn run(args: &WhyArgs) -> anyhow::Result<ExitCode> {
    block_on(async {
        let query = args.list.query();
        let lists = !query.is_empty();
        let path = match (&args.at, lists) {
            (Some(at), _) => format!("/api/models/{}/why?at={}", args.model, encoded(at)),
            (None, false) => format!("/api/models/{}/why", args.model),
            (None, true) => format!("/api/models/{}/decisions?{query}", args.model),
        };
        let answer = args.admin.open().await?.ask(&path).await?;
        let style = Style::of(&io::stdout());
        let text = match args.output {
            Output::Json => format!("{answer:#}\n"),
            Output::Text if lists => list(&answer, style),
            Output::Text => picture(&answer, style),
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    })
}

impl ListArgs {
    /// Empty where no decisions are to be listed.
    fn query(&self) -> String {
        let number = self.n.map(|n| n.to_string());
        let given = [
            ("since", self.since.as_deref()),
            ("until", self.until.as_deref()),
            ("changes", self.changes.then_some("true")),
            ("reason", self.reason.as_deref()),
            ("term", self.term.as_deref()),
            ("limit", self.limit.as_deref()),
            ("n", number.as_deref()),
        ];
        let pairs = given.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(value?))));
        pairs.collect::<Vec<_>>().join("&")
    }
}

fn encoded(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || PLAIN.contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

fn picture(answer: &Value, style: Style) -> String {
    let text = answer.get("text").and_then(Value::as_str).unwrap_or_default();
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    format!("{}\n{rest}{}", style.bold(first), if rest.is_empty() { "" } else { "\n" })
}

/// A line for each decision; and where there is none, from when on there could be.
fn list(answer: &Value, style: Style) -> String {
    let field = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let decisions = answer.get("decisions").and_then(Value::as_array).into_iter().flatten();
    let lines: String = decisions
        .map(|decision| {
            let (time, text) = (field(decision, "time"), field(decision, "text"));
            format!("{}  {}\n", style.dim(&time.unwrap_or_default()), text.unwrap_or_default())
        })
        .collect();
    match field(answer, "oldest") {
        _ if !lines.is_empty() => lines,
        Some(oldest) => format!("none; the oldest decision that is kept is from {oldest}\n"),
        None => "none; nothing was decided here yet\n".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        why: WhyArgs,
    }

    fn parsed(words: &[&str]) -> Result<WhyArgs, clap::Error> {
        Line::try_parse_from([&["why", "digits"], words].concat()).map(|line| line.why)
    }

    #[test]
    fn filters_become_a_query_and_none_is_none() {
        let args = parsed(&["--since", "-1h", "--changes", "--reason", "low_load", "-n", "5"]).unwrap();
        assert_eq!(args.list.query(), "since=-1h&changes=true&reason=low_load&n=5");
        let args = parsed(&["--until", "2026-11-28T09:00:00+02:00"]).unwrap();
        assert_eq!(args.list.query(), "until=2026-11-28T09:00:00%2B02:00");
        let args = parsed(&["--at", "-10m"]).unwrap();
        assert_eq!((args.list.query().as_str(), args.at.as_deref()), ("", Some("-10m")));
    }

    #[test]
    fn a_moment_and_a_list_exclude_each_other() {
        for list in [&["--changes"][..], &["--since", "1h"], &["--term", "backlog"]] {
            assert!(parsed(&[&["--at", "10:00"], list].concat()).is_err(), "{list:?}");
        }
    }

    #[test]
    fn decisions_are_a_line_each_and_an_empty_list_says_how_far_it_goes_back() {
        let decisions = json!({ "oldest": "2026-11-28T08:00:00Z", "decisions": [
            { "time": "09:00:01", "text": "2→3: backlog" }, { "time": "08:00:00", "text": "1: steady" },
        ]});
        assert_eq!(list(&decisions, Style::Plain), "09:00:01  2→3: backlog\n08:00:00  1: steady\n");
        let none = json!({ "oldest": "2026-11-28T08:00:00Z", "decisions": [] });
        assert_eq!(
            list(&none, Style::Plain),
            "none; the oldest decision that is kept is from 2026-11-28T08:00:00Z\n"
        );
        assert_eq!(
            list(&json!({ "oldest": null, "decisions": [] }), Style::Plain),
            "none; nothing was decided here yet\n"
        );
    }
}
