//! What we cost the API server, and ourselves: it must not grow with the number of pods.

use std::{sync::Arc, time::Duration};

use autoscaler::fleet::Fleet as _;
use fake_cluster::Verb;
use fleet::{
    kubernetes::{
        endpoints::{self, Endpoints, Port},
        fleet::{Config, KubernetesFleet},
    },
    probe::{self, Probe},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::stage::{Stage, calls, endpoint, fake, ready, until};

/// `models` with `pods` each, ready.
fn populate(fake: &fake_cluster::Cluster, models: usize, pods: usize) {
    for model in 0..models {
        let app = format!("model-{model}");
        let labels = json!({"app": app});
        fake.create(
            "deployments",
            json!({"metadata": {"namespace": "ml", "name": app},
            "spec": {"replicas": pods, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": []}}}}),
        )
        .unwrap();
        let mut listed = Vec::new();
        for pod in 0..pods {
            let name = format!("{app}-{pod}");
            let ip = format!("10.{}.{}.{pod}", model / 256, model % 256);
            listed.push(endpoint(&name, &ip, true));
            fake.create(
                "pods",
                json!({"metadata": {"namespace": "ml", "name": name, "labels": labels},
                "spec": {"containers": []}, "status": ready()}),
            )
            .unwrap();
        }
        fake.create(
            "endpointslices",
            json!({"metadata": {"namespace": "ml", "name": app,
                "labels": {"kubernetes.io/service-name": app}}, "addressType": "IPv4", "endpoints": listed,
            "ports": [{"name": "grpc", "port": 8001}]}),
        )
        .unwrap();
    }
}

struct Model {
    fleet: KubernetesFleet,
    endpoints: Endpoints,
}

async fn start(stage: &Stage, models: usize, pods: usize) -> Vec<Model> {
    let probe = Probe::new(tower::service_fn(async |_| Ok(())));
    let start = |model| {
        let name: Arc<str> = format!("model-{model}").into();
        let namespace = Arc::clone(&stage.namespace);
        let target = format!("Deployment/{name}").parse().unwrap();
        let config = Config::new(Arc::clone(&name), Arc::clone(&namespace), target);
        let fleet = KubernetesFleet::start(&stage.cluster, config, Arc::new(|| true));
        let port = Port::Number(8001);
        let config = endpoints::Config {
            model: Arc::clone(&name),
            namespace,
            service: name,
            port,
            probe: probe::Timing::default(),
        };
        Model { fleet, endpoints: Endpoints::start(&stage.cluster, config, probe.clone()) }
    };
    let started: Vec<_> = (0..models).map(start).collect();
    for model in &started {
        until(&mut model.fleet.target(), |target| target.replicas == Some(pods as u32)).await;
        until(&mut model.fleet.replicas(), |replicas| replicas.len() == pods).await;
        until(&mut model.endpoints.replicas(), |replicas| replicas.len() == pods).await;
    }
    started
}

/// Calls in ten quiet minutes.
async fn cost(models: usize, pods: usize) -> usize {
    let (stage, fake) = fake();
    populate(&fake, models, pods);
    let _started = start(&stage, models, pods).await;
    sleep(Duration::from_secs(60)).await;
    let start = Instant::now();
    sleep(Duration::from_secs(600)).await;
    fake.log().count_since(start, &calls())
}

#[tokio::test(start_paused = true)]
async fn calls_per_minute_do_not_grow_with_models_or_pods() {
    for (models, pods) in [(1, 1), (1, 100), (50, 10)] {
        let calls = cost(models, pods).await;
        // Four watches that are begun anew every 45 s, and a look for KEDA each five minutes.
        assert!((50..=64).contains(&calls), "{models} models of {pods} pods: {calls} calls in ten minutes");
    }
}

#[tokio::test(start_paused = true)]
async fn models_of_one_namespace_share_their_watches() {
    let (stage, fake) = fake();
    populate(&fake, 40, 2);
    let _started = start(&stage, 40, 2).await;
    for kind in ["pods", "deployments", "endpointslices", "horizontalpodautoscalers"] {
        assert_eq!(fake.log().calls(&calls().verb(Verb::List).resource(kind)).len(), 1, "{kind}");
        assert_eq!(fake.log().calls(&calls().verb(Verb::Watch).resource(kind)).len(), 1, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn many_writes_at_once_are_spread() {
    let (stage, fake) = fake();
    populate(&fake, 40, 0);
    let started = start(&stage, 40, 0).await;
    let start = Instant::now();
    let writes = started.iter().map(|model| model.fleet.scale(1, &[]));
    for result in futures_util::future::join_all(writes).await {
        result.unwrap();
    }
    let patches = calls().verb(Verb::Patch);
    assert_eq!(fake.log().calls(&patches).len(), 40);
    // A burst at once, then five a second.
    assert_eq!(start.elapsed().as_secs(), 3);
}
