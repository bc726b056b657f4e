//! Engines that answer in pieces, and embeddings as rows.

use convert::openai::embeddings::{decode, encode_response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::ServiceExt as _;

use super::*;

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

fn streamed(path: &'static str) -> Payload {
    let Payload::Opaque(opaque) = opaque(Wire::Http, path, &[], Bytes::from_static(b"{}")) else {
        panic!("a body is opaque")
    };
    Payload::Opaque(Opaque { streamed: true, ..opaque })
}

async fn open(upstream: &pipeline::replica::Upstream) -> Result<StreamReply, CallError> {
    match upstream.clone().oneshot(call(streamed("/v1/chat/completions"))).await? {
        Reply::Stream(reply) => Ok(reply),
        other => panic!("no stream: {other:?}"),
    }
}

async fn pieces(reply: StreamReply) -> Vec<Result<Bytes, CallError>> {
    let first = futures_util::stream::iter([Ok(reply.first)]);
    first.chain(reply.rest).collect().await
}

#[tokio::test]
async fn pieces_come_as_they_were_written_and_the_connection_is_used_again() {
    let scripted = http1(|_| format!("{HEAD}3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")).await;
    let upstream = scripted.upstream(Protocol::OpenAi);
    for _ in 0..3 {
        let pieces = pieces(open(&upstream).await.unwrap()).await;
        assert_eq!(pieces, [Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"de"))]);
    }
    assert_eq!(scripted.connections(), 1);
}

#[tokio::test]
async fn an_answer_without_a_first_piece_never_began() {
    let scripted = http1(|_| format!("{HEAD}0\r\n\r\n")).await;
    let error = open(&scripted.upstream(Protocol::OpenAi)).await.unwrap_err();
    assert_eq!(error, CallError::Reset);
    let broken = listen(|mut stream, _| async move {
        receive(&mut stream).await;
        stream.write_all(format!("{HEAD}3\r\nabc\r\n2\r\nd").as_bytes()).await.unwrap();
    })
    .await;
    let pieces = pieces(open(&broken.upstream(Protocol::OpenAi)).await.unwrap()).await;
    assert_eq!(pieces.first(), Some(&Ok(Bytes::from_static(b"abc"))));
    assert_eq!(pieces.last(), Some(&Err(CallError::Reset)));
}

#[tokio::test]
async fn dropping_an_answer_closes_its_connection() {
    let (told, mut closed) = tokio::sync::mpsc::channel(1);
    let scripted = listen(move |mut stream, _| {
        let told = told.clone();
        async move {
            receive(&mut stream).await;
            stream.write_all(format!("{HEAD}3\r\nabc\r\n").as_bytes()).await.unwrap();
            let end = stream.read(&mut [0; 8]).await;
            told.send(matches!(end, Ok(0) | Err(_))).await.unwrap();
        }
    })
    .await;
    drop(open(&scripted.upstream(Protocol::OpenAi)).await.unwrap());
    assert_eq!(closed.recv().await, Some(true));
}

#[tokio::test]
async fn refusals_and_whole_answers_of_a_streamed_call_are_what_they_are() {
    for (answer, expected) in [
        (http1_answer(400, "", r#"{"error":{"message":"no"}}"#), Err("no")),
        (http1_answer(200, "content-type: application/json\r\n", "{}"), Ok("{}")),
    ] {
        let scripted = http1(move |_| answer.clone()).await;
        let upstream = scripted.upstream(Protocol::OpenAi);
        let reply = upstream.oneshot(call(streamed("/v1/completions"))).await;
        match (reply, expected) {
            (Ok(Reply::Opaque(reply)), Ok(body)) => assert_eq!(reply.body, body),
            (Err(error), Err(sentence)) => assert_eq!(error.to_string(), sentence),
            (reply, _) => panic!("{reply:?}"),
        }
    }
}

#[tokio::test]
async fn rows_go_out_as_one_request_for_embeddings() {
    let answer =
        r#"{"data":[{"index":1,"embedding":[2]},{"index":0,"embedding":[1]}],"usage":{"prompt_tokens":2}}"#;
    let (scripted, asked) = recording(http1_answer(200, "", answer)).await;
    let body = Bytes::from_static(br#"{"model":"m","input":["a","b"],"dimensions":1}"#);
    let inference = decode(&body).unwrap().to_inference(Some("Bearer k"));
    let reply = scripted.upstream(Protocol::OpenAi).oneshot(call(Payload::Tensors(inference))).await.unwrap();
    let Reply::Tensors(outcome) = reply else { panic!("rows come back as rows") };
    let joined: serde_json::Value = serde_json::from_slice(&encode_response(&outcome).unwrap()).unwrap();
    assert_eq!(joined["data"][0]["embedding"], serde_json::json!([1]));
    let asked = asked.lock().unwrap();
    assert_eq!(asked[0].line, "POST /v1/embeddings HTTP/1.1");
    assert_eq!(asked[0].headers["authorization"], "Bearer k");
    let sent: serde_json::Value = serde_json::from_slice(&asked[0].body).unwrap();
    assert_eq!(sent, serde_json::json!({"input": ["a", "b"], "model": "m", "dimensions": 1}));
}

#[tokio::test]
async fn tensors_of_another_protocol_are_refused() {
    let (scripted, _) = recording(http1_answer(200, "", "{}")).await;
    let refused = scripted.upstream(Protocol::OpenAi).oneshot(call(tensors())).await.unwrap_err();
    assert!(refused.to_string().contains("OpenAI protocol only"), "{refused}");
}
