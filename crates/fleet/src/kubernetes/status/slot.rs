//! One model's status on its way to the cluster: what it should be, what it is as far as known, and when the next
//! call about it is due. A function of time; the calls are made elsewhere.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    super::watch::Pace,
    ModelStatus,
    change::Change,
    condition::{since_earliest, stamp},
};

/// No more writes than [`WRITES`] in that time, whatever happens.
const WINDOW: Duration = Duration::from_secs(60);
const WRITES: usize = 2;
/// What is not urgent waits this long after the last write.
const CALM: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Slot {
    uid: Arc<str>,
    wanted: Value,
    conditions: Vec<Condition>,
    known: Option<Known>,
    /// When the last writes were begun, the newest last.
    writes: [Option<Instant>; WRITES],
    pace: Pace,
    not_before: Instant,
    busy: bool,
    failing: bool,
}

/// The status as it is in the cluster.
#[derive(Debug)]
struct Known {
    status: Value,
    version: String,
    /// The epoch in which this was learned. In another one, somebody else may have written since.
    epoch: u64,
    since: Instant,
}

/// What is to be called.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Call {
    Read {
        uid: Arc<str>,
    },
    /// A merge patch that holds for one version of one object only.
    Patch {
        patch: Value,
        epoch: u64,
    },
}

impl Slot {
    pub(super) fn new(uid: Arc<str>, now: Instant) -> Self {
        Self {
            uid,
            wanted: Value::Null,
            conditions: Vec::new(),
            known: None,
            writes: [None; WRITES],
            pace: Pace::default(),
            not_before: now,
            busy: false,
            failing: false,
        }
    }

    pub(super) fn is_about(&self, uid: &str) -> bool {
        *self.uid == *uid
    }

    pub(super) fn want(&mut self, status: &ModelStatus, wall: Timestamp) {
        self.conditions = stamp(&status.conditions, &self.conditions, status.observed_generation, wall);
        self.wanted = status.to_value();
        self.place_conditions();
    }

    /// When the next call is due; `None` while there is nothing to call about.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.busy {
            return None;
        }
        let Some(known) = &self.known else { return Some(self.not_before) };
        let [before_last, last] = self.writes;
        let within_cap = before_last.map_or(self.not_before, |at| self.not_before.max(at + WINDOW));
        match Change::between(&known.status, &self.wanted) {
            Change::None => None,
            Change::Minor => Some(within_cap.max(last.unwrap_or(known.since) + CALM)),
            Change::Major => Some(within_cap),
        }
    }

    /// Begins the call that is due, for a leader of that epoch.
    pub(super) fn begin(&mut self, epoch: u64, now: Instant) -> Call {
        self.busy = true;
        self.known = self.known.take().filter(|known| known.epoch == epoch);
        let Some(known) = &self.known else { return Call::Read { uid: Arc::clone(&self.uid) } };
        let metadata = json!({"uid": &*self.uid, "resourceVersion": known.version});
        // In a merge patch what is `null` is removed, so nothing of the former status stays.
        let patch = json!({"metadata": metadata, "status": self.wanted});
        self.writes.rotate_left(1);
        if let Some(newest) = self.writes.last_mut() {
            *newest = Some(now);
        }
        Call::Patch { patch, epoch }
    }

    /// The object as it was read.
    pub(super) fn read(&mut self, status: Value, version: String, (epoch, now): (u64, Instant)) {
        let seen = status.get("conditions").cloned().unwrap_or_default();
        since_earliest(&mut self.conditions, &serde_json::from_value::<Vec<_>>(seen).unwrap_or_default());
        self.place_conditions();
        self.known = Some(Known { status, version, epoch, since: now });
        self.succeed();
    }

    /// The status is written, and this is the version that has it.
    pub(super) fn wrote(&mut self, status: Value, version: String, (epoch, now): (u64, Instant)) {
        self.known = Some(Known { status, version, epoch, since: now });
        self.succeed();
    }

    /// Somebody has changed the object since it was read: read it again.
    pub(super) fn refused(&mut self) {
        self.known = None;
        self.busy = false;
    }

    /// Says whether that is news.
    pub(super) fn failed(&mut self, asked: Option<Duration>, now: Instant) -> bool {
        self.not_before = now + self.pace.pause(asked);
        self.known = None;
        self.busy = false;
        !std::mem::replace(&mut self.failing, true)
    }

    fn succeed(&mut self) {
        self.busy = false;
        self.failing = false;
        self.pace.settle();
    }

    fn place_conditions(&mut self) {
        if let Some(fields) = self.wanted.as_object_mut() {
            fields.insert("conditions".to_owned(), json!(self.conditions));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Condition, Fact, ModelState, Observed, Ready, Replicas},
        *,
    };

    fn status(ready: u32, rps: f64) -> ModelStatus {
        ModelStatus {
            observed_generation: 1,
            state: ModelState::Ready,
            target: "Deployment/digits".to_owned(),
            replicas: Replicas { current: ready, ready, desired: ready },
            observed: Some(Observed { rps, p99: None, queue: 0, as_of: Timestamp::UNIX_EPOCH }),
            last_decision: None,
            conditions: vec![Condition { fact: Fact::Ready(Ready::Serving), message: String::new() }],
        }
    }

    fn want(slot: &mut Slot, ready: u32, rps: f64) {
        slot.want(&status(ready, rps), Timestamp::UNIX_EPOCH);
    }

    /// Does what is due at once, successfully; says whether that was a write.
    fn call(slot: &mut Slot, now: Instant) -> bool {
        match slot.begin(1, now) {
            Call::Read { .. } => {
                slot.read(Value::Null, "1".to_owned(), (1, now));
                false
            }
            Call::Patch { patch, .. } => {
                slot.wrote(patch["status"].clone(), "2".to_owned(), (1, now));
                true
            }
        }
    }

    fn written(now: Instant) -> Slot {
        let mut slot = Slot::new("u".into(), now);
        want(&mut slot, 1, 10.0);
        assert!(!call(&mut slot, now));
        assert!(call(&mut slot, now));
        assert_eq!(slot.due(), None);
        slot
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_another_leader_wrote_is_read_first_and_not_written_again() {
        let now = Instant::now();
        let mut slot = Slot::new("u".into(), now);
        want(&mut slot, 1, 10.0);
        assert_eq!(slot.begin(1, now), Call::Read { uid: "u".into() });
        assert_eq!(slot.due(), None);
        let theirs = slot.wanted.clone();
        slot.read(theirs, "7".to_owned(), (1, now));
        assert_eq!(slot.due(), None);
        want(&mut slot, 2, 10.0);
        let Call::Patch { patch, epoch: 1 } = slot.begin(1, now) else { panic!() };
        assert_eq!(patch["metadata"], json!({"uid": "u", "resourceVersion": "7"}));
        assert_eq!(patch["status"]["replicas"]["ready"], 2);
        assert_eq!(patch["status"]["lastDecision"], Value::Null);
    }

    #[test]
    fn in_another_epoch_it_is_read_again() {
        let now = Instant::now();
        let mut slot = written(now);
        want(&mut slot, 2, 10.0);
        assert_eq!(slot.begin(2, now), Call::Read { uid: "u".into() });
    }

    #[test]
    fn numbers_wait_for_thirty_seconds_and_news_do_not() {
        let now = Instant::now();
        let mut slot = written(now);
        want(&mut slot, 1, 11.0);
        assert_eq!(slot.due(), None);
        want(&mut slot, 1, 20.0);
        assert_eq!(slot.due(), Some(now + seconds(30)));
        want(&mut slot, 2, 20.0);
        assert_eq!(slot.due(), Some(now));
        want(&mut slot, 1, 10.0);
        assert_eq!(slot.due(), None);
    }

    #[test]
    fn in_any_minute_there_are_at_most_two_writes_and_the_last_state_is_written() {
        let now = Instant::now();
        let mut slot = written(now);
        let mut writes = vec![now];
        let mut ready = 1;
        for second in 0..600 {
            let at = now + seconds(second);
            ready += 1;
            want(&mut slot, ready, 10.0);
            while slot.due().is_some_and(|due| due <= at) {
                if call(&mut slot, at) {
                    writes.push(at);
                }
            }
        }
        for three in writes.windows(3) {
            assert!(three[2] - three[0] >= seconds(60), "{writes:?}");
        }
        assert!(writes.len() >= 19);
        let at = slot.due().unwrap();
        assert!(call(&mut slot, at));
        assert_eq!(slot.known.as_ref().unwrap().status["replicas"]["ready"], ready);
        assert_eq!(slot.due(), None);
    }

    #[test]
    fn attempts_that_fail_are_counted_and_tried_again_ever_more_seldom() {
        let now = Instant::now();
        let mut slot = written(now);
        want(&mut slot, 2, 10.0);
        slot.begin(1, now);
        assert!(slot.failed(None, now));
        let first = slot.due().unwrap();
        assert!(first > now);
        slot.begin(1, first);
        assert!(!slot.failed(None, first));
        assert!(slot.due().unwrap() - first > first - now);
        let read = slot.due().unwrap();
        assert!(!call(&mut slot, read));
        assert_eq!(slot.due(), Some(now + WINDOW));
    }

    #[test]
    fn after_a_conflict_it_is_read_and_written_within_the_same_bounds() {
        let now = Instant::now();
        let mut slot = written(now);
        want(&mut slot, 2, 10.0);
        slot.begin(1, now);
        slot.refused();
        assert_eq!(slot.due(), Some(now));
        assert!(!call(&mut slot, now));
        assert_eq!(slot.due(), Some(now + WINDOW));
    }
}
