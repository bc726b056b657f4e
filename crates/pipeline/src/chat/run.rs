//! One generation under way: its place at a replica, kept until the last token, and what it teaches as it goes.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{Chat, Learned};
use crate::{
    attempt::{blame, fell_silent},
    board::Slot,
    error::CallError,
    request::Timings,
    shared::Shared,
};

/// After so many tokens, and at the end, the time they took is learned from.
const SEGMENT: u64 = 32;
/// A shorter rest says too little.
const SEGMENT_LEAST: u64 = 8;

/// Tokens of one call, as its model server counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub output_tokens: u64,
}

/// A generation whose answer has begun. Whoever hands the answer on tells it of what passes, and in the end how it
/// ended; one that is dropped before was left by its client. Its place at the replica is free then.
#[derive(Debug)]
pub struct Run {
    shared: Arc<Shared>,
    learned: Arc<Learned>,
    slot: Slot,
    /// Ends the drain of the pipeline.
    _running: TaskTrackerToken,
    arrived: Instant,
    /// When it was sent to the replica that answers.
    sent: Instant,
    streamed: bool,
    tokens: u64,
    first: Option<Instant>,
    last: Instant,
    segment: Segment,
    usage: Option<Usage>,
    work: u64,
    /// It missed one of its targets.
    late: bool,
    ended: bool,
}

/// Tokens since the pace was last learned from.
#[derive(Clone, Copy, Debug)]
struct Segment {
    since: Instant,
    tokens: u64,
    /// The sum, over its tokens, of the generations that the replica had as they came.
    load: u64,
}

impl Segment {
    fn begin(since: Instant) -> Self {
        Self { since, tokens: 0, load: 0 }
    }

    fn add(&mut self, tokens: u64, load: u32) {
        self.tokens += tokens;
        self.load += tokens * u64::from(load);
    }

    /// Generations at the replica, on average.
    fn mean_load(&self) -> u32 {
        u32::try_from((self.load + self.tokens / 2) / self.tokens.max(1)).unwrap_or(u32::MAX).max(1)
    }
}

impl Run {
    pub(crate) fn begin(
        shared: Arc<Shared>,
        slot: Slot,
        running: TaskTrackerToken,
        (arrived, timings): (Instant, &Timings),
        chat: &Chat,
    ) -> Option<Self> {
        let learned = Arc::clone(shared.chat.as_ref()?);
        let now = Instant::now();
        let work = learned.work(chat);
        learned.counts.streams.fetch_add(1, Ordering::Relaxed);
        learned.counts.tokens_in_flight.fetch_add(work, Ordering::Relaxed);
        shared.recorder.counts.in_flight_requests.fetch_add(1, Ordering::Relaxed);
        shared.recorder.counts.in_flight_rows.fetch_add(1, Ordering::Relaxed);
        Some(Self {
            slot,
            _running: running,
            arrived,
            sent: now.checked_sub(timings.upstream).unwrap_or(now),
            streamed: chat.is_streamed(),
            tokens: 0,
            first: None,
            last: now,
            segment: Segment::begin(now),
            usage: None,
            work,
            late: false,
            ended: false,
            learned,
            shared,
        })
    }

    /// `tokens` more have come from the replica at `now`.
    pub fn received(&mut self, tokens: u32, now: Instant) {
        self.last = now;
        self.slot.progressed(now);
        if tokens == 0 {
            return;
        }
        let tokens = u64::from(tokens);
        if self.first.is_none() {
            self.first = Some(now);
            self.begun(now);
            self.segment = Segment::begin(now);
            // The first of them began the clock.
            self.tokens = tokens;
            return;
        }
        self.tokens += tokens;
        self.segment.add(tokens, self.slot.seat.in_flight());
        if self.segment.tokens >= SEGMENT {
            self.learn_pace(now);
        }
    }

    fn begun(&mut self, now: Instant) {
        let elapsed = now - self.arrived;
        let at_replica = now - self.sent;
        self.late = self.learned.first_token(elapsed, at_replica);
        if self.slot.gives_way() || !self.streamed {
            return;
        }
        let (giving_way, _) = self.shared.board.load().giving_way();
        let load = self.slot.load_of_limit();
        self.learned.first_token_beside(giving_way, (elapsed, at_replica), load, now);
    }

    /// What the model server says it has counted.
    pub fn used(&mut self, usage: Usage) {
        self.usage = Some(usage);
    }

    /// The answer is complete, as far as the model server is concerned.
    pub fn completed(mut self) {
        let now = Instant::now();
        if self.segment.tokens >= SEGMENT_LEAST {
            self.learn_pace(self.last);
        }
        let output = self.usage.map_or(self.tokens, |usage| usage.output_tokens);
        let occupancy = now - self.sent;
        if self.streamed {
            if let (Some(first), 2..) = (self.first, output) {
                self.late |= self.learned.pace_of((self.last - first).div_f64((output - 1) as f64));
            }
        } else {
            self.learn_from_whole(output, occupancy);
        }
        self.learned.averages().ended(output, occupancy);
        self.end(Ending::Completed);
    }

    /// The model server broke off, or what it sent makes no sense.
    pub fn broke(mut self, error: &CallError) {
        blame(&self.shared, &self.slot.seat, error);
        self.learned.broken(error.cause());
        // What the engine holds against the client is neither a failure nor a miss.
        let is_refused = matches!(error, CallError::Refused { .. });
        self.end(if is_refused { Ending::Left } else { Ending::Broken });
    }

    /// The model server has sent nothing for too long, which is its fault.
    pub fn fell_silent(mut self) {
        fell_silent(&self.shared, &self.slot.seat);
        self.learned.broken("stalled");
        self.end(Ending::Broken);
    }

    /// The time for the whole of it is over.
    pub fn timed_out(mut self) {
        self.learned.broken("deadline");
        self.shared.recorder.deadline_missed();
        self.end(Ending::Broken);
    }

    /// From the arrival of the request to its first token.
    #[must_use]
    pub fn ttft(&self) -> Option<Duration> {
        self.first.map(|first| first - self.arrived)
    }

    /// An answer in one piece tells its pace by what is left of its time after a first token as usual.
    fn learn_from_whole(&mut self, output: u64, occupancy: Duration) {
        if output < SEGMENT_LEAST {
            return;
        }
        let first = self.shared.latency().expected(1).min(occupancy);
        self.segment.add(output - 1, self.slot.seat.in_flight());
        self.learn(occupancy - first);
    }

    fn learn_pace(&mut self, now: Instant) {
        self.learn(now - self.segment.since);
        self.segment = Segment::begin(now);
    }

    fn learn(&self, elapsed: Duration) {
        let per_token = elapsed.div_f64(self.segment.tokens.max(1) as f64);
        let relative = self.shared.board.load().relative_slowness(&self.slot.seat);
        let mut averages = self.learned.averages();
        self.slot.paced(per_token, self.segment.mean_load(), relative, &mut averages.line);
    }

    /// Counts the end, once.
    fn end(&mut self, ending: Ending) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let usage = self.usage.unwrap_or(Usage { prompt_tokens: 0, output_tokens: self.tokens });
        self.learned.used(usage);
        self.shared.count_run(ending, self.arrived.elapsed(), self.late);
        let counts = &self.learned.counts;
        counts.streams.fetch_sub(1, Ordering::Relaxed);
        counts.tokens_in_flight.fetch_sub(self.work, Ordering::Relaxed);
        self.shared.recorder.counts.in_flight_requests.fetch_sub(1, Ordering::Relaxed);
        self.shared.recorder.counts.in_flight_rows.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How a generation that had begun ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Completed,
    Broken,
    /// Its client left, or was told that it is to blame.
    Left,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.end(Ending::Left);
    }
}
