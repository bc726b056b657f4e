//! One outcome for each request on every path: answered, refused, timed out, cancelled, retried, woken.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use pipeline::{
    Batching, CallError, Error, Pipeline, QueueLimits, Rejection, Stage,
    replica::{Outlook, ReplicaSet},
    request::Class,
};
use tokio::{task::JoinSet, time::Instant};

use crate::server::{Server, ask, config, request, serve, set};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_lone_request_goes_straight_on() {
    let server = Server::new(10, 1);
    let pipeline = serve(config(), std::slice::from_ref(&server));
    let start = Instant::now();
    let answer = ask(&pipeline, 1, 1, SECOND).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(11));
    assert_eq!(answer.timings.queue, Duration::ZERO);
    assert_eq!(answer.timings.batch_rows, 1);
    assert_eq!(answer.timings.cold_start, None);
}

#[tokio::test(start_paused = true)]
async fn requests_that_find_replicas_busy_are_merged() {
    let server = Server::new(10, 1);
    let pipeline = serve(config(), std::slice::from_ref(&server));
    let mut calls = JoinSet::new();
    for nonce in 0..33 {
        let pipeline = pipeline.clone();
        calls.spawn(async move { ask(&pipeline, nonce, 1, SECOND).await.unwrap() });
    }
    calls.join_all().await;
    let rows = server.rows_per_call();
    assert_eq!(rows.iter().sum::<u64>(), 33);
    assert!(rows.len() <= 3, "{rows:?}");
    assert_eq!(server.most_running.load(Ordering::Relaxed), 1, "one batch outstanding per replica");
}

#[tokio::test(start_paused = true)]
async fn a_request_of_more_rows_than_a_batch_may_have_is_sent_in_parts_and_joined() {
    let server = Server::new(1, 1);
    let pipeline = serve(config(), std::slice::from_ref(&server));
    ask(&pipeline, 1, 1, SECOND).await.unwrap();
    ask(&pipeline, 7, 100, SECOND * 10).await.unwrap();
    let rows = server.rows_per_call();
    assert!(rows.iter().all(|rows| *rows <= 32) && rows.iter().sum::<u64>() == 101, "{rows:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_make_it_is_refused_on_arrival() {
    let server = Server::new(100, 0);
    let config = pipeline::Config { batching: Batching::Merge { max_rows: 1, max_hold: SECOND }, ..config() };
    let pipeline = serve(config, &[server]);
    for nonce in 0..10 {
        ask(&pipeline, nonce, 1, SECOND).await.unwrap();
    }
    let mut calls = JoinSet::new();
    for nonce in 0..20 {
        let pipeline = pipeline.clone();
        calls.spawn(async move {
            let start = Instant::now();
            (ask(&pipeline, nonce, 1, SECOND).await, start.elapsed())
        });
    }
    let results = calls.join_all().await;
    let answered = results.iter().filter(|(r, _)| r.is_ok()).count();
    let refused = results
        .iter()
        .filter(|(r, took)| {
            matches!(r, Err(Error::Rejected(Rejection::PredictedLate { .. })))
                && *took < Duration::from_millis(5)
        })
        .count();
    assert!((7..=10).contains(&answered), "{answered} answered");
    assert_eq!(answered + refused, 20, "{results:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_costs_each_request_its_deadline_and_no_more() {
    let server = Server::new(1_000_000, 0);
    let pipeline = serve(config(), std::slice::from_ref(&server));
    let start = Instant::now();
    let error = ask(&pipeline, 1, 1, SECOND).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { stage: Stage::Upstream, .. }), "{error:?}");
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_request_leaves_the_queue_and_its_lone_call_is_cancelled() {
    let server = Server::new(1_000, 0);
    let pipeline = serve(config(), std::slice::from_ref(&server));
    let running = tokio::spawn({
        let pipeline = pipeline.clone();
        async move { ask(&pipeline, 1, 1, SECOND * 60).await }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let queued = tokio::spawn({
        let pipeline = pipeline.clone();
        async move { ask(&pipeline, 2, 1, SECOND * 60).await }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(pipeline.stats().queued_requests, 1);
    queued.abort();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(pipeline.stats().queued_requests, 0);
    assert_eq!(server.running.load(Ordering::Relaxed), 1);
    running.abort();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(server.running.load(Ordering::Relaxed), 0);
    assert_eq!(pipeline.stats().in_flight_requests, 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_the_newest_of_the_lowest_class() {
    let server = Server::new(1_000, 0);
    let limits = QueueLimits { requests: 2, bytes: 1 << 20 };
    let pipeline = serve(pipeline::Config { queue: limits, ..config() }, &[server]);
    let spawn = |nonce: u32, class: Class| {
        let pipeline = pipeline.clone();
        let mut request = request(nonce, 1, SECOND * 60);
        request.class = class;
        tokio::spawn(async move { pipeline.call(request).await })
    };
    let first = spawn(0, Class::Normal);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let (low, normal) = (spawn(1, Class::Low), spawn(2, Class::Normal));
    tokio::time::sleep(Duration::from_millis(1)).await;
    let refused = spawn(3, Class::Normal);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(matches!(low.await.unwrap(), Err(Error::Rejected(Rejection::ShedPriority { .. }))));
    let again = spawn(4, Class::Normal).await.unwrap();
    assert!(
        matches!(again, Err(Error::Rejected(Rejection::QueueFull { queued: 2, limit: 2, .. }))),
        "{again:?}"
    );
    for call in [first, normal, refused] {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_calls_at_zero_are_one_wake_and_each_is_answered_or_refused() {
    let pipeline = Pipeline::start(config());
    let wakes = tokio::spawn({
        let pipeline = pipeline.clone();
        async move {
            pipeline.wake_wanted().await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            let mut set = set(&[Server::new(5, 1)]);
            set.replicas[0].ready_since = Instant::now();
            pipeline.set_replicas(set);
        }
    });
    let mut calls = JoinSet::new();
    for nonce in 0..10_000 {
        let pipeline = pipeline.clone();
        calls.spawn(async move { ask(&pipeline, nonce, 1, SECOND * 30).await });
    }
    let results = calls.join_all().await;
    wakes.await.unwrap();
    let answered = results.iter().filter(|r| r.is_ok()).count();
    let full =
        results.iter().filter(|r| matches!(r, Err(Error::Rejected(Rejection::QueueFull { .. })))).count();
    assert_eq!(answered + full, 10_000);
    assert!(answered >= 4_096, "{answered}");
    let cold =
        results.iter().flatten().filter(|a| a.timings.cold_start == Some(Duration::from_secs(2))).count();
    assert!(cold > 4_000, "{cold}");
}

#[tokio::test(start_paused = true)]
async fn who_cannot_wait_for_the_start_is_told_at_once() {
    let pipeline = Pipeline::start(config());
    pipeline.set_outlook(Outlook::Starting { eta: Some(Instant::now() + SECOND * 10) });
    let start = Instant::now();
    let error = ask(&pipeline, 1, 1, SECOND).await.unwrap_err();
    assert!(matches!(error, Error::Rejected(Rejection::ColdStartTimeout { .. })), "{error:?}");
    assert!(start.elapsed() < Duration::from_millis(5));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_start_longer_than_configured() {
    let pipeline = Pipeline::start(config());
    let start = Instant::now();
    let error = ask(&pipeline, 1, 1, SECOND * 300).await.unwrap_err();
    assert!(matches!(error, Error::Rejected(Rejection::ColdStartTimeout { .. })), "{error:?}");
    assert!((120..=121).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_model_that_will_not_start_refuses_those_who_wait() {
    let pipeline = Pipeline::start(config());
    let waiting = tokio::spawn({
        let pipeline = pipeline.clone();
        async move { ask(&pipeline, 1, 1, SECOND * 60).await }
    });
    tokio::time::sleep(SECOND).await;
    pipeline.set_outlook(Outlook::Off(Rejection::ColdStartFailed { retry_after: SECOND }));
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Rejected(Rejection::ColdStartFailed { .. })), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_once_the_last_replica_is_gone_for_good() {
    let off = Outlook::Off(Rejection::NoReplicas { retry_after: SECOND });
    for outlook_first in [true, false] {
        // It is lost while requests wait for room, and while one is on its way back.
        let dying = Server::new(100, 0).scripted(|_| Err(CallError::NotSent));
        let pipeline = serve(config(), &[dying]);
        let calls: Vec<_> = (0..4)
            .map(|nonce| {
                let pipeline = pipeline.clone();
                tokio::spawn(async move { ask(&pipeline, nonce, 1, SECOND * 60).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        if outlook_first {
            pipeline.set_outlook(off.clone());
            tokio::time::sleep(Duration::from_millis(1)).await;
            pipeline.set_replicas(ReplicaSet::default());
        } else {
            pipeline.set_replicas(ReplicaSet::default());
            tokio::time::sleep(Duration::from_millis(1)).await;
            pipeline.set_outlook(off.clone());
        }
        let start = Instant::now();
        for call in calls {
            let error = call.await.unwrap().unwrap_err();
            assert!(matches!(error, Error::Rejected(Rejection::NoReplicas { .. })), "{error:?}");
        }
        assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_replica_costs_an_idempotent_model_no_request() {
    let killed = Server::new(5, 1).scripted(|_| Err(CallError::Reset));
    let alive = Server::new(5, 1);
    let pipeline = serve(config(), &[killed, alive]);
    for nonce in 0..50 {
        ask(&pipeline, nonce, 1, SECOND).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_have_run_is_not_repeated_unless_the_model_is_idempotent() {
    let broken = Server::new(5, 1).scripted(|_| Err(CallError::Reset));
    let pipeline = serve(pipeline::Config { idempotent: false, ..config() }, std::slice::from_ref(&broken));
    let error = ask(&pipeline, 1, 1, SECOND).await.unwrap_err();
    assert_eq!(error, Error::Upstream(CallError::Reset));
    assert_eq!(broken.rows_per_call().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_cannot_be_reached_is_tried_again_until_the_deadline_decides() {
    let refusing = Server::new(0, 0).scripted(|_| Err(CallError::NotSent));
    let pipeline = serve(pipeline::Config { idempotent: false, ..config() }, &[refusing]);
    let call = tokio::spawn({
        let pipeline = pipeline.clone();
        async move { ask(&pipeline, 1, 1, SECOND).await }
    });
    tokio::time::sleep(Duration::from_millis(120)).await;
    pipeline.set_replicas(ReplicaSet {
        replicas: vec![Server::new(5, 0).replica("new")],
        batch_dimension: Some(true),
    });
    call.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_finds_the_only_replica_paused_waits_for_it() {
    let failures = Arc::new(AtomicU32::new(0));
    let left = Arc::clone(&failures);
    let server = Server::new(10, 0).scripted(move |_| {
        let fails =
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if fails { Err(CallError::NotSent) } else { Ok(()) }
    });
    for batching in [config().batching, Batching::Off] {
        let pipeline = serve(pipeline::Config { batching, ..config() }, std::slice::from_ref(&server));
        // From here on predictions are trusted.
        for nonce in 0..10 {
            ask(&pipeline, nonce, 1, SECOND).await.unwrap();
        }
        failures.store(1, Ordering::Relaxed);
        let failed = tokio::spawn({
            let pipeline = pipeline.clone();
            async move { ask(&pipeline, 10, 1, SECOND).await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        ask(&pipeline, 11, 1, SECOND).await.unwrap();
        failed.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_on_a_replica_that_leaves_are_finished() {
    let leaving = Server::new(500, 0);
    let pipeline = serve(config(), &[leaving]);
    let call = tokio::spawn({
        let pipeline = pipeline.clone();
        async move { ask(&pipeline, 1, 1, SECOND).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    pipeline.set_replicas(ReplicaSet::default());
    call.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_closed_pipeline_refuses_and_drains() {
    let pipeline = serve(config(), &[Server::new(500, 0)]);
    let call = tokio::spawn({
        let pipeline = pipeline.clone();
        async move { ask(&pipeline, 1, 1, SECOND).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    pipeline.close();
    let refused = ask(&pipeline, 2, 1, SECOND).await.unwrap_err();
    assert_eq!(refused, Error::Rejected(Rejection::ShuttingDown));
    let start = Instant::now();
    pipeline.drained().await;
    assert_eq!(start.elapsed(), Duration::from_millis(400));
    call.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_merging_requests_go_out_singly_up_to_the_limit() {
    let server = Server::new(100, 0);
    let config = pipeline::Config {
        batching: Batching::Off,
        concurrency: pipeline::Concurrency::Fixed(4),
        ..config()
    };
    let pipeline = serve(config, std::slice::from_ref(&server));
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut calls = JoinSet::new();
    for nonce in 0..16 {
        let pipeline = pipeline.clone();
        calls.spawn(async move { ask(&pipeline, nonce, 1, SECOND * 2).await.unwrap() });
    }
    let start = Instant::now();
    calls.join_all().await;
    assert_eq!(server.rows_per_call(), [1; 16]);
    assert_eq!(server.most_running.load(Ordering::Relaxed), 4);
    assert!(start.elapsed() < Duration::from_millis(450), "{:?}", start.elapsed());
    assert!(pipeline.passes_through());
}

#[tokio::test(start_paused = true)]
async fn a_busy_replica_is_left_alone_and_nothing_is_lost() {
    let count = std::sync::atomic::AtomicU32::new(0);
    let busy = Server::new(5, 0).scripted(move |_| {
        let full = count.fetch_add(1, Ordering::Relaxed) < 3;
        if full { Err(CallError::Busy { retry_after: None }) } else { Ok(()) }
    });
    let pipeline = serve(config(), &[busy]);
    ask(&pipeline, 1, 1, SECOND * 5).await.unwrap();
}
