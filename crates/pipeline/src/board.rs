//! Who may be called next: the seats of all ready replicas.
//!
//! Seats are taken and given back with atomics, so that a request that needs no batching can go straight on;
//! the dispatch task takes them the same way.

mod seat;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rand::Rng as _;
use tokio::time::Instant;

use self::seat::{SLOW_START, Veterans};
pub(crate) use self::seat::{Seat, Slot, Waiting};
use crate::{
    chat::{Chat, Courtesy, Learned},
    limit::Limit,
    replica::Replica,
};

/// The part of a replica's limit below which it may have more to do than others and still be preferred for what it has
/// in its cache, unless it is as slow as this.
const LEISURE: f64 = 0.5;
const SLOW: f64 = 1.5;

/// Differences of slowness, in calls, that are no reason to give up what a replica has in its cache.
const SLOWNESS_NOISE: f64 = 0.5;

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

    /// Calls that all replicas which take calls may have.
    pub(crate) fn places(&self, now: Instant) -> u32 {
        self.seats.iter().filter(|seat| !seat.is_closed(now)).map(|seat| seat.limit()).sum()
    }

    /// Generations under way of those who give way, and all calls under way.
    pub(crate) fn giving_way(&self) -> (u32, u32) {
        let both = self.seats.iter().map(|seat| (seat.giving_way(), seat.in_flight()));
        both.fold((0, 0), |(yielding, all), (more, calls)| (yielding + more, all + calls))
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

    /// The replica for a generation: the one that knows most of its prompt among those that are not much busier than
    /// the average, else the one with the least to do.
    pub(crate) fn pick_for_chat(
        &self,
        now: Instant,
        avoid: Option<&str>,
        (chat, courtesy): (&Chat, Courtesy),
        learned: &Learned,
    ) -> Option<Slot> {
        let veterans = self.veterans(now);
        let avoid = self.avoidable(avoid, now);
        let part = learned.yielding().get(courtesy, now);
        let allowed = |seat: &Arc<Seat>| seat.left_to(part, seat.allowed(now, veterans));
        let fit = |seat: &&Arc<Seat>| Some(&*seat.replica.id) != avoid && seat.in_flight() < allowed(seat);
        let work = learned.work(chat);
        let mut table = learned.config.prefix_affinity.then(|| learned.table());
        let kept = table.as_ref().and_then(|table| {
            let most = self.busy_at_most(learned.config.load_factor);
            table.find(&chat.affinity, |numbers| {
                let of = |number: &u32| self.seats.iter().find(|seat| seat.number == *number);
                let known = numbers.iter().filter_map(of).filter(fit);
                let free = |seat: &&Arc<Seat>| has_leisure(seat) || busyness(seat) <= most;
                known.filter(free).find_map(|seat| seat.sit(allowed(seat)))
            })
        });
        let slot = kept.or_else(|| {
            let load = |seat: &Arc<Seat>| seat.slowness() * (seat.work() + work) as f64;
            let mut free: Vec<(f64, &Arc<Seat>)> =
                self.seats.iter().filter(fit).map(|seat| (load(seat), seat)).collect();
            free.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
            free.into_iter().find_map(|(_, seat)| seat.sit(allowed(seat)))
        })?;
        if let Some(table) = &mut table {
            table.went_to(&chat.affinity, slot.seat.number);
        }
        Some(slot.generating(work, courtesy != Courtesy::None))
    }

    /// How busy a replica may be and still be preferred for what it has in its cache: `factor` times the mean, as in
    /// consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018).
    fn busy_at_most(&self, factor: f64) -> f64 {
        let calls: u32 = self.seats.iter().map(|seat| seat.in_flight()).sum();
        (factor * f64::from(calls + 1) / self.seats.len().max(1) as f64).ceil() + SLOWNESS_NOISE
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

/// Whether a replica has so little to do that, though others have less, one more call does not matter to it.
fn has_leisure(seat: &Arc<Seat>) -> bool {
    seat.slowness() < SLOW && f64::from(seat.in_flight()) < f64::from(seat.limit()) * LEISURE
}

/// How busy one more call would make a replica, in calls of one that is as fast as the others.
fn busyness(seat: &Arc<Seat>) -> f64 {
    let rounded = (seat.slowness() * 4.0).round() / 4.0;
    rounded * f64::from(seat.in_flight() + 1)
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
    use crate::{Concurrency, error::CallError, health::Verdict};

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
