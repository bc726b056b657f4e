//! What came of a replay, for a terminal.

use std::{fmt::Write as _, path::Path, time::Duration};

use plan::{
    judge::Mean,
    replay::{Open, Replayed, Signals, Wishes},
};

use super::{
    Told,
    lines::Survey,
    simulated::{Row, Rows, Simulated},
};
use crate::{
    admin::timestamp,
    cli::{
        plan::table::{aligned, number, percent},
        terminal::Style,
    },
};

const OPEN_LOOP: &str = "Open loop: what the changed settings would have called for, moment by moment, on the signals as they \
    were recorded.\nNothing of it was carried out: queues and latencies are those of the recorded replicas.\n\n";
const CLOSED_LOOP: &str = "Closed loop: the requests on record, simulated in virtual time with nothing learned at the \
    beginning.\n";

pub(super) fn text(
    path: &Path,
    survey: &Survey,
    torn: u64,
    told: &[Told],
    set: &[String],
    style: Style,
) -> String {
    let programs: Vec<&str> = survey.programs.iter().map(String::as_str).collect();
    let mut text = format!("record: {}, written by {}\n", path.display(), programs.join(" and "));
    if torn > 0 {
        let _ = writeln!(
            text,
            "{torn} of its lines cannot be read, and what follows each waits for a memory to begin with"
        );
    }
    for told in told {
        replay(&mut text, told, survey, style);
    }
    if !set.is_empty() {
        let _ = writeln!(text, "\nwith {}:", set.join(", "));
        for told in told {
            what_if(&mut text, told, style);
        }
    }
    text
}

fn replay(text: &mut String, told: &Told, survey: &Survey, style: Style) {
    let Told { model, replayed, .. } = told;
    let Replayed { ticks, identical, signals, .. } = replayed;
    let model = style.bold(model);
    let span = match (signals.begins, signals.ends) {
        (Some(begins), Some(ends)) => format!(" from {} to {}", clock(begins), clock(ends)),
        _ => String::new(),
    };
    let result = match (ticks, ticks - identical) {
        (0, _) => style.red("nothing of it can be replayed"),
        (_, 0) => style.green("every decision as recorded"),
        (_, other) => style.red(&format!("{other} decided otherwise than recorded")),
    };
    let _ = writeln!(text, "{model}: {ticks} decisions{span}, {result}");
    let asides = asides(replayed);
    if !asides.is_empty() {
        let _ = writeln!(text, "  {}", asides.join("; "));
    }
    for difference in &replayed.differences {
        let at = style.dim(&clock(difference.at));
        let _ = writeln!(text, "  {at}  recorded: {}", difference.recorded);
        let _ = writeln!(text, "    replayed: {}", difference.replayed);
        let _ = writeln!(text, "    differs in {}", difference.places.join(", "));
    }
    let ours = format!("tidegate {}", env!("CARGO_PKG_VERSION"));
    if !replayed.differences.is_empty() && survey.programs.iter().any(|program| *program != ours) {
        let _ = writeln!(text, "  this is {ours}: another version may decide otherwise");
    }
}

fn asides(replayed: &Replayed) -> Vec<String> {
    let Replayed { skipped, gaps, missed, other_memories, policy_changes, .. } = replayed;
    let some = |count: u64, words: String| (count > 0).then_some(words);
    let plural =
        |count: u64, one: &str, more: &str| format!("{count} {}", if count == 1 { one } else { more });
    let decisions = |count| plural(count, "decision", "decisions");
    [
        some(*policy_changes, format!("its settings changed {}", plural(*policy_changes, "time", "times"))),
        some(*gaps, format!("{}, {} missing", plural(*gaps, "gap", "gaps"), decisions(*missed))),
        some(*skipped, format!("{} without a memory to begin with", decisions(*skipped))),
        some(
            *other_memories,
            format!(
                "the memory on record was another than the replay's own {}",
                plural(*other_memories, "time", "times")
            ),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn what_if(text: &mut String, told: &Told, style: Style) {
    let _ = writeln!(text, "\n{}", style.bold(&told.model));
    match &told.replayed.open_loop {
        Some(open) => open_loop(text, open, style),
        None => text.push_str("Open loop: nothing of it can be replayed.\n"),
    }
    text.push('\n');
    match &told.simulated {
        Some(Simulated::Rows(rows)) => closed_loop(text, rows, &told.replayed.signals, style),
        Some(Simulated::Refused(why)) => {
            let _ = writeln!(text, "Closed loop: not simulated: {why}.");
        }
        None => {}
    }
    if told.replayed.policy_changes > 0 {
        text.push_str(
            "Its settings changed meanwhile: the last ones on record are those that were simulated.\n",
        );
    }
}

fn open_loop(text: &mut String, open: &Open, style: Style) {
    text.push_str(OPEN_LOOP);
    let row = |name: &str, wishes: &Wishes| {
        let hours = wishes.replica_time.as_secs_f64() / 3600.0;
        vec![name.to_owned(), format!("{hours:.3}"), wishes.most.to_string()]
    };
    let titles = ["SETTINGS", "REPLICA-H CALLED FOR", "MOST"].map(str::to_owned).to_vec();
    table(text, &[titles, row("recorded", &open.recorded), row("changed", &open.changed)], style);
    let Open { ticks, other, .. } = open;
    let first = if open.moments.is_empty() { "" } else { ", first:" };
    let _ = writeln!(text, "another number at {other} of {ticks} decisions{first}");
    for moment in &open.moments {
        let _ = writeln!(text, "  {}  recorded: {}", style.dim(&clock(moment.at)), moment.recorded);
        let _ = writeln!(text, "    changed: {}", moment.changed);
    }
}

fn closed_loop(text: &mut String, rows: &Rows, signals: &Signals, style: Style) {
    text.push_str(CLOSED_LOOP);
    let Rows { replica, cold_start, seeds, .. } = rows;
    let _ = writeln!(
        text,
        "replica: {replica}, cold start {cold_start}; {} requests, {seeds} seeds\n",
        signals.requests
    );
    let titles = ["SETTINGS", "SLO", "IN SLO", "WORST 5 MIN", "REPLICA-H", "CHANGES/H", "MOST"];
    let mut lines = vec![titles.map(str::to_owned).to_vec(), as_it_was(signals, rows.rows.first())];
    lines.extend(rows.rows.iter().map(row));
    table(text, &lines, style);
    text.push_str(&style.dim(
        "The first line is no simulation: it is what was counted. ± is the 95 % confidence interval over seeds.\n",
    ));
}

fn as_it_was(signals: &Signals, first: Option<&Row>) -> Vec<String> {
    let hours = signals.length().as_secs_f64() / 3600.0;
    let met = 100.0 * (1.0 - signals.misses as f64 / signals.requests.max(1) as f64);
    vec![
        "as it was".to_owned(),
        first.map(|row| row.slo.clone()).unwrap_or_default(),
        format!("{met:.2} %"),
        "–".to_owned(),
        format!("{:.3}", signals.replica_time.as_secs_f64() / 3600.0),
        format!("{:.2}", signals.changes as f64 / hours.max(f64::MIN_POSITIVE)),
        signals.most.to_string(),
    ]
}

fn row(row: &Row) -> Vec<String> {
    let Row { name, slo, summary } = row;
    let worst = summary.worst_five_minutes.map_or("–".to_owned(), |mean: Mean| percent(&mean));
    vec![
        (*name).to_owned(),
        slo.clone(),
        percent(&summary.met),
        worst,
        hours(&summary.replica_hours),
        number(&summary.changes_per_hour),
        number(&summary.most_replicas),
    ]
}

/// Records are short, and so are the replica-hours in them.
fn hours(mean: &Mean) -> String {
    let width = mean.half_width.map(|width| format!(" ±{width:.3}")).unwrap_or_default();
    format!("{:.3}{width}", mean.mean)
}

fn table(text: &mut String, rows: &[Vec<String>], style: Style) {
    for (index, line) in aligned(rows).into_iter().enumerate() {
        let line = if index == 0 { style.dim(&line) } else { line };
        let _ = writeln!(text, "{line}");
    }
}

fn clock(at: Duration) -> String {
    timestamp(at).map_or_else(|| format!("{at:?}"), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
