//! What the fleet shows, in the words and times of a snapshot.

use std::{sync::Arc, time::Duration};

use super::Clock;
use crate::{
    fleet::{Phase, Replica, Target},
    snapshot::{Platform, ReplicaView},
};

/// Replicas that are not on their way out.
pub(super) fn staying(replicas: &[Replica]) -> u32 {
    replicas.iter().filter(|replica| replica.phase != Phase::Draining).count() as u32
}

/// Whether writes fail, or nobody could tell whether they do.
pub(super) fn is_hindered(target: &Target) -> bool {
    target.trouble.is_some() || target.unheard_since.is_some()
}

pub(super) fn platform(
    target: &Target,
    changed_by: Option<Arc<str>>,
    now: Duration,
    clock: &Clock,
) -> Platform {
    Platform {
        shared: target.replicas.is_some() || is_hindered(target),
        changed_by,
        rival: target.rival.clone(),
        rollout: target.rollout,
        unheard: target.unheard_since.map(|since| now.saturating_sub(clock.time(since))),
        trouble: target.trouble.clone(),
    }
}

pub(super) fn seen(replica: &Replica, clock: &Clock) -> ReplicaView {
    ReplicaView {
        id: Arc::clone(&replica.id),
        phase: replica.phase,
        created: clock.time(replica.created),
        ready_since: replica.ready_since.map(|at| clock.time(at)),
        restarts: replica.restarts,
        trouble: replica.trouble.clone(),
    }
}
