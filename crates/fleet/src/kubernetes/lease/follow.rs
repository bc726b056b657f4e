//! Who leads, for processes that do not stand: a watch on the one Lease, which a living leader renews every other
//! second, so that silence is a reason to ask.

use std::{convert::Infallible, pin::pin, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{WatchEvent, WatchParams},
};
use rand::Rng as _;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{debug, info};

use super::{
    super::cluster::{ApiError, Cluster},
    Leader,
    record::Record,
};

/// Longer than between two renewals of any sensible timing.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(5);

/// Learns who holds that Lease, until nobody listens any more. The last holder stays known while the API server is
/// away or the Lease is gone, for it serves on; `None` before the first and after the last one left office. Must be
/// called within a runtime.
pub fn follow(cluster: &Cluster, namespace: &str, name: &str) -> watch::Receiver<Option<Leader>> {
    let (publisher, leader) = watch::channel(None);
    let api = cluster.within(PATIENCE).api(namespace);
    let follower = Follower { api, name: name.into(), publisher, failures: 0 };
    tokio::spawn(follower.run());
    leader
}

#[derive(Debug)]
struct Follower {
    api: Api<Lease>,
    name: Box<str>,
    publisher: watch::Sender<Option<Leader>>,
    /// Watches in a row that brought nothing.
    failures: u32,
}

impl Follower {
    async fn run(mut self) {
        let publisher = self.publisher.clone();
        tokio::select! {
            () = publisher.closed() => {}
            never = self.follow() => match never {},
        }
    }

    async fn follow(&mut self) -> Infallible {
        loop {
            let Err(error) = self.watch().await else { continue };
            debug!(%error, "the lease is not watched for a moment");
            self.failures = self.failures.saturating_add(1);
            // Where only watches fail, this is how a change is seen.
            if let Ok(lease) = self.api.get(&self.name).await {
                self.note(&lease);
            }
            sleep(self.pause()).await;
        }
    }

    /// Ends well after silence, or news and then an end: both are a reason to begin again at once.
    async fn watch(&mut self) -> Result<(), ApiError> {
        /// The present state first, as an event.
        const FROM_NOW: &str = "";
        let selection = WatchParams::default().fields(&format!("metadata.name={}", self.name));
        let mut events = pin!(self.api.watch(&selection, FROM_NOW).await?.map_err(ApiError::from).boxed());
        let mut heard = false;
        loop {
            match timeout(SILENCE_MAX, events.next()).await {
                Err(_silence) => return Ok(()),
                Ok(Some(Ok(WatchEvent::Added(lease) | WatchEvent::Modified(lease)))) => self.note(&lease),
                Ok(Some(Ok(WatchEvent::Deleted(_) | WatchEvent::Bookmark(_)))) => {}
                Ok(Some(Ok(WatchEvent::Error(status)))) => return Err(ApiError::from_status(&status)),
                Ok(Some(Err(error))) => return Err(error),
                Ok(None) if heard => return Ok(()),
                Ok(None) => return Err(ApiError::unavailable("the watch ended at once")),
            }
            heard = true;
            self.failures = 0;
        }
    }

    fn note(&self, lease: &Lease) {
        let leader = Leader::of(&Record::read(lease));
        self.publisher.send_if_modified(|before| {
            if *before == leader {
                return false;
            }
            match &leader {
                Some(leader) => {
                    info!(leader = %leader.identity, epoch = leader.epoch, "another process leads")
                }
                None => info!("nobody leads"),
            }
            *before = leader;
            true
        });
    }

    fn pause(&self) -> Duration {
        const FIRST: Duration = Duration::from_millis(250);
        const LONGEST: Duration = Duration::from_secs(8);
        let pause = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        pause.mul_f64(rand::rng().random_range(0.75..1.25))
    }
}
