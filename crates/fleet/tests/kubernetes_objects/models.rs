//! Model objects, as they come and go.

use std::{sync::Arc, time::Duration};

use fake_cluster::{Calls, Fault, Refusal, Verb};
use fleet::kubernetes::models::{Catalogue, Freshness, Scope, follow};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::stage::{calls_of, fake, install_kind, model, seen_by, until};

fn all(fake: &fake_cluster::Cluster) -> watch::Receiver<Catalogue> {
    follow(&seen_by(fake, "tidegate"), Scope::AllNamespaces)
}

fn names(catalogue: &Catalogue) -> Vec<String> {
    catalogue.objects.iter().map(|object| format!("{}/{}", object.namespace, object.name)).collect()
}

async fn until_names(catalogue: &mut watch::Receiver<Catalogue>, expected: &[&str]) -> Catalogue {
    until(catalogue, |catalogue| names(catalogue) == expected).await
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn models_of_all_namespaces_are_seen_the_oldest_first() {
    let fake = fake();
    install_kind(&fake);
    fake.create("models.tidegate.dev", model("ml", "b")).unwrap();
    sleep(seconds(2)).await;
    fake.create("models.tidegate.dev", model("ml", "a")).unwrap();
    let mut catalogue = all(&fake);
    let seen = until_names(&mut catalogue, &["ml/b", "ml/a"]).await;
    assert_eq!(seen.freshness, Freshness::Current);
    assert_eq!(seen.objects[0].spec, json!({"slo": {"p99": "100ms"}}));
    assert!(!seen.objects[0].uid.is_empty() && seen.objects[0].created < seen.objects[1].created);

    sleep(seconds(2)).await;
    fake.create("models.tidegate.dev", model("other", "c")).unwrap();
    until_names(&mut catalogue, &["ml/b", "ml/a", "other/c"]).await;
    fake.delete("models.tidegate.dev", "ml", "b").unwrap();
    until_names(&mut catalogue, &["ml/a", "other/c"]).await;
}

#[tokio::test(start_paused = true)]
async fn only_given_namespaces_are_looked_at_where_some_are_given() {
    let fake = fake();
    install_kind(&fake);
    for namespace in ["ml", "nlp", "other"] {
        fake.create("models.tidegate.dev", model(namespace, "m")).unwrap();
        sleep(seconds(1)).await;
    }
    let scope = Scope::Namespaces(vec!["nlp".to_owned(), "ml".to_owned()]);
    let mut catalogue = follow(&seen_by(&fake, "tidegate"), scope);
    until_names(&mut catalogue, &["ml/m", "nlp/m"]).await;
    let lists = fake.log().calls(&Calls::any().caller("tidegate").verb(Verb::List));
    assert!(lists.iter().all(|list| ["ml", "nlp"].contains(&&*list.namespace)));
}

#[tokio::test(start_paused = true)]
async fn a_changed_spec_is_news_and_a_changed_status_is_none() {
    let fake = fake();
    install_kind(&fake);
    fake.create("models.tidegate.dev", model("ml", "a")).unwrap();
    let mut catalogue = all(&fake);
    until_names(&mut catalogue, &["ml/a"]).await;
    catalogue.borrow_and_update();
    fake.merge("models.tidegate.dev", "ml", "a", &json!({"status": {"state": "Ready"}})).unwrap();
    sleep(seconds(5)).await;
    assert!(!catalogue.has_changed().unwrap());
    fake.merge("models.tidegate.dev", "ml", "a", &json!({"spec": {"slo": {"p99": "1s"}}})).unwrap();
    let changed = until(&mut catalogue, |catalogue| catalogue.objects[0].generation == 2).await;
    assert_eq!(changed.objects[0].spec["slo"]["p99"], "1s");
}

#[tokio::test(start_paused = true)]
async fn an_object_made_anew_under_its_name_is_another_one() {
    let fake = fake();
    install_kind(&fake);
    fake.create("models.tidegate.dev", model("ml", "a")).unwrap();
    let mut catalogue = all(&fake);
    let first = until_names(&mut catalogue, &["ml/a"]).await.objects[0].clone();
    fake.delete("models.tidegate.dev", "ml", "a").unwrap();
    fake.create("models.tidegate.dev", model("ml", "a")).unwrap();
    let other = |catalogue: &Catalogue| catalogue.objects.iter().any(|object| object.uid != first.uid);
    until(&mut catalogue, other).await;
}

#[tokio::test(start_paused = true)]
async fn without_the_kind_it_is_asked_for_each_minute_and_found_when_it_comes() {
    let fake = fake();
    let mut catalogue = all(&fake);
    until(&mut catalogue, |catalogue| catalogue.freshness == Freshness::KindMissing).await;
    let start = Instant::now();
    sleep(seconds(600)).await;
    let calls = fake.log().count_since(start, &calls_of("tidegate"));
    assert!((9..=12).contains(&calls), "{calls}");
    install_kind(&fake);
    fake.create("models.tidegate.dev", model("ml", "a")).unwrap();
    let installed = Instant::now();
    let seen = until_names(&mut catalogue, &["ml/a"]).await;
    assert!(installed.elapsed() <= seconds(70));
    assert_eq!(seen.freshness, Freshness::Current);
}

#[tokio::test(start_paused = true)]
async fn an_empty_list_is_current_too() {
    let fake = fake();
    install_kind(&fake);
    let mut catalogue = all(&fake);
    let seen = until(&mut catalogue, |catalogue| catalogue.freshness == Freshness::Current).await;
    assert!(seen.objects.is_empty());
}

#[tokio::test(start_paused = true)]
async fn models_stay_while_the_api_server_is_away_and_are_said_to_be_old() {
    let fake = fake();
    install_kind(&fake);
    fake.create("models.tidegate.dev", model("ml", "a")).unwrap();
    let mut catalogue = all(&fake);
    until_names(&mut catalogue, &["ml/a"]).await;
    fake.down();
    let away = Instant::now();
    until(&mut catalogue, |catalogue| matches!(catalogue.freshness, Freshness::Unheard { .. })).await;
    assert!(away.elapsed() <= seconds(90));
    sleep(seconds(300)).await;
    assert_eq!(names(&catalogue.borrow()), ["ml/a"]);
    fake.up();
    until(&mut catalogue, |catalogue| catalogue.freshness == Freshness::Current).await;
    assert_eq!(names(&catalogue.borrow()), ["ml/a"]);
}

#[tokio::test(start_paused = true)]
async fn a_missing_right_is_said_as_it_is() {
    let fake = fake();
    install_kind(&fake);
    let forbidden = Refusal::forbidden("models.tidegate.dev is forbidden");
    fake.faults().always(calls_of("tidegate").verb(Verb::List), Fault::Refuse(forbidden));
    let mut catalogue = all(&fake);
    let seen = until(&mut catalogue, |it| matches!(it.freshness, Freshness::Unheard { .. })).await;
    let Freshness::Unheard { error, .. } = seen.freshness else { unreachable!() };
    assert_eq!(error.to_string(), "not allowed to list models.tidegate.dev");
}

#[tokio::test(start_paused = true)]
async fn the_ten_thousand_oldest_count() {
    let fake = fake();
    install_kind(&fake);
    let before = Arc::new(fake.clone());
    for index in 0..10_000 {
        before.create("models.tidegate.dev", model("ml", &format!("m{index}"))).unwrap();
    }
    sleep(seconds(2)).await;
    before.create("models.tidegate.dev", model("ml", "late")).unwrap();
    let mut catalogue = all(&fake);
    let seen = until(&mut catalogue, |catalogue| catalogue.beyond == 1).await;
    assert_eq!(seen.objects.len(), 10_000);
    assert!(seen.objects.iter().all(|object| &*object.name != "late"));
    fake.delete("models.tidegate.dev", "ml", "m7").unwrap();
    let seen = until(&mut catalogue, |catalogue| catalogue.beyond == 0).await;
    assert_eq!(&*seen.objects[9_999].name, "late");
}
