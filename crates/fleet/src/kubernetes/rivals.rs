//! Who else scales the same object: a HorizontalPodAutoscaler, or a KEDA ScaledObject. Two who decide are a tug of
//! war, so Tidegate only observes while there is one.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    cluster::{ApiError, Cluster},
    target::Resource,
    watch::{Followed, Parts, Subject, Version, Watch, Watched},
};

/// How often it is asked whether the cluster has come to know ScaledObjects.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// What is kept of a HorizontalPodAutoscaler or a ScaledObject.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "Wire")]
struct Scaler {
    name: Arc<str>,
    version: Version,
    /// The ScaledObject that made it.
    owner: Option<Arc<str>>,
    target: ScaleTarget,
}

#[derive(Clone, Debug, PartialEq)]
struct ScaleTarget {
    kind: Box<str>,
    /// `None` where it is not said.
    group: Option<Box<str>>,
    name: Box<str>,
}

impl Watched for Scaler {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn version(&self) -> &Version {
        &self.version
    }
}

/// Other autoscalers of one object.
#[derive(Debug)]
pub(super) struct Rivals {
    cluster: Cluster,
    namespace: Arc<str>,
    resource: Resource,
    name: Arc<str>,
    autoscalers: Followed<Scaler>,
    keda: watch::Receiver<bool>,
    scaled_objects: Option<Followed<Scaler>>,
    _keda: Arc<Keda>,
}

impl Rivals {
    /// Must be called within a runtime.
    pub(super) fn of(cluster: &Cluster, namespace: &Arc<str>, resource: &Resource, name: &Arc<str>) -> Self {
        let keda = cluster.share("", || Arc::new(Keda::look_for(cluster)));
        let mut this = Self {
            cluster: cluster.clone(),
            namespace: Arc::clone(namespace),
            resource: resource.clone(),
            name: Arc::clone(name),
            autoscalers: follow(
                cluster,
                subject(namespace, "/apis/autoscaling/v2", "horizontalpodautoscalers"),
                (resource, name),
            ),
            keda: keda.present.subscribe(),
            scaled_objects: None,
            _keda: keda,
        };
        this.follow_keda();
        this
    }

    /// The name of one, like `HorizontalPodAutoscaler/digits`. One that works for a ScaledObject goes by the
    /// ScaledObject's name: that is what somebody wrote.
    pub(super) fn name(&self) -> Option<Arc<str>> {
        let first = |followed: &Followed<Scaler>| followed.view()?.objects.first().map(Arc::clone);
        let scaled_object =
            self.scaled_objects.as_ref().and_then(first).map(|scaler| Arc::clone(&scaler.name));
        let autoscaler = first(&self.autoscalers);
        let owner = autoscaler.as_ref().and_then(|scaler| scaler.owner.clone());
        match (scaled_object.or(owner), autoscaler) {
            (Some(name), _) => Some(format!("ScaledObject/{name}").into()),
            (None, Some(scaler)) => Some(format!("HorizontalPodAutoscaler/{}", scaler.name).into()),
            (None, None) => None,
        }
    }

    /// Why we do not know, if we may not look.
    pub(super) fn blindness(&self) -> Option<ApiError> {
        self.autoscalers.pulse().error.filter(|error| matches!(error, ApiError::Forbidden { .. }))
    }

    /// Resolves when [`name`](Self::name) may have changed.
    pub(super) async fn changed(&mut self) {
        let scaled_objects = async {
            match &mut self.scaled_objects {
                Some(followed) => followed.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.autoscalers.changed() => {}
            () = scaled_objects => {}
            Ok(()) = self.keda.changed() => self.follow_keda(),
        }
    }

    fn follow_keda(&mut self) {
        let present = *self.keda.borrow_and_update();
        self.scaled_objects = present.then(|| {
            let subject = subject(&self.namespace, KEDA, "scaledobjects");
            follow(&self.cluster, subject, (&self.resource, &self.name))
        });
    }
}

const KEDA: &str = "/apis/keda.sh/v1alpha1";

fn subject(namespace: &Arc<str>, api: &str, kind: &str) -> Subject {
    Subject {
        path: format!("{api}/namespaces/{namespace}/{kind}").into(),
        kind: kind.into(),
        namespace: Arc::clone(namespace),
        parts: Parts::All,
    }
}

fn follow(cluster: &Cluster, subject: Subject, of: (&Resource, &Arc<str>)) -> Followed<Scaler> {
    let (resource, name) = (of.0.clone(), Arc::clone(of.1));
    Watch::of(cluster, &subject).follow(move |scaler: &Scaler| scaler.target.is(&resource, &name))
}

impl ScaleTarget {
    fn is(&self, resource: &Resource, name: &str) -> bool {
        let group = self.group.as_deref();
        *self.name == *name
            && *self.kind == *resource.kind
            && group.is_none_or(|group| group == resource.group.as_deref().unwrap_or_default())
    }
}

/// Whether the cluster knows ScaledObjects; asked once for all who want to know.
#[derive(Debug)]
struct Keda {
    present: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Keda {
    fn look_for(cluster: &Cluster) -> Self {
        let present = watch::Sender::new(false);
        let task = tokio::spawn(look(cluster.clone(), present.clone()));
        Self { present, _task: AbortOnDropHandle::new(task) }
    }
}

async fn look(cluster: Cluster, present: watch::Sender<bool>) {
    let mut tick = interval(LOOK_AGAIN);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let found = match http::Request::get(KEDA).body(Vec::new()) {
            Ok(request) => cluster.client().request_text(request).await.map_err(ApiError::from),
            Err(error) => Err(ApiError::Invalid(error.to_string().into())),
        };
        let now = match found {
            Ok(_) => true,
            Err(ApiError::NotFound(_)) => false,
            // No answer is no news.
            Err(_) => continue,
        };
        present.send_if_modified(|before| std::mem::replace(before, now) != now);
    }
}

#[derive(Deserialize)]
struct Wire {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Box<str>,
    resource_version: Version,
    owner_references: Option<Vec<Owner>>,
}

#[derive(Deserialize)]
struct Owner {
    kind: Box<str>,
    name: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    scale_target_ref: WireTarget,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireTarget {
    api_version: Option<Box<str>>,
    kind: Option<Box<str>>,
    name: Box<str>,
}

impl From<Wire> for Scaler {
    fn from(Wire { metadata, spec }: Wire) -> Self {
        let WireTarget { api_version, kind, name } = spec.scale_target_ref;
        let group = api_version.map(|version| version.split_once('/').map_or("", |(group, _)| group).into());
        // A ScaledObject that does not say means a Deployment.
        let kind = kind.unwrap_or_else(|| "Deployment".into());
        let mut owners = metadata.owner_references.into_iter().flatten();
        let owner = owners.find(|owner| &*owner.kind == "ScaledObject");
        Self {
            name: metadata.name.into(),
            version: metadata.resource_version,
            owner: owner.map(|owner| owner.name.into()),
            target: ScaleTarget { kind, group, name },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn scaler(target: Value) -> Scaler {
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {"scaleTargetRef": target}}))
            .unwrap()
    }

    #[test]
    fn an_object_is_meant_by_kind_name_and_group_if_that_is_said() {
        let deployment = Resource::of_known("Deployment");
        for (target, meant) in [
            (json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "digits"}), true),
            (json!({"kind": "Deployment", "name": "digits"}), true),
            (json!({"name": "digits"}), true),
            (json!({"kind": "Deployment", "name": "letters"}), false),
            (json!({"kind": "StatefulSet", "name": "digits"}), false),
            (json!({"apiVersion": "example.dev/v1", "kind": "Deployment", "name": "digits"}), false),
            (json!({"apiVersion": "v1", "kind": "Deployment", "name": "digits"}), false),
        ] {
            assert_eq!(scaler(target.clone()).target.is(&deployment, "digits"), meant, "{target}");
        }
    }

    #[test]
    fn the_scaled_object_behind_an_autoscaler_is_known() {
        let owned: Scaler = serde_json::from_value(json!({
            "metadata": {"name": "keda-hpa-s", "ownerReferences": [
                {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "s", "uid": "u"}]},
            "spec": {"scaleTargetRef": {"name": "digits"}},
        }))
        .unwrap();
        assert_eq!(owned.owner.as_deref(), Some("s"));
        assert_eq!(scaler(json!({"name": "digits"})).owner, None);
    }
}
