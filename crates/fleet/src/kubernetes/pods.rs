//! What a pod says of itself, in the words of a replica: how far it is, since when, and what is wrong with it.
//!
//! Kubernetes tells times by the wall clock of another machine. What is seen to happen is dated by our own clock;
//! only what had happened before we looked is dated by theirs, and never into the future.

use std::{collections::BTreeSet, sync::Arc};

use autoscaler::fleet::{Phase, ReplicaId};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::Instant;

use super::watch::{Version, Watched};

mod selector;
mod trouble;
mod wire;

pub(super) use self::selector::Selector;

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "wire::Pod")]
pub(super) struct Pod {
    pub(super) name: ReplicaId,
    pub(super) uid: Arc<str>,
    version: Version,
    pub(super) labels: Labels,
    /// What the annotation says now.
    pub(super) deletion_cost: Option<Box<str>>,
    /// `None`: it has ended for good, and takes no place any more.
    pub(super) phase: Option<Phase>,
    created: Option<Timestamp>,
    /// When it last became ready, if it is.
    ready_since: Option<Timestamp>,
    pub(super) restarts: u32,
    pub(super) trouble: Option<Arc<str>>,
}

impl Watched for Pod {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn version(&self) -> &Version {
        &self.version
    }
}

/// A pod's labels, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    fn get(&self, key: &str) -> Option<&str> {
        let place = self.0.binary_search_by(|(found, _)| (**found).cmp(key)).ok()?;
        self.0.get(place).map(|(_, value)| &**value)
    }

    /// Which revision of its owner it was made from, if the owner has revisions.
    fn revision(&self) -> Option<&str> {
        self.get("pod-template-hash").or_else(|| self.get("controller-revision-hash"))
    }
}

impl Pod {
    /// The order in which pods were asked for.
    pub(super) fn seniority(&self) -> (Option<Timestamp>, &str) {
        (self.created, &self.name)
    }
}

/// Whether pods of more than one revision are there to stay.
pub(super) fn is_rollout<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> bool {
    let staying = |pod: &&Pod| pod.phase.is_some_and(|phase| phase != Phase::Draining);
    let staying = pods.into_iter().filter(staying);
    let revisions: BTreeSet<_> = staying.filter_map(|pod| pod.labels.revision()).collect();
    revisions.len() > 1
}

/// When a pod is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) now: Instant,
    /// The same moment by the wall clock.
    pub(super) wall: Timestamp,
    /// What was not there at the last look has come about since then; `None` at the first look.
    pub(super) news_since: Option<Instant>,
}

impl Look {
    /// The moment that another machine's wall clock calls `at`.
    fn instant(&self, at: Option<Timestamp>) -> Instant {
        let Some(at) = at else { return self.now };
        let age = self.wall.duration_since(at).try_into().unwrap_or_default();
        let instant = self.now.checked_sub(age).unwrap_or(self.now);
        self.news_since.map_or(instant, |since| instant.max(since)).min(self.now)
    }
}

/// The times of one pod, by our own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) created: Instant,
    /// When it first became ready since it was last started.
    pub(super) ready_since: Option<Instant>,
    restarts: u32,
}

impl Life {
    pub(super) fn observe(pod: &Pod, before: Option<&Self>, look: &Look) -> Self {
        let created = before.map_or_else(|| look.instant(pod.created), |before| before.created);
        let known = before.filter(|before| before.restarts == pod.restarts);
        let ready_since = known.and_then(|before| before.ready_since).or_else(|| {
            let ready = pod.phase == Some(Phase::Ready);
            ready.then(|| look.instant(pod.ready_since).max(created))
        });
        Self { created, ready_since, restarts: pod.restarts }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    pub(super) fn pod(json: Value) -> Pod {
        serde_json::from_value(json).unwrap()
    }

    fn labelled(hash: &str, leaving: bool) -> Pod {
        let mut json = json!({"metadata": {"name": "a", "labels": {"pod-template-hash": hash}}});
        if leaving {
            json["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        pod(json)
    }

    #[test]
    fn pods_of_two_revisions_are_a_rollout_unless_one_is_leaving() {
        assert!(is_rollout(&[labelled("x", false), labelled("y", false)]));
        assert!(!is_rollout(&[labelled("x", false), labelled("y", true)]));
        assert!(!is_rollout(&[labelled("x", false), labelled("x", false)]));
        let of_set = |hash: &str| pod(json!({"metadata": {"labels": {"controller-revision-hash": hash}}}));
        assert!(is_rollout(&[of_set("x"), of_set("y")]));
        assert!(!is_rollout(&[pod(json!({"metadata": {}})), of_set("y")]));
    }

    fn times(created: &str, ready: Option<&str>, restarts: u32) -> Pod {
        let conditions: Vec<_> = ready
            .map(|at| json!({"type": "Ready", "status": "True", "lastTransitionTime": at}))
            .into_iter()
            .collect();
        pod(json!({
            "metadata": {"name": "a", "creationTimestamp": created},
            "status": {"phase": "Running", "conditions": conditions,
                "containerStatuses": [{"restartCount": restarts, "state": {"running": {}}}]},
        }))
    }

    fn look(wall: &str, news_since: Option<Instant>) -> Look {
        Look { now: Instant::now(), wall: wall.parse().unwrap(), news_since }
    }

    #[tokio::test(start_paused = true)]
    async fn what_had_happened_before_the_first_look_is_dated_by_the_wall_clock() {
        let pod = times("2026-01-01T00:00:00Z", Some("2026-01-01T00:01:40Z"), 0);
        let look = look("2026-01-01T01:00:00Z", None);
        let life = Life::observe(&pod, None, &look);
        assert_eq!(look.now - life.created, 3_600 * SECOND);
        assert_eq!(look.now - life.ready_since.unwrap(), 3_500 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_behind_puts_nothing_into_the_future() {
        let pod = times("2026-01-01T02:00:00Z", Some("2026-01-01T02:00:09Z"), 0);
        let look = look("2026-01-01T01:00:00Z", None);
        let life = Life::observe(&pod, None, &look);
        assert_eq!((life.created, life.ready_since), (look.now, Some(look.now)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_seen_to_happen_is_dated_by_our_own_clock_however_wrong_theirs_is() {
        let now = Instant::now();
        let day_off = look("2026-01-02T00:00:00Z", Some(now));
        let life = Life::observe(&times("2026-01-01T00:00:00Z", None, 0), None, &day_off);
        assert_eq!((life.created, life.ready_since), (now, None));

        tokio::time::advance(30 * SECOND).await;
        let later = look("2026-01-02T00:00:30Z", Some(Instant::now()));
        let ready = times("2026-01-01T00:00:00Z", Some("2026-01-01T00:00:30Z"), 0);
        let life = Life::observe(&ready, Some(&life), &later);
        assert_eq!((life.created, life.ready_since), (now, Some(later.now)));
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_lost_and_regained_keeps_its_date_and_a_restart_gives_it_a_new_one() {
        let first = look("2026-01-01T01:00:00Z", None);
        let life =
            Life::observe(&times("2026-01-01T00:00:00Z", Some("2026-01-01T00:30:00Z"), 0), None, &first);
        tokio::time::advance(60 * SECOND).await;
        let second = look("2026-01-01T01:01:00Z", Some(Instant::now()));
        let lost = Life::observe(&times("2026-01-01T00:00:00Z", None, 0), Some(&life), &second);
        assert_eq!(lost.ready_since, life.ready_since);
        let restarted = Life::observe(&times("2026-01-01T00:00:00Z", None, 1), Some(&lost), &second);
        assert_eq!(restarted.ready_since, None);
        let again = times("2026-01-01T00:00:00Z", Some("2026-01-01T01:01:00Z"), 1);
        assert_eq!(Life::observe(&again, Some(&restarted), &second).ready_since, Some(second.now));
    }
}
