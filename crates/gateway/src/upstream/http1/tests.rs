use std::time::Duration;

use pipeline::request::Wire;
use tokio::{io::AsyncWriteExt as _, sync::mpsc, time::Instant};
use tower::ServiceExt as _;

use super::*;
use crate::upstream::{Config, Protocol, Server, scripted::*};

/// What one HTTP/1 call gets from a server that reads the request, writes `answer` and closes.
async fn answered(answer: &'static str) -> Result<Bytes, CallError> {
    let scripted = listen(move |mut stream, _| async move {
        receive(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let upstream = scripted.upstream(Protocol::V2Http);
    send_opaque(&upstream, http_payload("{}")).await.map(|reply| reply.body)
}

#[tokio::test]
async fn calls_one_after_another_share_a_connection() {
    for headers in ["", "x-filler: 1\r\n"] {
        let scripted = http1(move |_| http1_answer(200, headers, "hello")).await;
        let upstream = scripted.upstream(Protocol::V2Http);
        for _ in 0..20 {
            assert_eq!(send_opaque(&upstream, http_payload("{}")).await.unwrap().body, "hello");
        }
        assert_eq!(scripted.connections(), 1);
    }
}

#[tokio::test]
async fn chunked_and_empty_answers_leave_the_connection_fit_for_use() {
    let scripted = http1(|received| match received.body.as_slice() {
        b"chunked" => {
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n".to_owned()
        }
        _ => http1_answer(200, "", ""),
    })
    .await;
    let upstream = scripted.upstream(Protocol::V2Http);
    for _ in 0..3 {
        assert_eq!(send_opaque(&upstream, http_payload("chunked")).await.unwrap().body, "abc");
        assert_eq!(send_opaque(&upstream, http_payload("empty")).await.unwrap().body, "");
    }
    assert_eq!(scripted.connections(), 1);
}

#[tokio::test]
async fn a_large_body_goes_out_and_comes_back_whole() {
    let body: String = ('a'..='z').cycle().take(3 << 20).collect();
    let scripted =
        http1(|received| http1_answer(200, "", std::str::from_utf8(&received.body).unwrap())).await;
    let upstream = scripted.upstream(Protocol::V2Http);
    let payload = || opaque(Wire::Http, "/echo", &[], Bytes::from(body.clone()));
    for _ in 0..2 {
        assert_eq!(send_opaque(&upstream, payload()).await.unwrap().body, body);
    }
    assert_eq!(scripted.connections(), 1);
}

#[tokio::test]
async fn calls_at_the_same_time_have_a_connection_each() {
    let barrier = Arc::new(tokio::sync::Barrier::new(3));
    let scripted = listen(move |mut stream, _| {
        let barrier = Arc::clone(&barrier);
        async move {
            receive(&mut stream).await;
            barrier.wait().await;
            stream.write_all(http1_answer(200, "", "x").as_bytes()).await.unwrap();
            closed(&mut stream).await;
        }
    })
    .await;
    let upstream = scripted.upstream(Protocol::V2Http);
    let one = || send_opaque(&upstream, http_payload("{}"));
    let (a, b, c) = tokio::join!(one(), one(), one());
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!(scripted.connections(), 3);
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced_without_an_error() {
    let (closed_it, mut was_closed) = mpsc::channel(8);
    let scripted = listen(move |mut stream, _| {
        let closed_it = closed_it.clone();
        async move {
            receive(&mut stream).await;
            stream.write_all(http1_answer(200, "", "x").as_bytes()).await.unwrap();
            drop(stream);
            closed_it.send(()).await.unwrap();
        }
    })
    .await;
    let upstream = scripted.upstream(Protocol::V2Http);
    for calls in 1..=5 {
        assert_eq!(send_opaque(&upstream, http_payload("{}")).await.unwrap().body, "x");
        within(was_closed.recv()).await;
        assert_eq!(scripted.connections(), calls);
    }
}

#[tokio::test]
async fn an_answer_with_connection_close_ends_the_connection() {
    let scripted = http1(|_| http1_answer(200, "connection: close\r\n", "x")).await;
    let upstream = scripted.upstream(Protocol::V2Http);
    for _ in 0..2 {
        assert_eq!(send_opaque(&upstream, http_payload("{}")).await.unwrap().body, "x");
    }
    assert_eq!(scripted.connections(), 2);
}

#[tokio::test]
async fn bytes_after_an_answer_are_nobodys_next_answer() {
    let scripted = http1(|_| http1_answer(200, "", "x") + &http1_answer(200, "", "smuggled")).await;
    let upstream = scripted.upstream(Protocol::V2Http);
    for _ in 0..3 {
        assert_eq!(send_opaque(&upstream, http_payload("{}")).await.unwrap().body, "x");
    }
    assert_eq!(scripted.connections(), 3);
}

#[tokio::test]
async fn nobody_listening_means_not_sent() {
    let server = Arc::new(Server::new(nobody().await, &Config::new(Protocol::V2Http, "m".into())));
    assert_eq!(send(&server.upstream(), tensors()).await.unwrap_err(), CallError::NotSent);
}

#[tokio::test]
async fn a_close_before_the_answer_or_within_it_means_reset() {
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\ncontent-le",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        assert_eq!(answered(answer).await, Err(CallError::Reset), "{answer:?}");
    }
}

#[tokio::test]
async fn nonsense_means_bad_response() {
    for answer in [
        "SSH-2.0-OpenSSH_9.9\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: ten\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\nabc\r\n",
        "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
    ] {
        assert_eq!(answered(answer).await, Err(CallError::BadResponse), "{answer:?}");
    }
}

#[tokio::test]
async fn a_head_without_end_is_not_read_for_ever() {
    let scripted = listen(|mut stream, _| async move {
        receive(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(b"x-filler: 0123456789012345678901234567890123456789\r\n").await.is_ok() {}
    })
    .await;
    let upstream = scripted.upstream(Protocol::V2Http);
    assert_eq!(send(&upstream, http_payload("{}")).await.unwrap_err(), CallError::BadResponse);
}

#[tokio::test]
async fn an_answer_over_the_limit_is_cut_off_announced_or_not() {
    let limit = 1 << 20;
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
    ] {
        let (hung_up, mut was_hung_up) = mpsc::channel(1);
        let scripted = listen(move |mut stream, _| {
            let hung_up = hung_up.clone();
            async move {
                receive(&mut stream).await;
                stream.write_all(head.as_bytes()).await.unwrap();
                while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
                hung_up.send(()).await.unwrap();
            }
        })
        .await;
        let config = Config { response_bytes_max: limit, ..Config::new(Protocol::V2Http, "m".into()) };
        let upstream = Arc::new(Server::new(scripted.address, &config)).upstream();
        let error = send(&upstream, http_payload("{}")).await.unwrap_err();
        assert_eq!(error, CallError::TooLarge { limit });
        within(was_hung_up.recv()).await;
    }
}

#[tokio::test]
async fn a_deadline_ends_the_call_and_closes_its_connection() {
    let (closed_it, mut was_closed) = mpsc::channel(1);
    let scripted = listen(move |mut stream, _| {
        let closed_it = closed_it.clone();
        async move {
            receive(&mut stream).await;
            closed(&mut stream).await;
            closed_it.send(()).await.unwrap();
        }
    })
    .await;
    let upstream = scripted.upstream(Protocol::V2Http);
    let mut late = call(http_payload("{}"));
    late.deadline = Instant::now() + Duration::from_millis(50);
    let error = within(upstream.oneshot(late)).await.unwrap_err();
    assert_eq!(error, CallError::Deadline);
    within(was_closed.recv()).await;
}

#[tokio::test]
async fn a_connection_is_not_used_again_after_an_internal_error() {
    for (status, connections) in [(400, 1), (503, 1), (500, 2)] {
        let scripted = http1(move |_| http1_answer(status, "", "x")).await;
        let upstream = scripted.upstream(Protocol::V2Http);
        for _ in 0..2 {
            // Only the connections are of interest here.
            let _ = send(&upstream, http_payload("{}")).await;
        }
        assert_eq!(scripted.connections(), connections, "{status}");
    }
}

#[tokio::test]
async fn dropping_a_call_closes_its_connection() {
    let (saw, mut seen) = mpsc::channel(2);
    let scripted = listen(move |mut stream, _| {
        let saw = saw.clone();
        async move {
            receive(&mut stream).await;
            saw.send("request").await.unwrap();
            closed(&mut stream).await;
            saw.send("close").await.unwrap();
        }
    })
    .await;
    let upstream = scripted.upstream(Protocol::V2Http);
    let running = tokio::spawn(upstream.oneshot(call(http_payload("{}"))));
    assert_eq!(within(seen.recv()).await, Some("request"));
    running.abort();
    assert_eq!(within(seen.recv()).await, Some("close"));
}

#[tokio::test]
async fn connections_idle_for_too_long_are_closed_and_not_used_again() {
    let (closed_it, mut was_closed) = mpsc::channel(1);
    let scripted = listen(move |mut stream, _| {
        let closed_it = closed_it.clone();
        async move {
            receive(&mut stream).await;
            stream.write_all(http1_answer(200, "", "x").as_bytes()).await.unwrap();
            closed(&mut stream).await;
            closed_it.send(()).await.unwrap();
        }
    })
    .await;
    let config =
        Config { idle_timeout: Duration::from_millis(40), ..Config::new(Protocol::V2Http, "m".into()) };
    let server = Arc::new(Server::new(scripted.address, &config));
    send_opaque(&server.upstream(), http_payload("{}")).await.unwrap();
    // Nobody calls meanwhile: the pool itself closes it.
    within(was_closed.recv()).await;
    send_opaque(&server.upstream(), http_payload("{}")).await.unwrap();
    assert_eq!(scripted.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_stack_of_idle_connections_is_bounded_and_gives_the_youngest_first() {
    let scripted = listen(|mut stream, _| async move { closed(&mut stream).await }).await;
    let limits = IdleLimits { connections: 2, timeout: Duration::from_secs(4) };
    let idle = Idle { limits, stack: Mutex::default() };
    for _ in 0..3 {
        idle.push(Link::open(scripted.address, Duration::from_secs(1)).await.unwrap());
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(idle.stack.lock().unwrap().len(), 2);
    tokio::time::advance(Duration::from_millis(1500)).await;
    assert_eq!(idle.expired().len(), 1, "pushed 4.5 s ago; the other one 3.5 s ago");
    assert!(idle.pop().is_some());
    assert!(idle.pop().is_none());
}

#[tokio::test]
async fn closing_the_pool_closes_idle_connections() {
    let (closed_it, mut was_closed) = mpsc::channel(1);
    let scripted = listen(move |mut stream, _| {
        let closed_it = closed_it.clone();
        async move {
            receive(&mut stream).await;
            stream.write_all(http1_answer(200, "", "x").as_bytes()).await.unwrap();
            closed(&mut stream).await;
            closed_it.send(()).await.unwrap();
        }
    })
    .await;
    let server = scripted.server(Protocol::V2Http);
    send_opaque(&server.upstream(), http_payload("{}")).await.unwrap();
    drop(server);
    within(was_closed.recv()).await;
}
