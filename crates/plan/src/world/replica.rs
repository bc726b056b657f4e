//! One replica: how far it is, and what it works on.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use autoscaler::snapshot::Phase;

use super::time::Time;
use crate::service::Service;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) arrived: Time,
    /// How many times longer than the mean its call takes.
    pub(crate) factor: f32,
    /// Tokens of its answer.
    pub(crate) tokens: f32,
}

#[derive(Debug)]
pub(super) struct Replica {
    pub(super) id: Arc<str>,
    /// `None`: it is gone.
    pub(super) phase: Option<Phase>,
    pub(super) created: Time,
    pub(super) ready_since: Option<Time>,
    pub(super) in_flight: u32,
    pub(super) served: u64,
    /// The batch it works on, and since when.
    pub(super) batch: Vec<Job>,
    pub(super) began: Time,
    pub(super) streams: Streams,
}

/// Streams that share a replica: each gets its tokens at the same pace, which depends on how many there are. So one
/// clock, in tokens, serves all of them.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Tokens that a stream would have got that was there from the beginning, as of `at`.
    clock: f64,
    at: Time,
    /// By the reading of the clock at which they end.
    running: BinaryHeap<Reverse<Stream>>,
    /// Counts whenever a stream comes or goes, which changes when the next one ends.
    version: u32,
}

#[derive(Debug)]
struct Stream {
    ends: f64,
    began: Time,
    job: Job,
}

/// Readings that differ by less are the same.
const ROUNDING: f64 = 1e-6;

impl Streams {
    pub(super) fn is_current(&self, version: u32) -> bool {
        self.version == version
    }

    /// The time until the first token counts as the tokens that could be made in it at the pace of the moment.
    pub(super) fn start(&mut self, job: Job, now: Time, service: &Service) {
        self.advance(now, service);
        let Service::Chat { first, .. } = service else { return };
        let token = service.token(self.running.len() as u32 + 1);
        let tokens = f64::from(job.tokens) + first.as_secs_f64() / token;
        self.running.push(Reverse(Stream { ends: self.clock + tokens, began: now, job }));
        self.version = self.version.wrapping_add(1);
    }

    /// A stream that has ended by `now`, and when it began.
    pub(super) fn end(&mut self, now: Time, service: &Service) -> Option<(Job, Time)> {
        self.advance(now, service);
        let over = self.running.peek().is_some_and(|Reverse(first)| first.ends <= self.clock + ROUNDING);
        let Reverse(stream) = over.then(|| self.running.pop()).flatten()?;
        self.version = self.version.wrapping_add(1);
        Some((stream.job, stream.began))
    }

    /// When the next stream ends if none comes before, and the version that this holds for.
    pub(super) fn next(&self, now: Time, service: &Service) -> Option<(Time, u32)> {
        let Reverse(first) = self.running.peek()?;
        let left = (first.ends - self.clock).max(0.0) * service.token(self.running.len() as u32);
        // Rounded up, so that the clock has certainly got there.
        let left = std::time::Duration::from_secs_f64(left) + std::time::Duration::from_nanos(1);
        Some((now + left, self.version))
    }

    fn advance(&mut self, now: Time, service: &Service) {
        let streams = self.running.len() as u32;
        if streams > 0 {
            self.clock += now.since(self.at).as_secs_f64() / service.token(streams);
        }
        self.at = now;
    }
}

impl PartialEq for Stream {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Stream {}

impl PartialOrd for Stream {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Stream {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.ends.total_cmp(&other.ends).then(self.began.cmp(&other.began))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: f64) -> Time {
        Time::from(Duration::from_secs_f64(seconds))
    }

    fn job(tokens: f32) -> Job {
        Job { arrived: Time::ZERO, factor: 1.0, tokens }
    }

    #[test]
    fn streams_slow_each_other_down_while_they_are_together() {
        let service: Service = "0ms+100ms/token+100ms/stream".parse().unwrap();
        let mut streams = Streams::default();
        // Alone a token takes 200 ms, together 300 ms: 5 tokens by 1 s, then 10 at 300 ms until 4 s.
        streams.start(job(15.0), at(0.0), &service);
        streams.start(job(10.0), at(1.0), &service);
        let (next, version) = streams.next(at(1.0), &service).unwrap();
        assert!((next.since(Time::ZERO).as_secs_f64() - 4.0).abs() < 1e-3, "{next:?}");
        assert!(streams.is_current(version));
        assert_eq!(streams.end(at(2.0), &service), None);
        assert!(streams.end(next, &service).is_some() && streams.end(next, &service).is_some());
        assert_eq!(streams.next(next, &service), None);
        assert!(!streams.is_current(version));
    }

    #[test]
    fn the_first_token_takes_its_time() {
        let service: Service = "300ms+20ms/token".parse().unwrap();
        let mut streams = Streams::default();
        streams.start(job(10.0), at(0.0), &service);
        let (next, _) = streams.next(at(0.0), &service).unwrap();
        assert!((next.since(Time::ZERO).as_secs_f64() - 0.5).abs() < 1e-6, "{next:?}");
    }
}
