//! What is noted of a traced request on its way, for whoever makes spans of it. Ids are plain numbers: nothing in
//! this crate knows what records a span, or where it goes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// Waits, and batches, that are noted of one request; more come of one that is sent in very many parts.
const NOTES_MAX: usize = 32;

/// A span that is recorded, by its ids as in W3C's trace context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    pub trace: u128,
    pub span: u64,
}

/// A request of which spans are recorded. It is shared by those who take part in its answer.
#[derive(Debug)]
pub struct Traced {
    context: Context,
    notes: Mutex<Notes>,
}

/// What became of a traced request, as far as it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// In the queue; more than one where it was tried again, or sent in parts.
    pub waits: Vec<Wait>,
    /// Calls that answered it together with other requests.
    pub batches: Vec<Context>,
}

/// One stay in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    pub since: Instant,
    /// `None`: it never left it for a replica.
    pub until: Option<Instant>,
}

impl Traced {
    /// A request whose span is `context`.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self { context, notes: Mutex::default() }
    }

    #[must_use]
    pub fn context(&self) -> Context {
        self.context
    }

    /// It is part of a call whose span is `batch`.
    pub fn merged_into(&self, batch: Context) {
        let mut notes = self.lock();
        if notes.batches.len() < NOTES_MAX && !notes.batches.contains(&batch) {
            notes.batches.push(batch);
        }
    }

    /// What was noted so far.
    #[must_use]
    pub fn notes(&self) -> Notes {
        self.lock().clone()
    }

    pub(crate) fn enqueued(&self, now: Instant) {
        let mut notes = self.lock();
        if notes.waits.len() < NOTES_MAX {
            notes.waits.push(Wait { since: now, until: None });
        }
    }

    pub(crate) fn dispatched(&self, now: Instant) {
        if let Some(wait) = self.lock().waits.iter_mut().find(|wait| wait.until.is_none()) {
            wait.until = Some(now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_stay_in_the_queue_is_noted_and_there_is_a_bound() {
        let traced = Traced::new(Context { trace: 1, span: 2 });
        let start = Instant::now();
        let later = start + Duration::from_millis(5);
        traced.enqueued(start);
        traced.dispatched(later);
        traced.enqueued(later);
        let waits = [Wait { since: start, until: Some(later) }, Wait { since: later, until: None }];
        assert_eq!(traced.notes().waits, waits);
        for span in 0..100 {
            traced.enqueued(later);
            traced.merged_into(Context { trace: 3, span });
            traced.merged_into(Context { trace: 3, span });
        }
        let notes = traced.notes();
        assert_eq!((notes.waits.len(), notes.batches.len()), (NOTES_MAX, NOTES_MAX));
    }
}
