//! The one task that owns the replicas of a process fleet: takes wishes, starts lives and tells them to leave,
//! and publishes what they report.

use std::{convert::Infallible, sync::Arc};

use autoscaler::fleet::{Phase, Replica, ReplicaId, ScaleError};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{self, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, error, error_span, info};

use super::{
    departure,
    life::{Habits, Life, News, Report},
};

/// A bound on mistakes: far above what one machine can run.
const REPLICAS_MAX: u32 = 256;
const REPORTS_MAX: usize = 64;

#[derive(Debug)]
pub(super) enum Command {
    Scale {
        target: u32,
        victims: Box<[ReplicaId]>,
        done: oneshot::Sender<Result<(), ScaleError>>,
    },
    /// `done` is dropped when the last replica is gone.
    Shutdown {
        done: oneshot::Sender<Infallible>,
    },
}

enum Event {
    Command(Command),
    Report(Report),
    Ended(Result<(task::Id, ()), JoinError>),
    /// Nobody holds a handle any more.
    Abandoned,
}

#[derive(Debug)]
pub(super) struct Worker {
    model: Arc<str>,
    habits: Arc<Habits>,
    commands: mpsc::Receiver<Command>,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    listing: watch::Sender<Arc<[Replica]>>,
    members: Vec<Member>,
    lives: JoinSet<()>,
    created: u64,
    /// Tokens of this are given for replicas that get no calls; nobody waits for them.
    no_calls: TaskTracker,
    /// Who waits for the end; not empty once there is to be one.
    closing: Vec<oneshot::Sender<Infallible>>,
}

impl Worker {
    pub(super) fn new(
        model: Arc<str>,
        habits: Habits,
        commands: mpsc::Receiver<Command>,
        listing: watch::Sender<Arc<[Replica]>>,
    ) -> Self {
        Self {
            model,
            habits: Arc::new(habits),
            commands,
            reports: mpsc::channel(REPORTS_MAX),
            listing,
            members: Vec::new(),
            lives: JoinSet::new(),
            created: 0,
            no_calls: TaskTracker::new(),
            closing: Vec::new(),
        }
    }

    /// Runs until a shutdown is complete, or nobody holds a handle any more. In the second case the replicas are
    /// killed: dropping their tasks drops their processes.
    pub(super) async fn run(mut self) {
        while self.closing.is_empty() || !self.members.is_empty() {
            match self.next().await {
                Event::Command(Command::Scale { target, victims, done }) => {
                    // The wish holds even if the wisher has gone.
                    drop(done.send(self.scale(target, &victims)));
                }
                Event::Command(Command::Shutdown { done }) => self.close(done),
                Event::Report(report) => self.note(report),
                Event::Ended(end) => self.forget(end),
                Event::Abandoned => break,
            }
        }
        self.listing.send_replace(Arc::default());
    }

    async fn next(&mut self) -> Event {
        let (_, reports) = &mut self.reports;
        tokio::select! {
            command = self.commands.recv() => command.map_or(Event::Abandoned, Event::Command),
            Some(report) = reports.recv() => Event::Report(report),
            Some(end) = self.lives.join_next_with_id() => Event::Ended(end),
        }
    }

    fn scale(&mut self, target: u32, victims: &[ReplicaId]) -> Result<(), ScaleError> {
        if !self.closing.is_empty() {
            return Err(ScaleError::Unavailable("the fleet is shutting down".into()));
        }
        if target > REPLICAS_MAX {
            let sentence =
                format!("{target} replicas are more than the {REPLICAS_MAX} allowed on one machine");
            return Err(ScaleError::Unavailable(sentence.into()));
        }
        let staying: Vec<_> = self.members.iter().filter_map(Member::staying).collect();
        let (now, target) = (staying.len(), target as usize);
        if now == target {
            return Ok(());
        }
        info!(model = %self.model, from = now, to = target, "scaling");
        for _ in now..target {
            self.start();
        }
        self.dismiss(&departure::choose(&staying, victims, now.saturating_sub(target)));
        Ok(())
    }

    fn start(&mut self) {
        self.created += 1;
        let id: ReplicaId = format!("{}-{}", self.model, self.created).into();
        let (leave, calls) = (CancellationToken::new(), TaskTracker::new());
        let life = Life {
            id: Arc::clone(&id),
            habits: Arc::clone(&self.habits),
            reports: self.reports.0.clone(),
            leave: leave.clone(),
            calls: calls.clone(),
        };
        // Of a level that no filter leaves out: it is the prefix of whatever the replica prints.
        let span = error_span!("replica", model = %self.model, %id);
        let task = self.lives.spawn(life.live().instrument(span)).id();
        let standing = Replica {
            id,
            address: None,
            phase: Phase::Pending,
            created: Instant::now(),
            ready_since: None,
            restarts: 0,
            trouble: None,
            hold: self.no_calls.token(),
        };
        self.members.push(Member { standing, task, leave, calls });
    }

    /// Makes replicas leave, and publishes what else has changed. They are told only after they are listed as leaving, so that whoever still finds
    /// them ready took its token before their wait for tokens began.
    fn dismiss(&mut self, leaving: &[ReplicaId]) {
        let leaves = |member: &&mut Member| leaving.contains(&member.standing.id);
        for member in self.members.iter_mut().filter(leaves) {
            member.standing.phase = Phase::Draining;
        }
        self.publish();
        for member in self.members.iter_mut().filter(leaves) {
            member.leave.cancel();
        }
    }

    fn close(&mut self, done: oneshot::Sender<Infallible>) {
        self.closing.push(done);
        let all: Vec<_> = self.members.iter().filter_map(Member::staying).map(|(id, _)| id).collect();
        self.dismiss(&all);
    }

    fn note(&mut self, Report { replica, news }: Report) {
        let member = self.members.iter_mut().find(|member| member.standing.id == replica);
        if let Some(member) = member {
            member.note(news);
            self.publish();
        }
    }

    fn forget(&mut self, end: Result<(task::Id, ()), JoinError>) {
        let task = match end {
            Ok((task, ())) => task,
            Err(error) => {
                error!(model = %self.model, %error, "the task of a replica failed; the replica is gone");
                error.id()
            }
        };
        self.members.retain(|member| member.task != task);
        self.publish();
    }

    fn publish(&self) {
        self.listing.send_replace(self.members.iter().map(|member| member.listed(&self.no_calls)).collect());
    }
}

#[derive(Debug)]
struct Member {
    /// Its `hold` is of no use; [`Member::listed`] puts in the right one.
    standing: Replica,
    task: task::Id,
    leave: CancellationToken,
    calls: TaskTracker,
}

impl Member {
    fn staying(&self) -> Option<(ReplicaId, Phase)> {
        let Replica { id, phase, .. } = &self.standing;
        (*phase != Phase::Draining).then(|| (Arc::clone(id), *phase))
    }

    /// Only a ready replica is listed with a token of its own: the listing itself would keep a leaving one alive.
    fn listed(&self, no_calls: &TaskTracker) -> Replica {
        let calls = if self.standing.phase == Phase::Ready { &self.calls } else { no_calls };
        Replica { hold: calls.token(), ..self.standing.clone() }
    }

    fn note(&mut self, news: News) {
        let Replica { address, phase, ready_since, restarts, trouble, .. } = &mut self.standing;
        let next = match news {
            News::Started(at) => {
                *address = Some(at);
                Phase::Starting
            }
            News::Ready => {
                *trouble = None;
                ready_since.get_or_insert_with(Instant::now);
                Phase::Ready
            }
            News::Unready(why) => {
                *trouble = Some(why);
                Phase::Starting
            }
            News::Fell(why) => {
                (*address, *ready_since) = (None, None);
                *restarts = restarts.saturating_add(1);
                *trouble = Some(why);
                Phase::Pending
            }
        };
        if *phase != Phase::Draining {
            *phase = next;
        }
    }
}
