//! What pictures are made of: a frame with axes, lines, areas and the marks of families.

use std::{fmt::Write as _, time::Duration};

use super::class;
use crate::study::Family;

/// A picture with room for its axes.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) width: f64,
    pub(super) height: f64,
    /// What stands at the left and right end, and at the bottom and top.
    pub(super) x: (f64, f64),
    pub(super) y: (f64, f64),
}

const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 24.0;

impl Frame {
    pub(super) fn x(&self, value: f64) -> f64 {
        let share = (value - self.x.0) / (self.x.1 - self.x.0).max(f64::MIN_POSITIVE);
        LEFT + share.clamp(0.0, 1.0) * (self.width - LEFT - RIGHT)
    }

    pub(super) fn y(&self, value: f64) -> f64 {
        let share = (value - self.y.0) / (self.y.1 - self.y.0);
        self.height - BOTTOM - share.clamp(0.0, 1.0) * (self.height - TOP - BOTTOM)
    }

    /// The picture around `content`, described by `words` for those who do not see it.
    pub(super) fn svg(&self, words: &str, content: &str) -> String {
        format!(
            "<svg viewBox=\"0 0 {:.0} {:.0}\" role=\"img\" aria-label=\"{}\">{content}</svg>",
            self.width,
            self.height,
            super::escaped(words)
        )
    }

    /// A line across at `value`, with its label at the left.
    pub(super) fn level(&self, value: f64, label: &str) -> String {
        let y = self.y(value);
        format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            self.width - RIGHT,
            LEFT - 6.0,
            y + 4.0
        )
    }

    /// A label below `value`.
    pub(super) fn below(&self, value: f64, label: &str) -> String {
        format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            self.x(value),
            self.height - 7.0
        )
    }

    /// A short name inside the top left corner.
    pub(super) fn name(&self, name: &str) -> String {
        format!("<text class=\"strong\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>", LEFT + 6.0, TOP + 10.0)
    }

    /// A line through points; it breaks where there is none.
    pub(super) fn line(&self, classes: &str, points: impl Iterator<Item = (f64, Option<f64>)>) -> String {
        let mut path = String::new();
        let mut pen = 'M';
        for (x, y) in points {
            let Some(y) = y else {
                pen = 'M';
                continue;
            };
            let _ = write!(path, "{pen}{:.1},{:.1}", self.x(x), self.y(y));
            pen = 'L';
        }
        format!("<path class=\"line {classes}\" d=\"{path}\"/>")
    }

    /// Steps from each point to the next, down to the bottom.
    pub(super) fn area(&self, classes: &str, width: f64, points: impl Iterator<Item = (f64, f64)>) -> String {
        let floor = self.y(self.y.0);
        let mut path = format!("M{:.1},{floor:.1}", self.x(self.x.0));
        for (x, y) in points {
            let y = self.y(y);
            let _ = write!(path, "L{:.1},{y:.1}L{:.1},{y:.1}", self.x(x), self.x(x + width));
        }
        let _ = write!(path, "L{:.1},{floor:.1}Z", self.x(self.x.1));
        format!("<path class=\"{classes}\" d=\"{path}\"/>")
    }
}

/// Round numbers from 0 to about `most`, four or five of them.
pub(super) fn rounds(most: f64) -> Vec<f64> {
    let rough = (most / 4.0).max(1e-9);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].iter().map(|factor| factor * power).find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    (0..=(most / step + 1e-9) as u32).map(|n| f64::from(n) * step).collect()
}

/// Times of day or minutes, as a trace of this length is read, in seconds.
pub(super) fn moments(length: Duration) -> Vec<(f64, String)> {
    const STEPS: [u64; 10] = [60, 300, 600, 1800, 3600, 7200, 14_400, 43_200, 86_400, 604_800];
    let seconds = length.as_secs().max(1);
    let step = STEPS.iter().copied().find(|step| seconds / step <= 12).unwrap_or(604_800);
    let label = |at: u64| match (at / 86_400, at % 86_400 / 3600, at % 3600 / 60) {
        (day, ..) if step >= 43_200 => {
            format!("day {}{}", day + 1, if at.is_multiple_of(86_400) { "" } else { "½" })
        }
        (day, hour, minute) if day > 0 && seconds > 86_400 => format!("{}d {hour:02}:{minute:02}", day),
        (_, hour, minute) => format!("{hour:02}:{minute:02}"),
    };
    (0..=seconds / step).map(|n| (n * step) as f64).map(|at| (at, label(at as u64))).collect()
}

/// The mark of a family at a place: each has a colour and a shape of its own.
pub(super) fn mark(family: Family, x: f64, y: f64, size: f64) -> String {
    let class = class(family);
    let polygon = |points: &[(f64, f64)]| {
        let points: Vec<String> =
            points.iter().map(|(dx, dy)| format!("{:.1},{:.1}", x + dx * size, y + dy * size)).collect();
        format!("<polygon class=\"{class} fill\" points=\"{}\"/>", points.join(" "))
    };
    match family {
        Family::Ours => {
            format!("<circle class=\"{class} fill\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{size:.1}\"/>")
        }
        Family::Hpa => polygon(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
        Family::Keda => polygon(&[(0.0, -1.1), (1.0, 0.8), (-1.0, 0.8)]),
        Family::Kpa => polygon(&[(0.0, 1.1), (1.0, -0.8), (-1.0, -0.8)]),
        Family::KpaDelayed => polygon(&[(0.0, -1.2), (1.0, 0.0), (0.0, 1.2), (-1.0, 0.0)]),
        Family::Static => polygon(&[(-1.1, -0.35), (1.1, -0.35), (1.1, 0.35), (-1.1, 0.35)]),
        Family::Optimum => polygon(&[
            (0.0, -1.3),
            (0.35, -0.35),
            (1.3, 0.0),
            (0.35, 0.35),
            (0.0, 1.3),
            (-0.35, 0.35),
            (-1.3, 0.0),
            (-0.35, -0.35),
        ]),
    }
}

/// The mark of a family beside its name.
pub(super) fn key(family: Family) -> String {
    format!(
        "<svg class=\"key\" viewBox=\"0 0 14 12\" aria-hidden=\"true\">{}</svg>",
        mark(family, 7.0, 6.0, 4.5)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_numbers() {
        assert_eq!(rounds(7.0), [0.0, 2.0, 4.0, 6.0]);
        assert_eq!(rounds(100.0), [0.0, 50.0, 100.0]);
        assert_eq!(rounds(1.0), [0.0, 0.5, 1.0]);
    }

    #[test]
    fn times_are_told_as_their_length_needs() {
        let labels = |seconds| -> Vec<String> {
            moments(Duration::from_secs(seconds)).into_iter().map(|(_, label)| label).collect()
        };
        assert_eq!(labels(3600)[..3], ["00:00", "00:05", "00:10"]);
        assert_eq!(labels(86_400)[..3], ["00:00", "02:00", "04:00"]);
        assert_eq!(labels(14 * 86_400)[..2], ["day 1", "day 8"]);
    }

    #[test]
    fn a_frame_keeps_everything_inside() {
        let frame = Frame { width: 200.0, height: 100.0, x: (0.0, 10.0), y: (0.0, 4.0) };
        assert!(frame.x(-5.0) >= LEFT && frame.x(50.0) <= 200.0 - RIGHT);
        assert!(frame.y(9.0) >= TOP && frame.y(-1.0) <= 100.0 - BOTTOM);
        let line = frame.line("a", [(0.0, Some(0.0)), (5.0, None), (10.0, Some(4.0))].into_iter());
        assert_eq!(line.matches('M').count(), 2, "{line}");
    }
}
