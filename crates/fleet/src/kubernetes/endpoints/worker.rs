//! The one task that owns the replicas behind a Service: has new ones asked until their model is ready, publishes
//! them, and keeps those that left until their last call has ended.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use autoscaler::fleet::{Phase, Replica};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinError, JoinSet},
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::{
    Port,
    slice::{self, Endpoint, Slice},
};
use crate::{
    kubernetes::watch::Followed,
    probe::{self, Change, Probe, Readiness},
};

/// How long a replica is asked in vain before that is told.
const TELL_AFTER: Duration = Duration::from_secs(5);

/// What distinguishes two replicas of the same name.
type Serial = u64;

pub(super) struct Worker {
    model: Arc<str>,
    port: Port,
    port_is_missing: bool,
    probe: Probe,
    timing: probe::Timing,
    listing: watch::Sender<Arc<[Replica]>>,
    /// In the order in which they came.
    members: Vec<Member>,
    serial: Serial,
    probes: JoinSet<Probed>,
    departures: JoinSet<Serial>,
    /// Tokens of this are given for replicas that get no calls; nobody waits for them.
    no_calls: TaskTracker,
}

struct Member {
    serial: Serial,
    id: Arc<str>,
    uid: Arc<str>,
    address: SocketAddr,
    created: Instant,
    standing: Standing,
    trouble: Option<Arc<str>>,
    calls: TaskTracker,
}

enum Standing {
    /// Kubernetes does not call it ready.
    Unready,
    /// Kubernetes does; whether its model is, is being asked.
    Asked(AbortOnDrop),
    Ready {
        since: Instant,
    },
    /// It takes nothing new, and may have calls.
    Leaving,
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What came of asking one replica for a while.
struct Probed {
    serial: Serial,
    gained: bool,
    readiness: Readiness,
}

enum Event {
    Slices,
    Probed(Probed),
    /// The task that asked one has failed.
    Lost(JoinError),
    Departed(Serial),
    /// Nobody looks any more.
    Abandoned,
}

impl Worker {
    pub(super) fn new(
        model: Arc<str>,
        port: Port,
        probe: Probe,
        timing: probe::Timing,
        listing: watch::Sender<Arc<[Replica]>>,
    ) -> Self {
        Self {
            model,
            port,
            port_is_missing: false,
            probe,
            timing,
            listing,
            members: Vec::new(),
            serial: 0,
            probes: JoinSet::new(),
            departures: JoinSet::new(),
            no_calls: TaskTracker::new(),
        }
    }

    pub(super) async fn run(mut self, mut slices: Followed<Slice>) {
        loop {
            if let Some(view) = slices.fresh() {
                let endpoints = slice::endpoints(&view.objects, &self.port);
                self.doubt_port(endpoints.is_empty() && !slice::names(&view.objects).is_empty());
                self.update(endpoints);
                self.publish();
            }
            match self.next(&mut slices).await {
                Event::Slices => continue,
                Event::Probed(probed) => self.probed(probed),
                Event::Lost(error) if error.is_cancelled() => continue,
                Event::Lost(error) => self.lost(&error),
                Event::Departed(serial) => self.members.retain(|member| member.serial != serial),
                Event::Abandoned => return,
            }
            self.publish();
        }
    }

    async fn next(&mut self, slices: &mut Followed<Slice>) -> Event {
        tokio::select! {
            () = slices.changed() => Event::Slices,
            Some(probed) = self.probes.join_next() => probed.map_or_else(Event::Lost, Event::Probed),
            Some(Ok(serial)) = self.departures.join_next() => Event::Departed(serial),
            () = self.listing.closed() => Event::Abandoned,
        }
    }

    /// Pods without the port are no replicas: most likely the port is not called that.
    fn doubt_port(&mut self, is_missing: bool) {
        if is_missing && !self.port_is_missing {
            warn!(model = %self.model, port = %self.port, "the Service has pods, and none has a port of that name");
        }
        self.port_is_missing = is_missing;
    }

    fn update(&mut self, endpoints: Vec<Endpoint>) {
        for mut member in std::mem::take(&mut self.members) {
            match endpoints.iter().find(|endpoint| member.is(endpoint)) {
                Some(endpoint) => self.follow(&mut member, endpoint.ready),
                None => self.leave(&mut member),
            }
            // Nothing is left to do for one that left without calls.
            if !member.has_left() || !member.calls.is_empty() {
                self.members.push(member);
            }
        }
        for endpoint in endpoints.into_iter().filter(|endpoint| !endpoint.leaving) {
            if !self.members.iter().any(|member| member.is(&endpoint)) {
                self.join(endpoint);
            }
        }
    }

    fn join(&mut self, endpoint: Endpoint) {
        let Endpoint { id, uid, addresses, ready, .. } = endpoint;
        let Some(address) = addresses.first().copied() else { return };
        self.serial += 1;
        let mut member = Member {
            serial: self.serial,
            id,
            uid,
            address,
            created: Instant::now(),
            standing: Standing::Unready,
            trouble: None,
            calls: TaskTracker::new(),
        };
        self.follow(&mut member, ready);
        self.members.push(member);
    }

    /// Takes over what Kubernetes says of its readiness.
    fn follow(&mut self, member: &mut Member, ready: bool) {
        match (&member.standing, ready) {
            (Standing::Unready, true) => {
                let readiness = Readiness::new(self.probe.clone(), member.address, self.timing.clone());
                self.ask(member, readiness);
            }
            (Standing::Asked(_) | Standing::Ready { .. }, false) => {
                info!(model = %self.model, replica = %member.id, "not ready any more, says Kubernetes");
                member.standing = Standing::Unready;
                member.trouble = None;
            }
            _ => {}
        }
    }

    fn ask(&mut self, member: &mut Member, readiness: Readiness) {
        let asking = self.probes.spawn(ask(member.serial, readiness));
        member.standing = Standing::Asked(AbortOnDrop(asking));
    }

    fn leave(&mut self, member: &mut Member) {
        if member.has_left() {
            return;
        }
        info!(model = %self.model, replica = %member.id, "the replica leaves");
        member.standing = Standing::Leaving;
        let (serial, calls) = (member.serial, member.calls.clone());
        calls.close();
        // The listing as it still is holds a token: this cannot end before it is published anew.
        self.departures.spawn(async move {
            calls.wait().await;
            serial
        });
    }

    fn probed(&mut self, Probed { serial, gained, readiness }: Probed) {
        let Some(at) = self.members.iter().position(|member| member.serial == serial && member.is_asked())
        else {
            return;
        };
        let mut member = self.members.swap_remove(at);
        if gained {
            info!(model = %self.model, replica = %member.id, "replica ready");
            member.trouble = None;
            member.standing = Standing::Ready { since: Instant::now() };
        } else {
            let trouble: Option<Arc<str>> = readiness.failure().map(|failure| failure.to_string().into());
            if member.trouble.is_none() {
                let trouble = trouble.as_deref().unwrap_or_default();
                info!(model = %self.model, replica = %member.id, trouble, "Kubernetes calls it ready, its model is not");
            }
            member.trouble = trouble;
            self.ask(&mut member, readiness);
        }
        self.members.push(member);
    }

    /// Nobody asks that one any more: until Kubernetes has news of it, it gets no calls.
    fn lost(&mut self, error: &JoinError) {
        error!(model = %self.model, %error, "the task that asks a replica failed");
        for member in &mut self.members {
            if matches!(&member.standing, Standing::Asked(task) if task.0.is_finished()) {
                member.standing = Standing::Unready;
                member.trouble = Some("its readiness cannot be asked".into());
            }
        }
    }

    fn publish(&mut self) {
        self.members.sort_by_key(|member| member.serial);
        let staying = |id: &str| self.members.iter().any(|other| !other.has_left() && *other.id == *id);
        // A successor of the same name is the one that is meant.
        let listed = self.members.iter().filter(|member| !member.has_left() || !staying(&member.id));
        let listing = listed.map(|member| member.listed(&self.no_calls)).collect();
        self.listing.send_replace(listing);
    }
}

/// Asks until the model is ready, or for as long as the answer is no news.
async fn ask(serial: Serial, mut readiness: Readiness) -> Probed {
    let gained = matches!(timeout(TELL_AFTER, readiness.changed()).await, Ok(Change::Gained));
    Probed { serial, gained, readiness }
}

impl Member {
    /// Another address or another pod of the same name is another replica.
    fn is(&self, endpoint: &Endpoint) -> bool {
        !self.has_left()
            && !endpoint.leaving
            && self.id == endpoint.id
            && self.uid == endpoint.uid
            && endpoint.addresses.contains(&self.address)
    }

    fn has_left(&self) -> bool {
        matches!(self.standing, Standing::Leaving)
    }

    fn is_asked(&self) -> bool {
        matches!(self.standing, Standing::Asked(_))
    }

    /// Only a ready replica is listed with a token of its own: the listing itself would keep a leaving one alive.
    fn listed(&self, no_calls: &TaskTracker) -> Replica {
        let (phase, ready_since, calls) = match self.standing {
            Standing::Unready | Standing::Asked(_) => (Phase::Starting, None, no_calls),
            Standing::Ready { since } => (Phase::Ready, Some(since), &self.calls),
            Standing::Leaving => (Phase::Draining, None, no_calls),
        };
        Replica {
            id: Arc::clone(&self.id),
            address: Some(self.address),
            phase,
            created: self.created,
            ready_since,
            restarts: 0,
            trouble: self.trouble.clone(),
            hold: calls.token(),
        }
    }
}
