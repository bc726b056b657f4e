//! How long a replica takes from the wish to ready, measured, and what may be expected of those that start.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::snapshot::{Phase, ReplicaView};

/// Starts that are remembered.
const KEPT: usize = 20;
/// Starts that must have been measured before they are believed.
const NEEDED: usize = 3;
/// Ends by itself after which a replica that is not ready counts as one that does not start.
const RESTARTS_FAILED: u32 = 3;
/// A replica that has not become ready for this long, or for three cold starts, counts as failed too.
const OVERDUE: Duration = Duration::from_secs(15 * 60);
/// A replica nothing runs for, with a trouble named, is unschedulable after this long.
const UNSCHEDULABLE: Duration = Duration::from_secs(60);

/// The last cold starts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ColdStarts {
    samples: VecDeque<Duration>,
    /// Replicas whose start, or failure to start, was counted already.
    ready: BTreeSet<Arc<str>>,
    failed: BTreeSet<Arc<str>>,
}

/// What became of starts since the last observation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Starts {
    /// From the wish to ready, of each replica that became ready.
    pub ready: Vec<Duration>,
    /// Replicas that were found not to start.
    pub failed: u32,
}

/// How far a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Ready,
    /// Will be ready at `eta`, as far as known.
    Starting {
        eta: Duration,
    },
    /// Nothing runs for it, for `waited`.
    Unschedulable {
        waited: Duration,
    },
    /// Ends again and again, or takes far too long: no longer counted on.
    Failed,
    Draining,
}

impl ColdStarts {
    pub(crate) fn observe(&mut self, replicas: &[ReplicaView], lead: Duration, now: Duration) -> Starts {
        let here: BTreeSet<_> = replicas.iter().map(|r| &r.id).collect();
        self.ready.retain(|id| here.contains(id));
        self.failed.retain(|id| here.contains(id));
        let mut starts = Starts::default();
        for replica in replicas {
            match self.progress(replica, lead, now) {
                Progress::Ready => starts.ready.extend(self.count_ready(replica)),
                Progress::Failed if self.failed.insert(Arc::clone(&replica.id)) => starts.failed += 1,
                _ => {}
            }
        }
        starts
    }

    /// The cold start to reckon with: the 90th percentile, or `assumed` until three were measured.
    pub(crate) fn lead(&self, assumed: Duration) -> Duration {
        self.quantile(0.9, Duration::ZERO).filter(|_| self.is_believed()).unwrap_or(assumed)
    }

    /// Whether enough starts were measured to reckon with them.
    pub(crate) fn is_believed(&self) -> bool {
        self.samples.len() >= NEEDED
    }

    /// Whether any start was measured.
    pub(crate) fn measured(&self) -> bool {
        !self.samples.is_empty()
    }

    /// The last cold starts, newest last.
    pub(crate) fn samples(&self) -> impl ExactSizeIterator<Item = Duration> {
        self.samples.iter().copied()
    }

    /// What another process has measured.
    pub(crate) fn restored(samples: impl IntoIterator<Item = Duration>) -> Self {
        Self { samples: samples.into_iter().take(KEPT).collect(), ..Self::default() }
    }

    pub(crate) fn progress(&self, replica: &ReplicaView, lead: Duration, now: Duration) -> Progress {
        let age = now.saturating_sub(replica.created);
        match replica.phase {
            Phase::Ready => Progress::Ready,
            Phase::Draining => Progress::Draining,
            _ if replica.restarts >= RESTARTS_FAILED => Progress::Failed,
            Phase::Pending if replica.restarts == 0 && replica.trouble.is_some() && age > UNSCHEDULABLE => {
                Progress::Unschedulable { waited: age }
            }
            _ if age > OVERDUE.max(lead * 3) => Progress::Failed,
            _ => Progress::Starting { eta: self.eta(replica.created, lead, now) },
        }
    }

    /// When a replica asked for at `created` should be ready: by the median of those starts that took longer
    /// than it has been starting already.
    pub(crate) fn eta(&self, created: Duration, lead: Duration, now: Duration) -> Duration {
        let age = now.saturating_sub(created);
        let expected = if self.samples.is_empty() { lead.max(age) } else { self.longer_than(age) };
        created + expected
    }

    fn longer_than(&self, age: Duration) -> Duration {
        self.quantile(0.5, age).unwrap_or(age + age / 10)
    }

    /// Quantile (nearest rank) of the samples above `floor`.
    fn quantile(&self, p: f64, floor: Duration) -> Option<Duration> {
        let mut sorted: Vec<_> = self.samples.iter().copied().filter(|s| *s >= floor).collect();
        sorted.sort_unstable();
        let rank = (p * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }

    fn count_ready(&mut self, replica: &ReplicaView) -> Option<Duration> {
        let since = replica.ready_since?;
        // After a crash `ready_since` tells of the restart, which is not a start from the wish.
        let first = self.ready.insert(Arc::clone(&replica.id)) && replica.restarts == 0;
        let took = first.then(|| since.saturating_sub(replica.created))?;
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(took);
        Some(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAD: Duration = Duration::from_secs(120);

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn replica(id: &str, phase: Phase) -> ReplicaView {
        ReplicaView { id: id.into(), phase, created: secs(0), ready_since: None, restarts: 0, trouble: None }
    }

    fn ready(id: &str, took: u64) -> ReplicaView {
        ReplicaView { ready_since: Some(secs(took)), ..replica(id, Phase::Ready) }
    }

    fn learned(times: &[u64]) -> ColdStarts {
        let mut starts = ColdStarts::default();
        for (i, took) in times.iter().enumerate() {
            starts.observe(&[ready(&i.to_string(), *took)], LEAD, secs(1000));
        }
        starts
    }

    #[test]
    fn the_assumed_start_holds_until_three_were_measured() {
        assert_eq!(learned(&[5, 5]).lead(LEAD), LEAD);
        assert_eq!(learned(&[5, 6, 7]).lead(LEAD), secs(7));
        assert_eq!(learned(&(1..=20).collect::<Vec<_>>()).lead(LEAD), secs(18), "nine of ten");
        let replaced = learned(&[100; 20].iter().copied().chain(1..=20).collect::<Vec<_>>());
        assert_eq!(replaced.lead(LEAD), secs(18), "only the last twenty count");
    }

    #[test]
    fn a_start_is_counted_once_and_a_restart_is_not_a_start() {
        let mut starts = ColdStarts::default();
        assert_eq!(starts.observe(&[ready("a", 4)], LEAD, secs(9)).ready, [secs(4)]);
        assert!(starts.observe(&[ready("a", 4)], LEAD, secs(10)).ready.is_empty());
        let restarted = ReplicaView { restarts: 1, ..ready("b", 600) };
        assert!(starts.observe(&[restarted], LEAD, secs(700)).ready.is_empty());
    }

    #[test]
    fn the_time_a_replica_has_been_starting_is_credited() {
        let starts = learned(&[10, 20, 30, 40, 50]);
        let eta = |now| match starts.progress(&replica("x", Phase::Starting), LEAD, secs(now)) {
            Progress::Starting { eta } => eta.as_secs(),
            other => panic!("{other:?}"),
        };
        assert_eq!(eta(0), 30, "the median");
        assert_eq!(eta(25), 40, "the median of those that took longer");
        assert_eq!(eta(100), 110, "longer than any: soon");
    }

    #[test]
    fn what_does_not_start_is_told_apart() {
        let starts = ColdStarts::default();
        let progress = |replica: &ReplicaView, now| starts.progress(replica, LEAD, secs(now));
        let crashing = ReplicaView { restarts: 3, ..replica("c", Phase::Starting) };
        assert_eq!(progress(&crashing, 5), Progress::Failed);
        let homeless = ReplicaView { trouble: Some("no gpu".into()), ..replica("u", Phase::Pending) };
        assert!(matches!(progress(&homeless, 60), Progress::Starting { .. }));
        assert_eq!(progress(&homeless, 61), Progress::Unschedulable { waited: secs(61) });
        let pulling = replica("p", Phase::Pending);
        assert!(matches!(progress(&pulling, 600), Progress::Starting { .. }), "a long image pull");
        assert_eq!(progress(&pulling, 901), Progress::Failed);
        let patient = starts.progress(&pulling, secs(600), secs(1200));
        assert!(matches!(patient, Progress::Starting { .. }), "within three cold starts");
    }

    #[test]
    fn a_failure_to_start_is_counted_once() {
        let mut starts = ColdStarts::default();
        let crashing = ReplicaView { restarts: 3, ..replica("c", Phase::Pending) };
        assert_eq!(starts.observe(std::slice::from_ref(&crashing), LEAD, secs(5)).failed, 1);
        assert_eq!(starts.observe(&[crashing], LEAD, secs(6)).failed, 0);
    }
}
