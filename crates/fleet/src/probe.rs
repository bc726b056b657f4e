//! Asks a replica over and over whether its model is ready, and tells when the answer has changed for good.
//!
//! While it is not, the pauses stay near 2 % of the time waited so far, so that asking adds next to nothing to a
//! cold start. Once it is, a few failures in a row are needed to lose it, and after each loss more successes in
//! a row to regain it: a flapping replica settles on not ready.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};
use tower::{ServiceExt, util::BoxCloneSyncService};

/// Asks the server at an address once whether the *model* is ready, not just the server.
pub type Probe = BoxCloneSyncService<SocketAddr, (), ProbeError>;

#[derive(Clone, Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("it cannot be reached: {0}")]
    Unreachable(Arc<str>),
    /// It answered, and not that the model is ready.
    #[error("its model is not ready: {0}")]
    NotReady(Arc<str>),
    #[error("it did not answer within {0:?}")]
    Late(Duration),
}

/// How often and how patiently a replica is asked.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Longest that one answer may take. Default 1 s.
    pub timeout: Duration,
    /// Shortest pause while not ready. Default 20 ms.
    pub pause_min: Duration,
    /// Longest pause while not ready. Default 250 ms for processes, 2 s for fixed addresses.
    pub pause_max: Duration,
    /// Pause while ready. After a failure it is at most a second. Default 5 s.
    pub pause_ready: Duration,
    /// Failures in a row after which a ready replica is not ready any more. Default 3.
    pub failures_max: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            pause_min: Duration::from_millis(20),
            pause_max: Duration::from_millis(250),
            pause_ready: Duration::from_secs(5),
            failures_max: 3,
        }
    }
}

impl Timing {
    fn pause(&self, health: &Health, waited: Duration) -> Duration {
        const SUSPICION: Duration = Duration::from_secs(1);
        const SHARE_OF_WAIT: u32 = 50;
        match (health.ready, health.against) {
            (true, 0) => self.pause_ready,
            (true, _) => self.pause_ready.min(SUSPICION),
            (false, _) => (waited / SHARE_OF_WAIT).max(self.pause_min).min(self.pause_max),
        }
    }
}

#[derive(Debug)]
pub(crate) enum Change {
    Gained,
    Lost(ProbeError),
}

/// The readiness of one replica, from not ready on.
pub(crate) struct Readiness {
    probe: Probe,
    address: SocketAddr,
    timing: Timing,
    health: Health,
    /// Since when it has been as it is.
    since: Instant,
    next: Instant,
    failure: Option<ProbeError>,
}

impl Readiness {
    pub(crate) fn new(probe: Probe, address: SocketAddr, timing: Timing) -> Self {
        let now = Instant::now();
        let health = Health::new(timing.failures_max);
        Self { probe, address, timing, health, since: now, next: now, failure: None }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.health.ready
    }

    /// How long it has been ready, without a break.
    pub(crate) fn ready_for(&self) -> Duration {
        if self.health.ready { self.since.elapsed() } else { Duration::ZERO }
    }

    /// What was wrong at the last failure.
    pub(crate) fn failure(&self) -> Option<&ProbeError> {
        self.failure.as_ref()
    }

    /// Asks until the answer changes. Dropped half-way, it loses at most one answer.
    pub(crate) async fn changed(&mut self) -> Change {
        loop {
            sleep_until(self.next).await;
            let answer = self.ask().await;
            let now = Instant::now();
            if let Err(failure) = &answer {
                self.failure = Some(failure.clone());
            }
            let change = self.health.observe(answer);
            if change.is_some() {
                self.since = now;
            }
            self.next = now + self.timing.pause(&self.health, now - self.since);
            if let Some(change) = change {
                return change;
            }
        }
    }

    async fn ask(&self) -> Result<(), ProbeError> {
        let patience = self.timing.timeout;
        let answer = timeout(patience, self.probe.clone().oneshot(self.address)).await;
        answer.unwrap_or(Err(ProbeError::Late(patience)))
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness")
            .field("address", &self.address)
            .field("health", &self.health)
            .finish_non_exhaustive()
    }
}

/// What the answers so far amount to.
#[derive(Debug)]
struct Health {
    ready: bool,
    failures_max: u32,
    /// Answers in a row that contradict `ready`.
    against: u32,
    /// Answers in a row that confirm it.
    confirming: u32,
    /// Times readiness was lost, until it has been steady for a while.
    losses: u32,
}

impl Health {
    const fn new(failures_max: u32) -> Self {
        Self { ready: false, failures_max, against: 0, confirming: 0, losses: 0 }
    }

    fn observe(&mut self, answer: Result<(), ProbeError>) -> Option<Change> {
        if answer.is_ok() == self.ready {
            self.confirm();
            return None;
        }
        self.confirming = 0;
        self.against += 1;
        if self.against < self.needed() {
            return None;
        }
        self.against = 0;
        self.ready = !self.ready;
        Some(match answer {
            Ok(()) => Change::Gained,
            Err(error) => {
                self.losses += 1;
                Change::Lost(error)
            }
        })
    }

    fn confirm(&mut self) {
        const STEADY: u32 = 12;
        self.against = 0;
        self.confirming = self.confirming.saturating_add(1);
        if self.ready && self.confirming >= STEADY {
            self.losses = 0;
        }
    }

    /// Contradicting answers in a row that it takes to change.
    fn needed(&self) -> u32 {
        if self.ready { self.failures_max } else { 1 << self.losses.min(5) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    fn failed() -> Result<(), ProbeError> {
        Err(ProbeError::NotReady("loading".into()))
    }

    /// Answers by the time since it was made.
    fn probe_by_time(answer: impl Fn(Duration) -> Result<(), ProbeError> + Send + Sync + 'static) -> Probe {
        let (start, answer) = (Instant::now(), Arc::new(answer));
        Probe::new(tower::service_fn(move |_| {
            let answer = Arc::clone(&answer);
            async move { answer(start.elapsed()) }
        }))
    }

    #[test]
    fn the_first_success_makes_it_ready() {
        let mut health = Health::new(3);
        assert!(health.observe(failed()).is_none());
        assert!(matches!(health.observe(Ok(())), Some(Change::Gained)));
    }

    #[test]
    fn readiness_is_lost_only_after_failures_in_a_row() {
        let mut health = Health::new(3);
        health.observe(Ok(()));
        for answer in [failed(), failed(), Ok(()), failed(), failed()] {
            assert!(health.observe(answer).is_none());
        }
        assert!(matches!(health.observe(failed()), Some(Change::Lost(_))));
    }

    #[test]
    fn each_loss_makes_it_harder_to_regain_until_it_was_steady() {
        let mut health = Health::new(1);
        let successes_to_regain = |health: &mut Health| {
            let mut successes = 1;
            while health.observe(Ok(())).is_none() {
                successes += 1;
            }
            successes
        };
        let mut seen = Vec::new();
        for _ in 0..7 {
            seen.push(successes_to_regain(&mut health));
            health.observe(failed());
        }
        assert_eq!(seen, [1, 2, 4, 8, 16, 32, 32]);
        successes_to_regain(&mut health);
        for _ in 0..12 {
            health.observe(Ok(()));
        }
        health.observe(failed());
        assert_eq!(successes_to_regain(&mut health), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_is_noticed_within_two_percent_of_the_wait() {
        for load in [3, 400, 4_000, 60_000].map(Duration::from_millis) {
            let start = Instant::now();
            let probe = probe_by_time(move |t| if t >= load { Ok(()) } else { failed() });
            let mut readiness = Readiness::new(probe, ADDRESS, Timing::default());
            assert!(matches!(readiness.changed().await, Change::Gained));
            let added = start.elapsed() - load;
            let bound = (load / 50).clamp(Duration::from_millis(20), Duration::from_millis(250));
            assert!(added <= bound + Duration::from_millis(2), "{added:?} after {load:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ready_replica_is_asked_rarely_until_it_fails() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let probe = probe_by_time(move |t| {
            log.lock().unwrap().push(t.as_secs());
            if t < Duration::from_secs(12) { Ok(()) } else { failed() }
        });
        let mut readiness = Readiness::new(probe, ADDRESS, Timing::default());
        readiness.changed().await;
        assert!(matches!(readiness.changed().await, Change::Lost(ProbeError::NotReady(_))));
        assert_eq!(*asked.lock().unwrap(), [0, 5, 10, 15, 16, 17]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hung_answer_is_a_failure_after_the_timeout() {
        let calls = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&calls);
        let probe = Probe::new(tower::service_fn(move |_| {
            let first = counter.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                if !first {
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        }));
        let mut readiness = Readiness::new(probe, ADDRESS, Timing::default());
        readiness.changed().await;
        assert!(matches!(readiness.changed().await, Change::Lost(ProbeError::Late(_))));
    }
}
