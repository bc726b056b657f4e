//! The comparison as one HTML file that needs no other: pictures are inline SVG, colours follow the reader's theme,
//! and every picture has its numbers in words or in a table beside it.

mod chart;
mod frontier;
mod panel;

use std::fmt::Write as _;

use crate::{
    judge::Mean,
    study::{Comparison, Contestant, Equal, Family, Study, Summary},
    timeline::Timeline,
};

const STYLE: &str = include_str!("report/style.css");

/// What was simulated, in words.
#[derive(Clone, Debug)]
pub struct About {
    pub model: String,
    pub load: String,
    pub slo: String,
    pub service: String,
    pub cold_start: String,
    pub bounds: String,
    pub seeds: usize,
}

/// One contestant over time.
#[derive(Clone, Debug)]
pub struct Picture {
    pub contestant: Contestant,
    pub timeline: Timeline,
}

/// The whole report.
#[must_use]
pub fn html(about: &About, study: &Study, comparison: &Comparison, pictures: &[Picture]) -> String {
    let title = format!("Plan for {}", escaped(&about.model));
    let (rate, slo) = (study.rate(), study.settings.slo.target);
    let panels: String =
        pictures.iter().map(|picture| panel::panel(picture, rate, slo, comparison)).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{facts}{verdict}\n\
         <section><h2>Policies side by side</h2>\n{table}</section>\n\
         <section><h2>Cost against SLO</h2>\n{frontier}</section>\n\
         <section><h2>Over time, first seed</h2>\n{legend}{panels}</section>\n{method}</main>\n</body>\n</html>\n",
        facts = facts(about),
        verdict = verdict(comparison),
        table = table(comparison),
        frontier = frontier::picture(comparison),
        legend = panel::legend(comparison),
        method = METHOD,
    )
}

const METHOD: &str = "<section class=\"soft\"><h2>How to read this</h2>\n\
    <p>Requests are simulated one by one, in virtual time; Tidegate's decisions are made by the code that decides in \
    production, starting with nothing learned. A request counts as within the SLO only if its answer came in time, \
    or, where the SLO is one of tokens, its first token (TTFT) and the others on average (TPOT): refusals, time-outs and waits for a start count as misses. Replica-hours are paid from creation to deletion, \
    pending and draining included. All policies begin with the same replicas, behind the same gateway, and meet the \
    same requests and starts; the optimum knows all of them beforehand, and ×4 means \
    that a miss is worth four times the replica time of a request. “At equal SLO” is read off between the \
    tunings of a policy; “never” means that no tuning keeps the SLO as often.</p></section>\n";

fn facts(about: &About) -> String {
    let About { load, slo, service, cold_start, bounds, seeds, .. } = about;
    let seeds = seeds.to_string();
    let rows = [
        ("SLO", slo),
        ("Load", load),
        ("Replica", service),
        ("Cold start", cold_start),
        ("Bounds", bounds),
        ("Seeds", &seeds),
    ];
    let row =
        |(name, value): &(&str, &String)| format!("<div><dt>{name}</dt><dd>{}</dd></div>", escaped(value));
    format!("<dl>{}</dl>\n", rows.iter().map(row).collect::<String>())
}

/// The result in a sentence or two.
fn verdict(comparison: &Comparison) -> String {
    let Some(ours) = comparison.our_summary() else { return String::new() };
    let mut text = format!(
        "<p class=\"verdict\">Tidegate keeps the SLO for <b>{}</b> of the requests with <b>{} replica-hours</b>.",
        percent(&ours.met),
        number(&ours.replica_hours)
    );
    let others: Vec<String> = comparison.at_equal_slo.iter().map(other).collect();
    if !others.is_empty() {
        let _ = write!(text, " At the same SLO {}.", others.join("; "));
    }
    text + "</p>"
}

fn other(equal: &Equal) -> String {
    let name = equal.policy;
    match (equal.replica_hours, equal.ratio) {
        (Some(hours), Some(ratio)) => format!("{name} needs {hours:.2} ({:+.1} %)", (ratio - 1.0) * 100.0),
        _ => format!("{name} never gets there"),
    }
}

fn table(comparison: &Comparison) -> String {
    let mut heads = vec![
        "Policy",
        "Within SLO",
        "Worst 5 min",
        "Opening",
        "Late, refused,<br>timed out %",
        "Replica-hours",
        "At equal SLO",
        "Most<br>replicas",
        "Changes, reversals,<br>wasted starts /h",
    ];
    if comparison.is_of_tokens() {
        heads.splice(2..2, ["TTFT in time", "TPOT in time"]);
    }
    let head: String = heads.iter().map(|head| format!("<th scope=\"col\">{head}</th>")).collect();
    let ours = comparison.our_summary().map(|summary| row(summary, None)).unwrap_or_default();
    let others = comparison
        .at_equal_slo
        .iter()
        .filter_map(|equal| Some(row(comparison.summary(equal.contestant)?, Some(equal))));
    let rows = ours + &others.collect::<String>();
    let all: String = comparison.summaries.iter().map(|summary| row(summary, None)).collect();
    format!(
        "<div class=\"wide\"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>\n\
         <p class=\"soft\">Of each policy: the cheapest tuning that keeps the SLO at least as often as Tidegate, else \
         the best. ± is the 95 % confidence interval over seeds.</p>\n\
         <details><summary>Every tuning</summary><div class=\"wide\"><table><thead><tr>{head}</tr></thead>\
         <tbody>{all}</tbody></table></div></details>\n"
    )
}

fn row(summary: &Summary, equal: Option<&Equal>) -> String {
    let part = |mean: &Option<Mean>| mean.map_or("–".to_owned(), |mean| percent(&mean));
    let equal = equal.map_or("", |equal| if equal.replica_hours.is_some() { "" } else { "never" }).to_owned()
        + &equal
            .and_then(|equal| Some((equal.replica_hours?, equal.ratio?)))
            .map(|(hours, ratio)| format!("{hours:.2} ({:+.1} %)", (ratio - 1.0) * 100.0))
            .unwrap_or_default();
    let percents = [&summary.late, &summary.shed, &summary.timed_out].map(|mean| short(mean.mean * 100.0));
    let habits = [&summary.changes_per_hour, &summary.reversals_per_hour, &summary.wasted_per_hour];
    let mut cells = vec![
        percent(&summary.met),
        part(&summary.worst_five_minutes),
        part(&summary.opening),
        percents.join(" · "),
        number(&summary.replica_hours),
        equal,
        short(summary.most_replicas.mean),
        habits.map(|mean| short(mean.mean)).join(" · "),
    ];
    cells.splice(1..1, [&summary.ttft_met, &summary.tpot_met].into_iter().flatten().map(percent));
    let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
    let family = summary.contestant.family;
    format!("<tr><th scope=\"row\">{} {}</th>{cells}</tr>", chart::key(family), escaped(&summary.name))
}

fn percent(mean: &Mean) -> String {
    let width = mean.half_width.map(|width| format!(" <small>±{:.2}</small>", width * 100.0));
    format!("{:.2} %{}", mean.mean * 100.0, width.unwrap_or_default())
}

fn number(mean: &Mean) -> String {
    let width = mean.half_width.map(|width| format!(" <small>±{width:.2}</small>"));
    format!("{:.2}{}", mean.mean, width.unwrap_or_default())
}

fn short(number: f64) -> String {
    if number >= 9.95 { format!("{number:.0}") } else { format!("{number:.1}") }
}

/// Text as it may stand in HTML.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

pub(crate) fn class(family: Family) -> &'static str {
    match family {
        Family::Ours => "ours",
        Family::Hpa => "hpa",
        Family::Keda => "keda",
        Family::Kpa => "kpa",
        Family::KpaDelayed => "kpad",
        Family::Static => "fixed",
        Family::Optimum => "optimum",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_the_page() {
        assert_eq!(escaped("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
    }
}
