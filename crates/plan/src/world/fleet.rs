//! The replicas, from the wish to their end, and what they cost.

use std::{mem, time::Duration};

use autoscaler::{policy::Bounds, snapshot::Phase};
use pipeline::chat::limit;
use rand::{SeedableRng as _, rngs::StdRng};

use super::{
    Settings,
    calendar::{Calendar, Event},
    replica::{Job, Replica, Step, Streams},
    time::Time,
    tokens,
};
use crate::{service::Service, start::ColdStart};

/// How many replicas are how far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) ready: u32,
    pub(crate) starting: u32,
    pub(crate) draining: u32,
}

#[derive(Debug)]
pub(super) struct Fleet {
    all: Vec<Replica>,
    /// Those that are not gone, in the order of their creation.
    live: Vec<u32>,
    standing: Standing,
    /// Calls a replica has at a time.
    seats: u32,
    /// How many streams a new replica may have, where each finds out how many.
    limit: Option<limit::Streams>,
    wanted: u32,
    pub(super) initial: u32,
    cold_start: ColdStart,
    rng: StdRng,
    /// Replica time of those that are gone.
    past: Duration,
    /// Starts so far and their sum: what a gateway knows of the time a start takes.
    starts: (u32, Duration),
    bounds: Bounds,
    /// When the simulation is over: what comes after it costs nothing.
    ends: Time,
}

impl Fleet {
    pub(super) fn new(settings: &Settings, seed: u64, ends: Time) -> Self {
        Self {
            all: Vec::new(),
            live: Vec::new(),
            standing: Standing::default(),
            seats: if matches!(settings.service, Service::Batch { .. }) { 1 } else { settings.slots.max(1) },
            limit: tokens::limit(settings),
            wanted: 0,
            initial: 0,
            cold_start: settings.cold_start.clone(),
            rng: StdRng::seed_from_u64(seed ^ 0x0c01_d57a_2700_0000),
            past: Duration::ZERO,
            starts: (0, Duration::ZERO),
            bounds: settings.bounds,
            ends,
        }
    }

    /// `replicas` that are ready from the beginning.
    pub(super) fn begin(&mut self, replicas: u32) {
        self.wanted = replicas;
        self.initial = replicas;
        for _ in 0..replicas {
            let replica = self.create(Time::ZERO);
            self.ready(replica, Time::ZERO);
        }
    }

    /// The same before it began, with another number of replicas.
    pub(super) fn restarted(self, replicas: u32) -> Self {
        let mut fleet = Self { all: Vec::new(), live: Vec::new(), standing: Standing::default(), ..self };
        fleet.begin(replicas);
        fleet
    }

    pub(super) fn wanted(&self) -> u32 {
        self.wanted
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    pub(super) fn has_room(&self) -> bool {
        self.ready_live().any(|replica| self.has_seat(replica))
    }

    /// Most calls that a ready replica, or a new one, may have at a time.
    pub(super) fn seats(&self) -> u32 {
        let most = self.ready_live().map(|replica| self.seats_of(replica)).max();
        most.unwrap_or_else(|| self.limit.as_ref().map_or(self.seats, limit::Streams::get))
    }

    /// Calls that ready replicas may have together.
    pub(super) fn places(&self) -> u32 {
        self.ready_live().map(|replica| self.seats_of(replica)).sum()
    }

    /// How many streams a replica may have at a time, where that is found out.
    pub(super) fn limit(&mut self, index: u32) -> Option<&mut limit::Streams> {
        self.all.get_mut(index as usize)?.limit.as_mut()
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &Replica> {
        self.live.iter().filter_map(|index| self.all.get(*index as usize))
    }

    /// When the first of those that start should be ready, by the mean of the starts that were seen.
    pub(super) fn eta(&self, now: Time) -> Option<Time> {
        let (count, sum) = self.starts;
        let mean = sum.checked_div(count)?;
        let created = self.live().find(|replica| replica.phase == Some(Phase::Starting))?.created;
        Some((created + mean).max(now))
    }

    /// The ready replica with room that has least to do.
    pub(super) fn pick(&self) -> Option<u32> {
        let free = self.live.iter().filter_map(|index| {
            let replica = self.all.get(*index as usize)?;
            (replica.phase == Some(Phase::Ready) && self.has_seat(replica))
                .then_some((replica.in_flight, *index))
        });
        free.min().map(|(_, index)| index)
    }

    /// Begins one call of `requests` on a replica.
    pub(super) fn enter(&mut self, index: u32, requests: u32) {
        if let Some(replica) = self.all.get_mut(index as usize) {
            replica.in_flight += requests;
            replica.served += u64::from(requests);
        }
    }

    /// Ends a call of one request.
    pub(super) fn leave(&mut self, index: u32, now: Time) {
        self.end_call(index, 1, now);
    }

    /// Ends the call of a whole batch.
    pub(super) fn leave_all(&mut self, index: u32, now: Time) {
        let requests = self.all.get(index as usize).map_or(0, |replica| replica.in_flight);
        self.end_call(index, requests, now);
    }

    fn end_call(&mut self, index: u32, requests: u32, now: Time) {
        let Some(replica) = self.all.get_mut(index as usize) else { return };
        replica.in_flight -= requests;
        if replica.phase == Some(Phase::Draining) && replica.in_flight == 0 {
            self.end(index, now);
        }
    }

    pub(super) fn take_batch(&mut self, index: u32) -> Vec<Job> {
        self.all.get_mut(index as usize).map(|replica| mem::take(&mut replica.batch)).unwrap_or_default()
    }

    pub(super) fn put_batch(&mut self, index: u32, batch: Vec<Job>) {
        if let Some(replica) = self.all.get_mut(index as usize) {
            replica.batch = batch;
        }
    }

    pub(super) fn began(&mut self, index: u32, now: Time) {
        if let Some(replica) = self.all.get_mut(index as usize) {
            replica.began = now;
        }
    }

    pub(super) fn begun(&self, index: u32) -> Time {
        self.all.get(index as usize).map_or(Time::ZERO, |replica| replica.began)
    }

    pub(super) fn start_stream(
        &mut self,
        index: u32,
        job: Job,
        watched: bool,
        now: Time,
        service: &Service,
    ) -> Option<(Time, u32)> {
        let streams = self.streams(index)?;
        streams.start(job, watched, now, service);
        streams.next(now, service)
    }

    pub(super) fn step_stream(&mut self, index: u32, now: Time, service: &Service) -> Option<Step> {
        self.streams(index)?.step(now, service)
    }

    pub(super) fn next_stream(&mut self, index: u32, now: Time, service: &Service) -> Option<(Time, u32)> {
        self.streams(index)?.next(now, service)
    }

    pub(super) fn is_current(&self, index: u32, version: u32) -> bool {
        self.all.get(index as usize).is_some_and(|replica| replica.streams.is_current(version))
    }

    fn streams(&mut self, index: u32) -> Option<&mut Streams> {
        self.all.get_mut(index as usize).map(|replica| &mut replica.streams)
    }

    /// A start has come to its end; `false` if the replica was not waited for.
    pub(super) fn become_ready(&mut self, index: u32, now: Time) -> bool {
        let starting = self.all.get(index as usize).filter(|replica| replica.phase == Some(Phase::Starting));
        let Some(created) = starting.map(|replica| replica.created) else { return false };
        self.starts = (self.starts.0 + 1, self.starts.1 + now.since(created));
        self.ready(index, now);
        true
    }

    /// Changes the wish, and says how many replicas go that have served nobody.
    pub(super) fn scale(&mut self, to: u32, now: Time, calendar: &mut Calendar) -> u32 {
        let to = to.min(self.bounds.max);
        self.wanted = to;
        let staying = self.standing.ready + self.standing.starting;
        for _ in staying..to {
            let index = self.create(now);
            let start = self.cold_start.draw(&mut self.rng);
            calendar.push(now + start, Event::Ready { replica: index });
        }
        (to..staying).map(|_| u32::from(self.dismiss(now))).sum()
    }

    /// Replica time of all that ever were.
    pub(super) fn time(&self) -> Duration {
        self.past + self.live().map(|replica| self.ends.since(replica.created)).sum::<Duration>()
    }

    fn create(&mut self, now: Time) -> u32 {
        let index = self.all.len() as u32;
        self.all.push(Replica {
            id: format!("r{index}").into(),
            phase: Some(Phase::Starting),
            created: now,
            ready_since: None,
            in_flight: 0,
            served: 0,
            batch: Vec::new(),
            began: now,
            streams: Streams::default(),
            limit: self.limit.clone(),
        });
        self.live.push(index);
        self.standing.starting += 1;
        index
    }

    fn ready(&mut self, index: u32, now: Time) {
        let Some(replica) = self.all.get_mut(index as usize) else { return };
        replica.phase = Some(Phase::Ready);
        replica.ready_since = Some(now);
        self.standing.starting -= 1;
        self.standing.ready += 1;
    }

    /// Lets one go: the youngest that starts, else the ready one with least to do, of equals the youngest. `true`
    /// if it has served nobody.
    fn dismiss(&mut self, now: Time) -> bool {
        let rank = |replica: &Replica| match replica.phase {
            Some(Phase::Starting) => Some(0),
            Some(Phase::Ready) => Some(1 + replica.in_flight),
            _ => None,
        };
        let ranked = self.live.iter().rev().filter_map(|index| {
            let replica = self.all.get(*index as usize)?;
            Some((rank(replica)?, *index))
        });
        let Some((_, index)) = ranked.min_by_key(|(rank, _)| *rank) else { return false };
        let Some(replica) = self.all.get_mut(index as usize) else { return false };
        let (starting, unused) = (replica.phase == Some(Phase::Starting), replica.served == 0);
        replica.phase = Some(Phase::Draining);
        let idle = replica.in_flight == 0;
        self.standing.draining += 1;
        if starting {
            self.standing.starting -= 1;
        } else {
            self.standing.ready -= 1;
        }
        if idle {
            self.end(index, now);
        }
        unused
    }

    fn end(&mut self, index: u32, now: Time) {
        let Some(replica) = self.all.get_mut(index as usize) else { return };
        replica.phase = None;
        self.past += now.min(self.ends).since(replica.created);
        self.standing.draining -= 1;
        self.live.retain(|live| *live != index);
    }

    fn ready_live(&self) -> impl Iterator<Item = &Replica> {
        self.live().filter(|replica| replica.phase == Some(Phase::Ready))
    }

    fn seats_of(&self, replica: &Replica) -> u32 {
        replica.limit.as_ref().map_or(self.seats, limit::Streams::get)
    }

    /// A batch is one call, whatever its requests, on a replica that has one at a time.
    fn has_seat(&self, replica: &Replica) -> bool {
        replica.in_flight < self.seats_of(replica)
    }
}
