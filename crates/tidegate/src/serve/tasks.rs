//! The tasks of one model, which end together.

use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

/// Tasks that are cut short when the last of this is dropped, or [`stop`](Self::stop) is called.
#[derive(Debug)]
pub(super) struct Tasks {
    token: CancellationToken,
    /// Ends every task also of a model that never came into service.
    _guard: DropGuard,
    tracker: TaskTracker,
}

impl Tasks {
    pub(super) fn new() -> Self {
        let token = CancellationToken::new();
        Self { _guard: token.clone().drop_guard(), token, tracker: TaskTracker::new() }
    }

    /// Runs `task` until it ends or all are stopped.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let token = self.token.clone();
        self.tracker.spawn(async move {
            token.run_until_cancelled(task).await;
        });
    }

    /// Runs `task`, which ends by itself when the token it is given is cancelled.
    pub(super) fn spawn_with<F>(&self, task: impl FnOnce(CancellationToken) -> F) -> CancellationToken
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let token = self.token.child_token();
        self.tracker.spawn(task(token.clone()));
        token
    }

    /// Ends every task and waits until they are gone.
    pub(super) async fn stop(self) {
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
