//! What the leader writes into the status of Model resources: the state, the last decision, and conditions.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use autoscaler::{
    decide::{Direction, LimitKind, Reason},
    explain,
    log::{Entry, Outcome},
};
use fleet::kubernetes::{
    models::ModelObject,
    status::{
        Accepted, Active, Condition, Fact, LastDecision, ModelState, ModelStatus, Observed, Ready,
        Reconciling, Replicas, ScalingActive, ScalingLimited, SloMet, Stalled,
    },
};
use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Cluster, Leading,
    resources::{Fate, Resource},
};
use crate::{
    admin,
    config::Fleet,
    serve::{Registry, View},
};

/// How often statuses are made up; the writer decides what of it is news.
const LOOK: Duration = Duration::from_secs(1);
/// Decisions that are looked through for the last one that changed the number.
const DECISIONS: usize = 100;
/// Misses in the last minute of which fewer prove nothing.
const FEW_ARRIVALS: f64 = 10.0;

/// Keeps the statuses of all Model resources up to date while this process leads.
pub(super) async fn report(leading: &Leading, cluster: &Cluster, registry: &Registry) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known: Vec<Arc<ModelObject>> = Vec::new();
    loop {
        tick.tick().await;
        let Some(epoch) = leading.epoch() else { continue };
        let declared = Arc::clone(&cluster.declared.borrow());
        for Resource { object, fate, .. } in declared.iter() {
            let view = registry.view(&object.name);
            if let Some(status) = status(fate, view.as_deref(), object.generation, epoch)
                && leading.status.set(object, &status).is_err()
            {
                tracing::warn!(model = %object.name, "there are too many Model resources to keep a status of each");
            }
        }
        let present: BTreeSet<&Arc<str>> = declared.iter().map(|resource| &resource.object.uid).collect();
        for gone in known.iter().filter(|object| !present.contains(&object.uid)) {
            leading.status.forget(gone);
        }
        known = declared.iter().map(|resource| Arc::clone(&resource.object)).collect();
    }
}

/// The status of one resource; `None` where nothing is decided yet.
fn status(fate: &Fate, view: Option<&View>, generation: i64, epoch: u64) -> Option<ModelStatus> {
    match fate {
        Fate::Refused(reasons) => {
            let message = reasons.join("; ");
            Some(not_served(generation, Fact::Accepted(Accepted::UnsupportedValue), message))
        }
        Fate::Taken { by } => {
            let message = match by {
                Some(namespace) => format!("an older Model of this name is served, in namespace {namespace}"),
                None => "the configuration file has a model of this name".to_owned(),
            };
            Some(not_served(generation, Fact::Accepted(Accepted::Conflicted), message))
        }
        Fate::Served => {
            let view = view?;
            Some(served(view, &*view.decision()?, generation, epoch))
        }
    }
}

fn not_served(generation: i64, accepted: Fact, message: String) -> ModelStatus {
    let conditions = vec![
        Condition { fact: accepted, message: message.clone() },
        Condition { fact: Fact::Ready(Ready::InvalidSpec), message: message.clone() },
        Condition { fact: Fact::Stalled(Stalled::InvalidSpec), message },
    ];
    ModelStatus {
        observed_generation: generation,
        state: ModelState::Error,
        target: String::new(),
        replicas: Replicas { current: 0, ready: 0, desired: 0 },
        observed: None,
        last_decision: None,
        conditions,
    }
}

fn served(view: &View, entry: &Entry, generation: i64, epoch: u64) -> ModelStatus {
    let decision = &entry.decision;
    let load = decision.inputs.load;
    let target = match &view.config.fleet {
        Fleet::Kubernetes(kubernetes) => kubernetes.target.clone(),
        Fleet::Process(_) | Fleet::Static { .. } => String::new(),
    };
    ModelStatus {
        observed_generation: generation,
        state: state(entry),
        target,
        replicas: Replicas {
            current: decision.from,
            ready: decision.inputs.fleet.ready,
            desired: entry.told().to,
        },
        observed: Some(Observed {
            rps: load.rate,
            p99: None,
            queue: load.queued.round() as u64,
            as_of: timestamp(decision.at),
        }),
        last_decision: last_change(view, epoch),
        conditions: conditions(entry),
    }
}

fn state(entry: &Entry) -> ModelState {
    let decision = &entry.decision;
    let fleet = &decision.inputs.fleet;
    if decision.inputs.platform.trouble.is_some() {
        ModelState::Error
    } else if matches!(entry.outcome, Outcome::Observed | Outcome::ConflictingAutoscaler(_)) {
        ModelState::Frozen
    } else if fleet.failed + fleet.unschedulable + fleet.missing > 0 {
        ModelState::Degraded
    } else if decision.to == 0 && fleet.ready == 0 {
        ModelState::Zero
    } else if fleet.ready == 0 {
        ModelState::Starting
    } else if fleet.ready == decision.to {
        ModelState::Ready
    } else {
        ModelState::Scaling
    }
}

/// The last decision that changed the number of replicas.
fn last_change(view: &View, epoch: u64) -> Option<LastDecision> {
    let recent = view.scaling()?.handle.log.recent(DECISIONS);
    let entry = recent.iter().find(|entry| entry.outcome == Outcome::Applied)?;
    let decision = &entry.decision;
    Some(LastDecision {
        time: timestamp(decision.at),
        from: decision.from,
        to: decision.to,
        reason: camel(decision.reason.as_str()),
        summary: explain::sentence(decision),
        epoch,
    })
}

fn conditions(entry: &Entry) -> Vec<Condition> {
    let sentence = explain::sentence(entry.told());
    let say = |fact: Fact| Condition { fact, message: sentence.clone() };
    let mut conditions = vec![
        ready(entry),
        Condition { fact: active(entry), message: sentence.clone() },
        slo_met(entry),
        scaling_active(entry),
        say(Fact::ScalingLimited(limited(entry))),
        Condition { fact: Fact::Accepted(Accepted::SpecApplied), message: String::new() },
    ];
    conditions.extend(reconciling(entry).map(|fact| say(Fact::Reconciling(fact))));
    conditions.extend(stalled(entry));
    conditions
}

fn ready(entry: &Entry) -> Condition {
    let inputs = &entry.decision.inputs;
    let trouble = inputs.platform.trouble.as_ref().or(inputs.fleet.trouble.as_ref());
    let message = trouble.map(ToString::to_string).unwrap_or_default();
    let fact = if inputs.fleet.ready > 0 {
        Ready::Serving
    } else if inputs.platform.trouble.is_some() {
        Ready::TargetNotFound
    } else if inputs.fleet.failed > 0 {
        Ready::CrashLoop
    } else if inputs.fleet.unschedulable > 0 {
        Ready::ColdStartFailed
    } else if matches!(entry.outcome, Outcome::Observed | Outcome::ConflictingAutoscaler(_)) {
        Ready::NoEndpoints
    } else if entry.decision.to > 0 {
        Ready::Starting
    } else {
        Ready::AtZeroCanWake
    };
    Condition { fact: Fact::Ready(fact), message }
}

fn active(entry: &Entry) -> Fact {
    let decision = &entry.decision;
    let load = decision.inputs.load;
    Fact::Active(if decision.inputs.fleet.ready == 0 && decision.to == 0 {
        Active::ScaledToZero
    } else if load.in_flight_mean + load.queued + load.rate > 0.0 {
        Active::Traffic
    } else if decision.bounds.min > 0 {
        Active::MinReplicas
    } else {
        Active::Warm
    })
}

fn slo_met(entry: &Entry) -> Condition {
    let decision = &entry.decision;
    let burning = decision.limits.iter().find_map(|limit| match &limit.kind {
        LimitKind::SloBurning { misses, arrivals } => Some((misses, arrivals)),
        _ => None,
    });
    let (fact, message) = match burning {
        Some((misses, arrivals)) => (
            SloMet::ErrorBudgetBurn,
            format!("{misses:.0} of {arrivals:.0} requests missed the SLO in the last minute"),
        ),
        None if decision.inputs.load.rate * 60.0 < FEW_ARRIVALS => (SloMet::NotEnoughData, String::new()),
        None => (SloMet::WithinTarget, String::new()),
    };
    Condition { fact: Fact::SloMet(fact), message }
}

fn scaling_active(entry: &Entry) -> Condition {
    let decision = &entry.decision;
    let (fact, message) = match &entry.outcome {
        Outcome::ConflictingAutoscaler(rival) => {
            (ScalingActive::Contended, format!("{rival} scales the same object; Tidegate only observes"))
        }
        Outcome::Observed => (ScalingActive::Paused, "mode: observe; nothing is changed".to_owned()),
        _ if decision.inputs.platform.unheard.is_some() => (
            ScalingActive::ApiServerUnavailable,
            "the API server is not heard; nothing is scaled down".to_owned(),
        ),
        _ => match decision.inputs.health.stale.first() {
            Some((gateway, _)) => {
                (ScalingActive::MetricsStale, format!("{gateway} is not heard; nothing is scaled down"))
            }
            None => (ScalingActive::Computing, String::new()),
        },
    };
    Condition { fact: Fact::ScalingActive(fact), message }
}

fn limited(entry: &Entry) -> ScalingLimited {
    let last = entry.decision.limits.last().map(|limit| &limit.kind);
    match last {
        Some(LimitKind::Max | LimitKind::ScheduleCap) => ScalingLimited::AtMax,
        Some(LimitKind::Min) => ScalingLimited::AtMin,
        Some(LimitKind::Unschedulable { .. } | LimitKind::NotCreated { .. }) => ScalingLimited::Unschedulable,
        Some(LimitKind::UpPace | LimitKind::DownSpacing { .. } | LimitKind::DownStep) => {
            ScalingLimited::RateLimited
        }
        _ => ScalingLimited::WithinBounds,
    }
}

fn reconciling(entry: &Entry) -> Option<Reconciling> {
    let decision = &entry.decision;
    if decision.inputs.platform.rollout {
        Some(Reconciling::Rollout)
    } else if decision.to > 0 && decision.inputs.fleet.ready == 0 {
        Some(Reconciling::ColdStart)
    } else {
        let moves = decision.reason.direction() != Direction::Hold || decision.inputs.fleet.starting > 0;
        (moves && decision.reason != Reason::Steady).then_some(Reconciling::Scaling)
    }
}

fn stalled(entry: &Entry) -> Option<Condition> {
    let inputs = &entry.decision.inputs;
    let (fact, trouble) = if let Some(trouble) = &inputs.platform.trouble {
        let forbidden = trouble.contains("may not") || trouble.contains("forbidden");
        (if forbidden { Stalled::Forbidden } else { Stalled::TargetNotFound }, Some(trouble))
    } else if inputs.fleet.failed > 0 {
        (Stalled::CrashLoop, inputs.fleet.trouble.as_ref())
    } else if inputs.fleet.unschedulable > 0 {
        (Stalled::Unschedulable, inputs.fleet.trouble.as_ref())
    } else {
        return None;
    };
    Some(Condition {
        fact: Fact::Stalled(fact),
        message: trouble.map(ToString::to_string).unwrap_or_default(),
    })
}

/// `first_request` as `FirstRequest`, the way Kubernetes writes reasons.
fn camel(reason: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    reason.split('_').map(capital).collect()
}

/// A time since the Unix epoch.
fn timestamp(at: Duration) -> Timestamp {
    admin::timestamp(at).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_written_as_kubernetes_writes_them() {
        assert_eq!(camel("first_request"), "FirstRequest");
        assert_eq!(camel("idle"), "Idle");
    }
}
