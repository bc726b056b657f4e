//! A running server, and callers of it.

use std::{net::SocketAddr, path::PathBuf};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use model_server::{DrainError, Model, Options, Server};
use proto::inference::{
    InferTensorContents, ModelInferRequest, grpc_inference_service_client::GrpcInferenceServiceClient,
    model_infer_request::InferInputTensor,
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

pub(crate) fn examples() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// One held-out digit and the class the model gave it when it was trained.
pub(crate) struct Example {
    pub(crate) pixels: Vec<f32>,
    pub(crate) predicted: i64,
}

pub(crate) fn held_out() -> Vec<Example> {
    let text = std::fs::read(examples().join("digits-heldout.json")).unwrap();
    let file: Value = serde_json::from_slice(&text).unwrap();
    let example = |value: &Value| Example {
        pixels: value["pixels"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap() as f32).collect(),
        predicted: value["predicted"].as_i64().unwrap(),
    };
    file["samples"].as_array().unwrap().iter().map(example).collect()
}

/// A server of both example models.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    task: JoinHandle<Result<(), DrainError>>,
}

impl Running {
    pub(crate) async fn stop(self) -> Result<(), DrainError> {
        self.shutdown.cancel();
        self.task.await.unwrap()
    }
}

pub(crate) async fn start(options: Options) -> Running {
    let models = ["digits", "mixed"]
        .map(|name| Model::from_path(name, &examples().join("models").join(format!("{name}.onnx"))).unwrap());
    let server = Server::bind(models.into(), options).await.unwrap();
    let (address, shutdown) = (server.address(), CancellationToken::new());
    let task = tokio::spawn(server.run(shutdown.clone()));
    Running { address, shutdown, task }
}

pub(crate) async fn grpc(address: SocketAddr) -> GrpcInferenceServiceClient<Channel> {
    GrpcInferenceServiceClient::connect(format!("http://{address}")).await.unwrap()
}

/// A keep-alive HTTP/1.1 connection.
pub(crate) struct Rest {
    sender: http1::SendRequest<Full<Bytes>>,
}

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Rest {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    pub(crate) async fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, String)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        self.sender.ready().await.unwrap();
        let request = request.body(Full::new(body.into())).unwrap();
        let (head, body) = self.sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: head.status, headers: head.headers, body }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        self.call("GET", path, &[], Bytes::new()).await
    }

    pub(crate) async fn post(
        &mut self,
        path: &str,
        headers: &[(&str, String)],
        body: impl Into<Bytes>,
    ) -> Reply {
        self.call("POST", path, headers, body).await
    }

    /// Sends pixels in binary and asks for the classes in binary.
    pub(crate) async fn binary_digits(&mut self, rows: i64, pixels: &[f32]) -> Reply {
        let header = json!({
            "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [rows, 64],
                "parameters": {"binary_data_size": pixels.len() * 4}}],
            "outputs": [{"name": "class", "parameters": {"binary_data": true}}],
        })
        .to_string();
        let headers = [("inference-header-content-length", header.len().to_string())];
        let mut body = header.into_bytes();
        body.extend(pixels.iter().flat_map(|value| value.to_le_bytes()));
        let reply = self.post("/v2/models/digits/infer", &headers, body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        reply
    }
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// What follows the JSON part.
    pub(crate) fn binary(&self) -> Bytes {
        let length = self.headers["inference-header-content-length"].to_str().unwrap();
        self.body.slice(length.parse::<usize>().unwrap()..)
    }
}

pub(crate) fn int64s(data: &[u8]) -> Vec<i64> {
    data.chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// An input in both forms a gRPC call may have it in.
pub(crate) struct Input {
    tensor: InferInputTensor,
    contents: InferTensorContents,
    raw: Vec<u8>,
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        ..Default::default()
    }
}

pub(crate) fn fp32(name: &str, shape: &[i64], values: &[f32]) -> Input {
    Input {
        tensor: input(name, "FP32", shape),
        contents: InferTensorContents { fp32_contents: values.to_vec(), ..Default::default() },
        raw: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

pub(crate) fn int64(name: &str, shape: &[i64], values: &[i64]) -> Input {
    Input {
        tensor: input(name, "INT64", shape),
        contents: InferTensorContents { int64_contents: values.to_vec(), ..Default::default() },
        raw: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

/// A call with `raw_input_contents`.
pub(crate) fn raw(model: &str, inputs: Vec<Input>) -> ModelInferRequest {
    let (tensors, raw) = inputs.into_iter().map(|input| (input.tensor, Bytes::from(input.raw))).unzip();
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: tensors,
        raw_input_contents: raw,
        ..Default::default()
    }
}

/// A call with typed contents.
pub(crate) fn typed(model: &str, inputs: Vec<Input>) -> ModelInferRequest {
    let tensor = |input: Input| InferInputTensor { contents: Some(input.contents), ..input.tensor };
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: inputs.into_iter().map(tensor).collect(),
        ..Default::default()
    }
}
