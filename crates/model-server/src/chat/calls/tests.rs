use http_body_util::{BodyExt as _, Empty, Full};

use super::*;

fn simulation(change: impl FnOnce(&mut Options)) -> Simulation {
    let mut options = Options::default();
    change(&mut options);
    Simulation::new(options)
}

const ROUTES: [(&str, &str); 10] = [
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/sim/stats"),
    ("POST", "/sim/reset"),
    ("GET", "/v1/models"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/rerank"),
];

async fn status(simulation: &Simulation, method: &str, path: &str) -> u16 {
    let request = Request::builder().method(method).uri(path).body(Empty::<Bytes>::new()).unwrap();
    simulation.answer(request).await.unwrap().status().as_u16()
}

async fn chat(simulation: &Simulation, fail: &str, stream: bool) -> Result<(u16, String), BrokenOff> {
    let body = json!({"model": "sim", "max_tokens": 4, "stream": stream,
        "messages": [{"role": "user", "content": "one two three"}]});
    let request = Request::post("/v1/chat/completions")
        .header("x-sim-fail", fail)
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let response = simulation.answer(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.into()).unwrap()))
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_starts_is_live_and_becomes_ready() {
    let simulation = simulation(|options| options.start_delay = Duration::from_secs(60));
    for (method, path) in ROUTES {
        let watched = matches!(path, "/metrics" | "/sim/stats" | "/sim/reset");
        let loading = if watched { 200 } else { 503 };
        assert_eq!(status(&simulation, method, path).await, loading, "{path}");
    }
    tokio::time::advance(Duration::from_secs(60)).await;
    for (method, path) in ROUTES {
        let ready = if path.starts_with("/v1") && method == "POST" { 400 } else { 200 };
        assert_eq!(status(&simulation, method, path).await, ready, "{path}");
    }
    simulation.stop();
    assert_eq!(status(&simulation, "GET", "/health").await, 503);
}

#[tokio::test(start_paused = true)]
async fn other_routes_are_unknown_and_other_verbs_told_the_right_one() {
    let simulation = simulation(|_| {});
    for (method, path) in ROUTES {
        let other = if method == "GET" { "POST" } else { "GET" };
        assert_eq!(status(&simulation, other, path).await, 405, "{other} {path}");
    }
    for path in ["/", "/v1", "/v1/models/", "/v1/models/other", "/v1/chat", "/v2"] {
        assert_eq!(status(&simulation, "GET", path).await, 404, "{path}");
    }
    assert_eq!(status(&simulation, "GET", "/v1/models/sim").await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer_fails_as_its_header_says() {
    let simulation = simulation(|_| {});
    for (fail, code) in [("error", 500), ("error@2", 500), ("busy", 503), ("oops", 400)] {
        let (status, body) = chat(&simulation, fail, false).await.unwrap();
        assert_eq!(status, code, "{fail}");
        assert!(body.starts_with(r#"{"error":{"#), "{fail}: {body}");
    }
    let (_, nonsense) = chat(&simulation, "nonsense", false).await.unwrap();
    let (_, truncated) = chat(&simulation, "truncate", false).await.unwrap();
    for body in [nonsense, truncated] {
        assert!(!body.is_empty() && serde_json::from_str::<Value>(&body).is_err(), "{body}");
    }
    assert!(chat(&simulation, "reset", false).await.is_err());
    let counts = simulation.counts();
    assert_eq!((counts.failed, counts.refused, counts.finished, counts.cancelled), (5, 1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stream_fails_as_its_header_says_after_as_many_tokens() {
    let simulation = simulation(|_| {});
    let tokens = |text: &str| text.matches(r#""delta":{"content":""#).count();
    let (_, whole) = chat(&simulation, "slow-first", true).await.unwrap();
    assert!(whole.ends_with("data: [DONE]\n\n") && tokens(&whole) == 4, "{whole}");
    let (_, open) = chat(&simulation, "no-done", true).await.unwrap();
    assert!(!open.contains("[DONE]") && open.contains(r#""finish_reason":"length""#), "{open}");
    let (_, cut) = chat(&simulation, "truncate@2", true).await.unwrap();
    assert!(tokens(&cut) == 2 && cut.ends_with("\n\n"), "{cut}");
    let (_, nonsense) = chat(&simulation, "nonsense@3", true).await.unwrap();
    assert!(tokens(&nonsense) == 3 && nonsense.contains("<html>"), "{nonsense}");
    let (status, error) = chat(&simulation, "error@1", true).await.unwrap();
    assert!(status == 200 && tokens(&error) == 1, "{error}");
    assert!(error.contains(r#"data: {"error":{"#) && error.ends_with("data: [DONE]\n\n"), "{error}");
    for reset in ["reset", "reset@3"] {
        assert!(chat(&simulation, reset, true).await.is_err(), "{reset}");
    }
    let counts = simulation.counts();
    assert_eq!((counts.finished, counts.failed, counts.running), (2, 5, 0));
}

#[tokio::test(start_paused = true)]
async fn what_stalls_keeps_its_slot_until_its_client_leaves() {
    for stream in [false, true] {
        let simulation = simulation(|_| {});
        let mut stalled = Box::pin(chat(&simulation, "stall@2", stream));
        assert!(tokio::time::timeout(Duration::from_secs(3600), stalled.as_mut()).await.is_err());
        assert_eq!((simulation.counts().running, simulation.counts().generation_tokens), (1, 2));
        drop(stalled);
        assert_eq!((simulation.counts().running, simulation.counts().cancelled), (0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_first_token_comes_five_seconds_later() {
    let simulation = simulation(|options| options.times.slow = 2.0);
    let began = Instant::now();
    chat(&simulation, "slow-first", false).await.unwrap();
    assert!(began.elapsed() > Duration::from_secs(10) && began.elapsed() < Duration::from_secs(12));
}

#[tokio::test(start_paused = true)]
async fn a_full_engine_refuses_with_the_status_it_was_given() {
    let simulation = simulation(|options| options.full_status = 429);
    let (status, body) = chat(&simulation, "busy", true).await.unwrap();
    assert!(status == 429 && body.contains("engine_full"), "{body}");
}

#[tokio::test(start_paused = true)]
async fn who_fails_by_chance_is_decided_by_the_seed() {
    let run = |seed| async move {
        let simulation = simulation(|options| {
            options.seed = seed;
            options.failures = "error=0.5".parse().unwrap();
        });
        let mut failed = Vec::new();
        for _ in 0..40 {
            let body = r#"{"model":"sim","prompt":"x","max_tokens":1}"#;
            let request = Request::post("/v1/completions").body(Full::new(Bytes::from(body))).unwrap();
            failed.push(simulation.answer(request).await.unwrap().status().is_server_error());
        }
        failed
    };
    let failed = run(1).await;
    assert_eq!(failed, run(1).await);
    assert_ne!(failed, run(2).await);
    assert!(failed.contains(&true) && failed.contains(&false));
}
