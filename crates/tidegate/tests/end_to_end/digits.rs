//! The held-out digits, and every way a client may ask for their classes.

use std::{
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use proto::inference::{
    InferTensorContents, ModelInferRequest, ModelInferResponse,
    grpc_inference_service_client::GrpcInferenceServiceClient,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::{
    client::{Http, Reply, request},
    process::repository,
};

/// One row in V2 JSON.
pub(crate) const ONE: &str = include_str!("../../../../examples/requests/digits-v2.json");
pub(crate) const INFER: &str = "/v2/models/digits/infer";

/// One held-out digit and the class that the model gives it when it is run directly.
#[derive(Debug)]
pub(crate) struct Digit {
    pub(crate) pixels: Vec<f32>,
    pub(crate) class: i64,
}

pub(crate) static HELD_OUT: LazyLock<Vec<Digit>> = LazyLock::new(|| {
    let text = std::fs::read(format!("{}/examples/digits-heldout.json", repository())).unwrap();
    let file: Value = serde_json::from_slice(&text).unwrap();
    let digit = |sample: &Value| Digit {
        pixels: sample["pixels"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap() as f32).collect(),
        class: sample["predicted"].as_i64().unwrap(),
    };
    file["samples"].as_array().unwrap().iter().map(digit).collect()
});

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    V1,
    V2Json,
    /// Tensors in binary, there and back.
    V2Binary,
    GrpcRaw,
    GrpcTyped,
}

impl Way {
    pub(crate) const ALL: [Self; 5] =
        [Self::V1, Self::V2Json, Self::V2Binary, Self::GrpcRaw, Self::GrpcTyped];
}

/// A client with a connection of its own.
#[derive(Debug)]
pub(crate) enum Caller {
    Http(Way, Http),
    Grpc(Way, GrpcInferenceServiceClient<Channel>),
}

impl Caller {
    pub(crate) async fn connect(way: Way, address: SocketAddr) -> Self {
        match way {
            Way::V1 | Way::V2Json | Way::V2Binary => Self::Http(way, Http::connect(address).await),
            Way::GrpcRaw | Way::GrpcTyped => {
                let client = GrpcInferenceServiceClient::connect(format!("http://{address}"));
                Self::Grpc(way, client.await.unwrap())
            }
        }
    }

    /// The class of one image.
    ///
    /// # Errors
    /// What the client saw instead of an answer.
    pub(crate) async fn class(&mut self, pixels: &[f32]) -> Result<i64, String> {
        match self {
            Self::Http(way, http) => {
                let reply = http.call(http_request(*way, pixels)).await.map_err(|error| error.to_string())?;
                if reply.status != 200 {
                    return Err(format!("{} {}", reply.status, reply.text()));
                }
                Ok(http_class(*way, &reply))
            }
            Self::Grpc(way, client) => {
                let reply = client.model_infer(grpc_request(*way, pixels)).await;
                Ok(grpc_class(*way, &reply.map_err(|status| status.to_string())?.into_inner()))
            }
        }
    }
}

fn http_request(way: Way, pixels: &[f32]) -> http::Request<http_body_util::Full<Bytes>> {
    let json_header = ("content-type", "application/json");
    match way {
        Way::V1 => {
            let body = json!({ "instances": [pixels] }).to_string();
            request("POST", "/v1/models/digits:predict", &[json_header], body)
        }
        Way::V2Binary => {
            let header = json!({
                "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64],
                    "parameters": {"binary_data_size": 256}}],
                "outputs": [{"name": "class", "parameters": {"binary_data": true}}],
            })
            .to_string();
            let length = header.len().to_string();
            let headers =
                [("content-type", "application/octet-stream"), ("inference-header-content-length", &*length)];
            request("POST", INFER, &headers, [header.into_bytes(), little_endian(pixels)].concat())
        }
        _ => request("POST", INFER, &[json_header], v2_json(pixels)),
    }
}

pub(crate) fn v2_json(pixels: &[f32]) -> String {
    json!({ "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": pixels}] })
        .to_string()
}

fn http_class(way: Way, reply: &Reply) -> i64 {
    match way {
        Way::V1 => reply.json()["predictions"][0]["class"].as_i64().unwrap(),
        Way::V2Binary => {
            let length: usize = reply.header("inference-header-content-length").parse().unwrap();
            i64::from_le_bytes(reply.body[length..].try_into().unwrap())
        }
        _ => {
            let outputs = reply.json()["outputs"].take();
            let class = outputs.as_array().unwrap().iter().find(|output| output["name"] == "class");
            class.unwrap()["data"][0].as_i64().unwrap()
        }
    }
}

fn grpc_request(way: Way, pixels: &[f32]) -> ModelInferRequest {
    let typed = way == Way::GrpcTyped;
    let contents =
        typed.then(|| InferTensorContents { fp32_contents: pixels.to_vec(), ..Default::default() });
    let input = InferInputTensor {
        name: "pixels".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![1, 64],
        contents,
        ..Default::default()
    };
    let output = InferRequestedOutputTensor { name: "class".to_owned(), ..Default::default() };
    ModelInferRequest {
        model_name: "digits".to_owned(),
        inputs: vec![input],
        outputs: vec![output],
        raw_input_contents: if typed { Vec::new() } else { vec![little_endian(pixels).into()] },
        ..Default::default()
    }
}

fn grpc_class(way: Way, reply: &ModelInferResponse) -> i64 {
    assert_eq!(reply.outputs.len(), 1, "only one output was asked for");
    if way == Way::GrpcTyped {
        return reply.outputs[0].contents.as_ref().unwrap().int64_contents[0];
    }
    i64::from_le_bytes(reply.raw_output_contents[0].as_ref().try_into().unwrap())
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Asks for the class of every held-out digit with so many clients at a time, and holds each answer against its
/// own image.
pub(crate) async fn classify_all(way: Way, address: SocketAddr, clients: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..clients {
        let next = Arc::clone(&next);
        callers.spawn(async move {
            let mut caller = Caller::connect(way, address).await;
            let mut wrong = Vec::new();
            while let Some(digit) = HELD_OUT.get(next.fetch_add(1, Ordering::Relaxed)) {
                let class = caller.class(&digit.pixels).await;
                if class != Ok(digit.class) {
                    wrong.push((digit.class, class));
                }
            }
            wrong
        });
    }
    let wrong = callers.join_all().await.concat();
    assert_eq!(wrong, [], "{way:?}: classes that are not the model's own");
}

/// Clients that ask in turns of all ways until they are told to stop.
#[derive(Debug)]
pub(crate) struct Load {
    callers: JoinSet<(usize, Vec<String>)>,
    stop: tokio_util::sync::CancellationToken,
}

impl Load {
    pub(crate) fn start(address: SocketAddr, clients: usize, pause: std::time::Duration) -> Self {
        let stop = tokio_util::sync::CancellationToken::new();
        let mut callers = JoinSet::new();
        for client in 0..clients {
            let stop = stop.clone();
            callers.spawn(async move {
                let mut caller = Caller::connect(Way::ALL[client % Way::ALL.len()], address).await;
                let (mut answers, mut wrong) = (0, Vec::new());
                for digit in HELD_OUT.iter().cycle().skip(client * 7) {
                    match caller.class(&digit.pixels).await {
                        Ok(class) if class == digit.class => answers += 1,
                        other => wrong.push(format!("{other:?} for a {}", digit.class)),
                    }
                    if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        break;
                    }
                }
                (answers, wrong)
            });
        }
        Self { callers, stop }
    }

    /// Ends it: how many right answers there were, and everything else that came back.
    pub(crate) async fn stop(self) -> (usize, Vec<String>) {
        self.stop.cancel();
        let (answers, wrong): (Vec<_>, Vec<_>) = self.callers.join_all().await.into_iter().unzip();
        (answers.into_iter().sum(), wrong.concat())
    }
}
