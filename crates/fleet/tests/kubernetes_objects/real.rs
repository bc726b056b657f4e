//! The same on a real API server, with the rights and the definition of the kind that the manifests bring.

use std::{sync::Arc, time::Duration};

use fleet::kubernetes::{
    ApiError, Cluster,
    events::{Reason, Recorder, Subject},
    lease::{Election, Fence, Leader, Timing, follow},
    models::{self, Freshness, Scope},
    state::{Entry, SaveError, Store},
    status::{
        Accepted, Active, Condition, Fact, ModelState, ModelStatus, Observed, Ready, Replicas, SloMet,
        StatusWriter,
    },
};
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    api_server::ApiServer,
    stage::{LEASE, NAMESPACE, config, follows, leads, object, until},
};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

struct Stage {
    server: ApiServer,
    admin: Cluster,
    autoscaler: Cluster,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_objects_are_as_a_real_api_server_wants_them() {
    let Some(server) = ApiServer::start().await else { return };
    let (admin, autoscaler) = (server.connect("admin").await, server.connect("autoscaler").await);
    let stage = Stage { server, admin, autoscaler };
    stage.prepare().await;
    let told = async {
        stage.state().await;
        let uid = stage.models().await;
        tokio::join!(stage.status(&uid), stage.events(&uid));
    };
    tokio::join!(stage.elections(), told);
}

impl Stage {
    async fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value, ApiError> {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        self.send(method, path, kind, if body.is_null() { Vec::new() } else { body.to_string().into() }).await
    }

    async fn send(&self, method: Method, path: &str, kind: &str, body: Vec<u8>) -> Result<Value, ApiError> {
        let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
        Ok(self.admin.client().request(request.body(body).unwrap()).await?)
    }

    async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, &Value::Null).await.unwrap()
    }

    async fn prepare(&self) {
        for namespace in [NAMESPACE, "ml"] {
            let object = json!({"metadata": {"name": namespace}});
            self.call(Method::POST, "/api/v1/namespaces", &object).await.unwrap();
        }
        let (lease, memory) = (json!([LEASE]), json!(["tidegate-memory"]));
        let rules = json!([
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": lease,
                "verbs": ["get", "update"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": memory,
                "verbs": ["get", "update"]},
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]},
        ]);
        self.allow("autoscaler", NAMESPACE, &rules).await;
        let rules = json!([
            {"apiGroups": ["tidegate.dev"], "resources": ["models"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["tidegate.dev"], "resources": ["models/status"], "verbs": ["patch"]},
            {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
        ]);
        self.allow("autoscaler", "ml", &rules).await;
        let rules = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
            "resourceNames": lease, "verbs": ["get", "watch"]}]);
        self.allow("gateway", NAMESPACE, &rules).await;
    }

    async fn allow(&self, user: &str, namespace: &str, rules: &Value) {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
        let role = json!({"metadata": {"name": user}, "rules": rules});
        self.call(Method::POST, &format!("{path}/roles"), &role).await.unwrap();
        let group = "rbac.authorization.k8s.io";
        let binding = json!({
            "metadata": {"name": user},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": user},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
        });
        self.call(Method::POST, &format!("{path}/rolebindings"), &binding).await.unwrap();
    }

    async fn elections(&self) {
        let stand = |name| Election::start(&self.autoscaler, config(name, Timing::fast()));
        let mut leader = follow(&self.server.connect("gateway").await, NAMESPACE, LEASE);
        let led_by = |name: &'static str| {
            move |leader: &Option<Leader>| leader.as_ref().is_some_and(|leader| *leader.identity == *name)
        };
        let a = stand("a");
        assert_eq!(leads(&a).await, 1);
        let seen = until(&mut leader, led_by("a")).await.unwrap();
        assert_eq!((seen.address.as_deref(), seen.epoch), (Some("a.example:9091"), 1));
        let b = stand("b");
        follows(&b, "a").await;

        let start = Instant::now();
        a.resign().await;
        assert!(!a.fence().holds());
        assert_eq!(leads(&b).await, 2);
        assert!(start.elapsed() <= seconds(3), "{:?}", start.elapsed());
        until(&mut leader, led_by("b")).await;

        let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{LEASE}");
        self.call(Method::DELETE, &lease, &Value::Null).await.unwrap();
        let c = stand("c");
        for _ in 0..100 {
            sleep(Duration::from_millis(50)).await;
            assert!(b.fence().holds() && !c.fence().holds());
        }
        assert_eq!(self.get(&lease).await["spec"]["holderIdentity"], "b");

        let killed = Instant::now();
        drop(b);
        assert_eq!(leads(&c).await, 3);
        assert!(killed.elapsed() <= seconds(7), "{:?}", killed.elapsed());
        c.outrank(40).await;
        until(&mut leader, |leader| leader.as_ref().is_some_and(|leader| leader.epoch == 41)).await;
        c.resign().await;
        until(&mut leader, Option::is_none).await;
    }

    async fn state(&self) {
        let store = |epoch| Store::new(&self.autoscaler, NAMESPACE, "tidegate-memory", Fence::always(epoch));
        let entries = |json: &str, weight| {
            let entry = |json: &str, weight| Entry { json: json.to_owned(), weight };
            let big = format!("\"{}\"", "x".repeat(150 << 10));
            [("digits".to_owned(), entry(json, weight)), ("ml/b_1".to_owned(), entry(&big, 1))].into()
        };
        drop(store(1).save(&entries("1", 5), 1).await.unwrap());
        drop(store(2).save(&entries("2", 6), 2).await.unwrap());
        assert_eq!(store(1).save(&entries("3", 7), 1).await, Err(SaveError::Superseded(2)));
        let memory = store(3).load().await.unwrap();
        assert_eq!((&*memory.models["digits"], memory.models.len(), memory.epoch), ("2", 2, 2));
    }

    /// Returns the UID of the one that is there in the end.
    async fn models(&self) -> Arc<str> {
        let mut catalogue = models::follow(&self.autoscaler, Scope::Namespaces(vec!["ml".to_owned()]));
        until(&mut catalogue, |catalogue| catalogue.freshness == Freshness::KindMissing).await;
        let definition = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/base/crd.yaml");
        let definition = std::fs::read(definition).unwrap();
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        self.send(Method::POST, path, "application/yaml", definition).await.unwrap();
        // Not the one above, which looks again in a minute.
        let mut catalogue = self.catalogue().await;
        let models = "/apis/tidegate.dev/v1alpha1/namespaces/ml/models";
        let made = self.call(Method::POST, models, &model()).await.unwrap();
        let seen = until(&mut catalogue, |catalogue| catalogue.objects.len() == 1).await;
        assert_eq!(seen.objects[0].spec["slo"]["p99"], "100ms");
        assert_eq!(seen.objects[0].generation, 1);
        made["metadata"]["uid"].as_str().unwrap().into()
    }

    async fn catalogue(&self) -> tokio::sync::watch::Receiver<models::Catalogue> {
        let deadline = Instant::now() + seconds(30);
        loop {
            let mut catalogue = models::follow(&self.autoscaler, Scope::Namespaces(vec!["ml".to_owned()]));
            let current = |it: &models::Catalogue| it.freshness == Freshness::Current;
            if timeout(seconds(1), catalogue.wait_for(current)).await.is_ok() {
                return catalogue;
            }
            assert!(Instant::now() < deadline, "{:?}", catalogue.borrow());
        }
    }

    async fn status(&self, uid: &Arc<str>) {
        let path = "/apis/tidegate.dev/v1alpha1/namespaces/ml/models/digits";
        let writer = StatusWriter::start(&self.autoscaler, Fence::always(1));
        let set = |ready| writer.set(&object("ml", "digits", uid), &status(ready)).unwrap();
        set(1);
        let first = self.until(path, |object| object["status"]["replicas"]["ready"] == 1).await;
        assert_eq!(first["status"]["observed"]["p99"], "138ms");
        let conditions = first["status"]["conditions"].as_array().unwrap();
        assert_eq!(conditions.len(), 4, "{conditions:?}");
        let spec = json!({"spec": {"slo": {"p99": "200ms"}}});
        self.call(Method::PATCH, path, &spec).await.unwrap();
        set(2);
        // The second write of this minute is refused, as the spec has changed since it was read.
        let second = timeout(seconds(70), self.until(path, |it| it["status"]["replicas"]["ready"] == 2));
        let second = second.await.unwrap();
        assert_eq!(second["spec"]["slo"]["p99"], "200ms");
        let since = |object: &Value| object["status"]["conditions"][0]["lastTransitionTime"].clone();
        assert_eq!(since(&first), since(&second));
    }

    async fn events(&self, uid: &Arc<str>) {
        let recorder = Recorder::start(&self.autoscaler, "tidegate-1");
        let subject = Subject {
            api_version: "tidegate.dev/v1alpha1".into(),
            kind: "Model".into(),
            namespace: "ml".into(),
            name: "digits".into(),
            uid: Some(Arc::clone(uid)),
        };
        recorder.record(&subject, Reason::ScaledUp, "0→1: first request");
        recorder.record(&subject, Reason::ScaleLimited, &"→".repeat(1_000));
        let path = "/api/v1/namespaces/ml/events";
        let count = |list: &Value| list["items"].as_array().unwrap().len();
        let list = self.until(path, |list| count(list) == 2).await;
        let event =
            list["items"].as_array().unwrap().iter().find(|event| event["reason"] == "ScaledUp").unwrap();
        assert_eq!(event["involvedObject"]["uid"], **uid);
        assert_eq!(event["message"], "0→1: first request");
        for _ in 0..3 {
            recorder.record(&subject, Reason::ScaledUp, "0→1: first request");
        }
        let counted = |event: &Value| event["series"]["count"] == 4;
        let counted = |list: &Value| list["items"].as_array().unwrap().iter().any(counted);
        timeout(seconds(70), self.until(path, counted)).await.unwrap();
        assert_eq!(count(&self.get(path).await), 2);
    }

    async fn until(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + seconds(100);
        loop {
            let object = self.get(path).await;
            if holds(&object) {
                return object;
            }
            assert!(Instant::now() < deadline, "it stays at {object}");
            sleep(Duration::from_millis(200)).await;
        }
    }
}

fn model() -> Value {
    json!({
        "apiVersion": "tidegate.dev/v1alpha1", "kind": "Model",
        "metadata": {"name": "digits"},
        "spec": {
            "fleet": {"kubernetes": {"target": "Deployment/digits", "port": "grpc"}},
            "protocol": "v2-grpc",
            "slo": {"p99": "100ms"},
            "scaling": {"min": 0, "max": 4},
        },
    })
}

fn status(ready: u32) -> ModelStatus {
    let condition = |fact| Condition { fact, message: String::new() };
    ModelStatus {
        observed_generation: 1,
        state: ModelState::Ready,
        target: "Deployment/digits".to_owned(),
        replicas: Replicas { current: ready, ready, desired: ready },
        observed: Some(Observed {
            rps: 57.25,
            p99: Some(Duration::from_millis(138)),
            queue: 3,
            as_of: Timestamp::now(),
        }),
        last_decision: None,
        conditions: vec![
            condition(Fact::Ready(Ready::Serving)),
            condition(Fact::Active(Active::Traffic)),
            condition(Fact::SloMet(SloMet::NotEnoughData)),
            condition(Fact::Accepted(Accepted::SpecApplied)),
        ],
    }
}
