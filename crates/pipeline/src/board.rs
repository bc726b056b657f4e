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
    limit: AtomicU32,
    /// Not to be called before this time, in milliseconds since `epoch`; 0: it may be called.
    closed_until: AtomicU64,
    /// Between being ejected and its first success: one call at a time.
    on_probation: AtomicBool,
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
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.seat.in_flight.fetch_sub(1, Ordering::AcqRel);
        if self.seat.waiting.requests.load(Ordering::Acquire) > 0 {
            self.seat.waiting.freed.notify_one();
        }
    }
}

impl Seat {
    fn new(replica: Replica, limit: Limit, epoch: Instant, waiting: Arc<Waiting>) -> Self {
        Self {
            replica,
            in_flight: AtomicU32::new(0),
            limit: AtomicU32::new(limit.get()),
            closed_until: AtomicU64::new(0),
            on_probation: AtomicBool::new(false),
            epoch,
            completions: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            learned: std::sync::Mutex::new(Learned { health: Health::default(), limit }),
            waiting,
        }
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
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
        self.lock().health.slowness()
    }

    /// Learns from a call that was answered, `elapsed` after it was sent, where `expected` was predicted.
    pub(crate) fn succeeded(&self, elapsed: Duration, expected: Duration) {
        self.completions.fetch_add(1, Ordering::Relaxed);
        let mut learned = self.lock();
        learned.health.succeeded(elapsed, expected);
        let in_flight = self.in_flight();
        learned.limit.succeeded(elapsed, in_flight);
        self.limit.store(learned.limit.get(), Ordering::Relaxed);
        drop(learned);
        if self.on_probation.swap(false, Ordering::Relaxed) {
            self.closed_until.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a failure that is the replica's own; says whether it should be ejected and for how long.
    pub(crate) fn failed(&self) -> Verdict {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.lock().health.failed()
    }

    /// Takes no calls for `pause`, then one at a time until one succeeds.
    pub(crate) fn close_for(&self, pause: Duration, now: Instant) {
        self.pause(pause, now);
        self.on_probation.store(true, Ordering::Relaxed);
    }

    /// Takes no calls for `pause`.
    pub(crate) fn pause(&self, pause: Duration, now: Instant) {
        let until = now.saturating_duration_since(self.epoch) + pause;
        let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX).max(1);
        self.closed_until.fetch_max(until, Ordering::Relaxed);
    }

    /// The server said it is full: fewer calls at a time, none for `pause`.
    pub(crate) fn is_full(&self, pause: Duration, now: Instant) {
        let mut learned = self.lock();
        learned.limit.overloaded();
        self.limit.store(learned.limit.get(), Ordering::Relaxed);
        drop(learned);
        self.pause(pause, now);
    }

    fn allowed(&self, now: Instant, veterans: Veterans) -> u32 {
        if self.is_closed(now) {
            return 0;
        }
        if self.on_probation.load(Ordering::Relaxed) {
            return 1;
        }
        let limit = self.limit();
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
        self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take).ok()?;
        Some(Slot { seat: Arc::clone(self) })
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
            seat.limit.store(limit.get(), Ordering::Relaxed);
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
    /// while there is another.
    pub(crate) fn pick(&self, now: Instant, avoid: Option<&str>) -> Option<Slot> {
        let veterans = self.veterans(now);
        let avoid = avoid.filter(|_| self.seats.len() > 1);
        let fit = |seat: &Arc<Seat>| {
            Some(&*seat.replica.id) != avoid && seat.in_flight() < seat.allowed(now, veterans)
        };
        if let [seat] = self.seats.as_slice() {
            return seat.sit(seat.allowed(now, veterans));
        }
        let two = [self.random(), self.random()];
        let best =
            two.into_iter().flatten().filter(|seat| fit(seat)).min_by(|a, b| cost(a).total_cmp(&cost(b)));
        if let Some(slot) = best.and_then(|seat| seat.sit(seat.allowed(now, veterans))) {
            return Some(slot);
        }
        let mut others: Vec<&Arc<Seat>> = self.seats.iter().filter(|seat| fit(seat)).collect();
        others.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
        others.into_iter().find_map(|seat| seat.sit(seat.allowed(now, veterans)))
    }

    /// The replica with room that answers fastest: for whole batches, of which each has one at a time.
    pub(crate) fn pick_fastest(&self, now: Instant, avoid: Option<&str>) -> Option<Slot> {
        let veterans = self.veterans(now);
        let avoid = avoid.filter(|_| self.seats.len() > 1);
        let fit = |seat: &&Arc<Seat>| {
            Some(&*seat.replica.id) != avoid && seat.in_flight() < seat.allowed(now, veterans)
        };
        let mut free: Vec<&Arc<Seat>> = self.seats.iter().filter(fit).collect();
        // Replicas that differ by noise only take turns.
        let rank = |seat: &Arc<Seat>| (seat.slowness() * 4.0) as u64;
        free.sort_by_cached_key(|seat| (rank(seat), seat.completions.load(Ordering::Relaxed)));
        free.into_iter().find_map(|seat| seat.sit(seat.allowed(now, veterans)))
    }

    /// Ejects a seat unless half of the replicas are ejected already.
    pub(crate) fn eject(&self, seat: &Seat, pause: Duration, now: Instant) -> bool {
        let closed = self.seats.iter().filter(|s| s.is_closed(now)).count();
        let may = closed < self.seats.len() / 2;
        if may {
            seat.close_for(pause, now);
        }
        may
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
