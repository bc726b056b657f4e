use std::time::Duration;

use fake_cluster::{Calls, Cluster, Fault, Refusal, Rule, Verb};
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::{CONFIG_MAPS, DEPLOYMENTS, DIGITS, SCALE, client::Client, config_map, deployment};

async fn digits() -> (Cluster, Client) {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    client.post(DEPLOYMENTS, &deployment("digits", 2)).await;
    (cluster, client)
}

fn to(replicas: u32) -> Value {
    json!({ "spec": { "replicas": replicas } })
}

#[tokio::test(start_paused = true)]
async fn a_fault_befalls_the_calls_meant_as_often_as_said() {
    let (cluster, client) = digits().await;
    let meant = Calls::any().verb(Verb::Patch).resource("deployments/scale").name("digits");
    let refusal = Refusal::too_many_requests(Duration::from_secs(7));
    let switch = cluster.faults().times(2, meant, Fault::Refuse(refusal));
    assert_eq!(client.get(SCALE).await.0, 200);
    assert_eq!(client.merge(DIGITS, &to(3)).await.0, 200, "another resource");
    let response =
        client.open(Method::PATCH, SCALE, ("application/merge-patch+json", "{}".into())).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (429, &"7".parse().unwrap())
    );
    assert_eq!(client.merge(SCALE, &to(4)).await.1["details"]["retryAfterSeconds"], 7);
    assert_eq!(client.merge(SCALE, &to(4)).await.0, 200);
    assert_eq!(switch.hits(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_leaves_its_effect_behind() {
    let (cluster, client) = digits().await;
    cluster.faults().once(Calls::writes(), Fault::LoseReply);
    let error =
        client.send(Method::PATCH, SCALE, ("application/merge-patch+json", &to(5))).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(cluster.get("deployments", "default", "digits").unwrap()["spec"]["replicas"], 5);
    cluster.faults().once(Calls::writes(), Fault::Drop);
    let lost = client.send(Method::PATCH, SCALE, ("application/merge-patch+json", &to(6))).await;
    assert!(lost.is_err());
    assert_eq!(cluster.get("deployments", "default", "digits").unwrap()["spec"]["replicas"], 5);
}

#[tokio::test(start_paused = true)]
async fn calls_hang_until_the_server_goes_down() {
    let (cluster, client) = digits().await;
    cluster.faults().once(Calls::any().verb(Verb::Get), Fault::Hang);
    let hanging = client.send(Method::GET, DIGITS, ("", &Value::Null));
    tokio::pin!(hanging);
    assert!(timeout(Duration::from_secs(100), &mut hanging).await.is_err());
    cluster.down();
    assert!(hanging.await.is_err());
    assert!(client.send(Method::GET, DIGITS, ("", &Value::Null)).await.is_err());
    cluster.up();
    assert_eq!(client.get(DIGITS).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_answers_late() {
    let (cluster, client) = digits().await;
    let switch = cluster.faults().always(Calls::any(), Fault::Delay(Duration::from_secs(5)));
    let begun = Instant::now();
    client.get(DIGITS).await;
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    switch.off();
    client.get(DIGITS).await;
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_stalled_watch_shows_nothing_not_even_its_end_until_it_flows_again() {
    let (cluster, client) = digits().await;
    let stalled =
        cluster.faults().always(Calls::any().verb(Verb::Watch).resource("configmaps"), Fault::StallWatch);
    let path = format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=30&allowWatchBookmarks=true");
    let mut events = client.watch(&path).await;
    client.post(CONFIG_MAPS, &config_map("a", "web")).await;
    assert!(timeout(Duration::from_secs(600), events.next()).await.is_err());
    stalled.off();
    assert_eq!(events.brief().await, "ADDED a");
}

#[tokio::test(start_paused = true)]
async fn watches_break_when_the_server_goes_down_or_connections_do() {
    let (cluster, client) = digits().await;
    let path = format!("{CONFIG_MAPS}?watch=1");
    let mut events = client.watch(&path).await;
    cluster.down();
    assert!(events.next().await.is_err());
    cluster.up();
    let mut events = client.watch(&path).await;
    cluster.break_connections();
    assert!(events.next().await.is_err());
    assert!(events.next().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn one_caller_can_be_cut_off_alone() {
    let cluster = Cluster::new();
    let client = |name: &str| Client::through(cluster.service().caller(name));
    cluster.faults().always(Calls::any().caller("gateway-b"), Fault::Drop);
    assert_eq!(client("gateway-a").get("/readyz").await.0, 200);
    assert!(client("gateway-b").send(Method::GET, "/readyz", ("", &Value::Null)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn accounts_are_held_to_their_rules_in_the_words_of_the_server() {
    let (cluster, mut client) = digits().await;
    let role = json!({ "rules": [
        { "apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get", "patch"],
          "resourceNames": ["digits"] },
        { "apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"] },
    ] });
    let account = "system:serviceaccount:tidegate:gateway";
    cluster.accounts().token("secret", account);
    cluster.accounts().restrict(account, Rule::of_role(&role, Some("default")));
    client.token = Some("secret");
    assert_eq!(client.merge(SCALE, &to(1)).await.0, 200);
    assert_eq!(client.get(CONFIG_MAPS).await.0, 200);
    let (code, refused) = client.merge(DIGITS, &to(1)).await;
    let message = "deployments.apps \"digits\" is forbidden: User \"system:serviceaccount:tidegate:gateway\" cannot \
                   patch resource \"deployments\" in API group \"apps\" in the namespace \"default\"";
    assert_eq!((code, &refused["message"]), (403, &json!(message)));
    let (_, refused) = client.get("/api/v1/configmaps").await;
    let message = "configmaps is forbidden: User \"system:serviceaccount:tidegate:gateway\" cannot list resource \
                   \"configmaps\" in API group \"\" at the cluster scope";
    assert_eq!(refused["message"], message);
    assert_eq!(refused["details"], json!({ "kind": "configmaps" }));
    let review = |verb: &str| {
        json!({ "spec": { "resourceAttributes": { "namespace": "default", "verb": verb, "group": "apps",
            "resource": "deployments", "subresource": "scale", "name": "digits" } } })
    };
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(client.post(reviews, &review("patch")).await.1["status"]["allowed"], true);
    assert_eq!(client.post(reviews, &review("delete")).await.1["status"]["allowed"], false);
    client.token = Some("guessed");
    assert_eq!(client.get(CONFIG_MAPS).await.0, 401);
    client.token = None;
    assert_eq!(client.get(CONFIG_MAPS).await.0, 200, "tokens are not required yet");
    cluster.accounts().require_tokens();
    assert_eq!(client.get(CONFIG_MAPS).await.0, 401);
}

#[tokio::test(start_paused = true)]
async fn the_log_tells_when_calls_arrived_and_how_they_were_answered() {
    let (cluster, _) = digits().await;
    tokio::time::advance(Duration::from_secs(1)).await;
    let begun = Instant::now();
    tokio::time::advance(Duration::from_secs(3)).await;
    let patches = Calls::any().verb(Verb::Patch).resource("deployments/scale");
    let client = Client::through(cluster.service().caller("leader"));
    let one = to(1);
    let (first, (code, _)) =
        tokio::join!(cluster.log().first_since(begun, &patches), client.merge(SCALE, &one));
    assert_eq!(code, 200);
    assert_eq!((first.at - begun, first.caller.as_str()), (Duration::from_secs(3), "leader"));
    assert_eq!(serde_json::from_slice::<Value>(&first.body).unwrap(), to(1));
    let logged = cluster.log().calls(&patches);
    assert_eq!((logged.len(), logged[0].code), (1, Some(200)));
    assert_eq!(cluster.log().count_since(begun, &Calls::any()), 1);
    let counted = cluster.log().counts().into_iter().find(|(by, _)| by.subresource == "scale").unwrap();
    assert_eq!((counted.0.resource.as_str(), counted.1), ("deployments.apps", 1));
}
