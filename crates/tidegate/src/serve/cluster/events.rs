//! What the leader tells as Events, on the Model resource or, for a model of the file, on its target: each change of
//! the number with its arithmetic, and what keeps it from changing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use autoscaler::{
    decide::LimitKind,
    explain,
    log::{Entry, Outcome},
};
use fleet::kubernetes::{
    events::{Reason, Recorder, Subject},
    target::TargetRef,
};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Cluster, Leading,
    resources::{Fate, Resource},
};
use crate::{
    config::Fleet,
    serve::{Registry, View},
};

/// How often the logs of decisions are looked through.
const LOOK: Duration = Duration::from_secs(1);
/// Entries of one model that are looked through at a time: more than a loop makes in a second.
const ENTRIES: usize = 20;

/// What was told of one model.
#[derive(Debug, Default)]
struct Told {
    /// The newest decision that was looked at.
    until: Duration,
    /// When the number last left zero, while none is ready.
    woken: Option<Duration>,
}

/// Tells what happens to all models while this process leads.
pub(super) async fn tell(leading: &Leading, cluster: &Cluster, registry: &Registry) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: BTreeMap<Arc<str>, Told> = BTreeMap::new();
    loop {
        tick.tick().await;
        if leading.term.borrow().is_none() {
            told.clear();
            continue;
        }
        let declared = Arc::clone(&cluster.declared.borrow());
        declared.iter().for_each(|resource| tell_refusal(&leading.events, resource));
        let views = registry.views();
        told.retain(|name, _| registry.view(name).is_some());
        for view in views.iter() {
            if let Some(subject) = subject(cluster, view, &declared) {
                let told = told.entry(Arc::clone(&view.config.name)).or_default();
                told.follow(view, |reason, note| leading.events.record(&subject, reason, note));
            }
        }
    }
}

impl Told {
    fn follow(&mut self, view: &View, record: impl Fn(Reason, &str)) {
        let Some(deciding) = view.scaling() else { return };
        let log = &deciding.handle.log;
        for entry in log.recent(ENTRIES).iter().rev().filter(|entry| entry.decision.at > self.until) {
            if let Some(reason) = reason(entry) {
                record(reason, &explain::sentence(&entry.decision));
            }
            if entry.outcome == Outcome::Applied && entry.decision.from == 0 {
                self.woken = Some(entry.decision.at);
            }
        }
        let Some(latest) = log.latest() else { return };
        self.until = latest.decision.at;
        if latest.decision.inputs.fleet.ready > 0
            && let Some(woken) = self.woken.take()
        {
            let took = latest.decision.at.saturating_sub(woken).as_secs_f64();
            record(Reason::ColdStart, &format!("the first replica was ready after {took:.1} s"));
        }
    }
}

/// What an entry is worth telling as; `None`: nothing that people should be told.
fn reason(entry: &Entry) -> Option<Reason> {
    let decision = &entry.decision;
    match &entry.outcome {
        Outcome::Applied if decision.to == 0 => Some(Reason::ScaledToZero),
        Outcome::Applied if decision.to > decision.from => Some(Reason::ScaledUp),
        Outcome::Applied => Some(Reason::ScaledDown),
        Outcome::ConflictingAutoscaler(_) => Some(Reason::ForeignScaler),
        Outcome::Failed(_) => Some(Reason::ScaleFrozen),
        Outcome::Unchanged | Outcome::Observed | Outcome::Kept(_) | Outcome::BackingOff(_) => {
            decision.limits.last().and_then(|limit| of_limit(&limit.kind))
        }
    }
}

fn of_limit(limit: &LimitKind) -> Option<Reason> {
    match limit {
        LimitKind::Override { .. } => Some(Reason::ForeignScaler),
        LimitKind::Stale { .. } | LimitKind::NoReports | LimitKind::Unheard { .. } => {
            Some(Reason::ScaleFrozen)
        }
        LimitKind::Max
        | LimitKind::Unschedulable { .. }
        | LimitKind::NotCreated { .. }
        | LimitKind::Degraded { .. } => Some(Reason::ScaleLimited),
        LimitKind::SloBurning { .. } => Some(Reason::SloBreach),
        _ => None,
    }
}

fn tell_refusal(events: &Recorder, Resource { object, fate, told }: &Resource) {
    let note = match fate {
        Fate::Served => return,
        Fate::Refused(reasons) => reasons.join("; "),
        Fate::Taken { .. } => "another model of this name is served".to_owned(),
    };
    if told.swap(true, std::sync::atomic::Ordering::Relaxed) {
        return;
    }
    events.record(&of_resource(&object.namespace, &object.name, &object.uid), Reason::ConfigRejected, &note);
}

/// The object that events of a model are about.
fn subject(cluster: &Cluster, view: &View, declared: &[Resource]) -> Option<Subject> {
    let name = &view.config.name;
    let resource =
        declared.iter().find(|resource| resource.object.name == *name && resource.fate == Fate::Served);
    if let Some(Resource { object, .. }) = resource {
        return Some(of_resource(&object.namespace, &object.name, &object.uid));
    }
    let Fleet::Kubernetes(kubernetes) = &view.config.fleet else { return None };
    let target: TargetRef = kubernetes.target.parse().ok()?;
    Some(Subject {
        api_version: "apps/v1".into(),
        kind: target.kind().into(),
        namespace: super::namespace(kubernetes, &cluster.namespace),
        name: Arc::clone(target.name()),
        uid: None,
    })
}

fn of_resource(namespace: &Arc<str>, name: &Arc<str>, uid: &Arc<str>) -> Subject {
    Subject {
        api_version: "tidegate.dev/v1alpha1".into(),
        kind: "Model".into(),
        namespace: Arc::clone(namespace),
        name: Arc::clone(name),
        uid: Some(Arc::clone(uid)),
    }
}
