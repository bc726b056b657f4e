//! A small world in virtual time: one gateway that counts a fluid stream of requests, and a fleet that starts
//! replicas as slowly as it is told to. One replica serves 100 requests per second, four at a time.

use std::time::Duration;

use autoscaler::{
    decide::{Decision, decide},
    policy::{Assumed, Bounds, IdleAfter, Mode, Objective, Policy, Slo},
    snapshot::{
        Counters, FleetView, GatewayView, Gauges, LatencyModel, Phase, ReplicaView, Report, Snapshot,
    },
    state::State,
};

pub(crate) fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

pub(crate) fn policy(min: u32, max: u32) -> Policy {
    Policy {
        bounds: Bounds { min, max },
        slo: Slo::Latency(Objective { target: Duration::from_millis(200), percentile: 0.99 }),
        idle_after: IdleAfter::Auto,
        mode: Mode::Enforce,
        assumed: Assumed { concurrency: 5, cold_start: secs(20) },
        schedules: Vec::new(),
    }
}

/// 40 ms a call, four at a time: 100 calls per second.
pub(crate) const LEARNED: LatencyModel = LatencyModel {
    fixed: Duration::from_millis(40),
    per_row: Duration::ZERO,
    tail_permille: 1200,
    samples: 1000,
    max_batch_rows: 1,
    concurrency: 4,
};

/// What happens to replicas asked for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Luck {
    Starts,
    Crashes,
    FindsNoPlace,
}

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) policy: Policy,
    pub(crate) state: State,
    pub(crate) now: Duration,
    pub(crate) fleet: FleetView,
    pub(crate) cold_start: Duration,
    pub(crate) luck: Luck,
    pub(crate) latency: LatencyModel,
    pub(crate) queue: f64,
    pub(crate) counters: Counters,
    /// The gateways are heard.
    pub(crate) reports: bool,
    /// A gateway that is not, whatever the others are.
    pub(crate) cut_off: Option<&'static str>,
    /// No more replicas than this are created.
    pub(crate) quota: usize,
    pub(crate) writes: Vec<(Duration, u32, u32)>,
    pub(crate) seen: Vec<(Duration, Snapshot)>,
    /// The gateways, which have equal parts of the load, and their last reports.
    gateways: Vec<(&'static str, Option<Report>)>,
    arrived: f64,
    born: u32,
}

impl World {
    pub(crate) fn new(policy: Policy) -> Self {
        let mut world = Self {
            policy,
            state: State::default(),
            now: secs(0),
            fleet: FleetView::default(),
            cold_start: secs(20),
            luck: Luck::Starts,
            latency: LEARNED,
            queue: 0.0,
            counters: Counters::default(),
            reports: true,
            cut_off: None,
            quota: usize::MAX,
            writes: Vec::new(),
            seen: Vec::new(),
            gateways: vec![("gateway-a", None)],
            arrived: 0.0,
            born: 0,
        };
        world.decide();
        world
    }

    /// With `n` replicas that have been ready from the start.
    pub(crate) fn with_ready(policy: Policy, n: u32) -> Self {
        let mut world = Self::new(policy);
        world.scale(n);
        for replica in &mut world.fleet.replicas {
            replica.phase = Phase::Ready;
            replica.ready_since = Some(world.cold_start);
        }
        world
    }

    /// Behind two gateways, on a platform where others may set the number too.
    pub(crate) fn in_a_cluster(policy: Policy, ready: u32) -> Self {
        let mut world = Self::with_ready(policy, ready);
        world.state = State::default();
        world.gateways.push(("gateway-b", None));
        world.fleet.platform.shared = true;
        world
    }

    /// Somebody else sets the number.
    pub(crate) fn edit(&mut self, by: &str, wanted: u32) {
        self.scale(wanted);
        self.fleet.platform.changed_by = Some(by.into());
    }

    /// The gateway's counters start from nothing again.
    pub(crate) fn restart_gateway(&mut self) {
        self.counters = Counters::default();
        self.arrived = 0.0;
    }

    /// Nobody has measured a call yet.
    pub(crate) fn unmeasured(mut self) -> Self {
        self.latency = LatencyModel::default();
        self.state = State::default();
        self
    }

    pub(crate) fn ready(&self) -> u32 {
        self.fleet.replicas.iter().filter(|r| r.phase == Phase::Ready).count() as u32
    }

    pub(crate) fn wanted(&self) -> u32 {
        self.fleet.wanted
    }

    /// One second at `rate` requests per second, then a decision, carried out.
    pub(crate) fn tick(&mut self, rate: f64) -> Decision {
        self.pass(secs(1), rate);
        let decision = self.decide();
        if decision.to != self.fleet.wanted {
            self.writes.push((self.now, decision.from, decision.to));
            self.scale(decision.to);
        }
        decision
    }

    pub(crate) fn run(&mut self, seconds: u64, rate: f64) -> Decision {
        assert!(seconds > 0);
        (1..seconds).for_each(|_| drop(self.tick(rate)));
        self.tick(rate)
    }

    /// Lets time pass, at `rate`, without a look.
    pub(crate) fn pass(&mut self, span: Duration, rate: f64) {
        self.now += span;
        self.create();
        self.move_fleet();
        let came = rate * span.as_secs_f64();
        self.arrived += came;
        let served = (self.queue + came).min(f64::from(self.ready()) * 100.0 * span.as_secs_f64());
        self.queue += came - served;
        self.counters.arrivals = self.arrived as u64;
        self.counters.arrival_rows = self.counters.arrivals;
        self.counters.completions += served as u64;
    }

    pub(crate) fn decide(&mut self) -> Decision {
        self.report();
        let snapshot = self.snapshot();
        self.fleet.platform.changed_by = None;
        self.seen.push((self.now, snapshot.clone()));
        self.state.observe(&self.policy, &snapshot, self.now);
        let decision = decide(&self.policy, &self.state, &snapshot, self.now);
        self.state.commit(&decision);
        decision
    }

    fn report(&mut self) {
        let mut gateways = std::mem::take(&mut self.gateways);
        let (reports, cut_off, all) = (self.reports, self.cut_off, gateways.len() as u64);
        let heard = |name: &str| reports && cut_off != Some(name);
        for (part, (_, report)) in (0..).zip(&mut gateways).filter(|(_, (name, _))| heard(name)) {
            *report = Some(self.new_report(report.as_ref(), |total| (total + part) / all));
        }
        self.gateways = gateways;
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let views = self.gateways.iter().map(|(name, report)| GatewayView {
            name: (*name).into(),
            listed: true,
            report: report.clone(),
        });
        Snapshot { gateways: views.collect(), fleet: self.fleet.clone() }
    }

    pub(crate) fn scale(&mut self, wanted: u32) {
        self.fleet.wanted = wanted;
        while self.fleet.replicas.len() > wanted as usize {
            let unready = self.fleet.replicas.iter().rposition(|r| r.phase != Phase::Ready);
            let last = self.fleet.replicas.len() - 1;
            self.fleet.replicas.remove(unready.unwrap_or(last));
        }
        self.create();
    }

    fn create(&mut self) {
        while self.fleet.replicas.len() < self.quota.min(self.fleet.wanted as usize) {
            self.born += 1;
            self.fleet.replicas.push(ReplicaView {
                id: format!("r{}", self.born).into(),
                phase: Phase::Starting,
                created: self.now,
                ready_since: None,
                restarts: 0,
                trouble: None,
            });
        }
    }

    fn move_fleet(&mut self) {
        let unready = |r: &&mut ReplicaView| matches!(r.phase, Phase::Pending | Phase::Starting);
        for replica in self.fleet.replicas.iter_mut().filter(unready) {
            let ready_at = replica.created + self.cold_start;
            match self.luck {
                Luck::Starts if self.now >= ready_at => {
                    replica.phase = Phase::Ready;
                    replica.ready_since = Some(ready_at);
                    replica.trouble = None;
                }
                Luck::Starts => replica.phase = Phase::Starting,
                Luck::Crashes => {
                    replica.restarts = ((self.now - replica.created).as_secs() / 5) as u32;
                    replica.trouble = Some("exited with status 1".into());
                }
                Luck::FindsNoPlace => {
                    replica.phase = Phase::Pending;
                    replica.trouble = Some("insufficient nvidia.com/gpu".into());
                }
            }
        }
    }

    /// What a gateway reports that has a share of everything.
    fn new_report(&self, before: Option<&Report>, share: impl Fn(u64) -> u64) -> Report {
        let room = f64::from(self.ready()) * 4.0;
        let recent = before.map_or(0, |before| before.counters.completions);
        let counters = Counters {
            arrivals: share(self.counters.arrivals),
            arrival_rows: share(self.counters.arrival_rows),
            completions: share(self.counters.completions),
            slo_misses: share(self.counters.slo_misses),
            ..self.counters
        };
        let served = counters.completions.saturating_sub(recent) as f64;
        let in_flight = (served * 0.04).round().min(room) as u64;
        let queued = share(self.queue.floor() as u64);
        let gauges = Gauges {
            queued_requests: queued,
            queued_rows: queued,
            oldest: (queued > 0).then_some(secs(1)),
            in_flight_requests: in_flight,
            in_flight_rows: in_flight,
        };
        Report { at: self.now, counters, gauges, latency: self.latency, chat: None, replicas: Vec::new() }
    }
}

pub(crate) fn limits(decision: &Decision) -> Vec<&'static str> {
    decision.limits.iter().map(|limit| limit.kind.as_str()).collect()
}

pub(crate) fn term(decision: &Decision, name: &str) -> Option<u32> {
    decision.terms.iter().find(|term| term.why.name() == name).map(|term| term.replicas)
}
