//! One load, several seeds, several policies, each with several tunings: the simulations of a comparison, in
//! parallel.

mod contestant;
mod summary;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use arrivals::Arrival;
use autoscaler::policy::Policy as Rules;

pub use self::{
    contestant::{Contestant, Family, Tuning},
    summary::{Comparison, Equal, Summary},
};
use crate::{
    Bound, Error,
    bound::Demand,
    judge::Score,
    load::Load,
    policy::{Costs, Fixed, Optimum, Policy, plan},
    timeline::Timeline,
    world::{Run, SLOT, Settings, World},
};

/// Seeds one study may have.
pub const SEEDS_MOST: usize = 1000;
/// Prices of a miss for the optimum: powers of four, from the time of a replica that one request takes.
const PRICES: u32 = 9;
/// How long a queue may grow before it does harm, as far as foresight looks at least.
const QUEUE: Duration = Duration::from_secs(120);

/// What is compared.
#[derive(Clone, Debug)]
pub struct Study {
    pub settings: Settings,
    pub load: Load,
    /// Tidegate's rules, whose SLO is the one of `settings`.
    pub rules: Rules,
    /// At least one.
    pub seeds: Vec<u64>,
    pub against: Vec<Family>,
    /// Simulations at a time.
    pub threads: usize,
}

/// One simulation of one contestant.
type Scored = (Contestant, u64, Score);
/// The scores of each contestant, by seed.
type Scores = BTreeMap<Contestant, BTreeMap<u64, Score>>;

/// Simulations that are run together.
#[derive(Clone, Copy, Debug)]
enum Job {
    One(Contestant, u64),
    /// Every static number, and from what these miss the optimum.
    Fixed(u64),
    /// What nobody can be cheaper than.
    Bound(u64),
}

impl Study {
    /// Runs every simulation. `progress` is told how many of how many jobs are done.
    ///
    /// # Errors
    /// A load that cannot be, or no seeds or too many.
    pub fn run(&self, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Comparison, Error> {
        self.checked()?;
        let (scores, bound) = self.scores(&self.jobs(), progress)?;
        Ok(Comparison::new(self.ours(), scores, bound, &self.against))
    }

    /// Runs the simulations of Tidegate as it is configured, and of nobody else.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn alone(&self, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Summary, Error> {
        self.checked()?;
        let jobs: Vec<Job> = self.seeds.iter().map(|seed| Job::One(self.ours(), *seed)).collect();
        let (scores, bound) = self.scores(&jobs, progress)?;
        let comparison = Comparison::new(self.ours(), scores, bound, &[]);
        comparison.summaries.into_iter().next().ok_or(Error::Seeds(SEEDS_MOST))
    }

    fn checked(&self) -> Result<(), Error> {
        let some = (1..=SEEDS_MOST).contains(&self.seeds.len());
        if some { Ok(()) } else { Err(Error::Seeds(SEEDS_MOST)) }
    }

    fn scores(
        &self,
        jobs: &[Job],
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<(Scores, Option<Bound>), Error> {
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let scores = Mutex::new(Scores::new());
        let bounds = Mutex::new(BTreeMap::new());
        let work = || {
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Job::Bound(seed) = *job {
                    let bound = self.bound(seed)?;
                    bounds.lock().unwrap_or_else(PoisonError::into_inner).insert(seed, bound);
                }
                let found = self.simulate(*job)?;
                let mut scores = scores.lock().unwrap_or_else(PoisonError::into_inner);
                for (contestant, seed, score) in found {
                    scores.entry(contestant).or_default().insert(seed, score);
                }
                drop(scores);
                progress(done.fetch_add(1, Ordering::Relaxed) + 1, jobs.len());
            }
            Ok::<_, Error>(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..self.threads.max(1)).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        let scores = scores.into_inner().unwrap_or_else(PoisonError::into_inner);
        let bounds = bounds.into_inner().unwrap_or_else(PoisonError::into_inner);
        // By seed, so that the sum does not depend on who was done first.
        Ok((scores, Bound::mean(&bounds.into_values().collect::<Vec<_>>())))
    }

    /// What happened over time with the first seed.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn record(&self, contestant: Contestant, pieces: usize) -> Result<Option<Timeline>, Error> {
        let seed = self.seeds.first().copied().ok_or(Error::Seeds(SEEDS_MOST))?;
        let run = match contestant.tuning {
            Tuning::Price(_) | Tuning::Foresight(_) => {
                let settings = self.constant_start();
                let mut optimum = self.optimum(&self.costs(seed)?.1, contestant);
                let schedule = self.load.schedule(seed)?;
                World::new(&settings, &schedule, seed).recorded(pieces).run(&mut optimum)
            }
            _ => {
                let mut policy = self.policy(contestant);
                let schedule = self.load.schedule(seed)?;
                World::new(&self.settings, &schedule, seed).recorded(pieces).run(&mut *policy)
            }
        };
        Ok(run.timeline)
    }

    /// Tidegate as it is configured.
    #[must_use]
    pub fn ours(&self) -> Contestant {
        Contestant::ours(self.rules.slo.response().percentile)
    }

    /// Requests per second of a replica that is always full, with the answers of this load.
    pub(crate) fn rate(&self) -> f64 {
        const SOME: usize = 10_000;
        let seed = self.seeds.first().copied().unwrap_or_default();
        let schedule = self.load.schedule(seed);
        let arrivals: Vec<_> =
            schedule.iter().flat_map(|schedule| schedule.arrivals(seed).take(SOME)).collect();
        let mean = |of: &dyn Fn(&Arrival) -> u32| {
            arrivals.iter().map(|arrival| f64::from(of(arrival))).sum::<f64>() / arrivals.len().max(1) as f64
        };
        let tokens = mean(&|arrival| arrival.tokens.unwrap_or(self.settings.answer));
        let prompt = mean(&|arrival| arrival.prompt.unwrap_or(self.settings.prompt));
        self.settings.service.with_prompts(prompt).rate(self.settings.slots, tokens)
    }

    /// Seed by seed, so that those that take long are not left for the end; the long ones first.
    fn jobs(&self) -> Vec<Job> {
        let contestants = contestant::all(&self.rules, &self.against);
        let fixed = self.against.iter().any(|family| matches!(family, Family::Static | Family::Optimum));
        let bound = self.against.contains(&Family::Optimum);
        let of = |seed: &u64| {
            let seed = *seed;
            let first = fixed.then_some(Job::Fixed(seed)).into_iter();
            first
                .chain(bound.then_some(Job::Bound(seed)))
                .chain(contestants.iter().map(move |contestant| Job::One(*contestant, seed)))
        };
        self.seeds.iter().flat_map(of).collect()
    }

    fn simulate(&self, job: Job) -> Result<Vec<Scored>, Error> {
        match job {
            Job::One(contestant, seed) => {
                let run = self.play(&mut *self.policy(contestant), &self.settings, seed)?;
                Ok(vec![(contestant, seed, Score::of(&run))])
            }
            Job::Fixed(seed) => self.fixed(seed),
            Job::Bound(_) => Ok(Vec::new()),
        }
    }

    fn policy(&self, contestant: Contestant) -> Box<dyn Policy> {
        let at_a_time = self.settings.service.at_a_time(self.settings.slots);
        contestant.policy(&self.rules, f64::from(at_a_time))
    }

    fn play(&self, policy: &mut dyn Policy, settings: &Settings, seed: u64) -> Result<Run, Error> {
        let schedule = self.load.schedule(seed)?;
        Ok(World::new(settings, &schedule, seed).run(policy))
    }

    fn fixed(&self, seed: u64) -> Result<Vec<Scored>, Error> {
        let (mut scores, costs) = self.costs(seed)?;
        if self.against.contains(&Family::Optimum) {
            let settings = self.constant_start();
            let tunings = (0..PRICES).flat_map(|power| [Tuning::Price(power), Tuning::Foresight(power)]);
            for tuning in tunings {
                let contestant = Contestant { family: Family::Optimum, tuning };
                let mut optimum = self.optimum(&costs, contestant);
                let run = self.play(&mut optimum, &settings, seed)?;
                scores.push((contestant, seed, Score::of(&run)));
            }
        }
        Ok(scores)
    }

    /// The score of every number of replicas, and what they miss in each slot; more than are enough are not
    /// simulated.
    fn costs(&self, seed: u64) -> Result<(Vec<Scored>, Costs), Error> {
        let mut scores = Vec::new();
        let mut misses: Vec<Vec<u32>> = Vec::new();
        let mut enough: Option<(Score, Duration)> = None;
        let mut initial = 0;
        for replicas in 1..=self.settings.bounds.max {
            let contestant = Contestant { family: Family::Static, tuning: Tuning::Replicas(replicas) };
            let score = match enough {
                Some((score, length)) => score.with_enough(replicas, length),
                None => {
                    let run = self.play(&mut Fixed(replicas), &self.open(), seed)?;
                    if misses.is_empty() {
                        misses.push(run.slots.iter().map(|slot| slot.arrivals).collect());
                        initial = self.initial(seed)?;
                    }
                    misses.push(run.slots.iter().map(|slot| slot.misses).collect());
                    let score = Score::of(&run);
                    // The optimum must be able to begin with what everybody begins with.
                    if run.counted.met == run.arrivals && replicas >= initial {
                        enough = Some((score, run.length));
                    }
                    score
                }
            };
            scores.push((contestant, seed, score));
        }
        let cold_start = self.settings.cold_start.mean();
        Ok((scores, Costs { misses, cold_start, initial, least: self.settings.bounds.min }))
    }

    fn bound(&self, seed: u64) -> Result<Bound, Error> {
        let schedule = self.load.schedule(seed)?;
        let slots = schedule.length().as_nanos().div_ceil(SLOT.as_nanos()).max(1) as usize;
        let mut demand = Demand {
            work: vec![0.0; slots],
            requests: 0.0,
            // Of streams the first token's target says nothing of when all of it must be served.
            slo: self.settings.tokens.map_or(self.settings.slo.target, |_| self.settings.deadline),
            cold_start: self.settings.cold_start.mean(),
            most: self.settings.bounds.max,
        };
        for arrival in schedule.arrivals(seed) {
            let tokens = f64::from(arrival.tokens.unwrap_or(self.settings.answer));
            let slot = (arrival.at.as_nanos() / SLOT.as_nanos()) as usize;
            if let Some(work) = demand.work.get_mut(slot.min(slots - 1)) {
                *work += self.settings.service.rate(self.settings.slots, tokens).recip();
            }
            demand.requests += 1.0;
        }
        Ok(Bound::new(&demand, (0..PRICES).map(|power| self.price(power))))
    }

    /// Replica-seconds that a miss is worth.
    fn price(&self, power: u32) -> f64 {
        4f64.powi(power as i32) / self.rate()
    }

    fn optimum(&self, costs: &Costs, contestant: Contestant) -> Optimum {
        let price = |power: u32| self.price(power);
        let ready = match contestant.tuning {
            Tuning::Price(power) => plan(costs, price(power)),
            Tuning::Foresight(power) => plan(&costs.ahead(self.settings.slo.target.max(QUEUE)), price(power)),
            Tuning::Percentile(_) | Tuning::Target(_) | Tuning::Replicas(_) => Vec::new(),
        };
        Optimum::new(&ready, costs, self.settings.begins)
    }

    /// Replicas that everybody begins with.
    fn initial(&self, seed: u64) -> Result<u32, Error> {
        let schedule = self.load.schedule(seed)?;
        Ok(World::new(&self.settings, &schedule, seed).wanted())
    }

    /// The same model where a number may be below the floor: static ones are compared from one on.
    fn open(&self) -> Settings {
        let mut settings = self.settings.clone();
        settings.bounds.min = 0;
        settings
    }

    /// The same model where each start takes as long: somebody who knows the future would know each.
    fn constant_start(&self) -> Settings {
        let cold_start = crate::start::ColdStart::Constant(self.settings.cold_start.mean());
        Settings { cold_start, ..self.open() }
    }
}
