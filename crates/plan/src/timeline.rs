//! What happened over time in one simulation, in a few hundred pieces, for a picture.

use std::time::Duration;

use crate::world::{Change, SLOT, Standing, Time};

/// Edges of latencies per factor of ten, from a millisecond on: 15 % apart.
const EDGES_PER_DECADE: f64 = 16.0;
const LEAST: f64 = 1e-3;
/// Up to a thousand seconds.
const EDGES: usize = 97;
/// Decisions that are kept: more would not be told apart.
const MARKS_MOST: usize = 2000;

/// Pieces of equal length, and the decisions.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// Length of one piece.
    pub width: Duration,
    pub pieces: Vec<Piece>,
    pub marks: Vec<Mark>,
    latencies: Vec<[u32; EDGES]>,
}

/// A piece of time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Piece {
    pub arrivals: u32,
    /// Of those that arrived in it.
    pub misses: u32,
    pub ready: f32,
    pub starting: f32,
    pub draining: f32,
    pub wanted: f32,
    looks: u32,
}

/// A decision that changed something.
#[derive(Clone, Debug)]
pub struct Mark {
    pub change: Change,
    pub words: String,
}

impl Timeline {
    pub(crate) fn new(length: Duration, pieces: usize) -> Self {
        let slots = (length.as_secs() / SLOT.as_secs()).max(1);
        let width = SLOT * u32::try_from(slots.div_ceil(pieces.max(1) as u64)).unwrap_or(u32::MAX);
        let count = length.as_secs().div_ceil(width.as_secs()).max(1) as usize;
        Self {
            width,
            pieces: vec![Piece::default(); count],
            marks: Vec::new(),
            latencies: vec![[0; EDGES]; count],
        }
    }

    /// The latency that `quantile` (0 to 1) of the answers of a piece kept; `None` where there were none.
    #[must_use]
    pub fn latency(&self, piece: usize, quantile: f64) -> Option<Duration> {
        let counts = self.latencies.get(piece)?;
        let total: u32 = counts.iter().sum();
        let rank = ((f64::from(total) * quantile).ceil() as u32).max(1);
        let mut seen = 0;
        let edge = counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        let edge = edge.filter(|_| total > 0)? as f64;
        Some(Duration::from_secs_f64(LEAST * 10f64.powf((edge + 0.5) / EDGES_PER_DECADE)))
    }

    pub(crate) fn arrived(&mut self, at: Time) {
        if let Some(piece) = self.piece(at) {
            piece.arrivals += 1;
        }
    }

    pub(crate) fn missed(&mut self, arrived: Time) {
        if let Some(piece) = self.piece(arrived) {
            piece.misses += 1;
        }
    }

    pub(crate) fn answered(&mut self, at: Time, took: Duration) {
        let edge = ((took.as_secs_f64() / LEAST).log10() * EDGES_PER_DECADE).max(0.0) as usize;
        let index = self.index(at);
        if let Some(count) =
            self.latencies.get_mut(index).and_then(|counts| counts.get_mut(edge.min(EDGES - 1)))
        {
            *count += 1;
        }
    }

    pub(crate) fn stood(&mut self, at: Time, standing: &Standing, wanted: u32) {
        let Some(piece) = self.piece(at) else { return };
        piece.looks += 1;
        let share = 1.0 / piece.looks as f32;
        let mean = |mean: &mut f32, value: u32| *mean += (value as f32 - *mean) * share;
        mean(&mut piece.ready, standing.ready);
        mean(&mut piece.starting, standing.starting);
        mean(&mut piece.draining, standing.draining);
        mean(&mut piece.wanted, wanted);
    }

    pub(crate) fn mark(&mut self, change: Change, words: &str) {
        if self.marks.len() < MARKS_MOST {
            self.marks.push(Mark { change, words: words.to_owned() });
        }
    }

    fn index(&self, at: Time) -> usize {
        let index = (at.since(Time::ZERO).as_secs() / self.width.as_secs().max(1)) as usize;
        index.min(self.pieces.len().saturating_sub(1))
    }

    fn piece(&mut self, at: Time) -> Option<&mut Piece> {
        let index = self.index(at);
        self.pieces.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_latency_are_within_a_bucket_of_the_truth() {
        let mut timeline = Timeline::new(Duration::from_secs(100), 10);
        for ms in 1..=1000 {
            timeline.answered(Time::ZERO, Duration::from_millis(ms));
        }
        for (quantile, truth) in [(0.5, 0.5), (0.99, 0.99)] {
            let read = timeline.latency(0, quantile).unwrap().as_secs_f64();
            assert!((read / truth - 1.0).abs() < 0.1, "{quantile}: {read}");
        }
        assert_eq!(timeline.latency(1, 0.99), None);
    }

    #[test]
    fn a_day_is_cut_into_no_more_pieces_than_asked_for() {
        let timeline = Timeline::new(Duration::from_secs(86_400), 700);
        assert!(timeline.pieces.len() <= 700, "{}", timeline.pieces.len());
        assert_eq!(timeline.width.as_secs() % 10, 0);
        assert!(timeline.width * timeline.pieces.len() as u32 >= Duration::from_secs(86_400));
    }
}
