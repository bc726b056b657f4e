//! Before replicas go, every gateway has agreed to send them nothing more.

use autoscaler::{
    reconcile::{Outlook, Source as _},
    snapshot::ReplicaLoad,
};
use proto::signals::Hello;
use tokio::time::{Instant, sleep, timeout};

use super::net::{Gateway, LEADER, Leader, Net, ids, millis, secs};
use crate::collector::ModelSource;

/// Two gateways that discovery lists.
async fn two() -> (Leader, ModelSource, Gateway, Gateway) {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    leader.list(&["gateway-a", "gateway-b"]);
    let source = leader.decides(2);
    let (a, b) = (Gateway::connected(&net, "gateway-a").await, Gateway::connected(&net, "gateway-b").await);
    (leader, source, a, b)
}

#[tokio::test(start_paused = true)]
async fn replicas_may_go_once_every_gateway_has_let_go_of_them() {
    let (_leader, source, a, b) = two().await;
    let began = Instant::now();
    source.withdraw(&ids(&["digits-1"]), false).await.expect("both obey");
    assert!(began.elapsed() < millis(50), "{:?}", began.elapsed());
    assert_eq!((a.withdrawn(), b.withdrawn()), (ids(&["digits-1"]), ids(&["digits-1"])));
    source.withdraw(&ids(&["digits-0"]), true).await.expect("nothing runs");
    assert_eq!(a.withdrawn(), ids(&["digits-1", "digits-0"]), "the first may still be listed");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_did_not_go_comes_back_after_a_minute() {
    let (_leader, source, a, _b) = two().await;
    source.withdraw(&ids(&["digits-1"]), false).await.expect("both obey");
    for _ in 0..59 {
        sleep(secs(1)).await;
        source.gateways(secs(1000));
    }
    assert_eq!(a.withdrawn(), ids(&["digits-1"]));
    sleep(secs(1)).await;
    source.gateways(secs(1000));
    sleep(millis(10)).await;
    assert_eq!(a.withdrawn(), []);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_does_not_let_go_is_named_and_the_replicas_stay() {
    let (_leader, source, a, b) = two().await;
    b.obeys.send_replace(false);
    let words = source.withdraw(&ids(&["digits-1"]), false).await.expect_err("one does not obey");
    assert_eq!(&*words, "gateway-b did not agree within 1.5s");
    sleep(millis(10)).await;
    assert_eq!((a.withdrawn(), b.withdrawn()), (ids(&[]), ids(&[])));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_while_a_listed_gateway_is_not_heard() {
    let (leader, source, a, b) = two().await;
    b.whole.send_replace(false);
    let words = source.withdraw(&ids(&["digits-1"]), true).await.expect_err("one is cut off");
    assert_eq!(&*words, "gateway-b did not agree within 1.5s", "that it is cut off is not known yet");
    sleep(secs(20)).await;
    let words = source.withdraw(&ids(&["digits-1"]), true).await.expect_err("one is cut off");
    assert_eq!(&*words, "gateway-b is not heard");
    assert_eq!(a.withdrawn(), [], "it was not even tried");
    leader.list(&["gateway-a"]);
    source.withdraw(&ids(&["digits-1"]), true).await.expect("it is gone for good");
    leader.list(&["gateway-a", "gateway-c"]);
    let words = source.withdraw(&ids(&["digits-0"]), true).await.expect_err("one is new");
    assert_eq!(&*words, "gateway-c is not heard");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_discovery_lists_meanwhile_must_agree_too() {
    let (leader, source, _a, b) = two().await;
    b.obeys.send_replace(false);
    let replicas = ids(&["digits-1"]);
    let appears = async {
        sleep(millis(100)).await;
        leader.list(&["gateway-a", "gateway-b", "gateway-c"]);
    };
    let (agreed, ()) = tokio::join!(source.withdraw(&replicas, false), appears);
    assert_eq!(&*agreed.expect_err("one is new"), "gateway-c is not heard");
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_while_no_gateway_is_known_or_none_was_told_of_a_decision() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(1);
    let words = source.withdraw(&ids(&["digits-0"]), true).await.expect_err("nobody is heard");
    assert_eq!(&*words, "no gateway is known");
    let undecided = leader.collector.source("letters".into());
    let words = undecided.withdraw(&ids(&["letters-0"]), true).await.expect_err("nothing was decided");
    assert_eq!(&*words, "the gateways have not been told of a decision yet");
}

#[tokio::test(start_paused = true)]
async fn the_last_replicas_stay_if_a_request_comes_while_gateways_agree() {
    let (_leader, source, a, b) = two().await;
    b.obeys.send_replace(false);
    let began = Instant::now();
    let comes = async {
        sleep(millis(300)).await;
        a.request();
    };
    let replicas = ids(&["digits-0"]);
    let (agreed, ()) = tokio::join!(source.withdraw(&replicas, true), comes);
    assert_eq!(&*agreed.expect_err("a request came"), "a request came at gateway-a");
    assert!(began.elapsed() < millis(320), "{:?}", began.elapsed());
    sleep(millis(10)).await;
    assert_eq!((a.withdrawn(), b.withdrawn()), (ids(&[]), ids(&[])));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_came_and_went_meanwhile_is_one_too() {
    let (_leader, source, _a, b) = two().await;
    b.count(|report| report.counters.arrivals = 41);
    sleep(secs(2)).await;
    source.withdraw(&ids(&["digits-1"]), true).await.expect("nothing has come since");
    source.restore();
    b.count(|report| {
        report.counters.arrivals += 1;
        report.counters.completions += 1;
    });
    let words = source.withdraw(&ids(&["digits-1"]), true).await.expect_err("one has come");
    assert_eq!(&*words, "a request came at gateway-b");
}

#[tokio::test(start_paused = true)]
async fn the_last_replicas_stay_while_a_call_runs_and_others_need_not() {
    let (_leader, source, a, _b) = two().await;
    a.count(|report| {
        report.gauges.in_flight_requests = 1;
        report.replicas = vec![ReplicaLoad { id: "digits-0".into(), in_flight: 1 }];
    });
    sleep(secs(1)).await;
    let words = source.withdraw(&ids(&["digits-0"]), true).await.expect_err("a call runs");
    assert_eq!(&*words, "a request came at gateway-a");
    source.withdraw(&ids(&["digits-1"]), false).await.expect("others are left");
}

#[tokio::test(start_paused = true)]
async fn what_a_gateway_said_before_it_was_asked_is_no_reason() {
    let (_leader, source, a, _b) = two().await;
    a.count(|report| report.gauges.in_flight_requests = 1);
    sleep(millis(1100)).await;
    a.count(|report| report.gauges.in_flight_requests = 0);
    source.withdraw(&ids(&["digits-0"]), true).await.expect("the call has ended since");
}

#[tokio::test(start_paused = true)]
async fn what_was_agreed_can_be_taken_back() {
    let (_leader, source, a, _b) = two().await;
    source.withdraw(&ids(&["digits-0"]), false).await.expect("both obey");
    source.withdraw(&ids(&["digits-1"]), false).await.expect("both obey");
    source.restore();
    source.restore();
    sleep(millis(10)).await;
    assert_eq!(a.withdrawn(), ids(&["digits-0"]), "only the last");
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_that_is_given_up_is_taken_back() {
    let (_leader, source, a, b) = two().await;
    b.obeys.send_replace(false);
    let replicas = ids(&["digits-1"]);
    assert!(timeout(millis(100), source.withdraw(&replicas, false)).await.is_err());
    sleep(millis(10)).await;
    assert_eq!(a.withdrawn(), []);
}

#[tokio::test(start_paused = true)]
async fn what_another_process_of_the_same_name_agreed_to_counts_for_nothing() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    leader.list(&["gateway-a", "gateway-b"]);
    let source = leader.decides(2);
    let a = Gateway::connected(&net, "gateway-a").await;
    let b = Gateway::connected(&net, "gateway-b").await;
    b.obeys.send_replace(false);
    let restarts = async {
        sleep(millis(100)).await;
        assert_eq!(a.withdrawn(), ids(&["digits-1"]), "it has agreed");
        a.whole.send_replace(false);
        let again = Gateway::start(&net, "gateway-a", Some(LEADER));
        again.obeys.send_replace(false);
        again.connect().await;
        b.obeys.send_replace(true);
        again
    };
    let replicas = ids(&["digits-1"]);
    let (agreed, _again) = tokio::join!(source.withdraw(&replicas, false), restarts);
    assert_eq!(&*agreed.expect_err("the new process sends as before"), "gateway-a did not agree within 1.5s");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_has_said_nothing_yet_has_not_agreed() {
    let (leader, source, a, b) = two().await;
    b.obeys.send_replace(false);
    let takes_over = async {
        sleep(millis(100)).await;
        // The one before is gone: it must not come back and agree.
        a.whole.send_replace(false);
        let hello = Hello { gateway: "gateway-a".into(), version: String::new() };
        let silent = leader.collector.join(&hello).expect("is listed");
        b.obeys.send_replace(true);
        sleep(millis(30)).await;
        silent
    };
    let replicas = ids(&["digits-1"]);
    let withdrawn = timeout(millis(130), source.withdraw(&replicas, false));
    let (agreed, _silent) = tokio::join!(withdrawn, takes_over);
    assert!(agreed.is_err(), "{agreed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_name_is_free_again_soon_when_replicas_are_started() {
    let (_leader, source, a, _b) = two().await;
    source.withdraw(&ids(&["digits-1"]), false).await.expect("both obey");
    source.decide(1, Outlook::Ready, "");
    source.decide(2, Outlook::Ready, "");
    sleep(secs(15)).await;
    source.gateways(secs(1000));
    sleep(millis(10)).await;
    assert_eq!(a.withdrawn(), []);
}
