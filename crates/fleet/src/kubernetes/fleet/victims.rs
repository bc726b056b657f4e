//! Which pods go on the way down. Kubernetes chooses among the ready ones by an annotation, so the victims are given
//! the lowest cost of deletion there is, in their order.

use std::{sync::Arc, time::Duration};

use autoscaler::fleet::{Phase, ReplicaId};
use futures_util::{StreamExt as _, stream};
use kube::{
    api::{Patch, PatchParams},
    core::Request,
};
use serde_json::json;
use tokio::time::timeout;

use crate::kubernetes::{
    cluster::{ApiError, Cluster},
    pods::Pod,
};

/// Pods marked for one step. More go in one step only of fleets of more than sixty, where it matters little which.
const MARKS_MAX: usize = 16;
const AT_ONCE: usize = 8;
/// Longest that marking may hold a write up.
const PATIENCE: Duration = Duration::from_secs(3);
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Whether replicas of this kind leave by their cost. Those of a StatefulSet leave by their ordinal, and of other
/// kinds we do not know.
pub(super) fn are_heeded(kind: &str) -> bool {
    matches!(kind, "Deployment" | "ReplicaSet")
}

/// The pods that are to go.
#[derive(Debug, Default)]
pub(super) struct Marks(Vec<Mark>);

#[derive(Clone, Debug, PartialEq)]
struct Mark {
    pod: ReplicaId,
    uid: Arc<str>,
    cost: i32,
    before: Option<Box<str>>,
}

impl Marks {
    /// The first of `victims`, as far as they would not go anyway, being not ready.
    pub(super) fn choose(pods: &[Arc<Pod>], victims: &[ReplicaId], going: usize) -> Self {
        let ready = |victim: &ReplicaId| {
            pods.iter().find(|pod| pod.name == *victim && pod.phase == Some(Phase::Ready))
        };
        let chosen = victims.iter().filter_map(ready).take(going.min(MARKS_MAX));
        // The lowest value itself is left to whoever must come before everybody.
        let costs = i32::MIN + 1..;
        let mark = |(pod, cost): (&Arc<Pod>, i32)| Mark {
            pod: Arc::clone(&pod.name),
            uid: Arc::clone(&pod.uid),
            cost,
            before: pod.deletion_cost.clone(),
        };
        Self(chosen.zip(costs).map(mark).collect())
    }

    pub(super) async fn set(
        &self,
        cluster: &Cluster,
        namespace: &str,
        may: &(dyn Fn() -> bool + Send + Sync),
    ) {
        self.write(cluster, namespace, may, |mark| Some(mark.cost.to_string().into())).await;
    }

    /// Puts back what the annotations were: the pods stay.
    pub(super) async fn restore(
        &self,
        cluster: &Cluster,
        namespace: &str,
        may: &(dyn Fn() -> bool + Send + Sync),
    ) {
        self.write(cluster, namespace, may, |mark| mark.before.clone()).await;
    }

    async fn write(
        &self,
        cluster: &Cluster,
        namespace: &str,
        may: &(dyn Fn() -> bool + Send + Sync),
        cost: impl Fn(&Mark) -> Option<Box<str>>,
    ) {
        let writes = self.0.iter().map(|mark| (mark, cost(mark)));
        let all = stream::iter(writes).for_each_concurrent(AT_ONCE, async |(mark, cost)| {
            // Without a mark another replica may go than the one nothing is sent to any more. It drains as well.
            if let Err(error) = annotate(cluster, namespace, mark, cost, may).await {
                tracing::warn!(pod = %mark.pod, %error, "the cost of its deletion cannot be set");
            }
        });
        if timeout(PATIENCE, all).await.is_err() {
            tracing::warn!(pods = self.0.len(), "the costs of their deletion cannot be set in time");
        }
    }
}

async fn annotate(
    cluster: &Cluster,
    namespace: &str,
    mark: &Mark,
    cost: Option<Box<str>>,
    may: &(dyn Fn() -> bool + Send + Sync),
) -> Result<(), ApiError> {
    cluster.turn_to_write().await?;
    if !may() {
        return Ok(());
    }
    // With the uid in it, the patch of another pod of the same name is refused.
    let patch = json!({"metadata": {"uid": &*mark.uid, "annotations": {COST: cost}}});
    let request = Request::new(format!("/api/v1/namespaces/{namespace}/pods"))
        .patch_metadata(&mark.pod, &PatchParams::default(), &Patch::Merge(patch))
        .map_err(kube::Error::BuildRequest)?;
    match cluster.client().request_text(request).await.map_err(ApiError::from) {
        // It is gone already.
        Ok(_) | Err(ApiError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ready: bool, cost: Option<&str>) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let annotations = cost.map(|cost| json!({COST: cost}));
        let pod = json!({
            "metadata": {"name": name, "uid": format!("uid-{name}"), "annotations": annotations},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn the_first_victims_get_the_lowest_costs_and_those_not_ready_need_none() {
        let pods =
            [pod("a", true, None), pod("b", false, None), pod("c", true, Some("7")), pod("d", true, None)];
        let victims: Vec<ReplicaId> = ["c", "b", "gone", "a", "d"].map(Into::into).into();
        let marks = Marks::choose(&pods, &victims, 2).0;
        let told: Vec<_> = marks.iter().map(|m| (&*m.pod, &*m.uid, m.cost, m.before.as_deref())).collect();
        assert_eq!(told, [("c", "uid-c", -2_147_483_647, Some("7")), ("a", "uid-a", -2_147_483_646, None)]);
        assert!(Marks::choose(&pods, &victims, 0).0.is_empty());
    }

    #[test]
    fn a_step_marks_a_bounded_number() {
        let pods: Vec<_> = (0..100).map(|n| pod(&n.to_string(), true, None)).collect();
        let victims: Vec<ReplicaId> = (0..100).map(|n| n.to_string().into()).collect();
        assert_eq!(Marks::choose(&pods, &victims, 25).0.len(), 16);
    }
}
