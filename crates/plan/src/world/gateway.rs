//! What the gateway does with a request: the rules of `pipeline::dispatch`, in virtual time.

use std::{collections::VecDeque, time::Duration};

use autoscaler::snapshot::{Counters, Gauges, LatencyModel};
use pipeline::{
    arrivals::Rate,
    batch::{self, Situation, stretched},
    latency::Latency,
};
use tokio::time::Instant;

use super::{
    Settings,
    fleet::{Fleet, Standing},
    judged::Outcomes,
    replica::Job,
    time::Time,
    tokens::Tokens,
};
use crate::service::Service;

#[derive(Debug)]
pub(super) struct Gateway {
    /// By arrival, which is by deadline.
    queue: VecDeque<Job>,
    pub(super) in_flight: u64,
    pub(super) counters: Counters,
    /// Of whole answers, or of first tokens where these are judged.
    pub(super) latency: Latency,
    /// `None` where whole answers are judged.
    pub(super) tokens: Option<Tokens>,
    /// Until when a batch is held.
    pub(super) timer: Option<Time>,
    rate: Rate,
    /// Stands for the beginning where functions of the pipeline want a point in time: any will do.
    origin: Instant,
    rules: Rules,
}

#[derive(Debug)]
struct Rules {
    /// When a request must have its answer, or its first token where these are judged.
    deadline: Duration,
    /// When it must have all of it.
    whole: Duration,
    cold_start_timeout: Duration,
    queue: usize,
    max_hold: Duration,
    slo: Duration,
    /// Most rows of one call; `None` where nothing is merged.
    rows: Option<u32>,
}

/// What to do while a replica is free and requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Wait(Time),
    Send(u32),
}

impl Gateway {
    pub(super) fn new(settings: &Settings) -> Self {
        let origin = Instant::now();
        let rows = match settings.service {
            Service::Batch { rows, .. } => Some(rows),
            Service::Single { .. } | Service::Chat { .. } => None,
        };
        Self {
            queue: VecDeque::new(),
            in_flight: 0,
            counters: Counters::default(),
            latency: Latency::default(),
            tokens: Tokens::new(settings),
            timer: None,
            rate: Rate::new(origin),
            origin,
            rules: Rules {
                deadline: settings
                    .tokens
                    .map_or(settings.deadline, |tokens| tokens.first_token.min(settings.deadline)),
                whole: settings.deadline,
                cold_start_timeout: settings.cold_start_timeout,
                queue: settings.queue as usize,
                max_hold: settings.max_hold,
                slo: settings.slo.target,
                rows,
            },
        }
    }

    pub(super) fn queued(&self) -> u64 {
        self.queue.len() as u64
    }

    /// Takes a request in, or says how it ends: refused.
    pub(super) fn admit(
        &mut self,
        mut job: Job,
        now: Time,
        standing: &Standing,
        fleet: &Fleet,
    ) -> Result<(), Outcomes> {
        self.counters.arrivals += 1;
        self.counters.arrival_rows += 1;
        self.counters.arrival_work += self.latency.expected(1);
        if self.rules.rows.is_some() {
            self.rate.record(1, self.instant(now));
        }
        let deadline = job.arrived + self.rules.deadline;
        let in_time = if standing.ready == 0 {
            self.counters.held_cold += 1;
            job.cold = true;
            fleet.eta(now).is_none_or(|eta| eta <= deadline)
        } else {
            self.is_in_time(&job, now, standing.ready, fleet)
        };
        if !in_time || self.queue.len() >= self.rules.queue {
            return Err(Outcomes::Shed);
        }
        self.queue.push_back(job);
        Ok(())
    }

    /// Whether wait and call are predicted, with a margin, to end before the deadline.
    fn is_in_time(&self, job: &Job, now: Time, replicas: u32, fleet: &Fleet) -> bool {
        if !self.latency.trusted() || (self.queue.is_empty() && fleet.has_room()) {
            return true;
        }
        if let Some(tokens) = &self.tokens {
            // A replica has many at a time, of which one ends soon.
            let wait = tokens.wait(self.queued() + 1, fleet.places());
            return wait.is_none_or(|wait| !self.is_too_much(job, tokens, now, wait, wait));
        }
        let (rows, calls) = match self.rules.rows {
            Some(most) => (self.latency.rows_per_call(self.rules.slo, most), f64::from(replicas)),
            None => (1, f64::from(replicas) * f64::from(fleet.seats())),
        };
        let seconds = self.latency.expected(rows).as_secs_f64();
        if seconds <= 0.0 {
            return true;
        }
        let rate = calls * f64::from(rows) / seconds;
        let last = self.latency.p95(rows.min((self.queue.len() as u32).max(1)));
        let ahead = self.queue.len() as u64 + self.in_flight / 2;
        now + stretched(Duration::from_secs_f64(ahead as f64 / rate) + last)
            <= job.arrived + self.rules.deadline
    }

    /// The first one waiting, if it waits no longer: past its deadline, or for `none` to start for too long.
    pub(super) fn expired(&mut self, now: Time, none: bool) -> Option<(Job, Outcomes)> {
        let job = *self.queue.front()?;
        let outcome = if now >= job.arrived + self.rules.deadline {
            Outcomes::TimedOut
        } else if none && now >= job.arrived + self.rules.cold_start_timeout {
            Outcomes::Shed
        } else {
            return None;
        };
        self.queue.pop_front();
        Some((job, outcome))
    }

    /// The first one waiting, if it would not be answered in time; alone it is tried all the same.
    pub(super) fn doomed(&mut self, now: Time) -> Option<(Job, Outcomes)> {
        let job = *self.queue.front()?;
        let deadline = job.arrived + self.rules.deadline;
        let predicts = self.latency.trusted() && self.queue.len() > 1;
        if let Some(tokens) = self.tokens.as_ref().filter(|_| predicts) {
            let waited = if job.cold { Duration::ZERO } else { now.since(job.arrived) };
            if now < deadline && !self.is_too_much(&job, tokens, now, Duration::ZERO, waited) {
                return None;
            }
            self.queue.pop_front();
            return Some((job, if now >= deadline { Outcomes::TimedOut } else { Outcomes::Shed }));
        }
        let needs = if predicts { stretched(self.latency.p95(1)) } else { Duration::ZERO };
        if now + needs < deadline {
            return None;
        }
        self.queue.pop_front();
        Some((job, if now >= deadline { Outcomes::TimedOut } else { Outcomes::Shed }))
    }

    /// Whether a stream that is sent after `wait`, and will have waited for `waited` then, comes to no good end.
    fn is_too_much(&self, job: &Job, tokens: &Tokens, now: Time, wait: Duration, waited: Duration) -> bool {
        let (answer, end) = tokens.needs(&self.latency, job.prompt);
        let start = now + wait;
        start + answer >= job.arrived + self.rules.deadline
            || start + end >= job.arrived + self.rules.whole
            || tokens.patience(answer).is_some_and(|patience| waited > patience)
    }

    pub(super) fn plan(&self, now: Time, replicas: u32) -> Plan {
        let (Some(max_rows), Some(oldest)) = (self.rules.rows, self.queue.front()) else {
            return Plan::Send(1);
        };
        let instant = self.instant(now);
        let planned = batch::plan(&Situation {
            now: instant,
            queued_rows: self.queued(),
            oldest: self.instant(oldest.arrived),
            earliest_deadline: self.instant(oldest.arrived + self.rules.deadline),
            arrival_rate: self.rate.get(instant),
            replicas,
            max_rows,
            max_hold: self.rules.max_hold,
            slo: self.rules.slo,
            latency: &self.latency,
        });
        match planned {
            batch::Plan::Wait(until) => Plan::Wait(now + until.saturating_duration_since(instant)),
            batch::Plan::Flush(rows) => Plan::Send(rows),
        }
    }

    pub(super) fn take(&mut self) -> Option<Job> {
        self.queue.pop_front()
    }

    pub(super) fn completed(&mut self, outcome: Outcomes) {
        self.counters.completions += 1;
        self.counters.slo_misses += u64::from(outcome != Outcomes::Met);
    }

    pub(super) fn refused(&mut self, outcome: Outcomes) {
        self.counters.slo_misses += 1;
        self.counters.shed += u64::from(outcome == Outcomes::Shed);
    }

    pub(super) fn gauges(&self, now: Time) -> Gauges {
        Gauges {
            queued_requests: self.queued(),
            queued_rows: self.queued(),
            oldest: self.queue.front().map(|job| now.since(job.arrived)),
            in_flight_requests: self.in_flight,
            in_flight_rows: self.in_flight,
        }
    }

    /// What it has learned, as `tidegate serve` reports it.
    pub(super) fn model(&self, seats: u32) -> LatencyModel {
        LatencyModel {
            fixed: Duration::from_secs_f64(self.latency.fixed()),
            per_row: Duration::from_secs_f64(self.latency.per_row()),
            tail_permille: (self.latency.tail() * 1e3).round() as u32,
            samples: self.latency.samples(),
            max_batch_rows: self.rules.rows.unwrap_or(1),
            concurrency: seats,
        }
    }

    fn instant(&self, time: Time) -> Instant {
        self.origin + time.since(Time::ZERO)
    }
}
