use std::{
    future::Future as _,
    pin::pin,
    task::{Context, Poll, Waker},
};

use pipeline::tensor::{DataType, Tensor};

use super::*;

const MIXED: &[u8] = include_bytes!("../../../../examples/models/mixed.onnx");
const SECOND: Duration = Duration::from_secs(1);

fn serving(concurrency: usize, pace: &str, start_delay: Duration) -> Serving {
    let execution = Execution {
        concurrency: NonZeroUsize::new(concurrency).unwrap(),
        batch_size_max: NonZeroU32::new(8).unwrap(),
        pace: pace.parse().unwrap(),
    };
    Serving::new(vec![Model::from_bytes("mixed", MIXED).unwrap()], execution, start_delay)
}

fn inference(rows: u64) -> Inference {
    let elements = usize::try_from(rows).unwrap() * 3;
    let ids = Tensor::new("ids", DataType::Int64, vec![rows, 3], vec![0; elements * 8].into());
    let weights = Tensor::new("weights", DataType::Fp32, vec![rows, 3], vec![0; elements * 4].into());
    Inference { inputs: vec![ids, weights], ..Inference::default() }
}

#[tokio::test(start_paused = true)]
async fn a_server_is_ready_only_after_its_start_delay() {
    let serving = serving(1, "0s", 2 * SECOND);
    assert!(matches!(serving.find("mixed", ""), Err(Error::Loading)));
    tokio::time::advance(2 * SECOND - Duration::from_millis(1)).await;
    assert!(matches!(serving.ready(), Err(Error::Loading)));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(serving.find("mixed", "1").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_stopping_server_refuses_new_calls() {
    let serving = serving(1, "0s", Duration::ZERO);
    serving.stop();
    assert!(matches!(serving.find("mixed", ""), Err(Error::Stopping)));
}

#[tokio::test(start_paused = true)]
async fn unknown_models_and_versions_are_told_apart() {
    let serving = serving(1, "0s", Duration::ZERO);
    assert_eq!(serving.find("no", "").unwrap_err().to_string(), r#"model "no" not found"#);
    let error = serving.find("mixed", "7").unwrap_err();
    assert_eq!(error.to_string(), r#"model "mixed" has no version "7"; it has "1""#);
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_execute_at_a_time_than_allowed() {
    let serving = serving(2, "1s", Duration::ZERO);
    let served = serving.find("mixed", "").unwrap();
    let began = Instant::now();
    let call = || async {
        serving.infer(served, inference(1)).await.unwrap();
        began.elapsed()
    };
    let (a, b, c, d, e) = tokio::join!(call(), call(), call(), call(), call());
    // Three rounds of a second each through two slots.
    assert_eq!([a, b, c, d, e].map(|elapsed| elapsed.as_secs()), [1, 1, 2, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_takes_the_fixed_time_once_and_the_time_per_row_for_each() {
    let serving = serving(1, "2s+1s", Duration::ZERO);
    let served = serving.find("mixed", "").unwrap();
    let began = Instant::now();
    serving.infer(served, inference(4)).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_while_executing_does_not_free_its_slot_early() {
    let serving = serving(1, "10s", Duration::ZERO);
    let served = serving.find("mixed", "").unwrap();
    let gone = tokio::time::timeout(SECOND, serving.infer(served, inference(1))).await;
    assert!(gone.is_err());
    let began = Instant::now();
    serving.infer(served, inference(1)).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 19, "9 s of the abandoned call, then 10 s of its own");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_while_waiting_never_executes() {
    let serving = serving(1, "10s", Duration::ZERO);
    let served = serving.find("mixed", "").unwrap();
    let (first, second) = tokio::join!(
        serving.infer(served, inference(1)),
        tokio::time::timeout(SECOND, serving.infer(served, inference(1))),
    );
    assert!(first.is_ok() && second.is_err());
    serving.stop();
    serving.idle().await;
    assert_eq!(served.statistics().execution_count, 1);
}

#[tokio::test(start_paused = true)]
async fn the_waiting_line_is_bounded() {
    let serving = serving(1, "1s", Duration::ZERO);
    let served = serving.find("mixed", "").unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let mut calls: Vec<_> = (0..CALLS_MAX).map(|_| Box::pin(serving.infer(served, inference(1)))).collect();
    assert!(calls.iter_mut().all(|call| call.as_mut().poll(&mut context).is_pending()));
    let mut refused = pin!(serving.infer(served, inference(1)));
    assert!(matches!(refused.as_mut().poll(&mut context), Poll::Ready(Err(Error::Full { .. }))));
    drop(calls);
    assert!(serving.infer(served, inference(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_batch_over_the_limit_is_refused_without_waiting() {
    let serving = serving(1, "1s", Duration::ZERO);
    let served = serving.find("mixed", "").unwrap();
    let began = Instant::now();
    let error = serving.infer(served, inference(9)).await.unwrap_err();
    assert_eq!(error.to_string(), "9 rows are more than the 8 a call may have");
    assert_eq!(began.elapsed(), Duration::ZERO);
}
