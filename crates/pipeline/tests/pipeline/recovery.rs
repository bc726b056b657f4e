//! What goes wrong for a while does not go wrong for ever: replicas that break or freeze, predictions that were
//! too high, checks that could not be finished.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use pipeline::{
    Batching, CallError, Concurrency, Config, Error, Pipeline, QueueLimits, Refusal,
    replica::{Call, Replica, ReplicaSet},
    request::{Inference, Outcome, Payload, Reply},
    tensor::{DataType, Tensor},
};
use tokio::{task::JoinSet, time::sleep};
use tower::{service_fn, util::BoxCloneSyncService};

use crate::server::{Server, ask, config, request, serve, set};

const SECOND: Duration = Duration::from_secs(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A replica whose every call takes what `duration` says and then has the outcome that `answer` makes of it.
fn replica(
    id: &str,
    duration: impl Fn(u64) -> Duration + Send + Sync + 'static,
    answer: impl Fn(Inference) -> Outcome + Send + Sync + 'static,
) -> Replica {
    let (duration, answer) = (Arc::new(duration), Arc::new(answer));
    let upstream = BoxCloneSyncService::new(service_fn(move |call: Call| {
        let (duration, answer) = (Arc::clone(&duration), Arc::clone(&answer));
        async move {
            let Payload::Tensors(inference) = call.payload else { panic!("tests send tensors") };
            sleep(duration(inference.rows().unwrap())).await;
            Ok(Reply::Tensors(answer(inference)))
        }
    }));
    Replica { upstream, ..Server::new(0, 0).replica(id) }
}

fn echo(inference: Inference) -> Outcome {
    Outcome { outputs: inference.inputs, ..Outcome::default() }
}

fn start(config: Config, replicas: Vec<Replica>) -> Pipeline {
    let pipeline = Pipeline::start(config);
    pipeline.set_replicas(ReplicaSet { replicas, batch_dimension: Some(true) });
    pipeline
}

fn spawn_ask(
    pipeline: &Pipeline,
    nonce: u32,
    deadline: Duration,
) -> tokio::task::JoinHandle<Result<(), Error>> {
    let pipeline = pipeline.clone();
    tokio::spawn(async move { ask(&pipeline, nonce, 1, deadline).await.map(|_| ()) })
}

/// Asks `requests` times at once and waits for all; how many were answered.
async fn ask_together(pipeline: &Pipeline, requests: u32, rows: u64, deadline: Duration) -> usize {
    let mut calls = JoinSet::new();
    for nonce in 0..requests {
        let pipeline = pipeline.clone();
        calls.spawn(async move { ask(&pipeline, nonce, rows, deadline).await.is_ok() });
    }
    calls.join_all().await.into_iter().filter(|answered| *answered).count()
}

#[tokio::test(start_paused = true)]
async fn one_of_two_replicas_that_breaks_off_its_calls_is_ejected() {
    let broken = Server::new(5, 0).scripted(|_| Err(CallError::Reset));
    let pipeline = serve(config(), &[broken.clone(), Server::new(5, 0)]);
    for nonce in 0..200 {
        ask(&pipeline, nonce, 1, SECOND).await.unwrap();
    }
    let calls = broken.rows_per_call().len();
    assert!(calls <= 5, "{calls} calls went to the broken replica");
}

#[tokio::test(start_paused = true)]
async fn a_repeat_that_would_rather_go_elsewhere_holds_up_nobody() {
    let failures = AtomicU32::new(1);
    let mending = Server::new(5, 0).scripted(move |_| {
        let fails = failures.swap(0, Ordering::Relaxed) > 0;
        if fails { Err(CallError::Reset) } else { Ok(()) }
    });
    let pipeline = serve(config(), &[mending, Server::new(1_000_000, 0)]);
    let repeated = spawn_ask(&pipeline, 1, SECOND * 5);
    sleep(ms(1)).await;
    let _frozen = spawn_ask(&pipeline, 2, SECOND * 600);
    sleep(ms(1)).await;
    let behind = spawn_ask(&pipeline, 3, SECOND * 5);
    behind.await.unwrap().unwrap();
    repeated.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_model_that_was_too_slow_for_its_deadlines_is_tried_again() {
    let millis = Arc::new(AtomicU64::new(400));
    let now = Arc::clone(&millis);
    let pipeline = start(config(), vec![replica("r", move |_| ms(now.load(Ordering::Relaxed)), echo)]);
    for nonce in 0..30 {
        ask(&pipeline, nonce, 1, SECOND * 5).await.unwrap();
    }
    millis.store(10, Ordering::Relaxed);
    let mut answered = 0;
    for nonce in 0..100 {
        answered += usize::from(ask(&pipeline, nonce, 1, ms(200)).await.is_ok());
    }
    assert!(answered >= 95, "{answered} of 100 answered");
}

#[tokio::test(start_paused = true)]
async fn merging_goes_on_after_a_suspension_though_the_model_is_not_idempotent() {
    let short = AtomicU32::new(1);
    let answer = move |inference: Inference| {
        let rows = inference.rows().unwrap();
        let mut outcome = echo(inference);
        if rows > 1 && short.swap(0, Ordering::Relaxed) > 0 {
            let x = &mut outcome.outputs[0];
            (x.shape[0], x.data) = (rows - 1, x.data.slice(4..));
        }
        outcome
    };
    let most = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&most);
    let duration = move |rows| {
        seen.fetch_max(rows, Ordering::Relaxed);
        ms(10)
    };
    let pipeline = start(Config { idempotent: false, ..config() }, vec![replica("r", duration, answer)]);
    ask_together(&pipeline, 20, 1, SECOND * 10).await;
    assert!(most.swap(0, Ordering::Relaxed) > 1);
    ask_together(&pipeline, 20, 1, SECOND * 10).await;
    assert_eq!(most.swap(0, Ordering::Relaxed), 1, "suspended");
    sleep(SECOND * 601).await;
    ask(&pipeline, 1, 1, SECOND).await.unwrap();
    assert_eq!(ask_together(&pipeline, 20, 1, SECOND * 10).await, 20);
    assert!(most.load(Ordering::Relaxed) > 1, "merged again");
}

#[tokio::test(start_paused = true)]
async fn a_check_that_breaks_down_is_made_again() {
    let panics = AtomicU32::new(1);
    let most = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&most);
    let duration = move |rows| {
        seen.fetch_max(rows, Ordering::Relaxed);
        assert!(rows == 1 || panics.swap(0, Ordering::Relaxed) == 0, "the first merged call");
        ms(10)
    };
    let pipeline = start(Config { batching: Batching::Auto, ..config() }, vec![replica("r", duration, echo)]);
    for _ in 0..4 {
        ask_together(&pipeline, 24, 1, SECOND * 10).await;
    }
    assert!(most.load(Ordering::Relaxed) > 4, "{most:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_of_many_rows_are_checked_and_merged() {
    let server = Server::new(10, 0);
    let pipeline = serve(Config { batching: Batching::Auto, ..config() }, std::slice::from_ref(&server));
    for _ in 0..3 {
        assert_eq!(ask_together(&pipeline, 24, 8, SECOND * 10).await, 24);
    }
    let most = server.rows_per_call().into_iter().max().unwrap();
    assert!(most > 32, "{:?}", server.rows_per_call());
}

#[tokio::test(start_paused = true)]
async fn a_check_is_finished_though_deadlines_are_short() {
    let server = Server::new(10, 0);
    let pipeline = serve(Config { batching: Batching::Auto, ..config() }, std::slice::from_ref(&server));
    for _ in 0..3 {
        ask_together(&pipeline, 24, 1, ms(45)).await;
    }
    assert_eq!(ask_together(&pipeline, 24, 1, ms(45)).await, 24);
}

#[tokio::test(start_paused = true)]
async fn a_batch_mate_that_was_repeated_before_does_not_take_the_others_their_repeat() {
    let failures = AtomicU32::new(2);
    let server = Server::new(5, 0).scripted(move |_| {
        let fails =
            failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if fails { Err(CallError::Reset) } else { Ok(()) }
    });
    let pipeline = serve(config(), &[server]);
    let first = spawn_ask(&pipeline, 1, SECOND);
    sleep(ms(1)).await;
    let others = [spawn_ask(&pipeline, 2, SECOND), spawn_ask(&pipeline, 3, SECOND)];
    assert_eq!(first.await.unwrap().unwrap_err(), Error::Upstream(CallError::Reset));
    for other in others {
        other.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_frozen_replica_is_ejected_however_short_the_deadlines() {
    let frozen = Arc::new(AtomicU64::new(10));
    let now = Arc::clone(&frozen);
    let sick = replica("sick", move |_| ms(now.load(Ordering::Relaxed)), echo);
    let pipeline = start(config(), vec![sick, Server::new(10, 0).replica("well")]);
    for nonce in 0..40 {
        ask(&pipeline, nonce, 1, SECOND).await.unwrap();
    }
    frozen.store(1_000_000, Ordering::Relaxed);
    let mut answered = 0;
    for nonce in 0..100 {
        answered += usize::from(ask(&pipeline, nonce, 1, ms(200)).await.is_ok());
    }
    assert!(answered >= 94, "{answered} of 100 answered");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_replica_is_ejected_though_its_callers_leave_before_it_could_be_late() {
    let frozen = Arc::new(AtomicU64::new(10));
    let now = Arc::clone(&frozen);
    let sick = replica("sick", move |_| ms(now.load(Ordering::Relaxed)), echo);
    let pipeline = start(config(), vec![sick, Server::new(10, 0).replica("well")]);
    for nonce in 0..40 {
        ask(&pipeline, nonce, 1, SECOND).await.unwrap();
    }
    frozen.store(1_000_000, Ordering::Relaxed);
    let mut answered = 0;
    for nonce in 0..100 {
        let call = ask(&pipeline, nonce, 1, SECOND * 60);
        answered += usize::from(tokio::time::timeout(ms(200), call).await.is_ok());
    }
    assert!(answered >= 94, "{answered} of 100 answered");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_becomes_slower_is_predicted_to_be() {
    let millis = Arc::new(AtomicU64::new(10));
    let now = Arc::clone(&millis);
    let pipeline = start(config(), vec![replica("r", move |_| ms(now.load(Ordering::Relaxed)), echo)]);
    for nonce in 0..100 {
        ask(&pipeline, nonce, 1, SECOND).await.unwrap();
    }
    millis.store(20, Ordering::Relaxed);
    for nonce in 0..400 {
        ask(&pipeline, nonce, 1, SECOND).await.unwrap();
    }
    let stats = pipeline.stats();
    let predicted = (stats.latency_fixed + stats.latency_per_row).as_secs_f64();
    assert!((0.018..0.022).contains(&predicted), "{predicted}");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_does_not_describe_itself_is_not_served_one_call_at_a_time() {
    let server = Server::new(100, 0);
    let config = Config { batching: Batching::Auto, concurrency: Concurrency::Fixed(4), ..config() };
    let pipeline = Pipeline::start(config);
    pipeline.set_replicas(ReplicaSet { batch_dimension: None, ..set(std::slice::from_ref(&server)) });
    assert_eq!(ask_together(&pipeline, 16, 1, SECOND * 2).await, 16);
    assert_eq!(server.most_running.load(Ordering::Relaxed), 4);
}

#[tokio::test(start_paused = true)]
async fn what_queued_before_the_model_described_itself_is_merged() {
    let server = Server::new(100, 0);
    let pipeline = Pipeline::start(config());
    let calls: Vec<_> = (0..20).map(|nonce| spawn_ask(&pipeline, nonce, SECOND * 5)).collect();
    sleep(ms(1)).await;
    pipeline.set_replicas(set(std::slice::from_ref(&server)));
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(server.rows_per_call(), [20]);
}

#[tokio::test(start_paused = true)]
async fn a_request_on_its_way_back_is_not_refused_for_a_queue_that_filled_meanwhile() {
    let failures = AtomicU32::new(1);
    let server = Server::new(10, 0).scripted(move |_| {
        let fails = failures.swap(0, Ordering::Relaxed) > 0;
        if fails { Err(CallError::NotSent) } else { Ok(()) }
    });
    let limits = QueueLimits { requests: 1, bytes: 1 << 20 };
    let config =
        Config { batching: Batching::Off, concurrency: Concurrency::Fixed(1), queue: limits, ..config() };
    let pipeline = serve(config, &[server]);
    sleep(ms(1)).await;
    let first = spawn_ask(&pipeline, 1, SECOND);
    sleep(ms(1)).await;
    let second = spawn_ask(&pipeline, 2, SECOND);
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_of_more_parts_than_may_wait_is_refused_before_it_is_cut() {
    let pipeline = serve(config(), &[Server::new(10, 0)]);
    ask(&pipeline, 1, 1, SECOND).await.unwrap();
    let mut huge = request(2, 1, SECOND);
    let nothing = Tensor::new("x", DataType::Uint32, vec![1 << 31, 0], Bytes::new());
    huge.payload = Payload::Tensors(Inference { inputs: vec![nothing], ..Inference::default() });
    let error = pipeline.call(huge).await.unwrap_err();
    let Error::Upstream(CallError::Refused { kind: Refusal::TooLarge, .. }) = error else {
        panic!("{error:?}")
    };
}

#[tokio::test(start_paused = true)]
async fn an_only_replica_may_restart_within_seconds() {
    let failures = Arc::new(AtomicU32::new(0));
    let down = Arc::clone(&failures);
    let server = Server::new(0, 0)
        .scripted(move |_| if down.load(Ordering::Relaxed) > 0 { Err(CallError::NotSent) } else { Ok(()) });
    let pipeline = serve(Config { idempotent: false, ..config() }, std::slice::from_ref(&server));
    ask(&pipeline, 1, 1, SECOND).await.unwrap();
    failures.store(1, Ordering::Relaxed);
    let call = spawn_ask(&pipeline, 2, SECOND * 10);
    sleep(SECOND * 3).await;
    failures.store(0, Ordering::Relaxed);
    call.await.unwrap().unwrap();
    assert!(server.rows_per_call().len() < 20, "{}", server.rows_per_call().len());
}
