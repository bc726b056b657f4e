//! What a traced request is noted to have gone through, and what a call knows of the requests it answers.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use pipeline::{
    Batching, CallError, Config, Pipeline,
    replica::{Call, ReplicaSet},
    trace::{Context, Traced},
};
use tokio::task::JoinSet;
use tower::{ServiceExt as _, service_fn, util::BoxCloneSyncService};

use crate::server::{Server, config, request};

const SECOND: Duration = Duration::from_secs(1);

/// The requests of each call, and the spans of those that are traced.
type Calls = Arc<Mutex<Vec<(usize, Vec<u64>)>>>;

/// A pipeline in front of a server whose calls are noted; the first so many of them do not reach it.
async fn noted(config: Config, unsent: usize) -> (Pipeline, Calls) {
    let calls = Calls::default();
    let replicas = ["r0", "r1"].map(|id| {
        let (mut replica, calls) = (Server::new(10, 0).replica(id), Arc::clone(&calls));
        let inner = replica.upstream.clone();
        replica.upstream = BoxCloneSyncService::new(service_fn(move |call: Call| {
            let spans = call.traced.iter().map(|traced| traced.context().span).collect();
            let count = {
                let mut calls = calls.lock().unwrap();
                calls.push((call.requests, spans));
                calls.len()
            };
            let inner = inner.clone();
            async move { if count <= unsent { Err(CallError::NotSent) } else { inner.oneshot(call).await } }
        }));
        replica
    });
    let pipeline = Pipeline::start(config);
    pipeline.set_replicas(ReplicaSet { replicas: replicas.to_vec(), batch_dimension: Some(true) });
    // They are taken in by the pipeline's own task.
    tokio::time::sleep(SECOND).await;
    (pipeline, calls)
}

/// Asks as a request whose span is `span`.
async fn ask(pipeline: &Pipeline, span: u32) -> Arc<Traced> {
    let traced = Arc::new(Traced::new(Context { trace: 1, span: span.into() }));
    let mut request = request(span, 1, SECOND * 10);
    request.traced = Some(Arc::clone(&traced));
    pipeline.call(request).await.unwrap();
    traced
}

#[tokio::test(start_paused = true)]
async fn a_merged_call_knows_which_of_its_requests_are_traced() {
    let (pipeline, calls) = noted(config(), 0).await;
    let mut clients = JoinSet::new();
    for span in 1..=8 {
        let (traced, untraced) = (pipeline.clone(), pipeline.clone());
        clients.spawn(async move { Some(ask(&traced, span).await) });
        clients.spawn(async move {
            untraced.call(request(100 + span, 1, SECOND * 10)).await.unwrap();
            None
        });
    }
    let traced: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    for traced in traced {
        let waits = traced.notes().waits;
        assert!(matches!(waits[..], [wait] if wait.until >= Some(wait.since)), "{waits:?}");
    }
    let calls = calls.lock().unwrap();
    assert_eq!(calls.iter().map(|(requests, _)| requests).sum::<usize>(), 16);
    let mut spans: Vec<u64> = calls.iter().flat_map(|(_, spans)| spans.clone()).collect();
    spans.sort_unstable();
    assert_eq!(spans, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(calls.iter().any(|(requests, spans)| *requests > spans.len() && spans.len() > 1), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn what_goes_straight_on_waits_for_nothing_until_it_is_tried_again() {
    let (pipeline, calls) = noted(Config { batching: Batching::Off, ..config() }, 0).await;
    assert_eq!(ask(&pipeline, 1).await.notes().waits, []);
    assert_eq!(*calls.lock().unwrap(), [(1, vec![1])]);

    let (pipeline, calls) = noted(Config { batching: Batching::Off, ..config() }, 1).await;
    let notes = ask(&pipeline, 2).await.notes();
    assert!(matches!(notes.waits[..], [wait] if wait.until.is_some()), "{notes:?}");
    assert_eq!(*calls.lock().unwrap(), [(1, vec![2]), (1, vec![2])]);
}
