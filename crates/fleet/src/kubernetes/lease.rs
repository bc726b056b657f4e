//! Who decides: one of several processes, by compare-and-swap on a `coordination.k8s.io/v1` Lease. [`Election`] stands
//! for office, [`follow`] only learns who holds it.
//!
//! A holder leaves office *before* anybody else may take it: its [`Fence`] falls when a renewal is overdue by the
//! monotonic clock of its own machine, counted from before the renewal was sent, and is asked right before each write.
//! So a process that was stopped and continued, or cut off, finds itself deposed without having to be told.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::cluster::Cluster;

use self::{
    candidate::{Name, Reign},
    elector::{Command, Elector, Publishers},
    record::Record,
};

mod candidate;
mod elector;
mod follow;
mod record;

pub(super) use self::candidate::EPOCH_MAX;
pub use self::follow::follow;

/// How long a holder is waited for, when it gives up by itself, and how often it renews.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    duration: Duration,
    renew_deadline: Duration,
    retry: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    #[error("the lease duration must be between 1 and 300 whole seconds")]
    Duration,
    #[error("the renew deadline must be shorter than the lease duration")]
    RenewDeadline,
    #[error("the retry period must be positive and at most half the renew deadline")]
    Retry,
}

impl Timing {
    /// A successor follows a lost holder within duration + retry. What a holder began before its renew deadline
    /// has the difference to the duration to end.
    pub fn new(duration: Duration, renew_deadline: Duration, retry: Duration) -> Result<Self, TimingError> {
        if duration.subsec_nanos() != 0 || !(1..=300).contains(&duration.as_secs()) {
            return Err(TimingError::Duration);
        }
        if renew_deadline >= duration {
            return Err(TimingError::RenewDeadline);
        }
        if retry.is_zero() || retry * 2 > renew_deadline {
            return Err(TimingError::Retry);
        }
        Ok(Self { duration, renew_deadline, retry })
    }

    /// A successor within 7 seconds, for an API server that is near and not busy.
    pub const fn fast() -> Self {
        Self {
            duration: Duration::from_secs(6),
            renew_deadline: Duration::from_secs(4),
            retry: Duration::from_secs(1),
        }
    }

    pub const fn duration(&self) -> Duration {
        self.duration
    }

    pub const fn renew_deadline(&self) -> Duration {
        self.renew_deadline
    }

    pub const fn retry(&self) -> Duration {
        self.retry
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Config {
    pub namespace: String,
    /// Of the Lease. Where it is missing it is made, after a lease duration: somebody may hold a deleted one.
    pub name: String,
    /// By which the holder is known to others: its pod's name.
    pub identity: Arc<str>,
    /// `HOST:PORT` where this process hears gateways when it leads.
    pub signals_address: Option<Arc<str>>,
    pub timing: Timing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Leading {
        epoch: u64,
    },
    /// Nobody leads, or somebody else: the holder last seen.
    Following {
        leader: Option<Leader>,
    },
}

/// The holder of a Lease. It may be dead for as long as the lease duration, and longer if nobody else stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub identity: Arc<str>,
    /// `HOST:PORT` where it hears gateways; `None` if it says nothing readable.
    pub address: Option<Arc<str>>,
    /// Grows with each change of leader.
    pub epoch: u64,
}

impl Leader {
    fn of(record: &Record) -> Option<Self> {
        let holder = Some(&record.holder).filter(|holder| !holder.is_empty())?;
        Some(Self { identity: (**holder).into(), address: record.address.clone(), epoch: record.epoch })
    }
}

/// Permission to write, as long as it holds. To be asked immediately before each write.
#[derive(Clone, Debug)]
pub struct Fence(watch::Receiver<Option<Reign>>);

impl Fence {
    /// A fence that always stands, for a process that is known to be the only one that decides.
    pub fn always(epoch: u64) -> Self {
        /// Far enough, and no overflow.
        const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
        Self(watch::channel(Some(Reign { epoch, until: Instant::now() + FOR_EVER })).1)
    }

    /// Whether this process leads right now.
    pub fn holds(&self) -> bool {
        self.epoch().is_some()
    }

    /// The epoch in which this process leads right now; `None` if it does not. What was decided in another epoch
    /// must not be written in this one.
    pub fn epoch(&self) -> Option<u64> {
        self.0.borrow().filter(|reign| Instant::now() < reign.until).map(|reign| reign.epoch)
    }
}

/// One process's candidacy. Stands until [`resign`](Self::resign), or until the handle is dropped.
#[derive(Debug)]
pub struct Election {
    commands: mpsc::Sender<Command>,
    standing: watch::Receiver<Standing>,
    reign: watch::Receiver<Option<Reign>>,
}

impl Election {
    /// Begins to stand. Must be called within a runtime, which then runs it.
    pub fn start(cluster: &Cluster, config: Config) -> Self {
        const COMMANDS_MAX: usize = 4;
        let Config { namespace, name, identity, signals_address, timing } = config;
        let name = Name {
            namespace: namespace.into(),
            lease: name.into(),
            identity,
            process: format!("{:016x}", rand::random::<u64>()).into(),
            address: signals_address,
        };
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let (standing_publisher, standing) = watch::channel(Standing::Following { leader: None });
        let (reign_publisher, reign) = watch::channel(None);
        let publishers = Publishers { standing: standing_publisher, reign: reign_publisher };
        tokio::spawn(Elector::new(cluster, name, timing, publishers).run(queue));
        Self { commands, standing, reign }
    }

    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    pub fn fence(&self) -> Fence {
        Fence(self.reign.clone())
    }

    /// Something written by a leader of that epoch was met, as after the Lease was deleted and counted from one
    /// again: this process is to lead with a greater epoch. A reign goes on, with its new epoch, once that is written.
    pub async fn outrank(&self, epoch: u64) {
        // Nobody is there to lead any more after it resigned.
        drop(self.commands.send(Command::Outrank(epoch)).await);
    }

    /// Leaves office at once and for good, and says so in the Lease, so that a successor need not wait. Takes at most
    /// a few seconds when the API server does not answer; then a successor waits for the lease to run out.
    pub async fn resign(&self) {
        let (done, end) = oneshot::channel();
        if self.commands.send(Command::Resign { done }).await.is_ok() {
            // Never answered: its end is the answer.
            drop(end.await);
        }
    }
}
