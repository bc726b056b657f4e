//! One service for every connection: it routes a call to its surface and sees to exactly one recorded outcome.

mod about;
pub(crate) mod body;
mod call;
mod compression;
mod deadline;
mod grpc;
mod http;
mod intake;
mod request_id;
mod route;

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use ::http::{HeaderValue, Method, Request, Response, Version, header, request::Parts};
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use pipeline::admit::Memory;

use self::{body::Body, call::Call, grpc::conventions::Conventions};
use crate::{
    Config, Models,
    listen::activity::Busy,
    metrics::Metrics,
    status::{Failure, Situation},
    trace::Tracer,
};

/// Longest path and query, in bytes.
const URI_MAX: usize = 8 << 10;

/// The client side of the data path. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    models: Models,
    memory: Memory,
    metrics: Metrics,
    draining: AtomicBool,
    conventions: Conventions,
    /// The tenant of calls where tenants are not told apart.
    nobody: Arc<str>,
    tracer: Option<Tracer>,
}

impl Gateway {
    /// A gateway to `models`, whose requests together hold no more than `memory`. Without a tracer no call is traced.
    #[must_use]
    pub fn new(config: Config, models: Models, memory: Memory, tracer: Option<Tracer>) -> Self {
        let conventions = Conventions::new(&models);
        let shared = Shared {
            config,
            models,
            memory,
            metrics: Metrics::new(),
            draining: AtomicBool::new(false),
            conventions,
            nobody: "".into(),
            tracer,
        };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.shared.config
    }

    fn conventions(&self) -> &Conventions {
        &self.shared.conventions
    }

    fn shared_models(&self) -> &Models {
        &self.shared.models
    }

    /// Says on every readiness endpoint that clients should go elsewhere; calls are still answered.
    pub fn start_draining(&self) {
        self.shared.draining.store(true, Relaxed);
        self.shared.conventions.stop();
    }

    /// Whether this gateway wants calls.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.shared.draining.load(Relaxed)
    }

    /// Answers one call. The only place where a call begins and ends.
    pub(crate) async fn answer(
        self,
        request: Request<Incoming>,
        busy: Busy,
    ) -> Result<Response<Body>, Infallible> {
        let version = request.version();
        let head_only = request.method() == Method::HEAD;
        let mut call = Call::begin(self, &request);
        let handled = AssertUnwindSafe(dispatch(&mut call, request)).catch_unwind().await;
        let result = handled.unwrap_or_else(|_| Err(call.panicked()));
        let mut response = call.finish(result);
        if version < Version::HTTP_2 && !call.gateway().is_ready() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if head_only {
            response = without_body(response);
        }
        Ok(response.map(|body| body.held_by(busy, version)))
    }
}

async fn dispatch(call: &mut Call, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    let (head, body) = request.into_parts();
    check_head(&head, call.gateway().config().limits.headers)?;
    if call.is_grpc() { grpc::answer(call, head, body).await } else { http::answer(call, &head, body).await }
}

/// What hyper leaves to us: one valid host, and sizes.
fn check_head(head: &Parts, headers_max: usize) -> Result<(), Failure> {
    if head.uri.path_and_query().is_some_and(|path| path.as_str().len() > URI_MAX) {
        let sentence = format!("the path is longer than {URI_MAX} bytes");
        return Err(Failure::new(Situation::UriTooLong, sentence));
    }
    if head.headers.len() > headers_max {
        let sentence = format!("{} header fields exceed the limit of {headers_max}", head.headers.len());
        return Err(Failure::new(Situation::HeadersTooLarge, sentence));
    }
    if head.method == Method::CONNECT {
        // Its target is no path, so there is no route to say so.
        return Err(Failure::method_not_allowed("GET, HEAD, POST"));
    }
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let valid = match (hosts.next(), hosts.next()) {
        (Some(host), None) => is_host(host),
        (None, _) => head.version != Version::HTTP_11,
        (Some(_), Some(_)) => false,
    };
    let anonymous = head.uri.authority().is_none_or(|authority| !authority.as_str().contains('@'));
    if valid && anonymous {
        return Ok(());
    }
    Err(Failure::new(Situation::BadRequest, "exactly one valid host is needed, without user information"))
}

fn is_host(host: &HeaderValue) -> bool {
    let part = |b: &u8| b.is_ascii_alphanumeric() || b"-._~:[]%".contains(b);
    host.as_bytes().iter().all(part)
}

/// The answer to HEAD: as to GET, with the length but without the bytes.
fn without_body(mut response: Response<Body>) -> Response<Body> {
    if let Some(length) = http_body::Body::size_hint(response.body()).exact() {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response.map(|_| Body::empty())
}
