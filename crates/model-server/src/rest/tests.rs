use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use http_body_util::{Channel, Empty};

use super::*;
use crate::{Model, Pace, serving::Execution};

const MIXED: &[u8] = include_bytes!("../../../../examples/models/mixed.onnx");

fn serving(start_delay: Duration) -> Serving {
    let execution =
        Execution { concurrency: NonZeroUsize::MIN, batch_size_max: NonZeroU32::MIN, pace: Pace::default() };
    Serving::new(vec![Model::from_bytes("mixed", MIXED).unwrap()], execution, start_delay)
}

async fn status(serving: &Serving, method: &str, path: &str) -> u16 {
    let request = Request::builder().method(method).uri(path).body(Empty::<Bytes>::new()).unwrap();
    answer(serving, request).await.status().as_u16()
}

#[tokio::test(start_paused = true)]
async fn a_loading_server_is_live_and_becomes_ready() {
    let serving = serving(Duration::from_secs(2));
    let routes = [
        ("GET", "/v2/health/live", 200, 200),
        ("GET", "/v2", 200, 200),
        ("GET", "/v2/health/ready", 503, 200),
        ("GET", "/v2/models/mixed/ready", 503, 200),
        ("GET", "/v2/models/mixed", 503, 200),
        ("GET", "/v2/models/no/ready", 503, 404),
        ("POST", "/v2/models/mixed/infer", 503, 400),
    ];
    for (method, path, loading, _) in routes {
        assert_eq!(status(&serving, method, path).await, loading, "{path} while loading");
    }
    tokio::time::advance(Duration::from_secs(2)).await;
    for (method, path, _, ready) in routes {
        assert_eq!(status(&serving, method, path).await, ready, "{path} when ready");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_is_given_up() {
    let serving = serving(Duration::ZERO);
    let (sender, body) = Channel::<Bytes>::new(1);
    let request = Request::post("/v2/models/mixed/infer").body(body).unwrap();
    let response = answer(&serving, request).await;
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    drop(sender);
}

#[tokio::test(start_paused = true)]
async fn a_stopping_server_refuses_calls_and_closes_the_connection() {
    let serving = serving(Duration::ZERO);
    serving.stop();
    let request = Request::post("/v2/models/mixed/infer").body(Empty::<Bytes>::new()).unwrap();
    let response = answer(&serving, request).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[header::CONNECTION], "close");
    assert_eq!(status(&serving, "GET", "/v2/health/live").await, 200);
    assert_eq!(status(&serving, "GET", "/v2/health/ready").await, 503);
}
