//! How gateways learn who leads.

use std::time::Duration;

use fake_cluster::{Calls, Fault, Refusal, Verb};
use fleet::kubernetes::lease::{Leader, follow};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::stage::{LEASE, NAMESPACE, calls_of, fake, install_lease, leads, seen_by, stand, until};

fn followed(fake: &fake_cluster::Cluster) -> watch::Receiver<Option<Leader>> {
    follow(&seen_by(fake, "gateway"), NAMESPACE, LEASE)
}

async fn until_led_by(leader: &mut watch::Receiver<Option<Leader>>, name: &str) -> Leader {
    until(leader, |leader| leader.as_ref().is_some_and(|it| *it.identity == *name)).await.unwrap()
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_change_of_leader_is_known_at_once() {
    let fake = fake();
    install_lease(&fake);
    let mut leader = followed(&fake);
    let a = stand(&fake, "a");
    let start = Instant::now();
    let seen = until_led_by(&mut leader, "a").await;
    assert_eq!((seen.address.as_deref(), seen.epoch), (Some("a.example:9091"), 1));
    assert!(start.elapsed() < seconds(1));

    let b = stand(&fake, "b");
    sleep(seconds(5)).await;
    a.resign().await;
    let free = Instant::now();
    until(&mut leader, Option::is_none).await;
    assert!(free.elapsed() < seconds(1));
    leads(&b).await;
    let led = Instant::now();
    assert_eq!(until_led_by(&mut leader, "b").await.epoch, 2);
    assert!(led.elapsed() < seconds(1));
}

#[tokio::test(start_paused = true)]
async fn renewals_are_no_news_and_one_watch_is_enough_for_them() {
    let fake = fake();
    install_lease(&fake);
    let _a = stand(&fake, "a");
    let mut leader = followed(&fake);
    until_led_by(&mut leader, "a").await;
    leader.mark_unchanged();
    let start = Instant::now();
    sleep(seconds(250)).await;
    assert!(!leader.has_changed().unwrap());
    assert!(fake.log().count_since(start, &calls_of("gateway")) <= 2);
    let watches = fake.log().calls(&Calls::any().caller("gateway"));
    assert!(
        watches
            .iter()
            .all(|call| call.resource.starts_with("leases") && call.query.contains("metadata.name"))
    );
}

#[tokio::test(start_paused = true)]
async fn the_last_leader_stays_known_while_the_api_server_is_away_or_the_lease_is_gone() {
    let fake = fake();
    install_lease(&fake);
    let a = stand(&fake, "a");
    let mut leader = followed(&fake);
    until_led_by(&mut leader, "a").await;
    fake.down();
    sleep(seconds(300)).await;
    assert_eq!(&*leader.borrow().as_ref().unwrap().identity, "a");
    fake.up();
    drop(a);
    fake.delete("leases", NAMESPACE, LEASE).unwrap();
    sleep(seconds(60)).await;
    assert_eq!(&*leader.borrow().as_ref().unwrap().identity, "a");
    let b = stand(&fake, "b");
    leads(&b).await;
    let led = Instant::now();
    until_led_by(&mut leader, "b").await;
    assert!(led.elapsed() <= seconds(10), "{:?}", led.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stalled_watch_is_noticed_by_the_silence_of_a_lease_that_lives() {
    let fake = fake();
    install_lease(&fake);
    let a = stand(&fake, "a");
    let mut leader = followed(&fake);
    until_led_by(&mut leader, "a").await;
    let b = stand(&fake, "b");
    sleep(seconds(5)).await;
    let stall = fake.faults().always(calls_of("gateway").verb(Verb::Watch), Fault::StallWatch);
    a.resign().await;
    sleep(seconds(5)).await;
    stall.off();
    let start = Instant::now();
    until_led_by(&mut leader, "b").await;
    assert!(start.elapsed() <= seconds(11), "{:?}", start.elapsed());
    drop(b);
}

#[tokio::test(start_paused = true)]
async fn where_watches_are_refused_the_lease_is_read_now_and_then() {
    let fake = fake();
    install_lease(&fake);
    let forbidden = Refusal::forbidden("leases is forbidden");
    fake.faults().always(calls_of("gateway").verb(Verb::Watch), Fault::Refuse(forbidden));
    let mut leader = followed(&fake);
    let _a = stand(&fake, "a");
    until_led_by(&mut leader, "a").await;
    let start = Instant::now();
    sleep(seconds(600)).await;
    let calls = fake.log().count_since(start, &calls_of("gateway"));
    assert!(calls <= 2 * 600 / 6, "{calls}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_once_nobody_listens() {
    let fake = fake();
    install_lease(&fake);
    let leader = followed(&fake);
    sleep(seconds(1)).await;
    drop(leader);
    sleep(seconds(1)).await;
    let start = Instant::now();
    sleep(seconds(60)).await;
    assert_eq!(fake.log().count_since(start, &calls_of("gateway")), 0);
}
