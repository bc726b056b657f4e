//! Events: what happened to a model, for `kubectl describe` and whoever collects events. On the `Model` object, or on
//! the object that is scaled where the model stands in the configuration file.
//!
//! They are news, not records: of one kind about one object at most one a minute is told, repetitions are counted on
//! the event that is there, and what cannot be told within a few tries is dropped. Not kube's recorder: it is not
//! bounded, and keeps the first text of a series although each of ours has its own numbers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::{sync::Notify, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::cluster::Cluster;

use self::{desk::Desk, worker::Worker};

mod desk;
mod worker;

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// Like `apps/v1`.
    pub api_version: Arc<str>,
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// `kubectl describe` shows only events with the UID of the object.
    pub uid: Option<Arc<str>>,
}

/// What happened. The names are API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    ScaledUp,
    ScaledDown,
    ScaledToZero,
    ColdStart,
    ColdStartTimeout,
    ScaleFrozen,
    ScaleLimited,
    SloBreach,
    ForeignScaler,
    ConfigRejected,
}

impl Reason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ScaledUp => "ScaledUp",
            Self::ScaledDown => "ScaledDown",
            Self::ScaledToZero => "ScaledToZero",
            Self::ColdStart => "ColdStart",
            Self::ColdStartTimeout => "ColdStartTimeout",
            Self::ScaleFrozen => "ScaleFrozen",
            Self::ScaleLimited => "ScaleLimited",
            Self::SloBreach => "SLOBreach",
            Self::ForeignScaler => "ForeignScaler",
            Self::ConfigRejected => "ConfigRejected",
        }
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::ScaledUp | Self::ScaledDown | Self::ScaledToZero | Self::ColdStart => "Normal",
            Self::ColdStartTimeout
            | Self::ScaleFrozen
            | Self::ScaleLimited
            | Self::SloBreach
            | Self::ForeignScaler
            | Self::ConfigRejected => "Warning",
        }
    }

    /// What was done, or tried.
    const fn action(self) -> &'static str {
        match self {
            Self::ScaledUp | Self::ScaledDown | Self::ScaledToZero => "Scale",
            Self::ScaleFrozen | Self::ScaleLimited | Self::ForeignScaler => "Decide",
            Self::ColdStart | Self::ColdStartTimeout => "Start",
            Self::SloBreach => "Serve",
            Self::ConfigRejected => "Configure",
        }
    }
}

/// Tells events. Cheap to clone; the last one that is dropped ends the telling.
#[derive(Clone, Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    _task: Arc<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    desk: Mutex<Desk>,
    /// There is something to tell.
    bell: Notify,
}

impl Recorder {
    /// `instance` is the name of this process's pod. Must be called within a runtime, which then runs it.
    pub fn start(cluster: &Cluster, instance: &str) -> Self {
        let shared = Arc::new(Shared { desk: Mutex::default(), bell: Notify::new() });
        let worker = Worker::new(cluster, instance, Arc::clone(&shared));
        Self { shared, _task: Arc::new(AbortOnDropHandle::new(tokio::spawn(worker.run()))) }
    }

    /// Something happened. Returns at once. Of a longer note the first 1,024 bytes are told.
    pub fn record(&self, subject: &Subject, reason: Reason, note: &str) {
        let news = self.shared.lock().take(subject, reason, note, (Instant::now(), Timestamp::now()));
        if news {
            self.shared.bell.notify_one();
        } else {
            warn!(object = %subject.name, reason = reason.as_str(), "there are too many events: this one is not told");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
