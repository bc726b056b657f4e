//! One replica from the wish to its end: run the server, follow its readiness, run it again when it falls, and
//! when told to leave, wait for its calls and stop it. One task each; what happens is told to the worker.

use std::{convert::Infallible, io, net::SocketAddr, process::ExitStatus, sync::Arc, time::Duration};

use autoscaler::fleet::ReplicaId;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    backoff::{Backoff, Restart},
    child::{Child, describe},
    forker,
    recipe::{Ports, Recipe},
};
use crate::probe::{self, Change, Probe, Readiness};

/// What all replicas of a fleet have in common.
#[derive(Debug)]
pub(super) struct Habits {
    pub(super) recipe: Recipe,
    pub(super) probe: Probe,
    pub(super) timing: probe::Timing,
    pub(super) restart: Restart,
    pub(super) drain_timeout: Duration,
    pub(super) stop_timeout: Duration,
}

#[derive(Debug)]
pub(super) enum News {
    Started(SocketAddr),
    Ready,
    /// It runs and is not ready; why, if it is worth a word.
    Unready(Arc<str>),
    /// It ended by itself, or could not be started.
    Fell(Arc<str>),
}

#[derive(Debug)]
pub(super) struct Report {
    pub(super) replica: ReplicaId,
    pub(super) news: News,
}

#[derive(Debug)]
pub(super) struct Life {
    pub(super) id: ReplicaId,
    pub(super) habits: Arc<Habits>,
    pub(super) reports: mpsc::Sender<Report>,
    /// Cancelled when it is to leave. By then it is not listed as ready any more.
    pub(super) leave: CancellationToken,
    /// The calls that may still run on it.
    pub(super) calls: TaskTracker,
}

enum End {
    Left,
    Fell { trouble: Arc<str>, ready_for: Duration },
}

impl Life {
    /// Returns once it was told to leave and its process is gone.
    pub(super) async fn live(self) {
        let mut backoff = Backoff::new(self.habits.restart.clone());
        while let End::Fell { trouble, ready_for } = self.run().await {
            let pause = backoff.pause(ready_for, rand::random());
            warn!(%trouble, ?pause, "replica fell; it is started again after a pause");
            self.tell(News::Fell(trouble)).await;
            tokio::select! {
                () = self.leave.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// One run of the server, from its start to its end.
    async fn run(&self) -> End {
        let (ports, mut child) = match self.start().await {
            Ok(started) => started,
            Err(error) => {
                let trouble = shorten(&format!("cannot be started: {error}"));
                return End::Fell { trouble, ready_for: Duration::ZERO };
            }
        };
        self.tell(News::Started(ports.address())).await;
        let Habits { probe, timing, .. } = &*self.habits;
        let mut readiness = Readiness::new(probe.clone(), ports.address(), timing.clone());
        let end = tokio::select! {
            biased;
            status = child.ended() => Some(status),
            () = self.leave.cancelled() => None,
            never = self.follow(&mut readiness) => match never {},
        };
        match end {
            Some(status) => End::Fell {
                trouble: last_trouble(&mut child, &status).await,
                ready_for: readiness.ready_for(),
            },
            None => {
                self.finish(&mut child).await;
                End::Left
            }
        }
    }

    async fn start(&self) -> io::Result<(Ports, Child)> {
        let ports = Ports::lease()?;
        let mut child = forker::spawn(self.habits.recipe.command(&ports)).await?;
        child.log();
        info!(pid = child.pid(), address = %ports.address(), "replica started");
        Ok((ports, child))
    }

    async fn follow(&self, readiness: &mut Readiness) -> Infallible {
        const REMINDER: Duration = Duration::from_secs(30);
        let started = Instant::now();
        let mut reminder = started + REMINDER;
        loop {
            let change = tokio::select! {
                change = readiness.changed() => Some(change),
                () = sleep_until(reminder), if !readiness.is_ready() => None,
            };
            let news = match change {
                Some(Change::Gained) => {
                    info!(after = ?started.elapsed(), "replica ready");
                    News::Ready
                }
                Some(Change::Lost(trouble)) => {
                    reminder = Instant::now() + REMINDER;
                    warn!(%trouble, "replica not ready any more");
                    News::Unready(shorten(&trouble.to_string()))
                }
                None => {
                    reminder = Instant::now() + REMINDER;
                    let Some(failure) = readiness.failure() else { continue };
                    News::Unready(shorten(&format!("not ready for long: {failure}")))
                }
            };
            self.tell(news).await;
        }
    }

    /// Lets its calls end, then stops it. It may as well end by itself meanwhile.
    async fn finish(&self, child: &mut Child) {
        let Habits { drain_timeout, stop_timeout, .. } = &*self.habits;
        self.calls.close();
        tokio::select! {
            biased;
            () = self.calls.wait() => {}
            _ = child.ended() => {}
            () = sleep(*drain_timeout) => {
                warn!(calls = self.calls.len(), ?drain_timeout, "replica stopped before its calls ended");
            }
        }
        child.stop(*stop_timeout).await;
        info!("replica stopped");
    }

    async fn tell(&self, news: News) {
        // Without a worker this task is about to be dropped as well.
        drop(self.reports.send(Report { replica: Arc::clone(&self.id), news }).await);
    }
}

async fn last_trouble(child: &mut Child, status: &io::Result<ExitStatus>) -> Arc<str> {
    let end = describe(status);
    match child.last_words().await {
        Some(words) => shorten(&format!("{end}: {words}")),
        None => shorten(&end),
    }
}

/// Fits words into a status line.
fn shorten(words: &str) -> Arc<str> {
    const CHARACTERS_MAX: usize = 200;
    match words.char_indices().nth(CHARACTERS_MAX) {
        None => words.into(),
        Some(_) => words.chars().take(CHARACTERS_MAX - 1).chain(['…']).collect::<String>().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::time::timeout;

    use super::*;
    use crate::probe::ProbeError;

    const SECOND: Duration = Duration::from_secs(1);

    /// What is told, and after how many seconds, of a server that is ready while `ready` says so.
    async fn told(ready: fn(Duration) -> bool, within: Duration) -> Vec<(u64, &'static str)> {
        let start = Instant::now();
        let probe = Probe::new(tower::service_fn(move |_| async move {
            if ready(start.elapsed()) { Ok(()) } else { Err(ProbeError::NotReady("loading".into())) }
        }));
        let command = ["serve", "{port}"].map(str::to_owned).into();
        let habits = Habits {
            recipe: Recipe::new(command, BTreeMap::new(), None, None).unwrap(),
            probe: probe.clone(),
            timing: probe::Timing::default(),
            restart: Restart::default(),
            drain_timeout: SECOND,
            stop_timeout: SECOND,
        };
        let (reports, mut told) = mpsc::channel(64);
        let (leave, calls) = (CancellationToken::new(), TaskTracker::new());
        let life = Life { id: "m-1".into(), habits: Arc::new(habits), reports, leave, calls };
        let mut readiness = Readiness::new(probe, ([127, 0, 0, 1], 1).into(), probe::Timing::default());
        let mut seen = Vec::new();
        let listen = async {
            while let Some(report) = told.recv().await {
                let word = match report.news {
                    News::Started(_) => "started",
                    News::Ready => "ready",
                    News::Unready(why) if why.starts_with("not ready for long: ") => "long",
                    News::Unready(_) => "unready",
                    News::Fell(_) => "fell",
                };
                seen.push((start.elapsed().as_secs(), word));
            }
        };
        let both = async { tokio::join!(life.follow(&mut readiness), listen) };
        assert!(timeout(within, both).await.is_err(), "it is followed for ever");
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_start_is_told_every_thirty_seconds() {
        let seen = told(|t| t >= 70 * SECOND, 100 * SECOND).await;
        assert_eq!(seen, [(30, "long"), (60, "long"), (70, "ready")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loss_after_an_hour_is_told_once_and_again_after_thirty_seconds() {
        let seen = told(|t| t < 3_601 * SECOND, 3_640 * SECOND).await;
        assert_eq!(seen, [(0, "ready"), (3_607, "unready"), (3_637, "long")]);
    }

    #[test]
    fn trouble_is_at_most_two_hundred_characters() {
        assert_eq!(&*shorten("ü"), "ü");
        assert_eq!(shorten(&"ü".repeat(200)).chars().count(), 200);
        let long = shorten(&"ü".repeat(201));
        assert_eq!(long.chars().count(), 200);
        assert!(long.ends_with('…'));
    }
}
