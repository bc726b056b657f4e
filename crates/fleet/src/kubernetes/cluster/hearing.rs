//! Whether the API server answers, put together from all calls and watches.

use std::sync::{Mutex, PoisonError};

use metrics::{Gauge, gauge};
use tokio::{sync::watch, time::Instant};

/// Whether the API server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    Heard,
    /// The last calls failed, and nothing was heard since then; before the first answer, since the beginning.
    Silent {
        since: Instant,
    },
}

/// Takes note of every answer and of every missing one.
pub(super) struct Ear {
    state: watch::Sender<Hearing>,
    last: Mutex<Instant>,
    up: Gauge,
}

impl Ear {
    pub(super) fn new() -> Self {
        let since = Instant::now();
        let up = gauge!("tidegate_apiserver_up");
        up.set(0.0);
        Self { state: watch::Sender::new(Hearing::Silent { since }), last: Mutex::new(since), up }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Hearing> {
        self.state.subscribe()
    }

    pub(super) fn heard(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if self.change(|hearing| (*hearing != Hearing::Heard).then_some(Hearing::Heard)) {
            self.up.set(1.0);
        }
    }

    pub(super) fn missed(&self) {
        let since = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if self.change(|hearing| (*hearing == Hearing::Heard).then_some(Hearing::Silent { since })) {
            self.up.set(0.0);
        }
    }

    fn change(&self, next: impl FnOnce(&Hearing) -> Option<Hearing>) -> bool {
        self.state.send_if_modified(|hearing| match next(hearing) {
            Some(changed) => {
                *hearing = changed;
                true
            }
            None => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_the_last_answer() {
        let ear = Ear::new();
        let hearing = ear.subscribe();
        assert_eq!(*hearing.borrow(), Hearing::Silent { since: Instant::now() });
        ear.heard();
        assert_eq!(*hearing.borrow(), Hearing::Heard);
        let last = Instant::now();
        advance(Duration::from_secs(9)).await;
        ear.missed();
        advance(Duration::from_secs(9)).await;
        ear.missed();
        assert_eq!(*hearing.borrow(), Hearing::Silent { since: last });
        ear.heard();
        assert_eq!(*hearing.borrow(), Hearing::Heard);
    }
}
