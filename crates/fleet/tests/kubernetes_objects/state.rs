//! What was learned, over changes of leader.

use std::collections::BTreeMap;

use fake_cluster::{Fault, Refusal, Verb};
use fleet::kubernetes::{
    lease::Fence,
    state::{Entry, Memory, SaveError, Saved, Store},
};
use futures_util::FutureExt as _;
use serde_json::json;
use tokio::time::{Duration, advance};

use crate::stage::{NAMESPACE, calls_of, fake, install_lease, leads, seen_by, stand};

const NAME: &str = "tidegate-memory";

fn store(fake: &fake_cluster::Cluster, process: &str, epoch: u64) -> Store {
    Store::new(&seen_by(fake, process), NAMESPACE, NAME, Fence::always(epoch))
}

fn entries<const N: usize>(all: [(&str, &str, u64); N]) -> BTreeMap<String, Entry> {
    let entry = |(model, json, weight): (&str, &str, u64)| {
        (model.to_owned(), Entry { json: json.to_owned(), weight })
    };
    all.into_iter().map(entry).collect()
}

#[tokio::test(start_paused = true)]
async fn what_one_leader_saved_the_next_one_loads() {
    let fake = fake();
    let first = store(&fake, "a", 1);
    assert_eq!(first.load().await.unwrap(), Memory::default());
    let saved = first.save(&entries([("digits", r#"{"v":1}"#, 5), ("ml/b_1", "[2]", 1)]), 1).await.unwrap();
    assert_eq!(saved, Saved::default());
    let memory = store(&fake, "b", 2).load().await.unwrap();
    assert_eq!(memory.epoch, 1);
    let models = [("digits", r#"{"v":1}"#), ("ml/b_1", "[2]")];
    assert_eq!(memory.models, models.map(|(model, json)| (model.to_owned(), json.to_owned())).into());
}

#[tokio::test(start_paused = true)]
async fn an_emptier_state_and_an_older_epoch_overwrite_nothing() {
    let fake = fake();
    let (older, newer) = (store(&fake, "a", 1), store(&fake, "b", 2));
    drop(newer.save(&entries([("digits", "2", 5)]), 2).await.unwrap());
    assert_eq!(older.save(&entries([("digits", "1", 99)]), 1).await, Err(SaveError::Superseded(2)));
    let saved = newer.save(&entries([("digits", "3", 4)]), 2).await.unwrap();
    assert_eq!(saved.outweighed, ["digits"]);
    assert_eq!(newer.load().await.unwrap().models["digits"], "2");
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_already_is_not_written_again() {
    let fake = fake();
    let store = store(&fake, "a", 1);
    for _ in 0..3 {
        drop(store.save(&entries([("digits", "1", 5)]), 1).await.unwrap());
    }
    assert_eq!(fake.log().calls(&calls_of("a").verb(Verb::Create).verb(Verb::Update)).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_any_more_writes_nothing() {
    let fake = fake();
    install_lease(&fake);
    let election = stand(&fake, "a");
    let epoch = leads(&election).await;
    let store = Store::new(&seen_by(&fake, "a"), NAMESPACE, NAME, election.fence());
    drop(store.save(&entries([("digits", "1", 1)]), epoch).await.unwrap());
    let another = store.save(&entries([("digits", "2", 2)]), epoch + 1).await;
    assert_eq!(another, Err(SaveError::Deposed));
    // The process stands still for a while, and goes on where it was.
    fake.faults().always(calls_of("a").resource("leases"), Fault::Hang);
    assert!(advance(Duration::from_secs(30)).now_or_never().is_none());
    let late = store.save(&entries([("digits", "2", 2)]), epoch).await;
    assert_eq!(late, Err(SaveError::Deposed));
    assert_eq!(store.load().await.unwrap().models["digits"], "1");
}

#[tokio::test(start_paused = true)]
async fn conflicts_are_read_again_three_times() {
    let fake = fake();
    let store = store(&fake, "a", 1);
    drop(store.save(&entries([("digits", "1", 1)]), 1).await.unwrap());
    let writes = || calls_of("a").verb(Verb::Update);
    fake.faults().times(2, writes(), Fault::Refuse(Refusal::scripted_conflict()));
    drop(store.save(&entries([("digits", "2", 2)]), 1).await.unwrap());
    fake.faults().times(3, writes(), Fault::Refuse(Refusal::scripted_conflict()));
    assert_eq!(store.save(&entries([("digits", "3", 3)]), 1).await, Err(SaveError::Contended));
    assert_eq!(store.load().await.unwrap().models["digits"], "2");
}

#[tokio::test(start_paused = true)]
async fn what_others_put_there_stays_and_does_no_harm() {
    let fake = fake();
    fake.create(
        "configmaps",
        json!({
            "metadata": {"namespace": NAMESPACE, "name": NAME, "labels": {"team": "ml"},
                "annotations": {"tidegate.dev/epoch": "many"}},
            "data": {"note": "not ours", "digits": "garbage"},
        }),
    )
    .unwrap();
    let store = store(&fake, "a", 1);
    assert_eq!(store.load().await.unwrap(), Memory::default());
    drop(store.save(&entries([("digits", "1", 0)]), 1).await.unwrap());
    let map = fake.get("configmaps", NAMESPACE, NAME).unwrap();
    assert_eq!(
        (&map["data"]["note"], &map["metadata"]["labels"]["team"]),
        (&json!("not ours"), &json!("ml"))
    );
    assert_eq!(store.load().await.unwrap().models["digits"], "1");
}
