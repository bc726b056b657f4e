//! How a pod's life goes: the times of its phases, and what goes wrong.

use std::time::Duration;

/// A pod's life, phase by phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Until a node is found; if it takes any time, the scheduler says meanwhile that the pod does not fit.
    pub unscheduled: Duration,
    /// Until the containers run: pulling images, mounting volumes.
    pub creating: Duration,
    /// Until the running containers are ready.
    pub warming: Duration,
    /// From the deletion to the end of the containers; the grace period cuts it short.
    pub stopping: Duration,
    pub outcome: Outcome,
}

/// How a start ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ready,
    /// No node fits, in the scheduler's words, until the script is changed.
    Unschedulable(String),
    /// The image cannot be had.
    ImagePullBackOff,
    /// It runs for this long, fails, and is restarted after a growing pause, again and again.
    CrashLoop(Duration),
    /// It runs and never gets ready.
    NeverReady,
}

/// What the scheduler says where a script says nothing else.
pub(crate) const NO_ROOM: &str = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.";

impl Start {
    /// Ready after `creating` and `warming`, gone one second after its deletion.
    #[must_use]
    pub fn after(creating: Duration, warming: Duration) -> Self {
        let stopping = Duration::from_secs(1);
        Self { unscheduled: Duration::ZERO, creating, warming, stopping, outcome: Outcome::Ready }
    }

    /// Stuck for want of a node.
    #[must_use]
    pub fn unschedulable() -> Self {
        Self::default().ending(Outcome::Unschedulable(NO_ROOM.to_owned()))
    }

    /// Waits this long for a node first.
    #[must_use]
    pub fn unscheduled_for(mut self, time: Duration) -> Self {
        self.unscheduled = time;
        self
    }

    /// Takes this long to stop.
    #[must_use]
    pub fn stopping_for(mut self, time: Duration) -> Self {
        self.stopping = time;
        self
    }

    /// Ends otherwise than ready.
    #[must_use]
    pub fn ending(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }
}

impl Default for Start {
    /// Two seconds to create the containers, one to get ready, one to stop.
    fn default() -> Self {
        Self::after(Duration::from_secs(2), Duration::from_secs(1))
    }
}
