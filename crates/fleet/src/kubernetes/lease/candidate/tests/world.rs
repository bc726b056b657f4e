//! A small world on virtual time: candidates whose clocks run at different speeds, processes that are stopped,
//! killed and restarted, calls that are delayed, lost, or carried out long after their sender gave up, and people
//! who delete the Lease or write into it. Whatever happens, two fences never stand at the same time.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::*;

const CANDIDATES: usize = 3;
/// The world's time is in milliseconds.
const END: u64 = 600_000;
/// After that nothing goes wrong any more.
const CALM: u64 = 540_000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A process looks what is to be done.
    Wake,
    /// A request reaches the store.
    Arrive {
        request: usize,
    },
    /// Its answer, or the end of its patience, reaches the process.
    Answer {
        request: usize,
    },
    Delete,
    Scribble,
    Kill,
    Resign,
    Stop {
        until: u64,
    },
}

#[derive(Debug)]
struct Request {
    process: usize,
    life: u32,
    step: Step,
    sent: u64,
    /// By then the sender gives up.
    given_up: u64,
    outcome: Option<Outcome>,
}

#[derive(Debug)]
enum Outcome {
    Read(Option<Lease>),
    Written(Lease),
    Refused,
    Lost,
}

struct Process {
    candidate: Candidate,
    /// Speed of its clock.
    speed: f64,
    /// Each restart is another life; what belongs to a former one is ignored.
    life: u32,
    stopped_until: u64,
    waiting: bool,
}

struct World {
    dice: SmallRng,
    origin: Instant,
    store: Store,
    processes: Vec<Process>,
    requests: Vec<Request>,
    agenda: BinaryHeap<Reverse<(u64, u64, usize, What)>>,
    order: u64,
    /// The newest reign: its epoch, and whose it was in which life.
    last_epoch: Option<(u64, usize, u32)>,
    /// The Lease was deleted, and with it the count.
    forgotten: bool,
    led: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = SmallRng::seed_from_u64(seed);
        let origin = Instant::now();
        let timing = if seed.is_multiple_of(2) { Timing::default() } else { Timing::fast() };
        let processes = (0..CANDIDATES).map(|index| Process {
            candidate: candidate(&format!("c{index}"), timing, origin),
            speed: dice.random_range(0.92..1.08),
            life: 0,
            stopped_until: 0,
            waiting: false,
        });
        let processes = processes.collect();
        let store = if seed.is_multiple_of(3) { Store::default() } else { empty_lease() };
        let (requests, agenda) = (Vec::new(), BinaryHeap::new());
        let mut world = Self {
            dice,
            origin,
            store,
            processes,
            requests,
            agenda,
            order: 0,
            last_epoch: None,
            forgotten: false,
            led: 0,
        };
        for process in 0..CANDIDATES {
            world.at(0, process, What::Wake);
        }
        world.plan_faults();
        world
    }

    fn plan_faults(&mut self) {
        for _ in 0..self.dice.random_range(0..12) {
            let (at, process) = (self.dice.random_range(0..CALM), self.dice.random_range(0..CANDIDATES));
            let what = match self.dice.random_range(0..5) {
                0 => What::Kill,
                1 => What::Resign,
                2 => What::Scribble,
                _ => What::Stop { until: at + self.dice.random_range(0..60_000) },
            };
            self.at(at, process, what);
        }
        // Somebody who deletes the Lease again and again within one lease duration defeats any lock.
        for minute in (1..CALM / 60_000).step_by(2) {
            if self.dice.random_bool(0.3) {
                self.at(minute * 60_000, 0, What::Delete);
            }
        }
    }

    fn at(&mut self, at: u64, process: usize, what: What) {
        self.order += 1;
        self.agenda.push(Reverse((at, self.order, process, what)));
    }

    fn local(&self, process: usize, at: u64) -> Instant {
        self.origin + Duration::from_millis(at).mul_f64(self.processes[process].speed)
    }

    fn global(&self, process: usize, local: Instant) -> u64 {
        let elapsed = (local - self.origin).div_f64(self.processes[process].speed);
        u64::try_from(elapsed.as_millis()).unwrap() + 1
    }

    fn run(mut self) -> u64 {
        while let Some(Reverse((at, _, process, what))) = self.agenda.pop() {
            if at > END {
                break;
            }
            let stopped = self.processes[process].stopped_until;
            if at < stopped && matches!(what, What::Wake | What::Answer { .. } | What::Resign) {
                self.at(stopped, process, what);
                continue;
            }
            self.happen(at, process, what);
            self.check(at);
        }
        self.led
    }

    fn happen(&mut self, at: u64, process: usize, what: What) {
        match what {
            What::Wake => self.wake(at, process),
            What::Arrive { request } => self.arrive(at, request),
            What::Answer { request } => self.answer(at, request),
            What::Delete => {
                self.store.lease = None;
                self.forgotten = true;
            }
            What::Scribble if self.store.lease.is_some() => self.store.edit(|lease| {
                lease.metadata.annotations.get_or_insert_default().insert("note".into(), at.to_string());
            }),
            What::Scribble => {}
            What::Stop { until } => self.processes[process].stopped_until = until,
            What::Kill => self.restart(at, process),
            What::Resign => {
                let candidate = &mut self.processes[process].candidate;
                let left = candidate.leave();
                let release = candidate.release(left, wall(self.origin));
                if let Some(lease) = release {
                    let sent = self.dice.random_range(0..20_000);
                    self.send(at, process, Step::Replace(Box::new(lease)), sent);
                }
                self.restart(at, process);
            }
        }
    }

    /// Killed and started again under its name, as a container is.
    fn restart(&mut self, at: u64, process: usize) {
        let now = self.local(process, at);
        let subject = &mut self.processes[process];
        let timing = subject.candidate.timing;
        subject.candidate = candidate(&format!("c{process}"), timing, now);
        subject.life += 1;
        subject.candidate.name.process = format!("life {}", subject.life).into();
        subject.waiting = false;
        self.at(at, process, What::Wake);
    }

    fn wake(&mut self, at: u64, process: usize) {
        if self.processes[process].waiting {
            return;
        }
        let now = self.local(process, at);
        match self.processes[process].candidate.next(now, wall(now)) {
            Step::Rest(until) => {
                let until = self.global(process, until).max(at + 1);
                self.at(until, process, What::Wake);
            }
            step => {
                let delay = match self.dice.random_range(0..20) {
                    _ if at > CALM => 5,
                    0 => self.dice.random_range(0..40_000),
                    1 | 2 => self.dice.random_range(0..3_000),
                    _ => self.dice.random_range(0..100),
                };
                self.processes[process].waiting = true;
                self.send(at, process, step, delay);
            }
        }
    }

    fn send(&mut self, at: u64, process: usize, step: Step, delay: u64) {
        let subject = &self.processes[process];
        let patience = u64::try_from(subject.candidate.timing.retry().as_millis()).unwrap();
        let back = if at > CALM { 5 } else { self.dice.random_range(0..patience * 5 / 4) };
        let request = self.requests.len();
        let life = subject.life;
        let given_up = at + patience;
        self.requests.push(Request { process, life, step, sent: at, given_up, outcome: None });
        self.at(at + delay, process, What::Arrive { request });
        let answered = (at + delay + back).min(given_up);
        self.at(answered, process, What::Answer { request });
    }

    fn arrive(&mut self, at: u64, index: usize) {
        let fails = at <= CALM && self.dice.random_ratio(1, 50);
        let request = &mut self.requests[index];
        if fails || matches!(request.outcome, Some(Outcome::Lost)) && matches!(request.step, Step::Read) {
            return;
        }
        let outcome = match &request.step {
            Step::Read => Outcome::Read(self.store.lease.clone()),
            step => match self.store.write(step) {
                Ok(lease) => Outcome::Written(lease),
                Err(Refused) => Outcome::Refused,
            },
        };
        // Who has given up hears nothing of it.
        if request.outcome.is_none() {
            request.outcome = Some(outcome);
        }
    }

    fn answer(&mut self, at: u64, index: usize) {
        let Request { process, life, sent, given_up, .. } = self.requests[index];
        if self.processes[process].life != life || !self.processes[process].waiting {
            return;
        }
        let (now, started) = (self.local(process, at), self.local(process, sent));
        let outcome = self.requests[index].outcome.replace(Outcome::Lost).unwrap_or(Outcome::Lost);
        let subject = &mut self.processes[process];
        subject.waiting = false;
        match outcome {
            Outcome::Lost if at < given_up => {
                // It has not even arrived: the answer can only be the end of patience.
                subject.waiting = true;
                self.requests[index].outcome = None;
                return self.at(given_up, process, What::Answer { request: index });
            }
            Outcome::Read(lease) => subject.candidate.saw(lease, now),
            Outcome::Written(lease) => subject.candidate.wrote(lease, started, now),
            Outcome::Refused => subject.candidate.refused(now),
            Outcome::Lost => subject.candidate.failed(now),
        }
        self.at(at, process, What::Wake);
    }

    fn check(&mut self, at: u64) {
        let mut standing = Vec::new();
        for process in 0..CANDIDATES {
            let Some(reign) = self.processes[process].candidate.reign() else { continue };
            // A fence is a comparison with a clock: it falls without anybody running.
            if self.local(process, at) >= reign.until {
                continue;
            }
            standing.push(process);
            let (life, epoch) = (self.processes[process].life, reign.epoch);
            self.count(epoch, process, life);
        }
        assert!(standing.len() <= 1, "at {at} ms two fences stand: {standing:?}");
        if at > CALM {
            self.led = self.led.max(u64::from(!standing.is_empty()));
        }
    }
}

impl World {
    fn count(&mut self, epoch: u64, process: usize, life: u32) {
        let same = self.last_epoch == Some((epoch, process, life));
        let grew = self.last_epoch.is_none_or(|(last, ..)| last < epoch);
        // Who starts after the Lease was deleted cannot know how far the count had come.
        let anew = !same && !grew && std::mem::take(&mut self.forgotten);
        assert!(same || grew || anew, "{epoch} of {process} in life {life} after {:?}", self.last_epoch);
        self.last_epoch = Some((epoch, process, life));
    }
}

#[test]
fn two_fences_never_stand_at_once_and_epochs_only_grow() {
    for seed in 0..400 {
        let world = World::new(seed);
        let led = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
        let led = led.unwrap_or_else(|panic| {
            println!("seed {seed}");
            std::panic::resume_unwind(panic)
        });
        assert_eq!(led, 1, "seed {seed}: nobody leads a minute after the last fault");
    }
}
