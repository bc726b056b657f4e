//! The task that tells events, one call at a time.

use std::{future, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use super::{
    super::cluster::{ApiError, Cluster},
    Reason, Shared, Subject,
    desk::Call,
};

const CONTROLLER: &str = "tidegate.dev/autoscaler";
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two calls: a change that concerns all models is no reason for a storm.
const SPACING: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Worker {
    cluster: Cluster,
    instance: String,
    shared: Arc<Shared>,
}

impl Worker {
    pub(super) fn new(cluster: &Cluster, instance: &str, shared: Arc<Shared>) -> Self {
        /// The longest there may be.
        const INSTANCE_BYTES: usize = 128;
        let instance = instance.get(..instance.floor_char_boundary(INSTANCE_BYTES)).unwrap_or_default();
        let instance = if instance.is_empty() { "tidegate" } else { instance };
        Self { cluster: cluster.within(PATIENCE), instance: instance.to_owned(), shared }
    }

    pub(super) async fn run(self) {
        loop {
            let call = self.shared.lock().begin(Instant::now());
            if let Some(((subject, reason), call)) = call {
                self.tell(subject, reason, call).await;
                sleep(SPACING).await;
                continue;
            }
            let first_due = self.shared.lock().first_due();
            tokio::select! {
                () = self.shared.bell.notified() => {}
                () = until(first_due) => {}
            }
        }
    }

    async fn tell(&self, subject: Subject, reason: Reason, call: Call) {
        let result = self.call(&subject, reason, &call).await;
        let (name, key, now) = (Arc::clone(&subject.name), (subject, reason), Instant::now());
        let mut desk = self.shared.lock();
        match result {
            // It is there from a try whose answer was lost.
            Ok(()) | Err(ApiError::AlreadyExists(_)) => desk.told(&key, call, now),
            Err(ApiError::NotFound(_)) if matches!(call, Call::Count { .. }) => desk.expired(&key),
            Err(error) => {
                if desk.failed(&key, error.retry_after(), now) {
                    warn!(object = %name, reason = reason.as_str(), %error, "an event is not told");
                }
            }
        }
    }

    async fn call(&self, subject: &Subject, reason: Reason, call: &Call) -> Result<(), ApiError> {
        let api = self.cluster.api::<Event>(&subject.namespace);
        match call {
            Call::Create { event, note, times, at } => {
                let event = self.event(subject, reason, (event, note), (*times, *at));
                api.create(&PostParams::default(), &event).await?;
            }
            Call::Count { event, times, at } => {
                let patch = Patch::Merge(json!({"series": series(*times, *at)}));
                api.patch(event, &PatchParams::default(), &patch).await?;
            }
        }
        Ok(())
    }

    fn event(
        &self,
        subject: &Subject,
        reason: Reason,
        (name, note): (&str, &str),
        (times, at): (u32, Timestamp),
    ) -> Event {
        Event {
            metadata: ObjectMeta {
                namespace: Some(subject.namespace.to_string()),
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            regarding: Some(ObjectReference {
                api_version: Some(subject.api_version.to_string()),
                kind: Some(subject.kind.to_string()),
                namespace: Some(subject.namespace.to_string()),
                name: Some(subject.name.to_string()),
                uid: subject.uid.as_ref().map(ToString::to_string),
                ..ObjectReference::default()
            }),
            type_: Some(reason.kind().to_owned()),
            reason: Some(reason.as_str().to_owned()),
            action: Some(reason.action().to_owned()),
            note: Some(note.to_owned()),
            event_time: Some(MicroTime(at)),
            series: (times > 1).then(|| series(times, at)),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}

fn series(times: u32, at: Timestamp) -> EventSeries {
    EventSeries { count: i32::try_from(times).unwrap_or(i32::MAX), last_observed_time: MicroTime(at) }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => future::pending().await,
    }
}
