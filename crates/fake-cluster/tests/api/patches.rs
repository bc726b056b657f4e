use fake_cluster::Cluster;
use serde_json::json;

use crate::{DEPLOYMENTS, DIGITS, LEASES, SCALE, client::Client, deployment};

#[tokio::test(start_paused = true)]
async fn a_json_patch_whose_test_fails_is_422_and_changes_nothing() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    client.post(DEPLOYMENTS, &deployment("digits", 2)).await;
    let guarded = |from: u32, to: u32| {
        json!([
            { "op": "test", "path": "/spec/replicas", "value": from },
            { "op": "replace", "path": "/spec/replicas", "value": to },
        ])
    };
    let before = cluster.revision();
    for path in [DIGITS, SCALE] {
        let (code, status) = client.patch("json-patch", path, &guarded(9, 1)).await;
        assert_eq!((code, &status["reason"], &status["details"]), (422, &json!("Invalid"), &json!({})));
        assert_eq!(status["message"], "the server rejected our request due to an error in our request");
    }
    assert_eq!(cluster.revision(), before);
    let (code, done) = client.patch("json-patch", SCALE, &guarded(2, 0)).await;
    assert_eq!((code, &done["spec"]), (200, &json!({})));
    assert_eq!(
        client.patch("json-patch", SCALE, &guarded(0, 1)).await.0,
        422,
        "a Scale of zero has no replicas"
    );
    assert_eq!(client.patch("json-patch", DIGITS, &guarded(0, 1)).await.0, 200, "the object has");
}

#[tokio::test(start_paused = true)]
async fn a_patch_with_an_old_version_conflicts() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    let (_, made) = client.post(DEPLOYMENTS, &deployment("digits", 2)).await;
    let version = &made["metadata"]["resourceVersion"];
    let change = json!({ "metadata": { "resourceVersion": version }, "spec": { "replicas": 3 } });
    assert_eq!(client.merge(DIGITS, &change).await.0, 200);
    assert_eq!(client.merge(DIGITS, &change).await.0, 409);
    let other = json!({ "metadata": { "uid": "abc" }, "spec": { "replicas": 4 } });
    let (code, conflict) = client.merge(SCALE, &other).await;
    assert_eq!(code, 409);
    let message = conflict["message"].as_str().unwrap();
    assert!(message.starts_with(
        "Operation cannot be fulfilled on deployments/scale.apps \"digits\": Precondition failed: UID in \
         precondition: abc, UID in object meta: "
    ));
}

#[tokio::test(start_paused = true)]
async fn apply_creates_owns_conflicts_and_lets_go() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    let path = format!("{LEASES}/leader");
    let lease = |spec: serde_json::Value| {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "leader" }, "spec": spec,
        })
    };
    let mine = format!("{path}?fieldManager=me");
    let (code, _) = client.patch("apply", &path, &lease(json!({ "holderIdentity": "a" }))).await;
    assert_eq!(code, 422, "without a manager");
    let both = lease(json!({ "holderIdentity": "a", "leaseTransitions": 1 }));
    assert_eq!(client.patch("apply", &mine, &both).await.0, 201);
    let yours = format!("{path}?fieldManager=you");
    let (code, conflict) = client.patch("apply", &yours, &lease(json!({ "holderIdentity": "b" }))).await;
    assert_eq!(code, 409);
    let message = "Apply failed with 1 conflict: conflict with \"me\": .spec.holderIdentity";
    assert_eq!(conflict["message"], message);
    let forced = format!("{yours}&force=true");
    let (_, taken) = client.patch("apply", &forced, &lease(json!({ "holderIdentity": "b" }))).await;
    assert_eq!(taken["spec"], json!({ "holderIdentity": "b", "leaseTransitions": 1 }));
    let (_, left) = client.patch("apply", &mine, &lease(json!({}))).await;
    assert_eq!(
        left["spec"],
        json!({ "holderIdentity": "b" }),
        "what I no longer apply goes, what is yours stays"
    );
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_answers_and_keeps_nothing() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    let (code, made) = client.post(&format!("{DEPLOYMENTS}?dryRun=All"), &deployment("digits", 2)).await;
    assert_eq!((code, &made["spec"]["replicas"]), (201, &json!(2)));
    assert_eq!(client.get(DIGITS).await.0, 404);
}
