//! One policy over time: replicas against demand, latency against the SLO, and why it changed its mind.

use std::{fmt::Write as _, time::Duration};

use super::{
    Picture,
    chart::{Frame, key, moments, rounds},
    escaped,
};
use crate::{
    judge::Mean,
    study::Comparison,
    timeline::{Mark, Timeline},
};

/// Decisions that are listed in words.
const LISTED: usize = 200;

const LEGEND: &str = "<p class=\"legend\"><span><i class=\"box\" \
    style=\"background:var(--ready)\"></i>ready</span><span><i class=\"box\" \
    style=\"background:var(--starting)\"></i>starting</span><span><i class=\"bar\" \
    style=\"color:var(--demand)\"></i>demand: arrivals over what a full replica takes</span><span><i class=\"bar\" \
    style=\"color:var(--ours)\"></i>wanted</span><span>▲ ▼ decisions (hover for the reason)</span><span><i \
    class=\"bar\" style=\"color:var(--ink)\"></i>p99 of ANSWERS</span><span><i class=\"bar\" \
    style=\"color:var(--bad)\"></i>SLO</span><span><i class=\"box\" style=\"background:var(--bad);opacity:.35\"></i>part \
    of requests outside the SLO</span></p>";

/// What the pictures show.
pub(super) fn legend(comparison: &Comparison) -> String {
    LEGEND.replace("ANSWERS", if comparison.is_of_tokens() { "times to the first token" } else { "answers" })
}

/// `rate`: requests per second that a full replica takes.
pub(super) fn panel(picture: &Picture, rate: f64, slo: Duration, comparison: &Comparison) -> String {
    let Picture { contestant, timeline } = picture;
    let name = contestant.to_string();
    let words = comparison.summary(*contestant).map(|summary| {
        let part = |mean: &Mean| format!("{:.2} %", mean.mean * 100.0);
        let hours = summary.replica_hours.mean;
        let tokens = summary.ttft_met.zip(summary.tpot_met);
        let tokens = tokens.map(|(ttft, tpot)| format!(" (TTFT {}, TPOT {})", part(&ttft), part(&tpot)));
        format!("{} within SLO{}, {hours:.2} replica-hours", part(&summary.met), tokens.unwrap_or_default())
    });
    format!(
        "<div class=\"panel\"><h3>{} {} <small>{}</small></h3>{}{}{}</div>\n",
        key(contestant.family),
        escaped(&name),
        words.unwrap_or_default(),
        replicas(&name, timeline, rate),
        latency(&name, timeline, slo, if comparison.is_of_tokens() { "TTFT" } else { "latency" }),
        decisions(timeline)
    )
}

fn length(timeline: &Timeline) -> Duration {
    timeline.width * timeline.pieces.len() as u32
}

fn frame(timeline: &Timeline, height: f64, y: (f64, f64)) -> Frame {
    Frame { width: 1100.0, height, x: (0.0, length(timeline).as_secs_f64()), y }
}

fn times(frame: &Frame, timeline: &Timeline) -> String {
    moments(length(timeline)).iter().map(|(at, label)| frame.below(*at, label)).collect()
}

fn replicas(name: &str, timeline: &Timeline, rate: f64) -> String {
    let width = timeline.width.as_secs_f64();
    let demand = |arrivals: u32| f64::from(arrivals) / width / rate;
    let highest = timeline.pieces.iter().map(|piece| {
        f64::from(piece.ready + piece.starting).max(f64::from(piece.wanted)).max(demand(piece.arrivals))
    });
    let most = highest.fold(1.0, f64::max);
    let frame = frame(timeline, 190.0, (0.0, most * 1.12));
    let at = |index: usize| index as f64 * width;
    let pieces = || timeline.pieces.iter().enumerate();
    let mut content: String =
        rounds(most).iter().map(|level| frame.level(*level, &format!("{level}"))).collect();
    content += &frame.area(
        "starting",
        width,
        pieces().map(|(i, piece)| (at(i), f64::from(piece.ready + piece.starting))),
    );
    content += &frame.area("ready", width, pieces().map(|(i, piece)| (at(i), f64::from(piece.ready))));
    let middle = |index: usize| at(index) + width / 2.0;
    content += &frame.line("wanted", pieces().map(|(i, p)| (middle(i), Some(f64::from(p.wanted)))));
    content += &frame.line("demand", pieces().map(|(i, p)| (middle(i), Some(demand(p.arrivals)))));
    content += &marks(&frame, &timeline.marks);
    content += &times(&frame, timeline);
    content += &frame.name("replicas");
    frame.svg(&format!("replicas of {name} over time"), &content)
}

/// Triangles at the top: up above, down below.
fn marks(frame: &Frame, marks: &[Mark]) -> String {
    let mut content = String::new();
    for mark in marks {
        let x = frame.x(mark.change.at.as_secs_f64());
        let up = mark.change.to > mark.change.from;
        let (class, tip, base) = if up { ("up", 2.0, 8.0) } else { ("down", 15.0, 9.0) };
        let _ = write!(
            content,
            "<path class=\"{class}\" d=\"M{x:.1},{tip}L{:.1},{base}L{:.1},{base}Z\"><title>{}</title></path>",
            x - 3.0,
            x + 3.0,
            escaped(&sentence(mark))
        );
    }
    content
}

/// `what`: the latency that is shown.
fn latency(name: &str, timeline: &Timeline, slo: Duration, what: &str) -> String {
    let slo = slo.as_secs_f64().max(1e-3);
    let width = timeline.width.as_secs_f64();
    let read = |index: usize| timeline.latency(index, 0.99).map(|latency| latency.as_secs_f64().log10());
    let values = || (0..timeline.pieces.len()).filter_map(read);
    let low = values().fold(slo.log10() - 0.5, f64::min);
    let high = values().fold(slo.log10() + 0.5, f64::max);
    let frame = frame(timeline, 130.0, (low - 0.1, high + 0.25));
    let powers = (low.floor() as i32)..=(high.ceil() as i32);
    let inside = powers.filter(|power| (frame.y.0..frame.y.1).contains(&f64::from(*power)));
    let mut content: String =
        inside.map(|power| frame.level(f64::from(power), &seconds(10f64.powi(power)))).collect();
    content += &missed(&frame, timeline, width);
    let y = frame.y(slo.log10());
    let (left, right) = (frame.x(frame.x.0), frame.x(frame.x.1));
    let _ = write!(
        content,
        "<line class=\"slo\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
    );
    let points = (0..timeline.pieces.len()).map(|i| ((i as f64 + 0.5) * width, read(i)));
    content += &frame.line("latency", points);
    content += &times(&frame, timeline);
    content += &frame.name(&format!("p99 {what}"));
    frame.svg(&format!("p99 {what} with {name} over time"), &content)
}

/// From the bottom up, the part of the requests of each piece that missed the SLO.
fn missed(frame: &Frame, timeline: &Timeline, width: f64) -> String {
    let (low, high) = frame.y;
    let part = |arrivals: u32, misses: u32| f64::from(misses) / f64::from(arrivals.max(1));
    let points = timeline.pieces.iter().enumerate();
    let points =
        points.map(|(i, piece)| (i as f64 * width, low + part(piece.arrivals, piece.misses) * (high - low)));

    frame.area("missed", width, points)
}

fn decisions(timeline: &Timeline) -> String {
    if timeline.marks.is_empty() {
        return String::new();
    }
    let shown = timeline.marks.iter().take(LISTED);
    let items: String = shown.map(|mark| format!("<li>{}</li>", escaped(&sentence(mark)))).collect();
    let more = timeline.marks.len().saturating_sub(LISTED);
    let more = if more > 0 { format!("<p class=\"soft\">and {more} more</p>") } else { String::new() };
    format!("<details><summary>{} decisions</summary><ol>{items}</ol>{more}</details>", timeline.marks.len())
}

fn sentence(mark: &Mark) -> String {
    let at = mark.change.at.as_secs();
    let (day, hour, minute, second) = (at / 86_400, at % 86_400 / 3600, at % 3600 / 60, at % 60);
    let day = if day > 0 { format!("day {} ", day + 1) } else { String::new() };
    let change = format!("{}→{}", mark.change.from, mark.change.to);
    let words = mark.words.strip_prefix(&change).unwrap_or(&mark.words).trim_start_matches(':').trim();
    format!("{day}{hour:02}:{minute:02}:{second:02} {change}: {words}")
}

fn seconds(seconds: f64) -> String {
    if seconds < 1.0 { format!("{} ms", (seconds * 1e3).round()) } else { format!("{} s", seconds.round()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Change;

    #[test]
    fn a_decision_is_told_with_its_time_and_without_saying_it_twice() {
        let mark = |words: &str| Mark {
            change: Change { at: Duration::from_secs(90_061), from: 1, to: 3 },
            words: words.to_owned(),
        };
        assert_eq!(sentence(&mark("1→3: much to do")), "day 2 01:01:01 1→3: much to do");
        assert_eq!(sentence(&mark("12 requests")), "day 2 01:01:01 1→3: 12 requests");
    }
}
