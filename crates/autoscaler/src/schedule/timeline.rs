//! The bounds of a model over time: one segment from each change to the next.

use std::{ops::Range, time::Duration};

use super::{Bounds, Edge, OnRequest, Schedule, open::windows};
use crate::policy;

/// A time in which the same holds; it lasts until the next one begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) from: Duration,
    pub(super) bounds: policy::Bounds,
    /// What makes `bounds.min` higher than the model's own.
    pub(super) floor: Option<Rule>,
    /// What makes `bounds.max` lower than the model's own.
    pub(super) cap: Option<Rule>,
    /// The window that is the reason for a change here; `None` in the first segment.
    pub(super) turn: Option<Turn>,
}

/// One side of a window's bounds, and the window by its place among the schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) schedule: usize,
    pub(super) replicas: u32,
    pub(super) pin: bool,
    pub(super) on_request: OnRequest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) schedule: usize,
    pub(super) edge: Edge,
}

impl Segment {
    pub(super) fn is_off(&self) -> bool {
        self.bounds.max == 0
    }

    fn holds_the_same_as(&self, other: &Self) -> bool {
        self.bounds == other.bounds && self.floor == other.floor && self.cap == other.cap
    }
}

/// The segments of `range`, at least one; neighbours differ.
pub(super) fn segments(
    schedules: &[Schedule],
    base: policy::Bounds,
    range: &Range<Duration>,
) -> Vec<Segment> {
    let mut turns: Vec<(Duration, Turn)> = Vec::new();
    for (schedule, windows) in schedules.iter().map(|schedule| windows(schedule, range)).enumerate() {
        for window in windows {
            turns.push((window.start.max(range.start), Turn { schedule, edge: Edge::Begins }));
            turns.push((window.end, Turn { schedule, edge: Edge::Ends }));
        }
    }
    turns.sort_by_key(|(at, _)| *at);
    // Windows of one schedule may overlap, where a time comes twice.
    let mut open = vec![0u32; schedules.len()];
    let mut segments = Vec::with_capacity(turns.len() + 1);
    if turns.first().is_none_or(|(at, _)| *at > range.start) {
        segments.push(segment(range.start, schedules, &open, base));
    }
    for turns in turns.chunk_by(|(a, _), (b, _)| a == b) {
        let Some(&(at, _)) = turns.first() else { continue };
        turns.iter().for_each(|(_, turn)| turn.take(&mut open));
        let next = segment(at, schedules, &open, base);
        match segments.last() {
            Some(before) if before.holds_the_same_as(&next) || at >= range.end => {}
            Some(before) => {
                let turn = reason(before, &next, turns);
                segments.push(Segment { turn, ..next });
            }
            None => segments.push(next),
        }
    }
    segments
}

impl Turn {
    fn take(self, open: &mut [u32]) {
        let Some(count) = open.get_mut(self.schedule) else { return };
        match self.edge {
            Edge::Begins => *count += 1,
            Edge::Ends => *count = count.saturating_sub(1),
        }
    }
}

/// Which of `turns` made the difference: a window that begins before one that ends, and the side that changed.
fn reason(before: &Segment, after: &Segment, turns: &[(Duration, Turn)]) -> Option<Turn> {
    let taken = |turn: Turn| turns.iter().any(|(_, other)| *other == turn);
    // A window that follows another of its schedule at once neither begins nor ends.
    let real = |edge: Edge, rule: Rule| {
        let turn = Turn { schedule: rule.schedule, edge };
        (taken(turn) && !taken(Turn { edge: edge.opposite(), ..turn })).then_some(turn)
    };
    let floor_begins = || real(Edge::Begins, after.floor.filter(|_| after.floor != before.floor)?);
    let cap_begins = || real(Edge::Begins, after.cap.filter(|_| after.cap != before.cap)?);
    let begins = if before.bounds.min == after.bounds.min {
        cap_begins().or_else(floor_begins)
    } else {
        floor_begins().or_else(cap_begins)
    };
    begins
        .or_else(|| real(Edge::Ends, before.cap.filter(|_| after.cap != before.cap)?))
        .or_else(|| real(Edge::Ends, before.floor.filter(|_| after.floor != before.floor)?))
        .or(turns.first().map(|(_, turn)| *turn))
}

impl Edge {
    fn opposite(self) -> Self {
        match self {
            Self::Begins => Self::Ends,
            Self::Ends => Self::Begins,
        }
    }
}

fn segment(from: Duration, schedules: &[Schedule], open: &[u32], base: policy::Bounds) -> Segment {
    let (mut pin, mut floor, mut cap) = (None, None, None);
    let opened = schedules.iter().zip(open).enumerate().filter(|(_, (_, count))| **count > 0);
    for (index, (schedule, _)) in opened {
        let rule = |replicas, pin| {
            let on_request = schedule.on_request;
            Some(Rule { schedule: index, replicas, pin, on_request })
        };
        match schedule.bounds {
            Bounds::Exactly(replicas) => pin = stricter(pin, rule(replicas, true)),
            Bounds::Between { floor: least, cap: most } => {
                floor = higher(floor, least.and_then(|replicas| rule(replicas, false)));
                cap = stricter(cap, most.and_then(|replicas| rule(replicas, false)));
            }
        }
    }
    let (bounds, floor, cap) = match pin {
        Some(pin) => {
            let replicas = pin.replicas.min(base.max);
            (policy::Bounds { min: replicas, max: replicas }, Some(pin), Some(pin))
        }
        None => {
            let max = cap.map_or(base.max, |cap| cap.replicas.min(base.max));
            let min = floor.map_or(base.min, |floor| floor.replicas.max(base.min)).min(max);
            (policy::Bounds { min, max }, floor.filter(|_| min > base.min), cap.filter(|_| max < base.max))
        }
    };
    Segment { from, bounds, floor: floor.filter(|_| bounds.min > 0), cap, turn: None }
}

/// The lower of two caps; of equals the one that refuses calls, then the first.
fn stricter(a: Option<Rule>, b: Option<Rule>) -> Option<Rule> {
    let strictness = |rule: &Rule| (rule.replicas, rule.on_request == OnRequest::Wake);
    [a, b].into_iter().flatten().min_by_key(strictness)
}

/// The higher of two floors; of equals the first.
fn higher(a: Option<Rule>, b: Option<Rule>) -> Option<Rule> {
    [b, a].into_iter().flatten().max_by_key(|rule| rule.replicas)
}
