use std::time::Duration;

use fake_cluster::{Change, Cluster, Options};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::{CONFIG_MAPS, client::Client, config_map};

#[tokio::test(start_paused = true)]
async fn a_watch_without_version_shows_what_there_is_and_then_what_happens() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    client.post(CONFIG_MAPS, &config_map("a", "web")).await;
    let mut events = client.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    assert_eq!(events.brief().await, "ADDED a");
    client.post(CONFIG_MAPS, &config_map("b", "web")).await;
    client.merge(&format!("{CONFIG_MAPS}/a"), &json!({ "data": { "key": "other" } })).await;
    client.delete(&format!("{CONFIG_MAPS}/b")).await;
    assert_eq!(events.brief().await, "ADDED b");
    let modified = events.next().await.unwrap().unwrap();
    assert_eq!((&modified["type"], &modified["object"]["kind"]), (&json!("MODIFIED"), &json!("ConfigMap")));
    assert_eq!(events.brief().await, "DELETED b");
}

#[tokio::test(start_paused = true)]
async fn a_watch_resumes_after_the_version_of_a_list() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    client.post(CONFIG_MAPS, &config_map("a", "web")).await;
    let (_, list) = client.get(CONFIG_MAPS).await;
    client.post(CONFIG_MAPS, &config_map("b", "web")).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = client.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={version}")).await;
    assert_eq!(events.brief().await, "ADDED b");
}

#[tokio::test(start_paused = true)]
async fn versions_before_compaction_are_expired_and_open_watches_go_on() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    let mut open = client.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    client.post(CONFIG_MAPS, &config_map("a", "web")).await;
    cluster.compact();
    assert_eq!(open.brief().await, "ADDED a");
    let mut late = client.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=2")).await;
    let error = late.next().await.unwrap().unwrap();
    assert_eq!((&error["type"], &error["object"]["reason"]), (&json!("ERROR"), &json!("Expired")));
    let message = format!("too old resource version: 2 ({})", cluster.revision());
    assert_eq!(error["object"]["message"], message);
    assert!(late.next().await.unwrap().is_none());
    cluster.expire_watches();
    assert_eq!(open.brief().await, "ERROR 410");
    assert!(open.next().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn history_is_a_bounded_window() {
    let cluster = Cluster::with(Options { history_max: 3, ..Options::default() });
    let client = Client::of(&cluster);
    let start = cluster.revision();
    for name in ["a", "b", "c", "d", "e"] {
        client.post(CONFIG_MAPS, &config_map(name, "web")).await;
    }
    let mut late = client.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={start}")).await;
    assert_eq!(late.brief().await, "ERROR 410");
    let mut near = client.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={}", start + 2)).await;
    assert_eq!(near.brief().await, "ADDED c");
}

#[tokio::test(start_paused = true)]
async fn bookmarks_carry_the_version_when_nothing_happens() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    let begun = Instant::now();
    let path = format!(
        "{CONFIG_MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=90&resourceVersion={}",
        cluster.revision()
    );
    let mut events = client.watch(&path).await;
    cluster.create("leases", json!({ "metadata": { "name": "elsewhere" } })).unwrap();
    let bookmark = events.next().await.unwrap().unwrap();
    assert_eq!((begun.elapsed().as_secs(), &bookmark["type"]), (60, &json!("BOOKMARK")));
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], cluster.revision().to_string());
    assert_eq!(events.brief().await, "BOOKMARK -");
    assert_eq!(begun.elapsed().as_secs(), 88, "one just before the end");
    assert!(events.next().await.unwrap().is_none());
    assert_eq!(begun.elapsed().as_secs(), 90);
}

#[tokio::test(start_paused = true)]
async fn initial_events_end_with_a_marked_bookmark() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    client.post(CONFIG_MAPS, &config_map("a", "web")).await;
    let path = format!("{CONFIG_MAPS}?watch=1&sendInitialEvents=true&allowWatchBookmarks=true");
    let (code, refused) = client.get(&path).await;
    assert_eq!((code, &refused["reason"]), (422, &json!("Invalid")));
    let mut events = client.watch(&format!("{path}&resourceVersionMatch=NotOlderThan")).await;
    assert_eq!(events.brief().await, "ADDED a");
    let end = events.next().await.unwrap().unwrap();
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test(start_paused = true)]
async fn objects_enter_and_leave_a_selector() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    client.post(CONFIG_MAPS, &config_map("a", "db")).await;
    let mut events = client.watch(&format!("{CONFIG_MAPS}?watch=1&labelSelector=tier%3Dweb")).await;
    let tier = |tier: &str| json!({ "metadata": { "labels": { "tier": tier } } });
    client.merge(&format!("{CONFIG_MAPS}/a"), &tier("web")).await;
    client.merge(&format!("{CONFIG_MAPS}/a"), &tier("db")).await;
    client.post(CONFIG_MAPS, &config_map("b", "db")).await;
    client.post(CONFIG_MAPS, &config_map("c", "web")).await;
    assert_eq!(events.brief().await, "ADDED a");
    let left = events.next().await.unwrap().unwrap();
    assert_eq!(
        (&left["type"], &left["object"]["metadata"]["labels"]["tier"]),
        (&json!("DELETED"), &json!("web"))
    );
    assert_eq!(events.brief().await, "ADDED c");
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_a_version_to_come_is_silent() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    let mut events = client.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=999")).await;
    client.post(CONFIG_MAPS, &config_map("a", "db")).await;
    assert!(timeout(Duration::from_secs(5), events.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_metadata_watch_shows_only_metadata_and_old_events_can_be_shown_again() {
    let cluster = Cluster::new();
    let mut client = Client::of(&cluster);
    client.accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let old = cluster.create("configmaps", config_map("a", "db")).unwrap();
    let mut events =
        client.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={}", cluster.revision())).await;
    cluster.merge("configmaps", "default", "a", &json!({ "data": { "key": "new" } })).unwrap();
    cluster.replay("configmaps", Change::Modified, old.clone());
    let first = events.next().await.unwrap().unwrap();
    assert_eq!(first["object"]["kind"], "PartialObjectMetadata");
    assert!(first["object"].get("data").is_none());
    let second = events.next().await.unwrap().unwrap();
    assert_eq!(second["object"]["metadata"]["resourceVersion"], old["metadata"]["resourceVersion"]);
}
