//! Replicas that somebody else runs, at fixed addresses: nothing is started, stopped or scaled, but each is asked
//! for ever whether its model is ready.

use std::{collections::BTreeSet, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use autoscaler::fleet::{Fleet, Phase, Replica, ReplicaId, ScaleError};
use tokio::{
    net::lookup_host,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::probe::{self, Change, Probe, Readiness};

#[derive(Clone, Debug)]
pub struct Config {
    /// The served name, for the log.
    pub model: Arc<str>,
    /// `HOST:PORT` each, with an IP address or a name as host. A name is looked up again while its replica is not
    /// ready, and the first address found is used.
    pub addresses: Vec<String>,
    pub probe: probe::Timing,
}

impl Config {
    /// The defaults for a list of addresses.
    pub fn new(model: Arc<str>, addresses: Vec<String>) -> Self {
        let probe = probe::Timing { pause_max: Duration::from_secs(2), ..probe::Timing::default() };
        Self { model, addresses, probe }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("there is no address")]
    None,
    #[error("`{0}` is not HOST:PORT")]
    Malformed(Arc<str>),
    #[error("`{0}` is there twice")]
    Repeated(Arc<str>),
}

/// A handle to the replicas of one model. Their addresses are asked as long as anybody holds one, or a receiver
/// of theirs.
#[derive(Clone, Debug)]
pub struct StaticFleet {
    listing: watch::Receiver<Arc<[Replica]>>,
}

impl StaticFleet {
    /// Starts to ask. Must be called within a runtime, which then runs it.
    pub fn start(config: Config, probe: Probe) -> Result<Self, AddressError> {
        const NEWS_MAX: usize = 64;
        let Config { model, addresses, probe: timing } = config;
        let addresses = check(addresses)?;
        let (created, calls) = (Instant::now(), TaskTracker::new());
        let replicas = addresses.iter().map(|id| Replica {
            id: Arc::clone(id),
            address: None,
            phase: Phase::Starting,
            created,
            ready_since: None,
            restarts: 0,
            trouble: None,
            hold: calls.token(),
        });
        let (publisher, listing) = watch::channel(replicas.collect());
        let (sender, news) = mpsc::channel(NEWS_MAX);
        let mut followers = JoinSet::new();
        for (index, id) in addresses.into_iter().enumerate() {
            let (model, probe, timing, news) =
                (Arc::clone(&model), probe.clone(), timing.clone(), sender.clone());
            followers.spawn(Follower { model, id, index, probe, timing, news }.follow());
        }
        tokio::spawn(publish(publisher, news, followers));
        Ok(Self { listing })
    }
}

impl Fleet for StaticFleet {
    fn replicas(&self) -> watch::Receiver<Arc<[Replica]>> {
        self.listing.clone()
    }

    async fn scale(&self, _target: u32, _victims: &[ReplicaId]) -> Result<(), ScaleError> {
        Err(ScaleError::Fixed)
    }
}

fn check(addresses: Vec<String>) -> Result<Vec<ReplicaId>, AddressError> {
    let mut seen = BTreeSet::new();
    for address in &addresses {
        let host_and_port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if host_and_port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(AddressError::Malformed(address.as_str().into()));
        }
        if !seen.insert(address) {
            return Err(AddressError::Repeated(address.as_str().into()));
        }
    }
    if addresses.is_empty() {
        Err(AddressError::None)
    } else {
        Ok(addresses.into_iter().map(Into::into).collect())
    }
}

#[derive(Debug)]
enum News {
    Found(SocketAddr),
    Ready,
    Unready(Arc<str>),
}

/// The one task that owns the listing; ends when nobody sees it any more.
async fn publish(
    listing: watch::Sender<Arc<[Replica]>>,
    mut news: mpsc::Receiver<(usize, News)>,
    _followers: JoinSet<Infallible>,
) {
    loop {
        let (index, item) = tokio::select! {
            Some(item) = news.recv() => item,
            () = listing.closed() => return,
        };
        listing.send_modify(|replicas| {
            let mut next = replicas.to_vec();
            if let Some(replica) = next.get_mut(index) {
                note(replica, item);
            }
            *replicas = next.into();
        });
    }
}

fn note(replica: &mut Replica, news: News) {
    match news {
        News::Found(address) => replica.address = Some(address),
        News::Ready => {
            replica.phase = Phase::Ready;
            replica.ready_since = Some(Instant::now());
            replica.trouble = None;
        }
        News::Unready(trouble) => {
            replica.phase = Phase::Starting;
            replica.ready_since = None;
            replica.trouble = Some(trouble);
        }
    }
}

/// Follows one address for ever.
#[derive(Debug)]
struct Follower {
    model: Arc<str>,
    id: ReplicaId,
    /// Its place in the listing.
    index: usize,
    probe: Probe,
    timing: probe::Timing,
    news: mpsc::Sender<(usize, News)>,
}

impl Follower {
    async fn follow(self) -> Infallible {
        let mut readiness = self.find().await;
        loop {
            match self.changed(&mut readiness).await {
                Some(Change::Gained) => {
                    info!(model = %self.model, replica = %self.id, "replica ready");
                    self.tell(News::Ready).await;
                }
                Some(Change::Lost(trouble)) => {
                    warn!(model = %self.model, replica = %self.id, %trouble, "replica not ready any more");
                    self.tell(News::Unready(trouble.to_string().into())).await;
                }
                None => {
                    if let Some(failure) = readiness.failure() {
                        self.tell(News::Unready(failure.to_string().into())).await;
                    }
                    let found = self.find().await;
                    if found.address() != readiness.address() {
                        readiness = found;
                    }
                }
            }
        }
    }

    /// The next change of readiness, or none for so long that the name should be looked up again.
    async fn changed(&self, readiness: &mut Readiness) -> Option<Change> {
        const LOOK_AGAIN: Duration = Duration::from_secs(10);
        if readiness.is_ready() {
            return Some(readiness.changed().await);
        }
        timeout(LOOK_AGAIN, readiness.changed()).await.ok()
    }

    /// Looks the name up until it is found.
    async fn find(&self) -> Readiness {
        const PAUSE_MAX: Duration = Duration::from_secs(2);
        let mut pause = Duration::from_millis(50);
        loop {
            match look_up(&self.id).await {
                Ok(address) => {
                    self.tell(News::Found(address)).await;
                    return Readiness::new(self.probe.clone(), address, self.timing.clone());
                }
                Err(error) => {
                    self.tell(News::Unready(format!("its address is unknown: {error}").into())).await
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn tell(&self, news: News) {
        // Without a listing this task is about to be dropped as well.
        drop(self.news.send((self.index, news)).await);
    }
}

async fn look_up(id: &str) -> io::Result<SocketAddr> {
    if let Ok(address) = id.parse() {
        return Ok(address);
    }
    let no_address = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    lookup_host(id).await?.next().ok_or_else(no_address)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use crate::probe::ProbeError;

    use super::*;

    fn config(addresses: &[&str]) -> Config {
        Config::new("m".into(), addresses.iter().map(ToString::to_string).collect())
    }

    /// Every address but port 9 answers what `ready` holds.
    fn probe(ready: &Arc<AtomicBool>) -> Probe {
        let ready = Arc::clone(ready);
        Probe::new(tower::service_fn(move |address: SocketAddr| {
            let ready = ready.load(Ordering::Relaxed) && address.port() != 9;
            async move { if ready { Ok(()) } else { Err(ProbeError::NotReady("loading".into())) } }
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_becomes_ready_and_unready_by_its_own_answers() {
        let ready = Arc::new(AtomicBool::new(false));
        let fleet = StaticFleet::start(config(&["127.0.0.1:8", "[::1]:9"]), probe(&ready)).unwrap();
        let mut replicas = fleet.replicas();
        assert!(replicas.borrow().iter().all(|replica| replica.phase == Phase::Starting));

        ready.store(true, Ordering::Relaxed);
        let now = replicas.wait_for(|all| all[0].phase == Phase::Ready).await.unwrap().clone();
        assert_eq!((&*now[0].id, now[0].address), ("127.0.0.1:8", Some("127.0.0.1:8".parse().unwrap())));
        assert!(now[0].ready_since.is_some());

        sleep(Duration::from_secs(60)).await;
        let other = replicas.borrow()[1].clone();
        assert_eq!(other.phase, Phase::Starting);
        assert_eq!(other.trouble.as_deref(), Some("its model is not ready: loading"));

        let lost = Instant::now();
        ready.store(false, Ordering::Relaxed);
        let now = replicas.wait_for(|all| all[0].phase == Phase::Starting).await.unwrap().clone();
        assert!(lost.elapsed() <= Duration::from_secs(8), "{:?}", lost.elapsed());
        assert!(now[0].trouble.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_asked_again_within_two_seconds_after_an_hour_away() {
        let ready = Arc::new(AtomicBool::new(false));
        let fleet = StaticFleet::start(config(&["127.0.0.1:8"]), probe(&ready)).unwrap();
        sleep(Duration::from_secs(3_600)).await;
        let back = Instant::now();
        ready.store(true, Ordering::Relaxed);
        fleet.replicas().wait_for(|all| all[0].phase == Phase::Ready).await.unwrap();
        assert!(back.elapsed() <= Duration::from_millis(2_010), "{:?}", back.elapsed());
    }

    #[tokio::test]
    async fn a_fleet_of_fixed_addresses_cannot_be_scaled() {
        let fleet = StaticFleet::start(config(&["127.0.0.1:8"]), probe(&Arc::default())).unwrap();
        assert!(matches!(fleet.scale(2, &[]).await, Err(ScaleError::Fixed)));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_once_nobody_listens() {
        let ready = Arc::new(AtomicBool::new(false));
        let fleet = StaticFleet::start(config(&["127.0.0.1:8"]), probe(&ready)).unwrap();
        tokio::task::yield_now().await;
        drop(fleet);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(Arc::strong_count(&ready), 1);
    }

    #[test]
    fn addresses_are_checked_before_anything_runs() {
        let check =
            |addresses: &[&str]| check(addresses.iter().map(ToString::to_string).collect()).unwrap_err();
        assert_eq!(check(&[]), AddressError::None);
        for bad in ["host", "host:", ":80", "host:65536", "host:http"] {
            assert_eq!(check(&[bad]), AddressError::Malformed(bad.into()));
        }
        assert_eq!(check(&["a:1", "b:1", "a:1"]), AddressError::Repeated("a:1".into()));
    }
}
