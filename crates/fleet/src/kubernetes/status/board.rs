//! The statuses of all models, and which is due first. Shared between those who set them and the task that writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    super::models::OBJECTS_MAX,
    ModelStatus,
    slot::{Call, Slot},
};

/// A model by namespace and name.
pub(super) type Key = (Arc<str>, Arc<str>);

/// More models than there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are more than {OBJECTS_MAX} models")]
pub struct TooMany;

#[derive(Debug, Default)]
pub(super) struct Board {
    slots: BTreeMap<Key, (Slot, Option<Instant>)>,
    /// The slots that are due some time, by when.
    agenda: BTreeSet<(Instant, Key)>,
}

impl Board {
    /// Says whether another one is the first that is due.
    pub(super) fn set(
        &mut self,
        (key, uid): (Key, &Arc<str>),
        status: &ModelStatus,
        (now, wall): (Instant, Timestamp),
    ) -> Result<bool, TooMany> {
        let first = self.first_due();
        if self.slots.get(&key).is_some_and(|(slot, _)| !slot.is_about(uid)) {
            self.forget(&key);
        }
        if !self.slots.contains_key(&key) {
            if self.slots.len() >= OBJECTS_MAX {
                return Err(TooMany);
            }
            self.slots.insert(key.clone(), (Slot::new(Arc::clone(uid), now), None));
        }
        self.tell(&key, |slot| slot.want(status, wall));
        Ok(self.first_due() != first)
    }

    pub(super) fn forget(&mut self, key: &Key) {
        if let Some((_, Some(due))) = self.slots.remove(key) {
            self.agenda.remove(&(due, key.clone()));
        }
    }

    pub(super) fn first_due(&self) -> Option<Instant> {
        self.agenda.first().map(|(due, _)| *due)
    }

    /// Begins what is due.
    pub(super) fn begin(&mut self, epoch: u64, now: Instant) -> Option<(Key, Call)> {
        let (_, key) = self.agenda.first().filter(|(due, _)| *due <= now)?.clone();
        let call = self.tell(&key, |slot| slot.begin(epoch, now))?;
        Some((key, call))
    }

    /// Tells a slot something, and puts it in its new place. `None`: it was forgotten meanwhile.
    pub(super) fn tell<T>(&mut self, key: &Key, news: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let (slot, due) = self.slots.get_mut(key)?;
        let told = news(slot);
        let next = slot.due();
        if let Some(due) = std::mem::replace(due, next) {
            self.agenda.remove(&(due, key.clone()));
        }
        if let Some(next) = next {
            self.agenda.insert((next, key.clone()));
        }
        Some(told)
    }
}
