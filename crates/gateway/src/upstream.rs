//! The edge towards model servers: per-replica connections of our own, three protocols, and closed errors.
//!
//! [`Server`] is one model server; its [`Server::upstream`] is what the pipeline calls. [`Follower`] keeps a
//! model's servers in step with its fleet and learns what the model says of itself; [`probe`] asks whether it
//! is ready.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use pipeline::{
    CallError,
    replica::{Call, Upstream},
    request::Reply,
};
use tokio::time::timeout_at;
use tower::util::BoxCloneSyncService;

use crate::trace::{Sent, Tracer};

mod dial;
mod failure;
mod follow;
mod frame;
mod gather;
mod grpc;
mod headers;
mod http1;
mod http2;
mod learn;
mod probe;
mod rest;
#[cfg(test)]
mod scripted;

pub(crate) use failure::of_event;
pub use follow::{Endpoint, Follower};
pub use learn::Description;
pub use probe::{ProbeError, probe};

/// What a model's servers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// The Open Inference Protocol over gRPC (HTTP/2 without TLS).
    V2Grpc,
    /// The Open Inference Protocol over REST (HTTP/1.1).
    V2Http,
    /// The predict protocol of TensorFlow Serving and KServe (HTTP/1.1).
    V1,
    /// Chat completions and their relatives, as OpenAI words them (HTTP/1.1).
    OpenAi,
}

/// How one model's servers are called.
#[derive(Clone, Debug)]
pub struct Config {
    pub protocol: Protocol,
    /// The model's name on its servers.
    pub model: Arc<str>,
    /// Larger answers fail with [`CallError::TooLarge`].
    pub response_bytes_max: usize,
    pub connect_timeout: Duration,
    /// HTTP/1: connections unused for this long are closed. Below the 5 s after which uvicorn closes them.
    pub idle_timeout: Duration,
    /// HTTP/1: unused connections kept per replica.
    pub idle_connections_max: usize,
    /// HTTP/2: connections per replica; more than one pays for large tensors only.
    pub http2_connections: usize,
    /// Takes the spans of calls whose requests are traced.
    pub tracer: Option<Tracer>,
}

impl Config {
    /// The defaults for `model`.
    #[must_use]
    pub fn new(protocol: Protocol, model: Arc<str>) -> Self {
        Self {
            protocol,
            model,
            response_bytes_max: 64 << 20,
            connect_timeout: Duration::from_millis(500),
            idle_timeout: Duration::from_secs(4),
            idle_connections_max: 256,
            http2_connections: 1,
            tracer: None,
        }
    }
}

/// One model server and the connections to it. Dropping it closes those that no call is using.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    model: Arc<str>,
    tracer: Option<Tracer>,
    speaks: Speaks,
}

#[derive(Debug)]
enum Speaks {
    Rest(rest::Rest),
    Grpc(grpc::Grpc),
}

impl Server {
    /// A server at `address`; it is connected to when it is first called. Must be made inside a runtime.
    #[must_use]
    pub fn new(address: SocketAddr, config: &Config) -> Self {
        let speaks = match config.protocol {
            Protocol::V2Grpc => Speaks::Grpc(grpc::Grpc::new(address, config)),
            Protocol::V2Http => Speaks::Rest(rest::Rest::new(address, config, rest::Dialect::V2)),
            Protocol::V1 => Speaks::Rest(rest::Rest::new(address, config, rest::Dialect::V1)),
            Protocol::OpenAi => Speaks::Rest(rest::Rest::new(address, config, rest::Dialect::OpenAi)),
        };
        Self { address, model: Arc::clone(&config.model), tracer: config.tracer.clone(), speaks }
    }

    /// The service that the pipeline sends its calls to.
    #[must_use]
    pub fn upstream(self: &Arc<Self>) -> Upstream {
        let server = Arc::clone(self);
        BoxCloneSyncService::new(tower::service_fn(move |call| {
            let server = Arc::clone(&server);
            async move { server.call(call).await }
        }))
    }

    /// Asks what the model says of itself. REST calls use binary tensors from then on, if the server has
    /// them.
    ///
    /// # Errors
    /// As any call; `Refused` with `NotFound` from servers that have no metadata.
    pub async fn describe(&self) -> Result<Description, CallError> {
        match &self.speaks {
            Speaks::Rest(rest) if rest.dialect == rest::Dialect::OpenAi => {
                Err(failure::unsupported("the OpenAI protocol does not describe tensors"))
            }
            Speaks::Rest(rest) => learn::over_rest(rest).await,
            Speaks::Grpc(grpc) => learn::over_grpc(grpc).await,
        }
    }

    async fn call(&self, mut call: Call) -> Result<Reply, CallError> {
        let Some(sent) = self.begin_span(&mut call) else { return self.send(call).await };
        sent.came_to(self.send(call).await)
    }

    /// The span of a call, if one of its requests is traced.
    fn begin_span(&self, call: &mut Call) -> Option<Sent> {
        let tracer = self.tracer.as_ref().filter(|_| !call.traced.is_empty())?;
        let target = match &self.speaks {
            Speaks::Rest(rest) => rest.target(&call.payload),
            Speaks::Grpc(grpc) => grpc.target(&call.payload),
        };
        Sent::begin(tracer, call, (self.address, target), &self.model)
    }

    async fn send(&self, call: Call) -> Result<Reply, CallError> {
        let deadline = call.deadline;
        let answer = async {
            match &self.speaks {
                Speaks::Rest(rest) => rest.call(call).await,
                Speaks::Grpc(grpc) => grpc.call(call).await,
            }
        };
        timeout_at(deadline, answer).await.unwrap_or(Err(CallError::Deadline))
    }
}
