//! A model server without a model: fixed answers as fast as possible, over HTTP/1.1 and h2c, JSON, gRPC and chat.
//!
//! It stands behind the proxies that are compared, so that the time of a call is the proxy's. With a latency per
//! call and per row and a limit of concurrent calls it is a server of known capacity.

mod chat;

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::WithTrailers};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use prost::Message as _;
use proto::inference::{
    ModelInferRequest, ModelInferResponse, ModelMetadataResponse, ModelReadyResponse, ServerLiveResponse,
    ServerReadyResponse, model_infer_response::InferOutputTensor, model_metadata_response::TensorMetadata,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};

use crate::message::{framed, unframed};

/// Values of one row of the only input and of the only output.
const INPUT_VALUES: i64 = 64;
const OUTPUT_VALUES: u64 = 10;

/// Rows of an answer; a request for more is told that it is too large.
const ROWS_MAX: u64 = 4096;

/// Bytes of a request body.
const BODY_MAX: usize = 64 << 20;

const SERVICE: &str = "/inference.GRPCInferenceService/";

/// A pause after an accept that failed, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Answer = Response<WithTrailers<Full<Bytes>, std::future::Ready<Option<Result<HeaderMap, Infallible>>>>>;

/// How the server behaves.
#[derive(Debug)]
pub(crate) struct Behaviour {
    pub(crate) latency: Duration,
    pub(crate) latency_per_row: Duration,
    /// Calls worked on at once; others wait in order of arrival.
    pub(crate) slots: Option<Semaphore>,
    pub(crate) replies: Replies,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replies {
    Fixed,
    /// HTTP bodies come back as they were sent.
    Echo,
}

/// Serves until the task is dropped.
pub(crate) async fn serve(listener: TcpListener, behaviour: Behaviour) -> io::Result<()> {
    let behaviour = Arc::new(behaviour);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, Arc::clone(&behaviour)));
            }
            // Out of descriptors, or the peer was gone already: neither is the end of the server.
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection(stream: TcpStream, behaviour: Arc<Behaviour>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(move |request| {
        let behaviour = Arc::clone(&behaviour);
        async move { Ok::<_, Infallible>(behaviour.answer(request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(10_000);
    builder.http2().initial_stream_window_size(1 << 20).initial_connection_window_size(16 << 20);
    // How a connection ends is the client's affair; every call on it was answered or given up by the client.
    _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

impl Behaviour {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let Some(body) = read(body).await else { return plain(StatusCode::PAYLOAD_TOO_LARGE, Bytes::new()) };
        let path = head.uri.path();
        if let Some(method) = path.strip_prefix(SERVICE) {
            return self.grpc(method, &body).await;
        }
        if head.method == Method::GET {
            return json(StatusCode::OK, metadata_json(path));
        }
        if path == chat::PATH {
            self.work(1).await;
            return completion(&body);
        }
        let rows = if path.ends_with(":predict") { 1 } else { rows_in_json(&body) };
        if rows > ROWS_MAX {
            return json(StatusCode::PAYLOAD_TOO_LARGE, Bytes::from_static(br#"{"error":"too many rows"}"#));
        }
        self.work(rows).await;
        match self.replies {
            Replies::Echo => echo(head.headers, body),
            Replies::Fixed => json(StatusCode::OK, infer_json(path, rows)),
        }
    }

    async fn grpc(&self, method: &str, body: &Bytes) -> Answer {
        match method {
            "ServerLive" => grpc_ok(&ServerLiveResponse { live: true }),
            "ServerReady" => grpc_ok(&ServerReadyResponse { ready: true }),
            "ModelReady" => grpc_ok(&ModelReadyResponse { ready: true }),
            "ModelMetadata" => grpc_ok(&metadata_grpc(body)),
            "ModelInfer" => {
                let Some(request) =
                    unframed(body).and_then(|message| ModelInferRequest::decode(message).ok())
                else {
                    return grpc_status("3");
                };
                let rows = request.inputs.first().and_then(|input| input.shape.first().copied()).unwrap_or(1);
                let rows = u64::try_from(rows).unwrap_or(1);
                if rows > ROWS_MAX {
                    return grpc_status("8");
                }
                self.work(rows).await;
                grpc_ok(&infer_grpc(request, rows))
            }
            _ => grpc_status("12"),
        }
    }

    /// Takes as long as a call with so many rows takes.
    async fn work(&self, rows: u64) {
        let _slot = match &self.slots {
            Some(slots) => Some(slots.acquire().await.expect("the semaphore is never closed")),
            None => None,
        };
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let time = self.latency + self.latency_per_row.saturating_mul(rows);
        if !time.is_zero() {
            sleep(time).await;
        }
    }
}

/// The whole body; `None` if it is too large or breaks off.
async fn read(mut body: Incoming) -> Option<Bytes> {
    let first = next_data(&mut body).await?;
    let Some(second) = next_data(&mut body).await?.filter(|data| !data.is_empty()) else {
        return Some(first.unwrap_or_default());
    };
    let mut whole = Vec::from(first.unwrap_or_default());
    whole.extend_from_slice(&second);
    while let Some(data) = next_data(&mut body).await? {
        whole.extend_from_slice(&data);
        if whole.len() > BODY_MAX {
            return None;
        }
    }
    Some(whole.into())
}

/// `None` for an error, `Some(None)` at the end.
async fn next_data(body: &mut Incoming) -> Option<Option<Bytes>> {
    match body.frame().await {
        None => Some(None),
        Some(Ok(frame)) => Some(Some(frame.into_data().unwrap_or_default())),
        Some(Err(_)) => None,
    }
}

/// The first dimension of the first shape in a V2 body, without parsing the rest of it; 1 if there is none.
fn rows_in_json(body: &[u8]) -> u64 {
    const KEY: &[u8] = b"\"shape\"";
    let Some(at) = body.windows(KEY.len()).position(|window| window == KEY) else { return 1 };
    let after = body.iter().skip(at + KEY.len());
    let digits =
        after.skip_while(|byte| b" \t\r\n:[".contains(byte)).take_while(|byte| byte.is_ascii_digit()).take(9);
    let rows =
        digits.fold(None, |rows: Option<u64>, digit| Some(rows.unwrap_or(0) * 10 + u64::from(digit - b'0')));
    rows.unwrap_or(1)
}

fn model_name(path: &str) -> &str {
    let name = path.split('/').nth(3).unwrap_or("model");
    name.strip_suffix(":predict").unwrap_or(name)
}

fn infer_json(path: &str, rows: u64) -> Bytes {
    let name = model_name(path);
    let count = usize::try_from(rows * OUTPUT_VALUES).unwrap_or_default();
    let values = vec!["0.1"; count].join(",");
    if path.ends_with(":predict") {
        return format!("{{\"predictions\":[[{values}]]}}").into();
    }
    format!(
        "{{\"model_name\":\"{name}\",\"model_version\":\"1\",\"outputs\":[{{\"name\":\"y\",\"datatype\":\"FP32\",\
         \"shape\":[{rows},{OUTPUT_VALUES}],\"data\":[{values}]}}]}}"
    )
    .into()
}

/// Answers every GET: health, readiness and metadata alike.
fn metadata_json(path: &str) -> Bytes {
    let name = model_name(path);
    format!(
        "{{\"name\":\"{name}\",\"ready\":true,\"live\":true,\"versions\":[\"1\"],\"platform\":\"fixed\",\
         \"inputs\":[{{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[-1,{INPUT_VALUES}]}}],\
         \"outputs\":[{{\"name\":\"y\",\"datatype\":\"FP32\",\"shape\":[-1,{OUTPUT_VALUES}]}}]}}"
    )
    .into()
}

fn metadata_grpc(body: &Bytes) -> ModelMetadataResponse {
    let request =
        unframed(body).and_then(|message| proto::inference::ModelMetadataRequest::decode(message).ok());
    let tensor = |name: &str, values| TensorMetadata {
        name: name.to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![-1, values],
    };
    ModelMetadataResponse {
        name: request.unwrap_or_default().name,
        versions: vec!["1".to_owned()],
        platform: "fixed".to_owned(),
        inputs: vec![tensor("x", INPUT_VALUES)],
        outputs: vec![tensor("y", OUTPUT_VALUES.cast_signed())],
    }
}

fn infer_grpc(request: ModelInferRequest, rows: u64) -> ModelInferResponse {
    let count = usize::try_from(rows * OUTPUT_VALUES).unwrap_or_default();
    let output = InferOutputTensor {
        name: "y".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![rows.cast_signed(), OUTPUT_VALUES.cast_signed()],
        ..Default::default()
    };
    ModelInferResponse {
        model_name: request.model_name,
        model_version: "1".to_owned(),
        id: request.id,
        outputs: vec![output],
        raw_output_contents: vec![0.1f32.to_le_bytes().repeat(count).into()],
        ..Default::default()
    }
}

fn plain(status: StatusCode, body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body).with_trailers(std::future::ready(None)));
    *response.status_mut() = status;
    response
}

fn json(status: StatusCode, body: Bytes) -> Answer {
    let mut response = plain(status, body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn completion(request: &[u8]) -> Answer {
    let Some((content_type, body)) = chat::answer(request) else {
        return json(StatusCode::BAD_REQUEST, Bytes::from_static(br#"{"error":{"message":"no request"}}"#));
    };
    let mut response = plain(StatusCode::OK, body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The body as it came, with the headers that describe it.
fn echo(request: HeaderMap, body: Bytes) -> Answer {
    let mut response = plain(StatusCode::OK, body);
    for name in ["content-type", "inference-header-content-length"] {
        if let Some(value) = request.get(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

fn grpc_ok(message: &impl prost::Message) -> Answer {
    let trailers = HeaderMap::from_iter([(
        header::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let body = Full::new(framed(message)).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A refusal: the status stands in the head, there is no body.
fn grpc_status(code: &'static str) -> Answer {
    let mut response = plain(StatusCode::OK, Bytes::new());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("grpc-status", HeaderValue::from_static(code));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_without_parsing() {
        for (body, rows) in [
            (r#"{"inputs":[{"name":"x","shape":[32,64],"data":[]}]}"#, 32),
            (r#"{"inputs": [{"shape" : [ 7 , 64 ]}]}"#, 7),
            (r#"{"inputs":[{"shape":[]}]}"#, 1),
            (r#"{"instances":[[1,2]]}"#, 1),
        ] {
            assert_eq!(rows_in_json(body.as_bytes()), rows, "{body}");
        }
    }

    #[test]
    fn an_answer_has_as_many_rows_as_its_request() {
        let answer: serde_json::Value = serde_json::from_slice(&infer_json("/v2/models/m/infer", 3)).unwrap();
        assert_eq!(answer["model_name"], "m");
        assert_eq!(answer["outputs"][0]["shape"], serde_json::json!([3, 10]));
        assert_eq!(answer["outputs"][0]["data"].as_array().unwrap().len(), 30);
    }

    #[test]
    fn metadata_is_for_the_model_in_the_path() {
        let metadata: serde_json::Value =
            serde_json::from_slice(&metadata_json("/v2/models/digits/ready")).unwrap();
        assert_eq!(metadata["name"], "digits");
    }
}
