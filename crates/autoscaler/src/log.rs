//! The decisions of one model that are worth telling: those that differ from the one before, and the latest.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::decide::Decision;

/// Entries that are kept.
const KEPT: usize = 1000;

/// A decision and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub decision: Decision,
    pub outcome: Outcome,
}

/// What became of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// There was nothing to write.
    Unchanged,
    Applied,
    /// Not written: the model is only observed.
    Observed,
    /// Not written: another autoscaler, of this kind and name, has the same object.
    ConflictingAutoscaler(Arc<str>),
    /// Not written, for this reason: replicas that were to go cannot be spared just now, or nobody knows how many
    /// there are.
    Kept(Arc<str>),
    /// Not written: the fleet refused, with this error.
    Failed(Arc<str>),
    /// Not written: the fleet refused a moment ago, and is left alone until this time.
    BackingOff(Duration),
}

/// A handle to read the log while the loop writes it.
#[derive(Clone, Debug, Default)]
pub struct Log {
    ring: Arc<Mutex<Ring>>,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Arc<Entry>>,
    latest: Option<Arc<Entry>>,
}

impl Log {
    /// The decision of the last tick.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Entry>> {
        self.read(|ring| ring.latest.clone())
    }

    /// The last `n` entries that differ from the one before, newest first.
    #[must_use]
    pub fn recent(&self, n: usize) -> Vec<Arc<Entry>> {
        self.read(|ring| ring.entries.iter().rev().take(n).cloned().collect())
    }

    /// The decision that stood at `at`; `None` if that is longer ago than the log remembers.
    #[must_use]
    pub fn at(&self, at: Duration) -> Option<Arc<Entry>> {
        self.read(|ring| {
            let latest = ring.latest.as_ref().filter(|entry| entry.decision.at <= at);
            let found = || ring.entries.iter().rev().find(|entry| entry.decision.at <= at);
            latest.or_else(found).cloned()
        })
    }

    /// Adds an entry and says whether it differs from the one before.
    pub(crate) fn push(&self, entry: Arc<Entry>) -> bool {
        self.read(|ring| {
            let news = ring.latest.as_ref().is_none_or(|before| differs(before, &entry));
            if news {
                if ring.entries.len() == KEPT {
                    ring.entries.pop_front();
                }
                ring.entries.push_back(Arc::clone(&entry));
            }
            ring.latest = Some(entry);
            news
        })
    }

    fn read<T>(&self, look: impl FnOnce(&mut Ring) -> T) -> T {
        // Every change leaves the ring whole, so that one made by a task that panicked can be read on.
        look(&mut self.ring.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether there is something new to tell: another wish, reason, result or set of limits. Targets that move
/// while a limit holds the wish, and times that go by, are not news.
fn differs(before: &Entry, after: &Entry) -> bool {
    fn news(entry: &Entry) -> impl PartialEq {
        let Decision { to, reason, limits, .. } = &entry.decision;
        let limits: Vec<_> = limits.iter().map(|limit| std::mem::discriminant(&limit.kind)).collect();
        (*to, *reason, limits, std::mem::discriminant(&entry.outcome))
    }
    after.outcome == Outcome::Applied || news(before) != news(after)
}
