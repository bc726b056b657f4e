//! One replica as the pipeline knows it: the calls it has, its health, and how many it may have.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    health::{Health, Verdict},
    latency::Latency,
    limit::Limit,
    replica::Replica,
};

/// A new replica's share of calls grows to the full over this time, where others can take the rest.
pub(super) const SLOW_START: Duration = Duration::from_secs(10);

/// The part of a replica's generations, one of so many, that those may always have who give way.
const ALWAYS: u32 = 8;

/// The number of the next replica; 0 is none's.
static NUMBERS: AtomicU32 = AtomicU32::new(1);

/// Who waits for a seat.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// Requests in the queue or on their way to it.
    pub(crate) requests: AtomicU64,
    /// Notified when a seat is given back while somebody waits.
    pub(crate) freed: Notify,
}

/// One ready replica with its state.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) replica: Replica,
    pub(super) number: u32,
    in_flight: AtomicU32,
    /// Tokens of the generations it has, estimated.
    work: AtomicU64,
    /// Generations it has of those who give way.
    giving_way: AtomicU32,
    /// When a piece of an answer last came from it, in milliseconds since `epoch`.
    progressed: AtomicU64,
    /// Calls it may have, as learned, and as of now: a little less while it is measured.
    limit: AtomicU32,
    ceiling: AtomicU32,
    /// Not to be called before this time, in milliseconds since `epoch`; 0: it may be called.
    closed_until: AtomicU64,
    /// Between being ejected and its first success: one call at a time.
    on_probation: AtomicBool,
    /// How many times longer than expected its calls take; the bits of an `f64`.
    slowness: AtomicU64,
    epoch: Instant,
    pub(crate) completions: AtomicU64,
    pub(crate) failures: AtomicU64,
    learned: std::sync::Mutex<Lessons>,
    waiting: Arc<Waiting>,
}

#[derive(Debug)]
pub(super) struct Lessons {
    health: Health,
    pub(super) limit: Limit,
}

/// The right to have one call at a replica; given back on drop.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) seat: Arc<Seat>,
    /// Calls the replica had when this one was added, itself included.
    load: u32,
    /// Tokens of the call, estimated.
    work: u64,
    /// It leaves places to others.
    gives_way: bool,
}

impl Slot {
    /// A slot for the same call, which may outlive this one.
    pub(crate) fn another(&self) -> Self {
        self.seat.in_flight.fetch_add(1, Ordering::SeqCst);
        let Self { load, work, gives_way, .. } = *self;
        Self { seat: Arc::clone(&self.seat), load, work: 0, gives_way: false }.generating(work, gives_way)
    }

    /// For a generation of so many tokens, of one who gives way or not.
    pub(super) fn generating(mut self, work: u64, gives_way: bool) -> Self {
        self.seat.work.fetch_add(work, Ordering::Relaxed);
        self.seat.giving_way.fetch_add(u32::from(gives_way), Ordering::Relaxed);
        (self.work, self.gives_way) = (work, gives_way);
        self
    }

    pub(crate) fn gives_way(&self) -> bool {
        self.gives_way
    }

    /// Calls the replica had when this one was added, itself included, and those it may have.
    pub(crate) fn load_of_limit(&self) -> (u32, u32) {
        (self.load, self.seat.limit())
    }

    /// A piece of the answer has come.
    pub(crate) fn progressed(&self, now: Instant) {
        self.seat.progressed.store(self.seat.millis(now), Ordering::Relaxed);
    }

    /// Learns from tokens that took `per_token` each, on a replica that had `load` generations meanwhile and is
    /// `relative` times slower than the average one.
    pub(crate) fn paced(&self, per_token: Duration, load: u32, relative: f64, line: &mut Latency) {
        let expected = line.expected(load);
        line.observe(load, per_token, relative);
        let mut learned = self.seat.lock();
        learned.health.paced(per_token, expected);
        let slowness = learned.health.slowness();
        self.seat.slowness.store(slowness.to_bits(), Ordering::Relaxed);
        learned.limit.paced(line, slowness, per_token, load);
        self.seat.publish(&learned.limit);
    }

    /// The first token of a generation has come, `elapsed` after it was sent.
    pub(crate) fn first_token(&self, elapsed: Duration) {
        let load = self.load.max(self.seat.in_flight());
        let mut learned = self.seat.lock();
        learned.limit.first_token(elapsed, load);
        self.seat.publish(&learned.limit);
    }

    /// Learns from a call that was answered, `elapsed` after it was sent, where `expected` was predicted.
    pub(crate) fn succeeded(&self, elapsed: Duration, expected: Duration) {
        self.seat.succeeded(elapsed, expected, self.load.max(self.seat.in_flight()));
    }
}

impl Drop for Slot {
    /// Either this sees the request that waits, or the dispatch task sees the free seat when it takes that request
    /// in: both write first and look after that, in one order for all (`SeqCst`).
    fn drop(&mut self) {
        self.seat.work.fetch_sub(self.work, Ordering::Relaxed);
        self.seat.giving_way.fetch_sub(u32::from(self.gives_way), Ordering::Relaxed);
        self.seat.in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.seat.waiting.requests.load(Ordering::SeqCst) > 0 {
            self.seat.waiting.freed.notify_one();
        }
    }
}

impl Waiting {
    /// Counts a request in, before it is sent to the queue. See [`Slot`]'s drop.
    pub(crate) fn enter(&self) {
        self.requests.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn leave(&self, requests: usize) {
        self.requests.fetch_sub(requests as u64, Ordering::AcqRel);
    }
}

impl Seat {
    pub(super) fn new(replica: Replica, limit: Limit, epoch: Instant, waiting: Arc<Waiting>) -> Self {
        Self {
            replica,
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            in_flight: AtomicU32::new(0),
            work: AtomicU64::new(0),
            giving_way: AtomicU32::new(0),
            progressed: AtomicU64::new(0),
            limit: AtomicU32::new(limit.get()),
            ceiling: AtomicU32::new(limit.ceiling()),
            closed_until: AtomicU64::new(0),
            on_probation: AtomicBool::new(false),
            slowness: AtomicU64::new(1f64.to_bits()),
            epoch,
            completions: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            learned: std::sync::Mutex::new(Lessons { health: Health::default(), limit }),
            waiting,
        }
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn is_closed(&self, now: Instant) -> bool {
        match self.closed_until.load(Ordering::Relaxed) {
            0 => false,
            until => now.saturating_duration_since(self.epoch) < Duration::from_millis(until),
        }
    }

    pub(crate) fn slowness(&self) -> f64 {
        f64::from_bits(self.slowness.load(Ordering::Relaxed))
    }

    pub(crate) fn is_on_probation(&self) -> bool {
        self.on_probation.load(Ordering::Relaxed)
    }

    /// `load`: the calls it had meanwhile.
    fn succeeded(&self, elapsed: Duration, expected: Duration, load: u32) {
        self.completions.fetch_add(1, Ordering::Relaxed);
        let mut learned = self.lock();
        learned.health.succeeded(elapsed, expected);
        self.slowness.store(learned.health.slowness().to_bits(), Ordering::Relaxed);
        learned.limit.succeeded(elapsed, load);
        self.publish(&learned.limit);
        drop(learned);
        if self.on_probation.swap(false, Ordering::Relaxed) {
            self.closed_until.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a failure that is the replica's own; says whether it should be ejected. Calls that fail while it is
    /// ejected began before.
    pub(crate) fn failed(&self, now: Instant) -> Verdict {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if self.is_ejected(now) { Verdict::Keep } else { self.lock().health.failed() }
    }

    /// It could not be reached, or broke off: takes no calls for a moment, even if it is the only one. Calls that
    /// break off together are one event.
    pub(crate) fn cool_down(&self, now: Instant) {
        if !self.is_closed(now) {
            let pause = self.lock().health.cool_down();
            self.pause(pause, now);
        }
    }

    /// Takes no calls for a while, which is returned, then one at a time until one succeeds.
    pub(super) fn eject(&self, now: Instant) -> Duration {
        let pause = self.lock().health.eject();
        self.pause(pause, now);
        self.on_probation.store(true, Ordering::Relaxed);
        pause
    }

    /// Takes no calls for `pause`.
    fn pause(&self, pause: Duration, now: Instant) {
        let until = now.saturating_duration_since(self.epoch) + pause;
        let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX).max(1);
        self.closed_until.fetch_max(until, Ordering::Relaxed);
    }

    /// The server said it is full: fewer calls at a time, none for `pause`.
    pub(crate) fn is_full(&self, pause: Duration, now: Instant) {
        let mut learned = self.lock();
        learned.limit.overloaded();
        self.publish(&learned.limit);
        drop(learned);
        self.pause(pause, now);
    }

    pub(super) fn allowed(&self, now: Instant, veterans: Veterans) -> u32 {
        if self.is_closed(now) {
            return 0;
        }
        if self.is_on_probation() {
            return 1;
        }
        let limit = self.ceiling.load(Ordering::Relaxed);
        let age = now.saturating_duration_since(self.replica.ready_since);
        if veterans == Veterans::None || age >= SLOW_START {
            return limit;
        }
        let share = age.as_secs_f64() / SLOW_START.as_secs_f64();
        ((f64::from(limit) * share) as u32).max(1)
    }

    /// Takes a seat if fewer than `allowed` are taken.
    pub(super) fn sit(self: &Arc<Self>, allowed: u32) -> Option<Slot> {
        let take = |taken: u32| (taken < allowed).then_some(taken + 1);
        let before = self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).ok()?;
        Some(Slot { seat: Arc::clone(self), load: before + 1, work: 0, gives_way: false })
    }

    /// Whether a piece of any answer has come from it within `window`.
    pub(crate) fn progressed_within(&self, window: Duration, now: Instant) -> bool {
        let since = self.millis(now).saturating_sub(self.progressed.load(Ordering::Relaxed));
        Duration::from_millis(since) < window
    }

    /// Generations it has of those who give way.
    pub(crate) fn giving_way(&self) -> u32 {
        self.giving_way.load(Ordering::Relaxed)
    }

    /// Of the `allowed` generations, up to how many those may fill it who may fill a `part` of its limit. A few of those
    /// who may not fill all of it always have a place.
    pub(super) fn left_to(&self, part: f64, allowed: u32) -> u32 {
        if part >= 1.0 || self.giving_way() < (allowed / ALWAYS).max(1) {
            return allowed;
        }
        allowed.min(((f64::from(self.limit()) * part) as u32).max(1))
    }

    /// Estimated tokens of the generations it has.
    pub(crate) fn work(&self) -> u64 {
        self.work.load(Ordering::Relaxed)
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.is_on_probation() && self.is_closed(now)
    }

    pub(super) fn publish(&self, limit: &Limit) {
        self.limit.store(limit.get(), Ordering::Relaxed);
        self.ceiling.store(limit.ceiling(), Ordering::Relaxed);
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Lessons> {
        // Nothing in here panics while it is held; what a poisoned lock holds is still sound.
        self.learned.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Whether some replica is past its slow start, so that others may be spared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Veterans {
    Some,
    None,
}
