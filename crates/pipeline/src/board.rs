//! Who may be called next: the seats of all ready replicas, their health, and how many calls each may have.
//!
//! Seats are taken and given back with atomics, so that a request that needs no batching can go straight on;
//! the dispatch task takes them the same way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::Rng as _;
use tokio::{sync::Notify, time::Instant};

use crate::{
    health::{Health, Verdict},
    limit::Limit,
    replica::Replica,
};

/// A new replica's share of calls grows to the full over this time, where others can take the rest.
const SLOW_START: Duration = Duration::from_secs(10);

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
    in_flight: AtomicU32,
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
    learned: std::sync::Mutex<Learned>,
    waiting: Arc<Waiting>,
}

#[derive(Debug)]
struct Learned {
    health: Health,
    limit: Limit,
}

/// The right to have one call at a replica; given back on drop.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) seat: Arc<Seat>,
    /// Calls the replica had when this one was added, itself included.
    load: u32,
}

impl Slot {
    /// Learns from a call that was answered, `elapsed` after it was sent, where `expected` was predicted.
    pub(crate) fn succeeded(&self, elapsed: Duration, expected: Duration) {
        self.seat.succeeded(elapsed, expected, self.load.max(self.seat.in_flight()));
    }
}

impl Drop for Slot {
    /// Either this sees the request that waits, or the dispatch task sees the free seat when it takes that request
    /// in: both write first and look after that, in one order for all (`SeqCst`).
    fn drop(&mut self) {
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
    fn new(replica: Replica, limit: Limit, epoch: Instant, waiting: Arc<Waiting>) -> Self {
        Self {
            replica,
            in_flight: AtomicU32::new(0),
            limit: AtomicU32::new(limit.get()),
            ceiling: AtomicU32::new(limit.ceiling()),
            closed_until: AtomicU64::new(0),
            on_probation: AtomicBool::new(false),
            slowness: AtomicU64::new(1f64.to_bits()),
            epoch,
            completions: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            learned: std::sync::Mutex::new(Learned { health: Health::default(), limit }),
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
    fn eject(&self, now: Instant) -> Duration {
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

    fn allowed(&self, now: Instant, veterans: Veterans) -> u32 {
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
    fn sit(self: &Arc<Self>, allowed: u32) -> Option<Slot> {
        let take = |taken: u32| (taken < allowed).then_some(taken + 1);
        let before = self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).ok()?;
        Some(Slot { seat: Arc::clone(self), load: before + 1 })
    }

    fn is_ejected(&self, now: Instant) -> bool {
        self.is_on_probation() && self.is_closed(now)
    }

    fn publish(&self, limit: &Limit) {
        self.limit.store(limit.get(), Ordering::Relaxed);
        self.ceiling.store(limit.ceiling(), Ordering::Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Learned> {
        // Nothing in here panics while it is held; what a poisoned lock holds is still sound.
        self.learned.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Whether some replica is past its slow start, so that others may be spared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Veterans {
    Some,
    None,
}

/// The seats of all ready replicas; replaced as a whole when the set changes.
#[derive(Debug, Default)]
pub(crate) struct Board {
    pub(crate) seats: Vec<Arc<Seat>>,
}

impl Board {
    /// The board for `replicas`, keeping the seats of those that stay.
    pub(crate) fn follow(
        &self,
        replicas: Vec<Replica>,
        limit: &Limit,
        epoch: Instant,
        waiting: &Arc<Waiting>,
    ) -> Self {
        let seat_of = |replica: Replica| {
            let same = |seat: &&Arc<Seat>| {
                seat.replica.id == replica.id && seat.replica.ready_since == replica.ready_since
            };
            let kept = self.seats.iter().find(same).cloned();
            kept.unwrap_or_else(|| Arc::new(Seat::new(replica, limit.clone(), epoch, Arc::clone(waiting))))
        };
        Self { seats: replicas.into_iter().map(seat_of).collect() }
    }

    /// Starts every seat afresh with another limit: the way of dispatching changed.
    pub(crate) fn set_limit(&self, limit: &Limit) {
        for seat in &self.seats {
            seat.lock().limit = limit.clone();
            seat.publish(limit);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// Whether some replica would take a call now.
    pub(crate) fn has_room(&self, now: Instant) -> bool {
        let veterans = self.veterans(now);
        self.seats.iter().any(|seat| seat.in_flight() < seat.allowed(now, veterans))
    }

    /// Two replicas at random, the one with less to do; if both are full, any with room. `avoid` is left out
    /// while there is another that takes calls.
    pub(crate) fn pick(&self, now: Instant, avoid: Option<&str>) -> Option<Slot> {
        let veterans = self.veterans(now);
        if let [seat] = self.seats.as_slice() {
            return seat.sit(seat.allowed(now, veterans));
        }
        let avoid = self.avoidable(avoid, now);
        let fit = |seat: &&Arc<Seat>| {
            Some(&*seat.replica.id) != avoid && seat.in_flight() < seat.allowed(now, veterans)
        };
        let two = [self.random(), self.random()];
        let best = two.into_iter().flatten().filter(fit).min_by(|a, b| cost(a).total_cmp(&cost(b)));
        if let Some(slot) = best.and_then(|seat| seat.sit(seat.allowed(now, veterans))) {
            return Some(slot);
        }
        // Costs change while they are compared: each is read once.
        let mut others: Vec<(f64, &Arc<Seat>)> =
            self.seats.iter().filter(fit).map(|seat| (cost(seat), seat)).collect();
        others.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
        others.into_iter().find_map(|(_, seat)| seat.sit(seat.allowed(now, veterans)))
    }

    /// The replica with room that answers fastest: for whole batches, of which each has one at a time.
    pub(crate) fn pick_fastest(&self, now: Instant, avoid: Option<&str>) -> Option<Slot> {
        let veterans = self.veterans(now);
        let avoid = self.avoidable(avoid, now);
        let fit = |seat: &&Arc<Seat>| {
            Some(&*seat.replica.id) != avoid && seat.in_flight() < seat.allowed(now, veterans)
        };
        let mut free: Vec<&Arc<Seat>> = self.seats.iter().filter(fit).collect();
        // Replicas that differ by noise only take turns.
        let rank = |seat: &Arc<Seat>| (seat.slowness() * 4.0).round() as u64;
        free.sort_by_cached_key(|seat| (rank(seat), seat.completions.load(Ordering::Relaxed)));
        free.into_iter().find_map(|seat| seat.sit(seat.allowed(now, veterans)))
    }

    /// How many times longer than the average replica's the calls of this one take. What makes all of them slower
    /// is the model's, and never attributed to a replica.
    pub(crate) fn relative_slowness(&self, seat: &Seat) -> f64 {
        if self.seats.len() < 2 {
            return 1.0;
        }
        let mean = self.seats.iter().map(|seat| seat.slowness()).sum::<f64>() / self.seats.len() as f64;
        seat.slowness() / mean
    }

    /// Ejects a seat and says for how long; `None` if more than half of the replicas would be ejected then.
    pub(crate) fn eject(&self, seat: &Seat, now: Instant) -> Option<Duration> {
        let others = self.seats.iter().filter(|other| !std::ptr::eq(&***other, seat));
        let ejected = others.filter(|other| other.is_ejected(now)).count();
        (ejected < self.seats.len() / 2).then(|| seat.eject(now))
    }

    /// `avoid`, if another replica takes calls.
    fn avoidable<'a>(&self, avoid: Option<&'a str>, now: Instant) -> Option<&'a str> {
        avoid.filter(|id| self.seats.iter().any(|seat| *seat.replica.id != **id && !seat.is_closed(now)))
    }

    fn random(&self) -> Option<&Arc<Seat>> {
        self.seats.get(rand::rng().random_range(0..self.seats.len().max(1)))
    }

    fn veterans(&self, now: Instant) -> Veterans {
        let veteran = |seat: &Arc<Seat>| {
            now.saturating_duration_since(seat.replica.ready_since) >= SLOW_START && !seat.is_closed(now)
        };
        if self.seats.iter().any(veteran) { Veterans::Some } else { Veterans::None }
    }
}

/// What one more call would mean for a seat: how slow it is times how much it would have.
fn cost(seat: &Arc<Seat>) -> f64 {
    seat.slowness() * f64::from(seat.in_flight() + 1)
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;
    use tower::{service_fn, util::BoxCloneSyncService};

    use super::*;
    use crate::{Concurrency, error::CallError};

    fn board(seats: usize) -> Board {
        let replica = |id: usize| Replica {
            id: id.to_string().into(),
            upstream: BoxCloneSyncService::new(service_fn(|_| async { Err(CallError::NotSent) })),
            ready_since: Instant::now(),
            hold: TaskTracker::new().token(),
        };
        let limit = Limit::of(Concurrency::Fixed(4));
        let now = Instant::now();
        Board::default().follow((0..seats).map(replica).collect(), &limit, now, &Arc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_the_replicas_may_be_ejected_and_no_more() {
        for (seats, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
            let board = board(seats);
            let now = Instant::now();
            board.seats.iter().for_each(|seat| seat.cool_down(now));
            let ejected = board.seats.iter().filter(|seat| board.eject(seat, now).is_some()).count();
            assert_eq!(ejected, most, "of {seats}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_fail_together_are_one_failure_of_an_ejected_replica() {
        let board = board(2);
        let (seat, now) = (&board.seats[0], Instant::now());
        for _ in 0..32 {
            if seat.failed(now) == Verdict::Eject {
                board.eject(seat, now);
            }
        }
        assert!(seat.is_closed(now) && !seat.is_closed(now + Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_that_differ_by_noise_take_turns() {
        let board = board(2);
        let call = Duration::from_millis(100);
        let mut calls = [0, 0];
        for i in 0..100 {
            let slot = board.pick_fastest(Instant::now(), None).unwrap();
            let first = *slot.seat.replica.id == *"0";
            calls[usize::from(!first)] += 1;
            let noise = if first { 99 } else { 101 } + i % 2;
            slot.succeeded(Duration::from_millis(noise), call);
        }
        assert_eq!(calls, [50, 50]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_replica_is_preferred_only_while_there_is_one_that_takes_calls() {
        let board = board(2);
        let now = Instant::now();
        assert_eq!(&*board.pick(now, Some("0")).unwrap().seat.replica.id, "1");
        board.seats[1].cool_down(now);
        assert_eq!(&*board.pick(now, Some("0")).unwrap().seat.replica.id, "0");
        assert_eq!(&*board.pick_fastest(now, Some("0")).unwrap().seat.replica.id, "0");
    }
}
