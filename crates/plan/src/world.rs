//! A model behind a gateway in virtual time: requests arrive, wait in one queue for the whole pool, are served by
//! replicas that take their time to start, and once a second somebody decides how many there should be.
//!
//! What the gateway does is what `pipeline` does, and where a function of it decides (when to flush and how many
//! rows, how long calls take) that very function is called. All deadlines are equally long, so that the queue's
//! order by deadline is the order of arrival. Slow starts, ejections and retries are left out: replicas are healthy; and
//! classes, tenants and what sends a prompt to where others like it went: requests are alike. A stream that is past its
//! deadline counts as timed out, and runs on.

mod calendar;
mod fleet;
mod gateway;
mod judged;
mod replica;
mod sight;
mod streamed;
mod time;
mod tokens;

use std::time::Duration;

use arrivals::{Arrival, Arrivals, Schedule, spacing::Spacing};
use autoscaler::policy::{Bounds, Objective};
use rand::{SeedableRng as _, rngs::StdRng};

use self::{
    calendar::{Calendar, Event},
    fleet::Fleet,
    gateway::Gateway,
    judged::Judge,
    replica::Job,
    sight::Sight,
};
pub(crate) use self::{
    fleet::Standing,
    judged::{SLOT, Slot},
    time::Time,
};
pub use self::{
    judged::{Change, Counted, Kept, Outcomes, Run},
    tokens::TokenSlo,
};
use crate::{
    policy::{Moment, Policy, Seen},
    service::Service,
    start::ColdStart,
    timeline::Timeline,
};

const TICK: Duration = Duration::from_secs(1);
/// How long the first request at zero is alone before it is acted upon, as in `autoscaler::reconcile`.
const GATHER: Duration = Duration::from_millis(5);

/// The model and what is asked of it.
#[derive(Clone, Debug)]
pub struct Settings {
    pub service: Service,
    /// Coefficient of variation of the time a call takes; where a trace has no tokens, of these.
    pub variation: f64,
    /// Tokens of a prompt, and of an answer on average, where the trace has none.
    pub prompt: u32,
    pub answer: u32,
    /// Calls one replica has at a time, where they are not merged.
    pub slots: u32,
    /// Of whole answers, or of the first token where `tokens` are judged.
    pub slo: Objective,
    /// What is asked of the other tokens, where these are judged and not whole answers; the service is chat then.
    pub tokens: Option<TokenSlo>,
    /// When a request must have its answer.
    pub deadline: Duration,
    pub cold_start: ColdStart,
    /// Longest that a request waits for a replica to become ready.
    pub cold_start_timeout: Duration,
    /// Requests that may wait.
    pub queue: u32,
    /// Longest that rows wait for company.
    pub max_hold: Duration,
    pub bounds: Bounds,
    /// Replicas that are ready when the simulation begins; `None`: what its first five minutes need.
    pub initial: Option<u32>,
    /// The time of the beginning, since the Unix epoch: what schedules go by.
    pub begins: Duration,
}

/// One simulation.
#[derive(Debug)]
pub struct World<'a> {
    settings: &'a Settings,
    arrivals: Arrivals,
    next: Option<Arrival>,
    ends: Time,
    /// For what requests are like: drawn in the order of arrival, the same whoever decides.
    rng: StdRng,
    now: Time,
    calendar: Calendar,
    gateway: Gateway,
    fleet: Fleet,
    judge: Judge,
    sight: Sight,
    woken: bool,
    timeline: Option<Timeline>,
}

impl<'a> World<'a> {
    #[must_use]
    pub fn new(settings: &'a Settings, schedule: &Schedule, seed: u64) -> Self {
        let mut arrivals = schedule.arrivals(seed);
        let next = arrivals.next();
        let slots = (schedule.length().as_secs_f64() / SLOT.as_secs_f64()).ceil().max(1.0);
        let ends = Time::from(SLOT.mul_f64(slots));
        let initial = settings.initial.unwrap_or_else(|| needed_at_first(settings, schedule, seed));
        let mut fleet = Fleet::new(settings, seed, ends);
        fleet.begin(settings.bounds.clamp(initial));
        Self {
            settings,
            arrivals,
            next,
            ends,
            rng: StdRng::seed_from_u64(seed ^ 0x5eed_0f5e_4f1c_e000),
            now: Time::ZERO,
            calendar: Calendar::default(),
            gateway: Gateway::new(settings),
            fleet,
            judge: Judge::new(slots as usize, settings),
            sight: Sight::new(settings),
            woken: false,
            timeline: None,
        }
    }

    /// Replicas that it begins with.
    #[must_use]
    pub fn wanted(&self) -> u32 {
        self.fleet.wanted()
    }

    /// Keeps what happened over time, in about `bins` pieces.
    #[must_use]
    pub fn recorded(mut self, bins: usize) -> Self {
        self.timeline = Some(Timeline::new(self.ends.since(Time::ZERO), bins));
        self
    }

    /// Lets `policy` decide until the last request has its outcome.
    #[must_use]
    pub fn run(mut self, policy: &mut dyn Policy) -> Run {
        let initial = self.settings.bounds.clamp(policy.initial(self.wanted()));
        if initial != self.wanted() {
            self.fleet = self.fleet.restarted(initial);
        }
        self.calendar.push(Time::ZERO, Event::Tick);
        loop {
            let arrives = self.next.map(|arrival| Time::from(arrival.at));
            let due = self.calendar.next();
            match (arrives, due) {
                (Some(at), due) if due.is_none_or(|due| at < due) => {
                    self.now = at;
                    self.arrive();
                }
                (_, Some(_)) => {
                    let Some((at, event)) = self.calendar.pop() else { break };
                    self.now = at;
                    self.happen(event, policy);
                }
                (_, None) => break,
            }
        }
        let initial = self.fleet.initial;
        let replica_time = self.fleet.time();
        self.judge.finish(self.ends.since(Time::ZERO), replica_time, initial, self.timeline)
    }

    fn arrive(&mut self) {
        let Some(arrival) = self.next.take() else { return };
        self.next = self.arrivals.next();
        let job = self.job(arrival);
        self.judge.arrived(self.now);
        if let Some(timeline) = &mut self.timeline {
            timeline.arrived(self.now);
        }
        let view = self.fleet.standing();
        if view.ready == 0 && !self.woken {
            self.woken = true;
            self.calendar.push(self.now + GATHER, Event::Wake);
        }
        match self.gateway.admit(job, self.now, &view, &self.fleet) {
            Ok(()) => self.flush(),
            Err(outcome) => self.settle(job, outcome),
        }
    }

    fn job(&mut self, arrival: Arrival) -> Job {
        let factor = match self.settings.variation {
            cv if cv > 0.0 => Spacing::Gamma { shape: (cv * cv).recip() }.draw(&mut self.rng),
            _ => 1.0,
        };
        let tokens = arrival.tokens.map_or(f64::from(self.settings.answer) * factor, f64::from);
        let prompt = arrival.prompt.unwrap_or(self.settings.prompt);
        Job { arrived: self.now, factor: factor as f32, prompt, tokens: tokens.max(1.0) as f32, cold: false }
    }

    fn happen(&mut self, event: Event, policy: &mut dyn Policy) {
        match event {
            Event::Tick => {
                self.expire();
                self.flush();
                self.decide(policy, Moment::Second);
                let over = self.next.is_none() && self.now >= self.ends && self.is_idle();
                if !over {
                    self.calendar.push(self.now + TICK, Event::Tick);
                }
            }
            Event::Wake => {
                self.woken = false;
                if self.fleet.standing().ready == 0 {
                    self.decide(policy, Moment::Woken);
                }
            }
            Event::Ready { replica } => {
                if self.fleet.become_ready(replica, self.now) {
                    self.flush();
                    self.decide(policy, Moment::Fleet);
                }
            }
            Event::Flush { at } => {
                if self.gateway.timer == Some(at) {
                    self.flush();
                }
            }
            Event::Done { replica, job, ends } => {
                self.fleet.leave(replica, self.now);
                self.gateway.in_flight -= 1;
                self.complete(job, ends, 1);
                self.flush();
            }
            Event::BatchDone { replica } => {
                self.end_batch(replica);
                self.flush();
            }
            Event::Stream { replica, version } => {
                self.step_streams(replica, version);
                self.flush();
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.gateway.queued() == 0 && self.gateway.in_flight == 0
    }

    /// Who waited past the deadline, or too long for a replica to start.
    fn expire(&mut self) {
        let none = self.fleet.standing().ready == 0;
        while let Some((job, outcome)) = self.gateway.expired(self.now, none) {
            self.settle(job, outcome);
        }
    }

    /// Sends while a replica is free and a batch is due.
    fn flush(&mut self) {
        self.gateway.timer = None;
        while self.gateway.queued() > 0 && self.fleet.standing().ready > 0 {
            while let Some((job, outcome)) = self.gateway.doomed(self.now) {
                self.settle(job, outcome);
            }
            if self.gateway.queued() == 0 || !self.fleet.has_room() {
                return;
            }
            match self.gateway.plan(self.now, self.fleet.standing().ready) {
                gateway::Plan::Wait(until) => {
                    self.gateway.timer = Some(until);
                    self.calendar.push(until, Event::Flush { at: until });
                    return;
                }
                gateway::Plan::Send(rows) => self.send(rows),
            }
        }
    }

    fn send(&mut self, rows: u32) {
        let Some(replica) = self.fleet.pick() else { return };
        match self.settings.service {
            Service::Single { time } => self.send_single(replica, time),
            Service::Batch { fixed, per_row, .. } => self.send_batch(replica, rows, fixed, per_row),
            Service::Chat { .. } => self.send_stream(replica),
        }
    }

    /// A call that is not done at its deadline is broken off then.
    fn send_single(&mut self, replica: u32, time: Duration) {
        let Some(job) = self.gateway.take() else { return };
        self.fleet.enter(replica, 1);
        let ends = self.now + time.mul_f64(f64::from(job.factor));
        let at = ends.min(job.arrived + self.settings.deadline);
        self.gateway.in_flight += 1;
        self.calendar.push(at, Event::Done { replica, job, ends });
    }

    fn send_batch(&mut self, replica: u32, rows: u32, fixed: Duration, per_row: Duration) {
        let mut batch = self.fleet.take_batch(replica);
        batch.extend(std::iter::from_fn(|| self.gateway.take()).take(rows.max(1) as usize));
        let Some(first) = batch.first() else { return self.fleet.put_batch(replica, batch) };
        let seconds = fixed + per_row * batch.len() as u32;
        let ends = self.now + seconds.mul_f64(f64::from(first.factor));
        self.gateway.in_flight += batch.len() as u64;
        self.fleet.enter(replica, batch.len() as u32);
        self.fleet.put_batch(replica, batch);
        self.fleet.began(replica, self.now);
        self.calendar.push(ends, Event::BatchDone { replica });
    }

    fn end_batch(&mut self, replica: u32) {
        let mut batch = self.fleet.take_batch(replica);
        let rows = batch.len() as u32;
        let took = self.now.since(self.fleet.begun(replica));
        self.gateway.in_flight -= u64::from(rows);
        self.gateway.latency.observe(rows, took, 1.0);
        for job in batch.drain(..) {
            let outcome = self.judge.answered(job.arrived, self.now, self.settings.deadline);
            self.record(job, outcome);
        }
        self.fleet.put_batch(replica, batch);
        self.fleet.leave_all(replica, self.now);
    }

    /// The end of a call by itself, which would have ended at `ends` if it had not been broken off.
    fn complete(&mut self, job: Job, ends: Time, rows: u32) {
        if ends <= self.now {
            let Service::Single { time } = self.settings.service else { return };
            self.gateway.latency.observe(rows, time.mul_f64(f64::from(job.factor)), 1.0);
            let outcome = self.judge.answered(job.arrived, self.now, self.settings.deadline);
            self.record(job, outcome);
        } else {
            self.settle(job, Outcomes::TimedOut);
        }
    }

    fn record(&mut self, job: Job, outcome: Outcomes) {
        self.gateway.completed(outcome);
        if let Some(timeline) = &mut self.timeline {
            timeline.answered(self.now, self.now.since(job.arrived));
        }
        self.note(job, outcome);
    }

    /// A request without an answer.
    fn settle(&mut self, job: Job, outcome: Outcomes) {
        self.gateway.refused(outcome);
        self.note(job, outcome);
    }

    fn note(&mut self, job: Job, outcome: Outcomes) {
        self.judge.settled(job.arrived, outcome);
        if let Some(timeline) = &mut self.timeline
            && outcome != Outcomes::Met
        {
            timeline.missed(job.arrived);
        }
    }

    fn decide(&mut self, policy: &mut dyn Policy, moment: Moment) {
        let standing = self.fleet.standing();
        let at = self.settings.begins + self.now.since(Time::ZERO);
        self.sight.look(at, self.now, &self.gateway, &self.fleet);
        let seen = Seen {
            moment,
            queued: self.gateway.queued(),
            in_flight: self.gateway.in_flight,
            arrivals: self.gateway.counters.arrivals,
            ready: standing.ready,
            wanted: self.fleet.wanted(),
            snapshot: &self.sight.snapshot,
        };
        let wanted = policy.decide(&seen, at).map(|wanted| wanted.min(self.settings.bounds.max));
        if let Some(timeline) = self.timeline.as_mut().filter(|_| moment == Moment::Second) {
            timeline.stood(self.now, &standing, self.fleet.wanted());
        }
        let Some(to) = wanted.filter(|to| *to != self.fleet.wanted()) else { return };
        let change = Change { at: self.now.since(Time::ZERO), from: self.fleet.wanted(), to };
        if let Some(timeline) = &mut self.timeline {
            timeline.mark(change, &policy.words());
        }
        let wasted = self.fleet.scale(to, self.now, &mut self.calendar);
        self.judge.changed(change, wasted);
    }
}

/// Replicas for the mean rate of the first five minutes: whoever decides begins with a fleet that was right.
fn needed_at_first(settings: &Settings, schedule: &Schedule, seed: u64) -> u32 {
    const FIRST: Duration = Duration::from_secs(300);
    let first: Vec<Arrival> = schedule.arrivals(seed).take_while(|arrival| arrival.at < FIRST).collect();
    let tokens: f64 = first.iter().map(|arrival| f64::from(arrival.tokens.unwrap_or(settings.answer))).sum();
    let span = FIRST.min(schedule.length()).as_secs_f64().max(1.0);
    let prompts: f64 = first.iter().map(|arrival| f64::from(arrival.prompt.unwrap_or(settings.prompt))).sum();
    let each = |sum: f64| sum / first.len().max(1) as f64;
    let rate = settings.service.with_prompts(each(prompts)).rate(settings.slots, each(tokens));
    (first.len() as f64 / span / rate).ceil() as u32
}
