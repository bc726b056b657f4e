use std::{sync::Mutex, time::Duration};

use h2::Reason;
use pipeline::Refusal;
use proto::inference::{
    InferTensorContents, ModelInferRequest, ModelMetadataResponse, model_infer_response::InferOutputTensor,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};
use tower::ServiceExt as _;

use super::*;
use crate::upstream::{Protocol, Server, scripted::*};

fn response(contents: Option<InferTensorContents>, raw: &[&'static [u8]]) -> ModelInferResponse {
    let output = InferOutputTensor {
        name: "y".into(),
        datatype: "FP32".into(),
        shape: vec![2, 1],
        contents,
        ..InferOutputTensor::default()
    };
    ModelInferResponse {
        model_name: "m".into(),
        outputs: vec![output],
        raw_output_contents: raw.iter().map(|raw| Bytes::from_static(raw)).collect(),
        ..ModelInferResponse::default()
    }
}

/// Two FP32 rows.
fn raw_response() -> ModelInferResponse {
    response(None, &[&[0, 0, 128, 63, 0, 0, 0, 64]])
}

/// A server that answers every call with `frame` and a status.
async fn saying(frame: Bytes, trailers: HeaderMap) -> Scripted {
    http2(move |request, respond| {
        let (frame, trailers) = (frame.clone(), trailers.clone());
        async move {
            grpc_message(request).await;
            grpc_answer(respond, frame, trailers);
        }
    })
    .await
}

async fn error_of(scripted: &Scripted) -> CallError {
    send_tensors(&scripted.upstream(Protocol::V2Grpc)).await.unwrap_err()
}

#[tokio::test]
async fn tensors_come_back_from_raw_and_from_typed_answers() {
    let typed = InferTensorContents { fp32_contents: vec![1.0, 2.0], ..InferTensorContents::default() };
    for answer in [raw_response(), response(Some(typed), &[])] {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&asked);
        let scripted = http2(move |request, respond| {
            let (record, answer) = (Arc::clone(&record), frame(&answer));
            async move {
                let headers = request.headers().clone();
                let path = request.uri().path().to_owned();
                let message = ModelInferRequest::decode(grpc_message(request).await).unwrap();
                record.lock().unwrap().push((path, headers, message));
                grpc_answer(respond, answer, grpc_status("0", ""));
            }
        })
        .await;
        let upstream = scripted.upstream(Protocol::V2Grpc);
        for _ in 0..10 {
            let outcome = send_tensors(&upstream).await.unwrap();
            assert_eq!(outcome.outputs[0].shape, [2, 1]);
            assert_eq!(outcome.outputs[0].data.as_ref(), [0, 0, 128, 63, 0, 0, 0, 64]);
        }
        assert_eq!(scripted.connections(), 1);
        let asked = asked.lock().unwrap();
        let (path, headers, message) = &asked[0];
        assert_eq!(path, "/inference.GRPCInferenceService/ModelInfer");
        assert_eq!(
            (headers["te"].as_bytes(), headers["x-request-id"].as_bytes()),
            (&b"trailers"[..], &b"r1"[..])
        );
        assert!(headers["grpc-timeout"].to_str().unwrap().ends_with('u'));
        assert_eq!(message.model_name, "m");
        assert_eq!(message.inputs[0].shape, [2, 1]);
    }
}

#[tokio::test]
async fn a_message_is_handed_on_as_it_came_however_large() {
    for size in [0, 1, 100_000, 3 << 20] {
        let scripted = http2(|request, respond| async move {
            let path = request.uri().path().to_owned();
            assert!(!request.headers().contains_key("grpc-encoding"));
            let message = grpc_message(request).await;
            let mut trailers = grpc_status("0", "");
            trailers.insert("x-path", HeaderValue::from_str(&path).unwrap());
            let echo = frame::encoded(message).unwrap().concat();
            grpc_answer(respond, echo.into(), trailers);
        })
        .await;
        let body = Bytes::from(vec![7; size]);
        let headers =
            &[("grpc-encoding", "gzip"), ("grpc-timeout", "1S"), ("content-type", "application/grpc+x")];
        let payload = opaque(Wire::Grpc, "/any.Service/Method", headers, body.clone());
        let reply = send_opaque(&scripted.upstream(Protocol::V2Grpc), payload).await.unwrap();
        assert_eq!(reply.status, 200);
        assert_eq!(reply.body, body);
        assert!(!reply.headers.contains_key("grpc-status"));
    }
}

#[tokio::test]
async fn statuses_are_read_from_trailers_and_from_answers_without_a_body() {
    let scripted = saying(Bytes::new(), grpc_status("3", "bad%20shape")).await;
    let refused = CallError::Refused { kind: Refusal::Invalid, message: "bad shape".into(), words: None };
    assert_eq!(error_of(&scripted).await, refused);

    let scripted = http2(|_, mut respond| async move {
        let mut head = grpc_head();
        head.headers_mut().extend(grpc_status("3", "bad%20shape"));
        respond.send_response(head, true).unwrap();
    })
    .await;
    assert_eq!(error_of(&scripted).await, refused);

    let scripted = saying(Bytes::new(), grpc_status("14", "full")).await;
    assert_eq!(error_of(&scripted).await, CallError::Busy { retry_after: None });
    let scripted = saying(Bytes::new(), grpc_status("13", "secret")).await;
    assert_eq!(error_of(&scripted).await, CallError::Failed);
}

#[tokio::test]
async fn an_http_status_stands_in_for_a_missing_one() {
    for (status, expected) in [(503, CallError::Busy { retry_after: None }), (500, CallError::Failed)] {
        let scripted = http2(move |_, mut respond| async move {
            let head = Response::builder().status(status).body(()).unwrap();
            respond.send_response(head, true).unwrap();
        })
        .await;
        assert_eq!(error_of(&scripted).await, expected);
    }
}

#[tokio::test]
async fn answers_against_the_protocol_mean_bad_response() {
    let good = frame(&raw_response());
    let ok = || grpc_status("0", "");
    let twice = [good.clone(), good.clone()].concat();
    for (name, frame, trailers) in [
        ("no message", Bytes::new(), ok()),
        ("cut message", good.slice(..7), ok()),
        ("two messages", twice.into(), ok()),
        ("compressed", Bytes::from_static(b"\x01\0\0\0\x01x"), ok()),
        ("no protobuf", Bytes::from_static(b"\0\0\0\0\x03\xff\xff\xff"), ok()),
        ("no tensor", frame(&response(None, &[])), ok()),
        ("no status", good.clone(), HeaderMap::new()),
        ("odd status", good, grpc_status("zero", "")),
    ] {
        let scripted = saying(frame, trailers).await;
        assert_eq!(error_of(&scripted).await, CallError::BadResponse, "{name}");
    }
    let scripted = http2(|_, mut respond| async move {
        respond.send_response(Response::new(()), false).unwrap().send_data("<html>".into(), true).unwrap();
    })
    .await;
    assert_eq!(error_of(&scripted).await, CallError::BadResponse, "not gRPC");
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_by_its_head_alone() {
    let (reset, mut was_reset) = mpsc::channel(1);
    let scripted = http2(move |request, mut respond| {
        let reset = reset.clone();
        async move {
            grpc_message(request).await;
            let mut stream = respond.send_response(grpc_head(), false).unwrap();
            stream.send_data(Bytes::from_static(b"\0\x7f\xff\xff\xff"), false).unwrap();
            let reason = std::future::poll_fn(|context| stream.poll_reset(context)).await.unwrap();
            reset.send(reason).await.unwrap();
        }
    })
    .await;
    let upstream = scripted.upstream(Protocol::V2Grpc);
    assert_eq!(send_tensors(&upstream).await.unwrap_err(), CallError::TooLarge { limit: 64 << 20 });
    assert_eq!(within(was_reset.recv()).await, Some(Reason::CANCEL));
}

#[tokio::test]
async fn resets_tell_whether_the_call_may_have_run() {
    for (reason, expected) in [
        (Reason::REFUSED_STREAM, CallError::NotSent),
        (Reason::CANCEL, CallError::Reset),
        (Reason::INTERNAL_ERROR, CallError::Reset),
    ] {
        let scripted = http2(move |_, mut respond| async move { respond.send_reset(reason) }).await;
        assert_eq!(error_of(&scripted).await, expected, "{reason}");
    }
}

#[tokio::test]
async fn a_stream_cut_in_its_body_means_reset() {
    let scripted = http2(|request, mut respond| async move {
        grpc_message(request).await;
        let mut stream = respond.send_response(grpc_head(), false).unwrap();
        stream.send_data(frame(&raw_response()).slice(..9), false).unwrap();
        stream.send_reset(Reason::INTERNAL_ERROR);
    })
    .await;
    assert_eq!(error_of(&scripted).await, CallError::Reset);
}

/// Reads frames until a call's head has come.
async fn until_called(stream: &mut TcpStream) {
    const HEADERS: u8 = 1;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == HEADERS {
            return;
        }
    }
}

/// A server that writes these bytes once it is called, and closes.
async fn writing(bytes: &'static [u8]) -> Scripted {
    listen(move |mut stream, _| async move {
        stream.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap(); // SETTINGS
        until_called(&mut stream).await;
        stream.write_all(bytes).await.unwrap();
        let _ = stream.shutdown().await;
        closed(&mut stream).await;
    })
    .await
}

#[tokio::test]
async fn a_goaway_tells_which_calls_did_not_run() {
    let none_ran = writing(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0").await;
    assert_eq!(error_of(&none_ran).await, CallError::NotSent);
    let it_may_have = writing(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0").await;
    assert_eq!(error_of(&it_may_have).await, CallError::Reset);
}

#[tokio::test]
async fn a_connection_that_breaks_or_talks_nonsense_means_reset() {
    for bytes in [b"".as_slice(), b"HTTP/1.1 400 Bad Request\r\n\r\n", &[0xff; 64]] {
        assert_eq!(error_of(&writing(bytes).await).await, CallError::Reset, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_connection_that_goes_away_is_replaced_before_the_next_call() {
    let scripted = listen(|stream, _| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
            connection.graceful_shutdown();
            tokio::spawn(async move {
                grpc_message(request).await;
                grpc_answer(respond, frame(&raw_response()), grpc_status("0", ""));
            });
        }
    })
    .await;
    let upstream = scripted.upstream(Protocol::V2Grpc);
    for _ in 0..10 {
        send_tensors(&upstream).await.unwrap();
    }
    assert!(scripted.connections() > 1);
}

#[tokio::test]
async fn nobody_listening_means_not_sent_to_all_who_wait() {
    let server = Arc::new(Server::new(nobody().await, &Config::new(Protocol::V2Grpc, "m".into())));
    let upstream = server.upstream();
    let (a, b) = tokio::join!(send_tensors(&upstream), send_tensors(&upstream));
    assert_eq!((a.unwrap_err(), b.unwrap_err()), (CallError::NotSent, CallError::NotSent));
}

#[tokio::test]
async fn calls_at_the_same_time_share_one_connection_within_its_stream_limit() {
    let scripted = listen(|stream, _| async move {
        let mut connection =
            h2::server::Builder::new().max_concurrent_streams(2).handshake::<_, Bytes>(stream).await.unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(async move {
                grpc_message(request).await;
                grpc_answer(respond, frame(&raw_response()), grpc_status("0", ""));
            });
        }
    })
    .await;
    let upstream = scripted.upstream(Protocol::V2Grpc);
    send_tensors(&upstream).await.unwrap();
    let calls = (0..50).map(|_| send_tensors(&upstream));
    for outcome in futures_util::future::join_all(calls).await {
        outcome.unwrap();
    }
    assert_eq!(scripted.connections(), 1);
}

#[tokio::test]
async fn several_connections_are_used_in_turn_if_configured() {
    let scripted = saying(frame(&raw_response()), grpc_status("0", "")).await;
    let config = Config { http2_connections: 3, ..Config::new(Protocol::V2Grpc, "m".into()) };
    let upstream = Arc::new(Server::new(scripted.address, &config)).upstream();
    for _ in 0..9 {
        send_tensors(&upstream).await.unwrap();
    }
    assert_eq!(scripted.connections(), 3);
}

#[tokio::test]
async fn dropping_a_call_and_its_deadline_reset_the_stream_and_keep_the_connection() {
    let (saw, mut seen) = mpsc::channel(4);
    let scripted = http2(move |request, mut respond| {
        let saw = saw.clone();
        async move {
            grpc_message(request).await;
            saw.send(None).await.unwrap();
            let reason = std::future::poll_fn(|context| respond.poll_reset(context)).await.unwrap();
            saw.send(Some(reason)).await.unwrap();
        }
    })
    .await;
    let upstream = scripted.upstream(Protocol::V2Grpc);
    let running = tokio::spawn(upstream.clone().oneshot(call(tensors())));
    assert_eq!(within(seen.recv()).await, Some(None));
    running.abort();
    assert_eq!(within(seen.recv()).await, Some(Some(Reason::CANCEL)));

    let mut late = call(tensors());
    late.deadline = Instant::now() + Duration::from_millis(50);
    assert_eq!(within(upstream.clone().oneshot(late)).await.unwrap_err(), CallError::Deadline);
    assert_eq!(within(seen.recv()).await, Some(None));
    assert_eq!(within(seen.recv()).await, Some(Some(Reason::CANCEL)));
    assert_eq!(scripted.connections(), 1);
}

#[tokio::test]
async fn the_model_is_described_by_its_server() {
    use proto::inference::model_metadata_response::TensorMetadata;
    let scripted = http2(|request, respond| async move {
        let metadata = request.uri().path().ends_with("/ModelMetadata");
        grpc_message(request).await;
        let tensor = TensorMetadata { name: "x".into(), datatype: "FP32".into(), shape: vec![-1, 4] };
        let model = ModelMetadataResponse {
            name: "m".into(),
            platform: "p".into(),
            inputs: vec![tensor.clone()],
            outputs: vec![tensor],
            ..ModelMetadataResponse::default()
        };
        if metadata {
            grpc_answer(respond, frame(&model), grpc_status("0", ""));
        } else {
            grpc_answer(respond, Bytes::new(), grpc_status("12", "no such method"));
        }
    })
    .await;
    let description = within(scripted.server(Protocol::V2Grpc).describe()).await.unwrap();
    assert_eq!(description.model.platform, "p");
    assert!(description.model.has_batch_dimension());
    assert!(description.extensions.is_empty());
}
