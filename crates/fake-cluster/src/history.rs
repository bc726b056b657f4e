//! What happened to the objects of one kind, in order: a bounded window that watches read at their own pace.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::watch;

use crate::object::Object;

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) change: Change,
    pub(crate) revision: u64,
    pub(crate) object: Arc<Object>,
    /// What it was before; selectors tell by it whether an object leaves or enters a watch.
    pub(crate) previous: Option<Arc<Object>>,
}

/// Where a watch stands: the number of the next event it has not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position(u64);

/// The reader was too slow, or asks for a time before the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forgotten {
    pub(crate) oldest: u64,
}

#[derive(Debug)]
pub(crate) struct History {
    events: VecDeque<Event>,
    events_max: usize,
    /// The number of the first event still here.
    first: u64,
    /// Watches cannot start before this revision.
    floor: u64,
    grown: watch::Sender<u64>,
}

impl History {
    pub(crate) fn new(events_max: usize, floor: u64) -> Self {
        Self { events: VecDeque::new(), events_max, first: 0, floor, grown: watch::Sender::new(0) }
    }

    pub(crate) fn push(&mut self, event: Event) {
        if self.events.len() >= self.events_max
            && let Some(oldest) = self.events.pop_front()
        {
            self.first += 1;
            self.floor = self.floor.max(oldest.revision);
        }
        self.events.push_back(event);
        let end = self.end().0;
        self.grown.send_replace(end);
    }

    /// Watches can no longer start before `revision`; those that run go on.
    pub(crate) fn forget_before(&mut self, revision: u64) {
        self.floor = self.floor.max(revision);
    }

    pub(crate) fn end(&self) -> Position {
        Position(self.first + self.events.len() as u64)
    }

    /// The position just after `revision`.
    pub(crate) fn after(&self, revision: u64) -> Result<Position, Forgotten> {
        if revision < self.floor {
            return Err(Forgotten { oldest: self.floor });
        }
        let seen = self.events.partition_point(|event| event.revision <= revision);
        Ok(Position(self.first + seen as u64))
    }

    /// At most `max` events from `position` on.
    pub(crate) fn read(&self, position: Position, max: usize) -> Result<Vec<Event>, Forgotten> {
        let Some(skipped) = position.0.checked_sub(self.first) else {
            return Err(Forgotten { oldest: self.floor });
        };
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        Ok(self.events.iter().skip(skipped).take(max).cloned().collect())
    }

    /// Tells when there is more to read.
    pub(crate) fn growth(&self) -> watch::Receiver<u64> {
        self.grown.subscribe()
    }
}

impl Position {
    pub(crate) fn plus(self, events: usize) -> Self {
        Self(self.0 + events as u64)
    }
}
