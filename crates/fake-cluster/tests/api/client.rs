//! A client of a few lines: no retries, no cache, JSON in and out.

use std::{collections::VecDeque, io};

use bytes::Bytes;
use fake_cluster::{ApiService, Body, Cluster};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower::ServiceExt;

#[derive(Clone)]
pub(crate) struct Client {
    service: ApiService,
    pub(crate) accept: &'static str,
    pub(crate) token: Option<&'static str>,
}

impl Client {
    pub(crate) fn of(cluster: &Cluster) -> Self {
        Self::through(cluster.service())
    }

    pub(crate) fn through(service: ApiService) -> Self {
        Self { service, accept: "application/json", token: None }
    }

    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        typed: (&str, Bytes),
    ) -> io::Result<Response<Body>> {
        let (content_type, body) = typed;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("user-agent", "probe/1.0")
            .header("accept", self.accept)
            .header("content-type", content_type);
        if let Some(token) = self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.service.clone().oneshot(request.body(Full::new(body)).unwrap()).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        typed: (&str, &Value),
    ) -> io::Result<(u16, Value)> {
        let (content_type, body) = typed;
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let response = self.open(method, path, (content_type, body)).await?;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await?.to_bytes();
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok((code, value))
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.send(Method::GET, path, ("", &Value::Null)).await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(Method::POST, path, ("application/json", body)).await.unwrap()
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(Method::PUT, path, ("application/json", body)).await.unwrap()
    }

    pub(crate) async fn delete(&self, path: &str) -> (u16, Value) {
        self.send(Method::DELETE, path, ("", &Value::Null)).await.unwrap()
    }

    pub(crate) async fn patch(&self, kind: &str, path: &str, body: &Value) -> (u16, Value) {
        let content_type = match kind {
            "apply" => "application/apply-patch+yaml".to_owned(),
            other => format!("application/{other}+json"),
        };
        self.send(Method::PATCH, path, (&content_type, body)).await.unwrap()
    }

    pub(crate) async fn merge(&self, path: &str, body: &Value) -> (u16, Value) {
        self.patch("merge-patch", path, body).await
    }

    pub(crate) async fn watch(&self, path: &str) -> Events {
        let response = self.open(Method::GET, path, ("", Bytes::new())).await.unwrap();
        assert_eq!(response.status(), 200);
        Events { body: response.into_body(), ready: VecDeque::new(), rest: Vec::new() }
    }
}

pub(crate) struct Events {
    body: Body,
    ready: VecDeque<Value>,
    rest: Vec<u8>,
}

impl Events {
    /// The next event; none at the end of the stream.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Value>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            self.rest.extend_from_slice(&frame?.into_data().unwrap());
            while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                self.ready.push_back(serde_json::from_slice(&line).unwrap());
            }
        }
    }

    /// "ADDED name", or the type and code of an error.
    pub(crate) async fn brief(&mut self) -> String {
        let event = self.next().await.unwrap().expect("an event");
        let word = event["type"].as_str().unwrap().to_owned();
        let object = &event["object"];
        match object["code"].as_u64() {
            Some(code) => format!("{word} {code}"),
            None => format!("{word} {}", object["metadata"]["name"].as_str().unwrap_or("-")),
        }
    }
}
