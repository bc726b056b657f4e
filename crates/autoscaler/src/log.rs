//! The decisions of one model that are worth telling: those that differ from the one before, and the latest.

mod filter;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use self::filter::{Filter, Limited, NoSuch};
use crate::{decide::Decision, observe::Observed};

/// Entries that are kept.
pub const KEPT: usize = 1000;

/// A decision and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub decision: Decision,
    pub outcome: Outcome,
    /// Where the model is only observed: what it would have had.
    #[serde(default)]
    pub observed: Option<Arc<Observed>>,
}

impl Entry {
    /// The decision that is told: where the model is only observed, of the fleet that it would have had; but where
    /// another autoscaler has it, which may follow what it is told, of the fleet that it has.
    #[must_use]
    pub fn told(&self) -> &Decision {
        let followed = self.decision.inputs.platform.rival.is_some();
        let on_paper = self.observed.as_ref().filter(|_| !followed);
        on_paper.map_or(&self.decision, |observed| &observed.decision)
    }
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

/// Why the log does not say what stood at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    #[error("nothing was decided yet")]
    Nothing,
    /// The first decision, at this time, came later.
    #[error("deciding began later")]
    Earlier { first: Duration },
    /// It was decided and is forgotten: the oldest that is kept is from this time.
    #[error("only the last 1,000 decisions that differ are kept")]
    Forgotten { oldest: Duration },
}

/// What stood at a time.
#[derive(Clone, Debug)]
pub struct Stood {
    pub entry: Arc<Entry>,
    /// When something else came to stand, if it has.
    pub until: Option<Duration>,
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
    /// Whether older ones are forgotten.
    full: bool,
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

    /// Those of the last entries that pass the filter, newest first, at most `n`.
    #[must_use]
    pub fn select(&self, filter: &Filter, n: usize) -> Vec<Arc<Entry>> {
        self.read(|ring| ring.entries.iter().rev().filter(|e| filter.passes(e)).take(n).cloned().collect())
    }

    /// The decision that stood at `at`. Its numbers are those of when it was made.
    ///
    /// # Errors
    /// [`NotKept`] if that is before the first one, or longer ago than the log remembers.
    pub fn stood_at(&self, at: Duration) -> Result<Stood, NotKept> {
        self.read(|ring| {
            let latest = ring.latest.as_ref().ok_or(NotKept::Nothing)?;
            if latest.decision.at <= at {
                return Ok(Stood { entry: Arc::clone(latest), until: None });
            }
            let later = ring.entries.partition_point(|entry| entry.decision.at <= at);
            let until = ring.entries.get(later).map(|entry| entry.decision.at);
            let found = later.checked_sub(1).and_then(|index| ring.entries.get(index));
            match (found, ring.entries.front()) {
                (Some(entry), _) => Ok(Stood { entry: Arc::clone(entry), until }),
                (None, Some(oldest)) if ring.full => Err(NotKept::Forgotten { oldest: oldest.decision.at }),
                (None, first) => Err(NotKept::Earlier { first: first.unwrap_or(latest).decision.at }),
            }
        })
    }

    /// Adds an entry and says whether it differs from the one before.
    pub fn push(&self, entry: Arc<Entry>) -> bool {
        self.read(|ring| {
            let news = ring.latest.as_ref().is_none_or(|before| differs(before, &entry));
            if news {
                if ring.entries.len() == KEPT {
                    ring.entries.pop_front();
                    ring.full = true;
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
        let Decision { to, reason, limits, .. } = entry.told();
        let limits: Vec<_> = limits.iter().map(|limit| std::mem::discriminant(&limit.kind)).collect();
        (*to, *reason, limits, std::mem::discriminant(&entry.outcome))
    }
    after.outcome == Outcome::Applied || news(before) != news(after)
}
