//! The task that stands for office: carries out what the candidate wants and publishes where it stands.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, api::PostParams};
use metrics::{Gauge, gauge};
use rand::{SeedableRng as _, rngs::SmallRng};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout_at},
};
use tracing::{info, warn};

use super::{
    super::cluster::{ApiError, Cluster},
    Standing, Timing,
    candidate::{Candidate, Name, Reign, Step},
};

#[derive(Debug)]
pub(super) enum Command {
    Outrank(u64),
    /// Never answered: the end of the task is the answer.
    Resign {
        done: oneshot::Sender<()>,
    },
}

#[derive(Debug)]
pub(super) struct Publishers {
    pub standing: watch::Sender<Standing>,
    pub reign: watch::Sender<Option<Reign>>,
}

#[derive(Debug)]
pub(super) struct Elector {
    candidate: Candidate,
    leases: Leases,
    publishers: Publishers,
    leads: Gauge,
    /// Failures are told when they begin, not each time.
    failing: bool,
}

/// The one Lease, behind calls that end within a retry period.
#[derive(Debug)]
struct Leases {
    api: Api<Lease>,
    name: Box<str>,
}

#[derive(Debug)]
enum Done {
    Rested,
    Read(Option<Lease>),
    Written(Lease),
}

impl Elector {
    pub(super) fn new(cluster: &Cluster, name: Name, timing: Timing, publishers: Publishers) -> Self {
        let leads = gauge!("tidegate_leader");
        leads.set(0.0);
        let api = cluster.within(timing.retry()).api(&name.namespace);
        let leases = Leases { api, name: name.lease.clone() };
        let candidate = Candidate::new(name, timing, Instant::now(), SmallRng::from_os_rng());
        Self { candidate, leases, publishers, leads, failing: false }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let step = self.candidate.next(Instant::now(), Timestamp::now());
            self.publish();
            tokio::select! {
                biased;
                command = commands.recv() => {
                    self.candidate.interrupted();
                    match command {
                        Some(Command::Outrank(epoch)) => self.candidate.outrank(epoch, Instant::now()),
                        Some(Command::Resign { done: _done }) => return self.resign().await,
                        None => return self.leave(),
                    }
                }
                () = turn(&mut self.candidate, &self.leases, &mut self.failing, step) => {}
            }
        }
    }

    /// The fence falls before anybody hears of it, and stands before anybody is told to use it.
    fn publish(&mut self) {
        let reign = self.candidate.reign();
        self.publishers.reign.send_if_modified(|before| std::mem::replace(before, reign) != reign);
        let standing = self.candidate.standing();
        let changed = self.publishers.standing.send_if_modified(|before| {
            let changed = *before != standing;
            *before = standing.clone();
            changed
        });
        if changed {
            self.leads.set(if reign.is_some() { 1.0 } else { 0.0 });
            match standing {
                Standing::Leading { epoch } => info!(epoch, "this process leads"),
                Standing::Following { leader: Some(leader) } => {
                    info!(leader = %leader.identity, epoch = leader.epoch, "another process leads");
                }
                Standing::Following { leader: None } => info!("this process does not lead, nor does another"),
            }
        }
    }

    fn leave(&mut self) {
        self.candidate.leave();
        self.publish();
    }

    async fn resign(&mut self) {
        // The second is for a Lease that was changed by a renewal whose answer did not come.
        const TRIES: usize = 2;
        let left = self.candidate.leave();
        self.publish();
        for _ in 0..TRIES {
            if self.candidate.is_stale() {
                match self.leases.read().await {
                    Ok(lease) => self.candidate.saw(lease, Instant::now()),
                    Err(error) => return warn!(%error, "the lease could not be released"),
                }
            }
            let Some(lease) = self.candidate.release(left, Timestamp::now()) else { return };
            match self.leases.replace(&lease).await {
                Ok(_) => return info!("the lease is released"),
                Err(ApiError::Conflict(_)) => self.candidate.interrupted(),
                Err(error) => return warn!(%error, "the lease could not be released"),
            }
        }
    }
}

/// Carries out one step and tells the candidate what came of it.
async fn turn(candidate: &mut Candidate, leases: &Leases, failing: &mut bool, step: Step) {
    let started = Instant::now();
    let end = candidate.reign().map(|reign| reign.until);
    let done = match end {
        // A call that takes longer than the reign must not keep its end from being published.
        Some(end) => timeout_at(end, leases.carry_out(&step)).await,
        None => Ok(leases.carry_out(&step).await),
    };
    let now = Instant::now();
    let error = match done {
        Ok(Ok(Done::Rested)) => return,
        Ok(Ok(Done::Read(lease))) => return answered(failing, || candidate.saw(lease, now)),
        Ok(Ok(Done::Written(lease))) => return answered(failing, || candidate.wrote(lease, started, now)),
        Ok(Err(ApiError::Conflict(_) | ApiError::AlreadyExists(_))) => {
            return answered(failing, || candidate.refused(now));
        }
        Ok(Err(ApiError::NotFound(_))) if matches!(step, Step::Replace(_)) => {
            return answered(failing, || candidate.refused(now));
        }
        Ok(Err(error)) => error,
        Err(_elapsed) => ApiError::Late(now - started),
    };
    if !std::mem::replace(failing, true) {
        warn!(%error, "the lease cannot be read or written");
    }
    candidate.failed(now);
}

fn answered(failing: &mut bool, tell: impl FnOnce()) {
    *failing = false;
    tell();
}

impl Leases {
    async fn carry_out(&self, step: &Step) -> Result<Done, ApiError> {
        Ok(match step {
            Step::Rest(until) => {
                sleep_until(*until).await;
                Done::Rested
            }
            Step::Read => Done::Read(self.read().await?),
            Step::Create(lease) => Done::Written(self.api.create(&PostParams::default(), lease).await?),
            Step::Replace(lease) => Done::Written(self.replace(lease).await?),
        })
    }

    async fn read(&self) -> Result<Option<Lease>, ApiError> {
        match self.api.get(&self.name).await.map_err(ApiError::from) {
            Ok(lease) => Ok(Some(lease)),
            Err(ApiError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, ApiError> {
        Ok(self.api.replace(&self.name, &PostParams::default(), lease).await?)
    }
}
