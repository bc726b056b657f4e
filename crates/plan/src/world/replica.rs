//! One replica: how far it is, and what it works on.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, time::Duration};

use autoscaler::snapshot::Phase;
use pipeline::chat::limit;

use super::time::Time;
use crate::service::Service;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) arrived: Time,
    /// How many times longer than the mean its call takes.
    pub(crate) factor: f32,
    /// Tokens of its prompt.
    pub(crate) prompt: u32,
    /// Tokens of its answer.
    pub(crate) tokens: f32,
    /// No replica was ready when it came.
    pub(crate) cold: bool,
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
    /// How many it may have at a time; `None`: as many as all.
    pub(super) limit: Option<limit::Streams>,
}

/// Streams that share a replica: each gets its tokens at the same pace, which depends on how many there are. So one
/// clock, in tokens, serves all of them.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Tokens that a stream would have got that was there from the beginning, as of `at`.
    clock: f64,
    at: Time,
    /// The sum, over those tokens, of the streams there were.
    load: f64,
    /// By the reading of the clock at which something happens to them.
    running: BinaryHeap<Reverse<Stream>>,
    /// Counts whenever a stream comes or goes, which changes when the next one ends.
    version: u32,
}

#[derive(Debug)]
struct Stream {
    due: f64,
    began: Time,
    stage: Stage,
    job: Job,
}

/// What is due.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The end, and its first token is not told apart.
    Whole,
    /// Its first token. So many streams there were as it came, itself included.
    First { load: u32 },
    /// Some of the tokens after the first, or all that were left at `ends` on the clock.
    Rest { first: Mark, segment: Mark, ends: f64 },
}

/// A moment, and what the replica's clock and load read then.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Time,
    clock: f64,
    load: f64,
}

/// What happens to a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    /// Its first token comes. It was sent at `since`, and the replica has had up to `load` streams meanwhile.
    Began {
        job: Job,
        since: Time,
        load: u32,
    },
    /// Some more of its tokens have come.
    Paced(Pace),
    Ended(Ended),
}

/// The end of a stream that was sent at `began`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) job: Job,
    pub(super) began: Time,
    /// `None` where its first token is not told apart.
    pub(super) rest: Option<Rest>,
}

/// The tokens after the first, which came at `since`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rest {
    pub(super) since: Time,
    pub(super) pace: Pace,
    /// Of the last of them, where these are enough to learn from.
    pub(super) last: Option<Pace>,
}

/// How fast tokens came, and beside how many streams, on average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pace {
    pub(super) per_token: Duration,
    pub(super) load: u32,
}

/// The gateway learns from the pace of so many tokens at a time, and from a rest of so many at least, as
/// `pipeline::chat::run`.
const SEGMENT: f64 = 32.0;
const SEGMENT_LEAST: f64 = 8.0;
/// Readings that differ by less are the same.
const ROUNDING: f64 = 1e-6;
/// A pace is told in microseconds: events are rounded up to nanoseconds.
const MICROS: f64 = 1e6;

impl Streams {
    pub(super) fn is_current(&self, version: u32) -> bool {
        self.version == version
    }

    /// The time until the first token counts as the tokens that could be made in it at the pace of the moment. That
    /// token is told apart where it is `watched`.
    pub(super) fn start(&mut self, job: Job, watched: bool, now: Time, service: &Service) {
        self.advance(now, service);
        let load = self.running.len() as u32 + 1;
        let first = self.clock + service.first_token(f64::from(job.prompt)) / service.token(load);
        let (due, stage) = match watched {
            true => (first, Stage::First { load }),
            false => (first + f64::from(job.tokens), Stage::Whole),
        };
        self.running.push(Reverse(Stream { due, began: now, stage, job }));
        self.version = self.version.wrapping_add(1);
    }

    /// What has happened to a stream by `now`.
    pub(super) fn step(&mut self, now: Time, service: &Service) -> Option<Step> {
        self.advance(now, service);
        let over = self.running.peek().is_some_and(|Reverse(first)| first.due <= self.clock + ROUNDING);
        let Reverse(stream) = over.then(|| self.running.pop()).flatten()?;
        self.version = self.version.wrapping_add(1);
        let Stream { due, began, stage, job } = stream;
        let ended = |rest| Some(Step::Ended(Ended { job, began, rest }));
        match stage {
            Stage::Whole => ended(None),
            Stage::First { load } => {
                let mark = self.mark();
                self.rest(Stream {
                    stage: Stage::Rest { first: mark, segment: mark, ends: due + f64::from(job.tokens) },
                    ..stream
                });
                Some(Step::Began { job, since: began, load: load.max(self.running.len() as u32) })
            }
            Stage::Rest { first, segment, ends } if due < ends => {
                let stage = Stage::Rest { first, segment: self.mark(), ends };
                self.rest(Stream { stage, ..stream });
                Some(Step::Paced(self.pace_since(&segment)))
            }
            Stage::Rest { first, segment, .. } => {
                let enough = self.clock - segment.clock >= SEGMENT_LEAST - ROUNDING;
                let last = enough.then(|| self.pace_since(&segment));
                ended(Some(Rest { since: first.at, pace: self.pace_since(&first), last }))
            }
        }
    }

    /// Goes on with a stream until enough tokens have come to learn from.
    fn rest(&mut self, mut stream: Stream) {
        if let Stage::Rest { segment, ends, .. } = &stream.stage {
            stream.due = ends.min(segment.clock + SEGMENT);
        }
        self.running.push(Reverse(stream));
    }

    fn mark(&self) -> Mark {
        Mark { at: self.at, clock: self.clock, load: self.load }
    }

    /// How fast tokens came since then; there was one at least.
    fn pace_since(&self, mark: &Mark) -> Pace {
        let tokens = (self.clock - mark.clock).max(1.0);
        let micros = self.at.since(mark.at).as_secs_f64() / tokens * MICROS;
        Pace {
            per_token: Duration::from_micros(micros.round() as u64),
            load: (((self.load - mark.load) / tokens).round() as u32).max(1),
        }
    }

    /// When something happens to a stream if none comes before, and the version that this holds for.
    pub(super) fn next(&self, now: Time, service: &Service) -> Option<(Time, u32)> {
        let Reverse(first) = self.running.peek()?;
        let left = (first.due - self.clock).max(0.0) * service.token(self.running.len() as u32);
        // Rounded up, so that the clock has certainly got there.
        let left = Duration::from_secs_f64(left) + Duration::from_nanos(1);
        Some((now + left, self.version))
    }

    fn advance(&mut self, now: Time, service: &Service) {
        let streams = self.running.len() as u32;
        if streams > 0 {
            let tokens = now.since(self.at).as_secs_f64() / service.token(streams);
            self.clock += tokens;
            self.load += tokens * f64::from(streams);
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
        self.due.total_cmp(&other.due).then(self.began.cmp(&other.began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Time {
        Time::from(Duration::from_secs_f64(seconds))
    }

    fn job(tokens: f32) -> Job {
        Job { arrived: Time::ZERO, factor: 1.0, prompt: 500, tokens, cold: false }
    }

    #[test]
    fn streams_slow_each_other_down_while_they_are_together() {
        let service: Service = "0ms+100ms/token+100ms/stream".parse().unwrap();
        let mut streams = Streams::default();
        // Alone a token takes 200 ms, together 300 ms: 5 tokens by 1 s, then 10 at 300 ms until 4 s.
        streams.start(job(15.0), false, at(0.0), &service);
        streams.start(job(10.0), false, at(1.0), &service);
        let (next, version) = streams.next(at(1.0), &service).unwrap();
        assert!((next.since(Time::ZERO).as_secs_f64() - 4.0).abs() < 1e-3, "{next:?}");
        assert!(streams.is_current(version));
        assert_eq!(streams.step(at(2.0), &service), None);
        assert!(streams.step(next, &service).is_some() && streams.step(next, &service).is_some());
        assert_eq!(streams.next(next, &service), None);
        assert!(!streams.is_current(version));
    }

    #[test]
    fn the_first_token_takes_its_time() {
        let service: Service = "300ms+20ms/token".parse().unwrap();
        let mut streams = Streams::default();
        streams.start(job(10.0), false, at(0.0), &service);
        let (next, _) = streams.next(at(0.0), &service).unwrap();
        assert!((next.since(Time::ZERO).as_secs_f64() - 0.5).abs() < 1e-6, "{next:?}");
        let service: Service = "100ms+1ms/prompt+20ms/token".parse().unwrap();
        let mut streams = Streams::default();
        streams.start(job(10.0), true, at(0.0), &service);
        let (next, _) = streams.next(at(0.0), &service).unwrap();
        assert!((next.since(Time::ZERO).as_secs_f64() - 0.6).abs() < 1e-6, "{next:?}");
    }

    #[test]
    fn a_watched_stream_tells_its_first_token_and_the_pace_of_the_others() {
        let service: Service = "300ms+10ms/token+10ms/stream".parse().unwrap();
        let mut streams = Streams::default();
        // 20 ms a token alone: the first one after 0.3 s, 10 more by 0.5 s.
        streams.start(job(10.0), true, at(0.0), &service);
        let (next, version) = streams.next(at(0.0), &service).unwrap();
        assert_eq!(next.since(Time::ZERO).as_millis(), 300);
        let Some(Step::Began { since, load, .. }) = streams.step(next, &service) else { panic!("no token") };
        assert_eq!((since, load), (Time::ZERO, 1));
        assert!(!streams.is_current(version));
        // From 0.4 s on there are two: 5 tokens at 20 ms and 5 at 30 ms.
        streams.start(job(100.0), true, at(0.4), &service);
        let (next, _) = streams.next(at(0.4), &service).unwrap();
        assert_eq!(next.since(Time::ZERO).as_millis(), 550);
        let Some(Step::Ended(ended)) = streams.step(next, &service) else { panic!("no end") };
        let rest = ended.rest.unwrap();
        let pace = Pace { per_token: Duration::from_millis(25), load: 2 };
        assert_eq!((ended.began, rest.pace, rest.last), (Time::ZERO, pace, Some(pace)));
        // The other one is alone again, and tells of its pace as it goes.
        let (mut told, mut now) = (Vec::new(), next);
        while let Some((next, _)) = streams.next(now, &service) {
            told.extend(streams.step(next, &service));
            now = next;
        }
        let paces = told.iter().filter(|step| matches!(step, Step::Paced(Pace { load: 1, .. }))).count();
        assert!(matches!(told[0], Step::Began { load: 2, .. }) && told.len() == 5, "{told:?}");
        assert_eq!(paces, 3, "{told:?}");
        let Some(Step::Ended(Ended { rest: Some(rest), .. })) = told.last() else {
            panic!("no end: {told:?}")
        };
        assert_eq!((rest.pace.per_token.as_millis(), rest.last), (20, None));
    }
}
