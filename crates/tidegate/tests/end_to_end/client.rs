//! HTTP and gRPC clients on connections of their own, and a crowd of them.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinSet};

/// A keep-alive HTTP/1.1 connection.
#[derive(Debug)]
pub(crate) struct Http {
    sender: http1::SendRequest<Full<Bytes>>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Http {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    /// # Errors
    /// The connection ends without an answer.
    pub(crate) async fn call(&mut self, request: Request<Full<Bytes>>) -> Result<Reply, hyper::Error> {
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        Ok(Reply { status: head.status, headers: head.headers, body: body.collect().await?.to_bytes() })
    }

    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        self.call(request("GET", path, &[], Bytes::new())).await.unwrap()
    }

    pub(crate) async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Reply {
        self.call(request("POST", path, &[], body)).await.unwrap()
    }
}

pub(crate) fn request(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).unwrap()
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn reason(&self) -> &str {
        self.header("x-tidegate-reason")
    }
}

/// Sends `count` equal calls at once over a few HTTP/2 connections; how often each status and reason came back.
pub(crate) async fn burst(
    address: SocketAddr,
    count: usize,
    path: &str,
    body: &'static str,
) -> BTreeMap<(u16, String), usize> {
    const STREAMS: usize = 200;
    let mut calls = JoinSet::new();
    for _ in 0..count.div_ceil(STREAMS) {
        let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..STREAMS.min(count - calls.len()) {
            let mut sender = sender.clone();
            let request =
                Request::post(format!("http://{address}{path}")).body(Full::<Bytes>::from(body)).unwrap();
            calls.spawn(async move {
                let response = sender.send_request(request).await.unwrap();
                let reason = response.headers().get("x-tidegate-reason");
                let reason = reason.map_or(String::new(), |reason| reason.to_str().unwrap().to_owned());
                let status = response.status().as_u16();
                // An answer counts when it is whole.
                response.into_body().collect().await.unwrap();
                (status, reason)
            });
        }
    }
    let mut outcomes = BTreeMap::new();
    while let Some(outcome) = calls.join_next().await {
        *outcomes.entry(outcome.unwrap()).or_default() += 1;
    }
    outcomes
}
