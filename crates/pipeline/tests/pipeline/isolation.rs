//! A batch-mate's bad rows, cancel or time-out never touch another caller.

use std::{sync::atomic::Ordering, time::Duration};

use pipeline::{
    Batching, CallError, Error, Refusal,
    request::{Inference, Outcome, Payload, Reply},
    tensor::Tensor,
};
use proptest::prelude::*;
use tokio::task::JoinSet;

use crate::server::{Server, ask, config, serve};

const SECOND: Duration = Duration::from_secs(1);

fn refused() -> CallError {
    CallError::Refused { kind: Refusal::Invalid, message: "poison".into(), words: None }
}

/// Whether any row belongs to a request whose nonce is poisoned.
fn has_row_of(inference: &Inference, poisoned: impl Fn(u32) -> bool) -> bool {
    let data = &inference.inputs[0].data;
    data.chunks_exact(4).any(|c| poisoned(u32::from_le_bytes(c.try_into().unwrap()) / 1_000))
}

#[tokio::test(start_paused = true)]
async fn only_the_guilty_member_is_told_and_it_costs_few_calls() {
    let server =
        Server::new(10, 0).scripted(|i| if has_row_of(i, |n| n == 17) { Err(refused()) } else { Ok(()) });
    let pipeline = serve(config(), std::slice::from_ref(&server));
    let mut calls = JoinSet::new();
    for nonce in 0..32 {
        let pipeline = pipeline.clone();
        calls.spawn(async move { (nonce, ask(&pipeline, nonce, 1, SECOND * 10).await) });
    }
    for (nonce, result) in calls.join_all().await {
        if nonce == 17 {
            assert_eq!(result.unwrap_err(), Error::Upstream(refused()));
        } else {
            result.unwrap();
        }
    }
    let calls = server.rows_per_call().len();
    assert!(calls <= 2 + 2 * 5 + 1, "{calls} calls");
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_too_few_rows_is_given_to_nobody_and_merging_stops() {
    let server = Server::new(10, 0);
    let inner = server.clone();
    let pipeline = pipeline::Pipeline::start(config());
    let mut replica = server.replica("r");
    replica.upstream =
        tower::util::BoxCloneSyncService::new(tower::service_fn(move |call: pipeline::replica::Call| {
            let inner = inner.clone();
            async move {
                let Payload::Tensors(inference) = call.payload else { panic!() };
                tokio::time::sleep(Duration::from_millis(10)).await;
                let rows = inference.rows().unwrap();
                inner.calls.lock().unwrap().push(rows);
                let keep = if rows > 1 { rows - 1 } else { 1 };
                let x = &inference.inputs[0];
                let short = Tensor::new("x", x.datatype, vec![keep, 1], x.data.slice(..keep as usize * 4));
                Ok(Reply::Tensors(Outcome { outputs: vec![short], ..Outcome::default() }))
            }
        }));
    pipeline
        .set_replicas(pipeline::replica::ReplicaSet { replicas: vec![replica], batch_dimension: Some(true) });
    let mut calls = JoinSet::new();
    for nonce in 0..20 {
        let pipeline = pipeline.clone();
        calls.spawn(async move { ask(&pipeline, nonce, 1, SECOND * 10).await.unwrap() });
    }
    calls.join_all().await;
    let merged = server.rows_per_call().iter().filter(|rows| **rows > 1).count();
    assert_eq!(merged, 1, "{:?}", server.rows_per_call());
}

#[tokio::test(start_paused = true)]
async fn the_self_check_lets_a_faithful_model_merge_and_keeps_another_from_it() {
    for (faithful, expected) in [(true, true), (false, false)] {
        let server = Server::new(10, 0);
        let inner = server.clone();
        let mut replica = server.replica("r");
        replica.upstream =
            tower::util::BoxCloneSyncService::new(tower::service_fn(move |call: pipeline::replica::Call| {
                let inner = inner.clone();
                async move {
                    let Payload::Tensors(inference) = call.payload else { panic!() };
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    let rows = inference.rows().unwrap();
                    inner.calls.lock().unwrap().push(rows);
                    let mut outputs = inference.inputs;
                    if !faithful && rows > 1 {
                        // Normalises over the batch, as a model must not that is to be merged.
                        let mut data = outputs[0].data.to_vec();
                        data[0] ^= 1;
                        outputs[0].data = data.into();
                    }
                    Ok(Reply::Tensors(Outcome { outputs, ..Outcome::default() }))
                }
            }));
        let pipeline = pipeline::Pipeline::start(pipeline::Config { batching: Batching::Auto, ..config() });
        pipeline.set_replicas(pipeline::replica::ReplicaSet {
            replicas: vec![replica],
            batch_dimension: Some(true),
        });
        for round in 0..4 {
            let mut calls = JoinSet::new();
            for nonce in 0..24 {
                let pipeline = pipeline.clone();
                calls
                    .spawn(async move { ask(&pipeline, round * 100 + nonce, 1, SECOND * 10).await.unwrap() });
            }
            calls.join_all().await;
        }
        let most = server.rows_per_call().into_iter().max().unwrap();
        assert_eq!(most > 4, expected, "faithful {faithful}: {:?}", server.rows_per_call());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Every request ends exactly once, with its own rows or its own error, whatever happens to its neighbours.
    #[test]
    fn whatever_befalls_some_members_the_others_get_their_own_answers(
        fates in prop::collection::vec((0u8..5, 1u64..4, 0u64..40), 1..60),
        replicas in 1usize..4,
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let poisoned: Vec<bool> = fates.iter().map(|(fate, ..)| *fate == 1).collect();
            let server = Server::new(10, 1).scripted(move |inference| {
                let guilty = has_row_of(inference, |n| poisoned.get(n as usize).copied().unwrap_or(false));
                if guilty { Err(refused()) } else { Ok(()) }
            });
            let pipeline = serve(config(), &vec![server.clone(); replicas]);
            let mut calls = JoinSet::new();
            for (nonce, (fate, rows, at)) in fates.iter().copied().enumerate() {
                let pipeline = pipeline.clone();
                calls.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(at)).await;
                    let deadline = if fate == 3 { Duration::from_millis(15) } else { SECOND * 60 };
                    let call = ask(&pipeline, nonce as u32, rows, deadline);
                    if fate == 2 {
                        let _ = tokio::time::timeout(Duration::from_millis(5), call).await;
                        return;
                    }
                    match (fate, call.await) {
                        (1, Err(Error::Upstream(e))) => assert_eq!(e, refused()),
                        (3, _) => {}
                        (_, Ok(_)) => {}
                        (fate, other) => panic!("fate {fate}: {other:?}"),
                    }
                });
            }
            while let Some(result) = calls.join_next().await {
                result.unwrap();
            }
            tokio::time::sleep(SECOND).await;
            let stats = pipeline.stats();
            assert_eq!((stats.queued_requests, stats.in_flight_requests, stats.in_flight_rows), (0, 0, 0));
            assert!(stats.replicas.iter().all(|r| r.in_flight == 0));
            assert_eq!(server.running.load(Ordering::Relaxed), 0);
            assert_eq!(server.late.load(Ordering::Relaxed), 0, "something expired was dispatched");
        });
    }
}
