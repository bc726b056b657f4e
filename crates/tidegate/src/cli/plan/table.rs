//! The comparison as a table for a terminal.

use plan::{
    judge::Mean,
    report::About,
    study::{Comparison, Equal, Family, Summary},
};

use super::super::terminal::Style;

const TITLES: [&str; 8] =
    ["POLICY", "IN SLO", "WORST 5 MIN", "OPENING", "REPLICA-H", "CHANGES/H", "WASTED/H", "AT EQUAL SLO"];
/// Behind the second, where the SLO is one of tokens.
const TOKENS: [&str; 2] = ["TTFT", "TPOT"];

/// A row for Tidegate and one for each other family, or for every tuning.
pub(super) fn text(about: &About, comparison: &Comparison, all: bool, style: Style) -> String {
    let mut titles = TITLES.map(str::to_owned).to_vec();
    if comparison.is_of_tokens() {
        titles.splice(2..2, TOKENS.map(str::to_owned));
    }
    let mut rows = vec![titles];
    if all {
        rows.extend(comparison.summaries.iter().map(|summary| row(summary, equal(comparison, summary))));
    } else {
        rows.extend(comparison.our_summary().map(|summary| row(summary, String::new())));
        rows.extend(comparison.at_equal_slo.iter().filter_map(|found| {
            let summary = comparison.summary(found.contestant)?;
            Some(row(summary, words(found)))
        }));
    }
    let mut text = heading(about);
    for (index, line) in aligned(&rows).into_iter().enumerate() {
        let line = if index == 0 { style.dim(&line) } else { line };
        text.push_str(&line);
        text.push('\n');
    }
    text.push_str(&least(comparison));
    if comparison.is_of_tokens() {
        text.push_str(&style.dim(
            "TTFT, TPOT: requests whose first token, and whose others, were in time; IN SLO: both. Refused, timed out: \
             neither.\n",
        ));
    }
    text.push_str(&style.dim(
        "± is the 95 % confidence interval over seeds. AT EQUAL SLO: replica-hours where the policy keeps the SLO as \
         often as Tidegate, between its tunings.\n",
    ));
    text
}

/// How far Tidegate is from what nobody can be better than.
fn least(comparison: &Comparison) -> String {
    let ours = comparison.our_summary().map(|summary| summary.replica_hours.mean);
    match comparison.least_replica_hours.zip(ours) {
        Some((least, ours)) if least > 0.0 => format!(
            "Nobody, whatever they know, keeps the SLO as often with less than {least:.2} replica-hours; Tidegate takes \
             {:.2} times that.\n",
            ours / least
        ),
        _ => String::new(),
    }
}

fn heading(about: &About) -> String {
    let About { model, load, slo, service, cold_start, bounds, seeds } = about;
    format!(
        "model {model}: {slo}; {bounds}\nreplica: {service}, cold start {cold_start}\nload: {load}, {seeds} seeds\n\n"
    )
}

fn row(summary: &Summary, equal: String) -> Vec<String> {
    let part = |mean: &Option<Mean>| mean.map_or("–".to_owned(), |mean| percent(&mean));
    let mut cells = vec![
        summary.name.clone(),
        percent(&summary.met),
        part(&summary.worst_five_minutes),
        part(&summary.opening),
        number(&summary.replica_hours),
        number(&summary.changes_per_hour),
        number(&summary.wasted_per_hour),
        equal,
    ];
    cells.splice(2..2, [&summary.ttft_met, &summary.tpot_met].into_iter().flatten().map(percent));
    cells
}

fn equal(comparison: &Comparison, summary: &Summary) -> String {
    let found = comparison.at_equal_slo.iter().find(|equal| equal.contestant == summary.contestant);
    found.filter(|equal| equal.family != Family::Ours).map(words).unwrap_or_default()
}

fn words(equal: &Equal) -> String {
    match (equal.replica_hours, equal.ratio) {
        (Some(hours), Some(ratio)) => format!("{hours:.2} ({:+.1} %)", (ratio - 1.0) * 100.0),
        _ => "never".to_owned(),
    }
}

pub(super) fn percent(mean: &Mean) -> String {
    let width = mean.half_width.map(|width| format!(" ±{:.2}", width * 100.0)).unwrap_or_default();
    format!("{:.2} %{width}", mean.mean * 100.0)
}

pub(super) fn number(mean: &Mean) -> String {
    let width = mean.half_width.map(|width| format!(" ±{width:.2}")).unwrap_or_default();
    format!("{:.2}{width}", mean.mean)
}

pub(super) fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let rows = [vec!["A".to_owned(), "B".to_owned()], vec!["longer".to_owned(), String::new()]];
        assert_eq!(aligned(&rows), ["A       B", "longer"]);
    }

    #[test]
    fn means_are_shown_with_their_interval() {
        let mean = Mean { mean: 0.98765, half_width: Some(0.0012) };
        assert_eq!(percent(&mean), "98.77 % ±0.12");
        assert_eq!(number(&Mean { mean: 3.0, half_width: None }), "3.00");
    }
}
