//! Exactly one outcome per request, on every path: a dropped [`Responder`] answers too.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    error::{Error, Stage},
    request::Answer,
};

/// The side that owes a request its outcome.
#[derive(Debug)]
pub(crate) struct Responder {
    sender: Option<oneshot::Sender<Result<Answer, Error>>>,
    dispatched: Arc<AtomicBool>,
}

/// The side of the caller.
#[derive(Debug)]
pub(crate) struct Pending {
    receiver: oneshot::Receiver<Result<Answer, Error>>,
    dispatched: Arc<AtomicBool>,
    since: Instant,
}

pub(crate) fn channel(now: Instant) -> (Responder, Pending) {
    let (sender, receiver) = oneshot::channel();
    let dispatched = Arc::new(AtomicBool::new(false));
    let pending = Pending { receiver, dispatched: Arc::clone(&dispatched), since: now };
    (Responder { sender: Some(sender), dispatched }, pending)
}

impl Responder {
    /// Gives the outcome; lost if the caller is gone.
    pub(crate) fn respond(mut self, outcome: Result<Answer, Error>) {
        if let Some(sender) = self.sender.take() {
            // The caller may have left in the meantime: then nobody is owed anything.
            let _ = sender.send(outcome);
        }
    }

    /// From here on a passed deadline is the model server's, not the queue's.
    pub(crate) fn mark_dispatched(&self) {
        self.dispatched.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.sender.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Resolves when the caller is gone.
    pub(crate) async fn abandoned(&mut self) {
        if let Some(sender) = &mut self.sender {
            sender.closed().await;
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            let _ = sender.send(Err(Error::Internal));
        }
    }
}

impl Pending {
    /// The outcome, at the latest when the deadline passes.
    pub(crate) async fn outcome(self, deadline: Instant) -> Result<Answer, Error> {
        match tokio::time::timeout_at(deadline, self.receiver).await {
            Ok(outcome) => outcome.unwrap_or(Err(Error::Internal)),
            Err(_) => {
                let stage =
                    if self.dispatched.load(Ordering::Relaxed) { Stage::Upstream } else { Stage::Queue };
                Err(Error::DeadlineExceeded { stage, waited: self.since.elapsed() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_responder_that_is_dropped_still_answers() {
        let (responder, pending) = channel(Instant::now());
        drop(responder);
        let outcome = pending.outcome(Instant::now() + Duration::from_secs(1)).await;
        assert_eq!(outcome.unwrap_err(), Error::Internal);
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_comes_later_than_the_deadline() {
        let start = Instant::now();
        let (responder, pending) = channel(start);
        responder.mark_dispatched();
        let outcome = pending.outcome(start + Duration::from_millis(50)).await;
        let Err(Error::DeadlineExceeded { stage: Stage::Upstream, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(start.elapsed(), Duration::from_millis(50));
        assert!(responder.is_abandoned());
    }
}
