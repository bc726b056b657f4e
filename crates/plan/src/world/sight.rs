//! The world as a decision sees it: one gateway's report and the fleet.

use std::{sync::Arc, time::Duration};

use autoscaler::snapshot::{GatewayView, Phase, ReplicaLoad, ReplicaView, Report, Snapshot};

use super::{Settings, fleet::Fleet, gateway::Gateway, replica::Replica, time::Time, tokens::Tokens};

#[derive(Debug)]
pub(super) struct Sight {
    name: Arc<str>,
    begins: Duration,
    pub(super) snapshot: Snapshot,
}

impl Sight {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { name: "gateway".into(), begins: settings.begins, snapshot: Snapshot::default() }
    }

    /// Makes the snapshot that of `now`, which is `at` in the times of decisions.
    pub(super) fn look(&mut self, at: Duration, now: Time, gateway: &Gateway, fleet: &Fleet) {
        let begins = self.begins;
        let time = |time: Time| begins + time.since(Time::ZERO);
        let view = |replica: &Replica| {
            let phase = replica.phase?;
            Some(ReplicaView {
                id: Arc::clone(&replica.id),
                phase,
                created: time(replica.created),
                ready_since: replica.ready_since.map(time),
                restarts: 0,
                trouble: None,
            })
        };
        self.snapshot.fleet.wanted = fleet.wanted();
        self.snapshot.fleet.replicas.clear();
        self.snapshot.fleet.replicas.extend(fleet.live().filter_map(view));
        let mut replicas =
            self.snapshot.gateways.pop().and_then(|view| view.report).unwrap_or_default().replicas;
        replicas.clear();
        let ready = fleet.live().filter(|replica| replica.phase == Some(Phase::Ready));
        replicas.extend(ready.map(|r| ReplicaLoad { id: Arc::clone(&r.id), in_flight: r.in_flight }));
        let report = Report {
            at,
            counters: gateway.counters,
            gauges: gateway.gauges(now),
            latency: gateway.model(fleet.seats()),
            chat: gateway.tokens.as_ref().map(Tokens::model),
            replicas,
        };
        let name = Arc::clone(&self.name);
        self.snapshot.gateways.push(GatewayView { name, listed: true, report: Some(report) });
    }
}
