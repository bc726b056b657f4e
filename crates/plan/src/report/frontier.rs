//! Cost against SLO: every tuning as a point, the ones worth having joined by a line.

use std::fmt::Write as _;

use super::{
    chart::{Frame, key, mark, rounds},
    class, escaped,
};
use crate::study::{Comparison, Family};

/// Least part of misses that is told apart: logarithms have no zero.
const LEAST: f64 = 1e-5;
/// The picture ends at so many times Tidegate's cost.
const DEAREST: f64 = 2.5;

/// From many misses at the bottom to few at the top, by powers of ten.
fn height(met: f64) -> f64 {
    -(1.0 - met).max(LEAST).log10()
}

pub(super) fn picture(comparison: &Comparison) -> String {
    let Some(ours) = comparison.our_summary().map(|summary| summary.point()) else { return String::new() };
    let costs = || comparison.summaries.iter().map(|summary| summary.replica_hours.mean);
    let dearest = costs().fold(0.0, f64::max).min(ours.cost * DEAREST);
    let cheapest = costs().fold(f64::INFINITY, f64::min).max(ours.cost * 0.3);
    let pad = (dearest - cheapest) * 0.04;
    let shown = comparison.summaries.iter().filter(|summary| summary.replica_hours.mean <= dearest);
    let tallest = shown.clone().map(|summary| height(summary.met.mean)).fold(2.0, f64::max);
    let frame = Frame {
        width: 1100.0,
        height: 420.0,
        x: ((cheapest - pad).max(0.0), dearest + pad),
        y: (height(ours.met).min(1.0) - 0.25, tallest + 0.2),
    };
    let mut content = axes(&frame);
    let families = [&[Family::Ours][..], &Family::OTHERS].concat();
    for family in &families {
        let points = comparison.frontier(*family);
        let line = points.iter().filter(|point| point.cost <= dearest);
        let line = frame.line(
            &format!("{} stroke thin", class(*family)),
            line.map(|point| (point.cost, Some(height(point.met)))),
        );
        content.push_str(&line);
    }
    for summary in shown.filter(|summary| height(summary.met.mean) >= frame.y.0) {
        let point = summary.point();
        let (x, y) = (frame.x(point.cost), frame.y(height(point.met)));
        let size = if summary.contestant == comparison.ours { 8.0 } else { 4.5 };
        let _ = write!(
            content,
            "<g><title>{}: {:.3} % within SLO, {:.2} replica-hours</title>{}</g>",
            escaped(&summary.name),
            point.met * 100.0,
            point.cost,
            mark(summary.contestant.family, x, y, size)
        );
    }
    let (x, y) = (frame.x(ours.cost), frame.y(height(ours.met)));
    let _ = write!(
        content,
        "<text class=\"strong\" x=\"{:.1}\" y=\"{:.1}\">tidegate as configured</text>",
        x + 12.0,
        y - 8.0
    );
    legend(comparison, &families)
        + &frame.svg("cost in replica-hours against requests within the SLO", &content)
}

fn axes(frame: &Frame) -> String {
    let levels = [
        ("50 %", 0.5),
        ("80 %", 0.8),
        ("90 %", 0.9),
        ("95 %", 0.95),
        ("98 %", 0.98),
        ("99 %", 0.99),
        ("99.5 %", 0.995),
        ("99.9 %", 0.999),
        ("99.99 %", 0.9999),
        ("100 %", 0.99999),
    ];
    let inside = levels.iter().filter(|(_, met)| (frame.y.0..=frame.y.1).contains(&height(*met)));
    let mut axes: String = inside.map(|(label, met)| frame.level(height(*met), label)).collect();
    let inside = rounds(frame.x.1).into_iter().filter(|cost| *cost >= frame.x.0);
    let costs: String = inside.map(|cost| frame.below(cost, &format!("{cost}"))).collect();
    axes.push_str(&costs);
    axes.push_str("<text class=\"strong\" x=\"1076\" y=\"390\" text-anchor=\"end\">replica-hours →</text>");
    axes.push_str("<text class=\"strong\" x=\"70\" y=\"24\">requests within the SLO ↑</text>");
    axes
}

fn legend(comparison: &Comparison, families: &[Family]) -> String {
    let there = families.iter().filter(|family| comparison.of(**family).next().is_some());
    let keys: String =
        there.map(|family| format!("<span>{} {}</span>", key(*family), family.as_str())).collect();
    format!("<p class=\"legend\">{keys}</p>")
}
