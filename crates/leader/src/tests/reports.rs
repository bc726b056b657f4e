//! What gateways report is what the leader sees, and when.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use autoscaler::{
    reconcile::{Outlook, Source as _},
    snapshot::ReplicaLoad,
};
use metrics_exporter_prometheus::PrometheusBuilder;
use proto::signals::{Hello, Reports};
use tokio::{
    sync::watch,
    time::{Instant, advance, sleep, timeout},
};

use super::net::{Gateway, LEADER, Leader, MODEL, Net, age, ids, millis, secs, view};
use crate::collector::{Collector, Listed};

#[tokio::test(start_paused = true)]
async fn every_gateway_is_seen_as_it_was_at_most_a_second_ago() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(1);
    let (a, b) = (Gateway::connected(&net, "gateway-a").await, Gateway::connected(&net, "gateway-b").await);
    a.count(|report| {
        report.counters.arrivals = 7;
        report.replicas = vec![ReplicaLoad { id: "digits-0".into(), in_flight: 2 }];
    });
    b.count(|report| report.gauges.queued_requests = 3);
    for _ in 0..20 {
        sleep(millis(1100)).await;
        for gateway in ["gateway-a", "gateway-b"] {
            assert!(age(&source, gateway).expect("has reported") <= millis(1010));
        }
    }
    let report = view(&source, "gateway-a").and_then(|view| view.report).expect("has reported");
    assert_eq!(report.counters.arrivals, 7);
    assert_eq!(report.replicas, a.counts.lock().expect("no test panics with it").replicas);
    let report = view(&source, "gateway-b").and_then(|view| view.report).expect("has reported");
    assert_eq!(report.gauges.queued_requests, 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_finds_no_replica_wakes_the_leader_within_ten_milliseconds() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(0);
    let _a = Gateway::connected(&net, "gateway-a").await;
    let b = Gateway::connected(&net, "gateway-b").await;
    sleep(millis(333)).await;
    assert!(timeout(millis(1500), source.wake()).await.is_err(), "nobody has asked");
    b.request();
    timeout(millis(10), source.wake()).await.expect("is told at once");
    let report = view(&source, "gateway-b").and_then(|view| view.report).expect("has reported");
    assert_eq!((report.counters.arrivals, report.gauges.queued_requests), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_requests_at_zero_is_a_few_reports() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let _source = leader.decides(0);
    let a = Gateway::connected(&net, "gateway-a").await;
    let before = a.taken.load(Relaxed);
    for _ in 0..1000 {
        (0..100).for_each(|_| a.request());
        sleep(millis(1)).await;
    }
    let taken = a.taken.load(Relaxed) - before;
    assert!((2..20).contains(&taken), "{taken} in a second");
}

#[tokio::test(start_paused = true)]
async fn a_decision_is_known_to_every_gateway_within_ten_milliseconds_and_other_words_within_a_second() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(0);
    let gateways = [Gateway::connected(&net, "gateway-a").await, Gateway::connected(&net, "gateway-b").await];
    sleep(millis(444)).await;
    let eta = Instant::now() + secs(20);
    source.decide(2, Outlook::Starting { eta: Some(eta) }, "0→2: a test");
    sleep(millis(10)).await;
    for gateway in &gateways {
        let directive = gateway.directive().expect("was told");
        assert_eq!((directive.desired, &*directive.why), (2, "0→2: a test"));
        assert_eq!((&*directive.leader, directive.epoch), ("leader-1", 1));
        let Outlook::Starting { eta: Some(told) } = directive.outlook else { panic!("{directive:?}") };
        assert!(told.duration_since(eta) <= millis(10));
    }
    source.decide(2, Outlook::Starting { eta: Some(eta) }, "2: still a test");
    sleep(millis(10)).await;
    assert_eq!(gateways[0].directive().map(|d| d.why.to_string()).as_deref(), Some("0→2: a test"));
    let before = gateways[0].directive().expect("was told").outlook.clone();
    sleep(millis(1010)).await;
    let after = gateways[0].directive().expect("was told");
    assert_eq!((&*after.why, &after.outlook), ("2: still a test", &before), "the eta does not move");
}

#[tokio::test(start_paused = true)]
async fn who_is_known_is_who_calls_or_is_listed_and_who_was_there_a_moment_ago() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    leader.list(&["gateway-b"]);
    let source = leader.decides(1);
    let a = Gateway::connected(&net, "gateway-a").await;
    let never = view(&source, "gateway-b").expect("is listed");
    assert!(never.listed && never.report.is_none(), "silence is not a report");
    let arriving = view(&source, "gateway-a").expect("calls");
    assert!(arriving.listed && arriving.report.is_some(), "discovery is late");
    sleep(secs(31)).await;
    let unlisted = view(&source, "gateway-a").expect("calls");
    assert!(!unlisted.listed && unlisted.report.is_some());
    leader.list(&["gateway-a", "gateway-b"]);
    assert!(view(&source, "gateway-a").expect("calls").listed);
    drop(a);
    sleep(secs(30)).await;
    let gone = view(&source, "gateway-a").expect("is listed");
    assert!(gone.listed && age(&source, "gateway-a").expect("had reported") > secs(29));
    leader.list(&["gateway-b"]);
    assert!(view(&source, "gateway-a").is_none(), "neither heard nor listed");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_has_gone_is_remembered_for_fifteen_seconds() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(1);
    drop(Gateway::connected(&net, "gateway-a").await);
    sleep(secs(14)).await;
    assert!(view(&source, "gateway-a").is_some_and(|view| !view.listed && view.report.is_some()));
    sleep(secs(2)).await;
    assert!(view(&source, "gateway-a").is_none());
}

#[tokio::test(start_paused = true)]
async fn of_a_gateway_that_does_not_serve_a_model_it_is_known_that_nothing_comes() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.collector.source("letters".into());
    source.decide(1, Outlook::Ready, "");
    let a = Gateway::connected(&net, "gateway-a").await;
    sleep(secs(2)).await;
    let report = view(&source, "gateway-a").and_then(|view| view.report).expect("it serves others");
    assert_eq!(report.counters.arrivals, 0);
    assert!(age(&source, "gateway-a").expect("is fresh") <= millis(1010));
    source.withdraw(&ids(&["letters-0"]), true).await.expect("it has nothing to withdraw");
    assert_eq!(a.directive(), None, "of its own model it was told nothing");
}

#[tokio::test(start_paused = true)]
async fn what_was_not_reported_in_a_round_that_began_earlier_is_unknown() {
    let collector = Collector::new(watch::channel(Listed::default()).1);
    let hello = Hello { gateway: "gateway-a".into(), version: String::new() };
    let call = collector.join(&hello).expect("there is room");
    let complete = || call.hear(Reports { models: Vec::new(), complete: true });
    complete();
    advance(secs(1)).await;
    let source = collector.source(MODEL.into());
    let is_known = || view(&source, "gateway-a").is_some_and(|view| view.report.is_some());
    assert!(!is_known());
    advance(millis(1)).await;
    complete();
    assert!(!is_known(), "its part of this round was said when nobody listened");
    complete();
    assert!(is_known());
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_was_started_anew_counts_from_zero_under_the_same_name() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(1);
    let before = Gateway::connected(&net, "gateway-a").await;
    before.count(|report| report.counters.arrivals = 1000);
    sleep(secs(2)).await;
    // The old process hangs and keeps its connection.
    before.whole.send_replace(false);
    let after = Gateway::connected(&net, "gateway-a").await;
    after.count(|report| report.counters.arrivals = 3);
    sleep(secs(2)).await;
    let views = source.gateways(secs(1000));
    assert_eq!(views.len(), 1);
    let report = views[0].report.as_ref().expect("has reported");
    assert_eq!(report.counters.arrivals, 3);
}

#[tokio::test(start_paused = true)]
async fn a_model_nobody_decides_for_any_more_has_no_directive() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(1);
    let a = Gateway::connected(&net, "gateway-a").await;
    assert!(a.directive().is_some());
    drop(source);
    sleep(millis(10)).await;
    assert_eq!(a.directive(), None);
    assert!(a.is_connected());
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_served_later_finds_what_was_said_of_it() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.collector.source("letters".into());
    source.decide(4, Outlook::Ready, "");
    let a = Gateway::connected(&net, "gateway-a").await;
    let letters = a.reporter.model("letters".into(), Arc::new(Default::default));
    let directive = letters.directive().borrow().clone().expect("was told before");
    assert_eq!(directive.desired, 4);
    sleep(millis(10)).await;
    assert!(view(&source, "gateway-a").is_some_and(|view| view.report.is_some()), "and reports at once");
}

#[tokio::test(start_paused = true)]
async fn a_wake_stands_until_a_replica_is_there_or_nobody_waits() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(0);
    let a = Gateway::connected(&net, "gateway-a").await;
    a.request();
    for _ in 0..3 {
        timeout(millis(1100), source.wake()).await.expect("is said each second");
    }
    a.count(|report| report.replicas = vec![ReplicaLoad { id: "digits-0".into(), in_flight: 0 }]);
    sleep(millis(1100)).await;
    let _ = timeout(millis(1), source.wake()).await;
    assert!(timeout(secs(3), source.wake()).await.is_err(), "a replica is there");
    a.count(|report| report.replicas.clear());
    a.request();
    timeout(millis(10), source.wake()).await.expect("is said at once");
    a.count(|report| report.gauges.queued_requests = 0);
    sleep(millis(1100)).await;
    let _ = timeout(millis(1), source.wake()).await;
    assert!(timeout(secs(3), source.wake()).await.is_err(), "the caller has gone");
}

#[tokio::test(start_paused = true)]
async fn an_old_wish_to_wake_is_none() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(0);
    let a = Gateway::connected(&net, "gateway-a").await;
    a.request();
    sleep(millis(20)).await;
    drop(a);
    advance(secs(4)).await;
    assert!(timeout(secs(1), source.wake()).await.is_err());
}

#[test]
fn how_well_gateways_are_heard_is_measured_where_something_is_decided() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let shows = |line: &str| handle.render().lines().any(|shown| shown == line);
    metrics::with_local_recorder(&recorder, || {
        let listed: Listed = Arc::new([Arc::from("gateway-b")].into());
        let collector = Collector::new(watch::channel(listed).1);
        let hello = Hello { gateway: "gateway-a".into(), version: String::new() };
        let call = collector.join(&hello).expect("there is room");
        assert!(shows("tidegate_gateways{state=\"heard\"} 0"), "nothing is decided here");
        let source = collector.source(MODEL.into());
        drop(collector.join(&hello).expect("there is room"));
        drop(call);
        assert!(shows("tidegate_gateways{state=\"heard\"} 1"), "{}", handle.render());
        assert!(shows("tidegate_gateways{state=\"silent\"} 1"), "{}", handle.render());
        assert!(handle.render().contains("tidegate_metrics_age_seconds "));
        drop(source);
        assert!(shows("tidegate_gateways{state=\"heard\"} 0"), "nothing is decided here any more");
    });
}
