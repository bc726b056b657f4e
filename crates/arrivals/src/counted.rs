//! Requests of which only the number is known that came in each span of time: what counters tell that are read now and
//! then. When in its span a request comes is up to chance, and no span loses or gains any.

use std::{collections::VecDeque, sync::Arc};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    TraceError,
    trace::{ARRIVALS_MAX, Replay},
};

/// Spans one schedule may have: a year of seconds.
const SPANS_MAX: usize = 32_000_000;

/// A span of time, and how many came in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Count {
    /// Seconds.
    pub length: f64,
    pub requests: u32,
}

/// The spans of one replay, one after the other.
pub(crate) fn recount(counts: &[Count], replay: Replay) -> Result<Arc<[Count]>, TraceError> {
    let until = replay.from + replay.span;
    let mut rng = StdRng::seed_from_u64(replay.seed);
    let mut start = 0.0;
    let mut part = Vec::new();
    for count in counts {
        let end = start + count.length;
        let length = end.min(until) - f64::max(start, replay.from);
        if length > 0.0 {
            let share = if count.length > 0.0 { length / count.length } else { 1.0 };
            part.push((length / replay.speed, f64::from(count.requests) * share.min(1.0)));
        }
        start = end;
    }
    let mut spans = Vec::new();
    let mut total = 0.0;
    for (length, requests) in (0..replay.repeat).flat_map(|_| part.iter().copied()) {
        let scaled = requests * replay.scale;
        let requests = scaled.floor() + f64::from(u8::from(rng.random::<f64>() < scaled.fract()));
        total += requests;
        if total > ARRIVALS_MAX as f64 || spans.len() >= SPANS_MAX {
            return Err(TraceError::TooMany(ARRIVALS_MAX));
        }
        spans.push(Count { length, requests: requests as u32 });
    }
    if total == 0.0 { Err(TraceError::NothingLeft) } else { Ok(spans.into()) }
}

/// A walk along the spans.
#[derive(Debug)]
pub struct Steps {
    counts: Arc<[Count]>,
    rng: StdRng,
    next: usize,
    /// Seconds at which the next span starts.
    start: f64,
    /// Those of the present span, soonest first.
    waiting: VecDeque<f64>,
}

impl Steps {
    pub(crate) fn new(counts: Arc<[Count]>, seed: u64) -> Self {
        Self { counts, rng: StdRng::seed_from_u64(seed), next: 0, start: 0.0, waiting: VecDeque::new() }
    }
}

impl Iterator for Steps {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        while self.waiting.is_empty() {
            let Count { length, requests } = *self.counts.get(self.next)?;
            let mut times: Vec<f64> =
                (0..requests).map(|_| self.start + self.rng.random::<f64>() * length).collect();
            times.sort_by(f64::total_cmp);
            self.waiting = times.into();
            self.start += length;
            self.next += 1;
        }
        self.waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Schedule, trace::Trace};

    fn counts(requests: &[u32]) -> Vec<Count> {
        requests.iter().map(|requests| Count { length: 1.0, requests: *requests }).collect()
    }

    fn replayed(requests: &[u32], replay: Replay) -> Schedule {
        Trace::counted(counts(requests)).unwrap().replay(replay).unwrap()
    }

    fn per_second(schedule: &Schedule, seed: u64) -> Vec<u32> {
        let mut seconds = vec![0; schedule.length().as_secs_f64().ceil() as usize];
        for arrival in schedule.arrivals(seed) {
            seconds[arrival.at.as_secs() as usize] += 1;
        }
        seconds
    }

    #[test]
    fn each_second_has_just_its_requests_and_silence_counts_as_time() {
        let schedule = replayed(&[0, 3, 0, 500, 0, 0], Replay::AS_IT_IS);
        assert_eq!(schedule.length().as_secs(), 6);
        for seed in 0..3 {
            assert_eq!(per_second(&schedule, seed), [0, 3, 0, 500, 0, 0]);
        }
        let times = |seed| schedule.arrivals(seed).map(|arrival| arrival.at).collect::<Vec<_>>();
        assert!(times(1).is_sorted() && times(1) == times(1) && times(1) != times(2));
    }

    #[test]
    fn a_part_is_cut_out_scaled_sped_up_and_repeated() {
        let part = Replay { from: 1.0, span: 2.0, ..Replay::AS_IT_IS };
        assert_eq!(per_second(&replayed(&[9, 4, 6, 9], part), 1), [4, 6]);
        let faster = Replay { speed: 2.0, scale: 3.0, ..part };
        assert_eq!(per_second(&replayed(&[9, 4, 6, 9], faster), 1), [30]);
        assert_eq!(per_second(&replayed(&[9, 4, 6, 9], Replay { repeat: 2, ..part }), 1), [4, 6, 4, 6]);
        let thinned = replayed(&[1; 4000], Replay { scale: 0.25, ..Replay::AS_IT_IS }).arrivals(1).count();
        assert!((900..1100).contains(&thinned), "{thinned}");
    }

    #[test]
    fn nothing_is_no_load() {
        assert!(matches!(Trace::counted(Vec::new()), Err(TraceError::Empty)));
        let silent = Trace::counted(counts(&[0, 0])).unwrap().replay(Replay::AS_IT_IS);
        assert!(silent.unwrap_err().to_string().contains("no arrival"));
    }
}
