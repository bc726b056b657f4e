//! Leaders come and go; gateways follow, and go on without one.

use std::sync::Arc;

use autoscaler::{
    reconcile::{Outlook, Source as _},
    snapshot::ReplicaLoad,
};
use proto::signals::{
    GatewayMessage, Hello, LeaderMessage, Reports, gateway_message::Message, leader_message::Message as Said,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::net::{Gateway, LEADER, Leader, MODEL, Net, ids, millis, secs, view};

const SECOND: &str = "leader-2:9091";

#[tokio::test(start_paused = true)]
async fn a_new_leader_is_followed_at_once() {
    let net = Net::default();
    let (first, second) = (Leader::start(&net, LEADER, Some(1)), Leader::start(&net, SECOND, Some(2)));
    let (_old, source) = (first.decides(1), second.decides(2));
    let a = Gateway::connected(&net, "gateway-a").await;
    assert_eq!(a.directive().expect("was told").desired, 1);
    a.leaders.send_replace(Some(SECOND.into()));
    sleep(millis(20)).await;
    let directive = a.directive().expect("was told");
    assert_eq!((directive.desired, &*directive.leader, directive.epoch), (2, "leader-2", 2));
    assert!(view(&source, "gateway-a").is_some_and(|view| view.report.is_some()), "and reported");
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_directives_stay_but_withdrawals_for_fifteen_seconds_only() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(2);
    let a = Gateway::connected(&net, "gateway-a").await;
    source.withdraw(&ids(&["digits-1"]), false).await.expect("it obeys");
    leader.kill();
    sleep(secs(1)).await;
    assert!(!a.is_connected());
    sleep(secs(13)).await;
    assert_eq!(a.withdrawn(), ids(&["digits-1"]));
    sleep(secs(3)).await;
    assert_eq!(a.withdrawn(), []);
    assert_eq!(a.directive().expect("was told").desired, 2);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_is_in_force_again_when_its_leader_is_back() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(2);
    let a = Gateway::connected(&net, "gateway-a").await;
    source.withdraw(&ids(&["digits-1"]), false).await.expect("it obeys");
    a.whole.send_replace(false);
    sleep(secs(8)).await;
    assert!(!a.is_connected());
    a.whole.send_replace(true);
    a.connect().await;
    sleep(secs(30)).await;
    assert_eq!(a.withdrawn(), ids(&["digits-1"]));
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_is_in_force_until_the_next_leader_has_spoken_of_the_model() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(2);
    let a = Gateway::connected(&net, "gateway-a").await;
    source.withdraw(&ids(&["digits-1"]), false).await.expect("it obeys");
    leader.kill();
    let second = Leader::start(&net, SECOND, Some(2));
    a.leaders.send_replace(Some(SECOND.into()));
    sleep(secs(1)).await;
    assert!(a.is_connected());
    assert_eq!(a.withdrawn(), ids(&["digits-1"]), "it has not decided yet");
    let _source = second.decides(1);
    sleep(millis(10)).await;
    assert_eq!(a.withdrawn(), []);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_silent_is_given_up_after_five_seconds_and_called_again() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let _source = leader.decides(1);
    let a = Gateway::connected(&net, "gateway-a").await;
    a.whole.send_replace(false);
    sleep(secs(4)).await;
    assert!(a.is_connected());
    sleep(secs(2)).await;
    assert!(!a.is_connected());
    sleep(secs(60)).await;
    a.whole.send_replace(true);
    let began = Instant::now();
    a.connect().await;
    assert!(began.elapsed() < secs(5), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_older_epoch_is_not_believed_until_the_newer_is_long_silent() {
    let net = Net::default();
    let (first, second) = (Leader::start(&net, LEADER, Some(7)), Leader::start(&net, SECOND, Some(6)));
    let (_source, _stale) = (first.decides(1), second.decides(5));
    let a = Gateway::connected(&net, "gateway-a").await;
    a.leaders.send_replace(Some(SECOND.into()));
    sleep(secs(20)).await;
    assert!(!a.is_connected());
    assert_eq!(a.directive().expect("was told").desired, 1);
    second.leading.send_replace(Some(8));
    a.connect().await;
    sleep(millis(10)).await;
    assert_eq!(a.directive().expect("was told").epoch, 8);
    drop((first, second));
    // The Lease was deleted: epochs begin anew.
    let third = Leader::start(&net, LEADER, Some(1));
    let _source = third.decides(3);
    a.leaders.send_replace(Some(LEADER.into()));
    sleep(secs(40)).await;
    assert_eq!(a.directive().expect("was told").epoch, 1);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_takes_nobody_in_and_who_no_longer_leads_ends_every_call() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, None);
    let _source = leader.decides(1);
    let a = Gateway::start(&net, "gateway-a", Some(LEADER));
    sleep(secs(3)).await;
    assert!(!a.is_connected());
    leader.leading.send_replace(Some(1));
    a.connect().await;
    leader.leading.send_replace(None);
    sleep(millis(5)).await;
    assert!(!a.is_connected());
    leader.leading.send_replace(Some(2));
    a.connect().await;
    sleep(millis(20)).await;
    leader.leading.send_replace(Some(3));
    sleep(secs(3)).await;
    assert_eq!(a.directive().expect("was told").epoch, 3, "led again before anybody noticed");
}

/// A call that says what the test says, and no more.
struct Raw {
    say: mpsc::Sender<GatewayMessage>,
    heard: Streaming<LeaderMessage>,
}

impl Raw {
    async fn call(net: &Net, first: Message) -> Result<Self, Status> {
        let (say, said) = mpsc::channel(1);
        say.try_send(GatewayMessage { message: Some(first) }).expect("is empty");
        let mut client = net.client(LEADER).await;
        let heard = client.signals(ReceiverStream::new(said)).await?.into_inner();
        Ok(Self { say, heard })
    }

    async fn hello(net: &Net, name: &str) -> Result<Self, Status> {
        Self::call(net, Message::Hello(Hello { gateway: name.into(), version: String::new() })).await
    }

    async fn report(&self) {
        let message = Message::Reports(Reports { models: Vec::new(), complete: true });
        self.say.send(GatewayMessage { message: Some(message) }).await.expect("the call goes on");
    }

    /// How the call ends.
    async fn end(&mut self) -> Status {
        loop {
            match self.heard.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_have_codes_and_reasons() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, None);
    let refused = async |first| Raw::call(&net, first).await.map(drop).expect_err("is refused");
    let hello = |name: &str| Message::Hello(Hello { gateway: name.into(), version: "1".into() });
    assert_eq!(refused(hello("gateway-a")).await.code(), Code::FailedPrecondition);
    leader.leading.send_replace(Some(1));
    assert_eq!(refused(hello("Gateway A")).await.code(), Code::InvalidArgument);
    assert_eq!(refused(hello(&"a".repeat(254))).await.code(), Code::InvalidArgument);
    let status = refused(Message::Reports(Reports::default())).await;
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "a gateway says hello first"));
    assert_eq!(refused(hello(&"a".repeat(2 << 20))).await.code(), Code::OutOfRange, "a message has a bound");
    let mut twice = Raw::hello(&net, "gateway-a").await.expect("is welcome");
    twice.say.send(GatewayMessage { message: Some(hello("gateway-a")) }).await.expect("the call goes on");
    assert_eq!(twice.end().await.code(), Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_say_hello_is_not_waited_for() {
    let net = Net::default();
    let _leader = Leader::start(&net, LEADER, Some(1));
    let (_say, said) = mpsc::channel(1);
    let mut client = net.client(LEADER).await;
    let began = Instant::now();
    let status = client.signals(ReceiverStream::new(said)).await.map(drop).expect_err("said nothing");
    assert_eq!((status.code(), began.elapsed().as_secs()), (Code::DeadlineExceeded, 5));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_reports_nothing_for_fifteen_seconds_is_let_go() {
    let net = Net::default();
    let _leader = Leader::start(&net, LEADER, Some(1));
    let mut raw = Raw::hello(&net, "gateway-a").await.expect("is welcome");
    sleep(secs(10)).await;
    raw.report().await;
    let began = Instant::now();
    let status = raw.end().await;
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "no report for 15s"));
    assert!((secs(14)..secs(16)).contains(&began.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn a_second_call_of_the_same_gateway_ends_the_first() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(1);
    let mut first = Raw::hello(&net, "gateway-a").await.expect("is welcome");
    let _second = Raw::hello(&net, "gateway-a").await.expect("is welcome");
    assert_eq!(first.end().await.code(), Code::Aborted);
    assert_eq!(source.gateways(secs(1000)).len(), 1);
    assert!(
        view(&source, "gateway-a").expect("calls").listed,
        "the end of the first is not that of the second"
    );
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_does_not_read_is_told_the_newest_and_not_all() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(0);
    let mut slow = Raw::hello(&net, "gateway-a").await.expect("is welcome");
    let why = "x".repeat(900);
    for n in 1..=20_000 {
        source.decide(n, Outlook::Ready, &why);
        tokio::task::yield_now().await;
        if n % 2000 == 0 {
            sleep(millis(500)).await;
            slow.report().await;
        }
    }
    sleep(secs(1)).await;
    let (mut messages, mut newest) = (0, 0);
    while newest < 20_000 {
        let heard = timeout(secs(2), slow.heard.message()).await.expect("is told").expect("goes on");
        messages += 1;
        if let Some(Said::Directives(directives)) = heard.and_then(|heard| heard.message) {
            newest = directives.models.last().map_or(newest, |directive| directive.desired);
        }
    }
    assert!(messages < 500, "{messages} messages were kept for it");
}

#[tokio::test(start_paused = true)]
async fn a_wake_without_a_leader_is_left_to_the_gateway_after_a_second() {
    let net = Net::default();
    let a = Gateway::start(&net, "gateway-a", None);
    assert!(timeout(secs(5), a.model.wake_unanswered(secs(1))).await.is_err(), "nobody waits");
    a.request();
    let began = Instant::now();
    a.model.wake_unanswered(secs(1)).await;
    assert_eq!(began.elapsed(), secs(1));
    a.model.wake_unanswered(secs(1)).await;
    assert_eq!(began.elapsed(), secs(2), "again, for as long as it stands");
    a.count(|report| report.gauges.queued_requests = 0);
    assert!(timeout(secs(5), a.model.wake_unanswered(secs(1))).await.is_err(), "the caller has gone");
    a.request();
    a.count(|report| report.replicas = vec![ReplicaLoad { id: "digits-0".into(), in_flight: 0 }]);
    assert!(timeout(secs(5), a.model.wake_unanswered(secs(1))).await.is_err(), "a replica is there");
}

#[tokio::test(start_paused = true)]
async fn a_wake_that_the_leader_sees_to_or_refuses_is_answered() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(0);
    let a = Gateway::connected(&net, "gateway-a").await;
    a.request();
    let until = Some(Instant::now() + secs(60));
    for (desired, outlook) in [
        (1, Outlook::Starting { eta: None }),
        (1, Outlook::Ready),
        (1, Outlook::Failed { trouble: None }),
        (0, Outlook::Off { until: None }),
        (0, Outlook::Off { until }),
    ] {
        source.decide(desired, outlook.clone(), "");
        let unanswered = timeout(secs(5), a.model.wake_unanswered(secs(1))).await;
        assert!(unanswered.is_err(), "{outlook:?} is an answer");
    }
    source.decide(1, Outlook::Asleep, "");
    let began = Instant::now();
    timeout(secs(5), a.model.wake_unanswered(secs(1))).await.expect("the leader cannot write");
    assert!((millis(990)..millis(1020)).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_one_only_while_its_leader_is_heard() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(1);
    let a = Gateway::connected(&net, "gateway-a").await;
    a.request();
    assert!(timeout(secs(3), a.model.wake_unanswered(secs(1))).await.is_err());
    source.decide(0, Outlook::Off { until: Some(Instant::now() + secs(30)) }, "");
    sleep(millis(10)).await;
    leader.kill();
    let began = Instant::now();
    a.model.wake_unanswered(secs(1)).await;
    assert!(
        (secs(30)..secs(33)).contains(&began.elapsed()),
        "what a schedule forbids, it forbids until then"
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_leader_was_about_to_do_is_no_answer() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let _source = leader.decides(1);
    let a = Gateway::connected(&net, "gateway-a").await;
    a.request();
    sleep(secs(2)).await;
    leader.kill();
    let began = Instant::now();
    timeout(secs(5), a.model.wake_unanswered(secs(1))).await.expect("nobody sees to it");
    assert!(began.elapsed() <= millis(1010), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_wake_before_the_leader_is_there_reaches_it_when_it_comes() {
    let net = Net::default();
    let a = Gateway::start(&net, "gateway-a", None);
    a.request();
    sleep(secs(5)).await;
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(0);
    a.leaders.send_replace(Some(LEADER.into()));
    timeout(millis(50), source.wake()).await.expect("is told with the first report");
}

#[tokio::test(start_paused = true)]
async fn handles_that_are_replaced_or_dropped_do_what_one_expects() {
    let net = Net::default();
    let leader = Leader::start(&net, LEADER, Some(1));
    let source = leader.decides(1);
    let a = Gateway::connected(&net, "gateway-a").await;
    let report = Arc::new(|| autoscaler::snapshot::Report {
        counters: autoscaler::snapshot::Counters { arrivals: 77, ..Default::default() },
        ..Default::default()
    });
    let second = a.reporter.model(MODEL.into(), report);
    drop(a.model);
    sleep(secs(2)).await;
    let seen = view(&source, "gateway-a").and_then(|view| view.report).expect("has reported");
    assert_eq!(seen.counters.arrivals, 77);
    drop(second);
    sleep(secs(3)).await;
    let seen = view(&source, "gateway-a").and_then(|view| view.report).expect("serves it no longer");
    assert_eq!(seen.counters.arrivals, 0);
}
