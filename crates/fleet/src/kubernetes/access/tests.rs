use fake_cluster::{Cluster as Fake, Rule};
use serde_json::json;

use super::*;

const ACCOUNT: &str = "system:serviceaccount:ml:operator";

fn connected() -> (Fake, Cluster) {
    let fake = Fake::new();
    let service = fake.service().caller("operator").account(ACCOUNT);
    let cluster = Cluster::over(kube::Client::new(service, "ml"));
    (fake, cluster)
}

fn deployment(name: &str, replicas: u32) -> Value {
    json!({"metadata": {"namespace": "ml", "name": name}, "spec": {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "m", "image": "m"}]}},
    }})
}

#[tokio::test(start_paused = true)]
async fn the_server_says_its_version() {
    let (_fake, cluster) = connected();
    let server = server(&cluster).await.unwrap();
    assert!(server.version.starts_with('v'), "{}", server.version);
    assert!(server.release.is_some_and(|release| release >= (1, 30)));
}

#[test]
fn a_providers_minor_version_is_read() {
    let info = |minor: &str| Info { major: "1".to_owned(), minor: minor.to_owned(), ..Info::default() };
    assert_eq!(release(&info("30+")), Some((1, 30)));
    assert_eq!(release(&info("36")), Some((1, 36)));
    assert_eq!(release(&info("")), None);
}

#[test]
fn the_second_that_a_date_header_cuts_off_is_no_skew() {
    let told = http_date("Thu, 01 Jan 2026 00:00:10 GMT").unwrap();
    let at = |millis: i64| skew(told, told + SignedDuration::from_millis(millis));
    assert_eq!(at(900), Duration::ZERO);
    assert_eq!(at(3500), Duration::from_millis(2500));
    assert_eq!(at(-4000), Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn a_right_is_had_or_not() {
    let (fake, cluster) = connected();
    let role = json!({"rules": [{"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"]}]});
    fake.accounts().restrict(ACCOUNT, Rule::of_role(&role, Some("ml")));
    let proxy = Right { verb: "get", resource: "pods", subresource: Some("proxy"), ..Right::default() };
    assert_eq!(may(&cluster, Right { namespace: Some("ml"), ..proxy }).await, Ok(true));
    assert_eq!(may(&cluster, Right { namespace: Some("other"), ..proxy }).await, Ok(false));
    assert_eq!(may(&cluster, Right { subresource: None, namespace: Some("ml"), ..proxy }).await, Ok(false));
}

#[tokio::test(start_paused = true)]
async fn a_deployment_is_counted_and_a_missing_one_is_not_found() {
    let (fake, cluster) = connected();
    assert!(matches!(rollout(&cluster, "ml", "gateway").await, Err(ApiError::NotFound(_))));
    let status = json!({"replicas": 2, "readyReplicas": 1, "updatedReplicas": 2});
    let mut gateway = deployment("gateway", 2);
    gateway["status"] = status;
    fake.create("deployments", gateway).unwrap();
    let expected = Rollout { ready: 1, wanted: 2, updated: 2 };
    assert_eq!(rollout(&cluster, "ml", "gateway").await, Ok(expected));
}

#[tokio::test(start_paused = true)]
async fn the_target_is_found_by_its_scale() {
    let (fake, cluster) = connected();
    let target: TargetRef = "Deployment/digits".parse().unwrap();
    assert!(matches!(replicas(&cluster, "ml", &target).await, Err(ApiError::NotFound(_))));
    fake.create("deployments", deployment("digits", 3)).unwrap();
    assert_eq!(replicas(&cluster, "ml", &target).await, Ok(3));
}

#[tokio::test(start_paused = true)]
async fn each_backend_of_a_service_is_there_once() {
    let (fake, cluster) = connected();
    let endpoint = |pod: &str, ready: bool| json!({"addresses": ["10.0.0.1"], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": pod}});
    for (name, service) in [("a", "gateway"), ("b", "gateway"), ("c", "other")] {
        fake.create(
            "endpointslices",
            json!({
                "metadata": {"namespace": "ml", "name": name, "labels": {"kubernetes.io/service-name": service}},
                "addressType": "IPv4", "ports": [], "endpoints": [endpoint("x", true), endpoint(name, false)],
            }),
        )
        .unwrap();
    }
    let found = backends(&cluster, "ml", "gateway").await.unwrap();
    let found: Vec<_> = found.iter().map(|it| (it.pod.as_deref().unwrap_or(""), it.ready)).collect();
    assert_eq!(found, [("a", false), ("b", false), ("x", true)]);
}

#[tokio::test(start_paused = true)]
async fn the_lease_says_who_leads_and_for_how_long() {
    let (fake, cluster) = connected();
    assert!(matches!(tenure(&cluster, "ml", "tidegate").await, Err(ApiError::NotFound(_))));
    fake.create(
        "leases",
        json!({"metadata": {"namespace": "ml", "name": "tidegate"}, "spec": {
            "holderIdentity": "a", "leaseTransitions": 7, "leaseDurationSeconds": 15,
            "renewTime": "2026-01-01T00:00:00.000000Z"}}),
    )
    .unwrap();
    let tenure = tenure(&cluster, "ml", "tidegate").await.unwrap();
    assert_eq!((tenure.holder.as_deref(), tenure.epoch), (Some("a"), 7));
    assert_eq!(tenure.duration, Some(Duration::from_secs(15)));
    let now = "2026-01-01T00:00:04Z".parse().unwrap();
    assert_eq!(tenure.age(now), Some(Duration::from_secs(4)));
    assert_eq!(tenure.age(Timestamp::UNIX_EPOCH), Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_definition_is_missing_until_it_is_created() {
    let (_fake, cluster) = connected();
    assert_eq!(definition(&cluster, "models.tidegate.dev").await, Ok(Definition::Missing));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_a_pod_is_not_asked() {
    let (fake, cluster) = connected();
    for pod in ["", "a/b", "a?b", "../a"] {
        let to = PodPort { namespace: "ml", pod, port: 9090 };
        assert!(matches!(proxy_get(&cluster, to, "/readyz").await, Err(ApiError::Invalid(_))), "{pod}");
    }
    assert_eq!(fake.log().total(), 0);
}
