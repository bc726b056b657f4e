//! Routes of the simulator, and what each does with the engine.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::{Body, Incoming};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    counts::Counts,
    digest::{self, Draws},
    engine::{Engine, Full, Sequence, Work},
    error::Error,
    fail::{Fault, Planned, SLOW_FIRST},
    options::Options,
    prompt::Prompt,
    request::Generation,
    stream::{Answering, BrokenOff, NONSENSE, Stream},
    vectors::{self, Vectors},
    wire::{Call, Script, Surface, Usage},
};
use crate::{
    body,
    connection::Calls,
    error::{Error as ServerError, Quoted},
};

/// Asks for one call to fail: a fault, and `@N` for after N tokens.
const FAIL: HeaderName = HeaderName::from_static("x-sim-fail");
/// Who is behind the models, as a client may show it.
const OWNER: &str = "tidegate-chat-simulator";

/// The engine and its front.
#[derive(Debug)]
pub(super) struct Simulation {
    options: Options,
    engine: Arc<Engine>,
    calls: AtomicU64,
    created: u64,
    ready_at: Instant,
    stopping: CancellationToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'a> {
    Health,
    Models,
    Model(&'a str),
    Metrics,
    Stats,
    Reset,
    Generate(Surface),
    Embeddings,
    Rerank,
}

impl<'a> Route<'a> {
    fn of(method: &Method, path: &'a str) -> Result<Self, Error> {
        let route = Self::of_path(path).ok_or_else(|| ServerError::RouteNotFound(Quoted::new(path)))?;
        let posted = matches!(route, Self::Reset | Self::Generate(_) | Self::Embeddings | Self::Rerank);
        match *method {
            Method::POST if posted => Ok(route),
            Method::GET | Method::HEAD if !posted => Ok(route),
            _ => Err(ServerError::MethodNotAllowed { allow: if posted { "POST" } else { "GET, HEAD" } })?,
        }
    }

    fn of_path(path: &'a str) -> Option<Self> {
        Some(match path {
            "/health" => Self::Health,
            "/metrics" => Self::Metrics,
            "/sim/stats" => Self::Stats,
            "/sim/reset" => Self::Reset,
            "/v1/models" => Self::Models,
            "/v1/chat/completions" => Self::Generate(Surface::Chat),
            "/v1/completions" => Self::Generate(Surface::Completion),
            "/v1/responses" => Self::Generate(Surface::Responses),
            "/v1/embeddings" => Self::Embeddings,
            "/v1/rerank" => Self::Rerank,
            _ => Self::Model(path.strip_prefix("/v1/models/").filter(|name| !name.is_empty())?),
        })
    }
}

/// What a call came to: an answer, or a connection that breaks off.
type Answered = Result<Response<Answering>, BrokenOff>;

impl Calls for Arc<Simulation> {
    type Body = Answering;
    type Error = BrokenOff;
    /// A gateway may put all streams of an engine on one connection.
    const HTTP2_STREAMS_MAX: u32 = 8192;

    async fn answer(self, request: Request<Incoming>) -> Answered {
        Simulation::answer(&self, request).await
    }

    fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }
}

impl Simulation {
    pub(super) fn new(options: Options) -> Self {
        Self {
            engine: Arc::new(Engine::new(&options)),
            calls: AtomicU64::new(0),
            created: now(),
            ready_at: Instant::now() + options.start_delay,
            stopping: CancellationToken::new(),
            options,
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.engine.counts()
    }

    /// From now on every new call is refused; the ones already here go on.
    pub(super) fn stop(&self) {
        self.stopping.cancel();
    }

    /// Answers one call; a refusal is an answer too.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Answered
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut response = match self.respond(request).await {
            Ok(answered) => answered?,
            Err(error) => self.refusal(&error),
        };
        if self.stopping.is_cancelled() && response.version() < http::Version::HTTP_2 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    async fn respond<B>(&self, request: Request<B>) -> Result<Answered, Error>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let route = Route::of(&head.method, head.uri.path())?;
        match route {
            Route::Stats => return Ok(Ok(json_value(StatusCode::OK, &self.counts().to_json()))),
            Route::Metrics => return Ok(Ok(text(self.counts().to_prometheus()))),
            Route::Reset => {
                self.engine.reset();
                return Ok(Ok(json_value(StatusCode::OK, &self.counts().to_json())));
            }
            _ => self.ready()?,
        }
        let planned = head.headers.get(FAIL).map(planned).transpose()?;
        let (surface, body) = match route {
            Route::Generate(surface) => (surface, body::read(&head.headers, body).await?),
            Route::Embeddings => {
                let body = body::read(&head.headers, body).await?;
                return self.compute(vectors::embeddings(&body, &self.options)?, planned).await;
            }
            Route::Rerank => {
                let body = body::read(&head.headers, body).await?;
                return self.compute(vectors::rerank(&body, &self.options)?, planned).await;
            }
            Route::Model(name) if name != self.options.model => Err(Error::Model(Quoted::new(name)))?,
            Route::Model(_) => return Ok(Ok(json_value(StatusCode::OK, &self.model()))),
            Route::Models => {
                let list = json!({ "object": "list", "data": [self.model()] });
                return Ok(Ok(json_value(StatusCode::OK, &list)));
            }
            Route::Health | Route::Metrics | Route::Stats | Route::Reset => {
                return Ok(Ok(json_value(StatusCode::OK, &json!({ "status": "ok" }))));
            }
        };
        self.generate(Generation::parse(surface, &body, &self.options)?, planned).await
    }

    fn ready(&self) -> Result<(), Error> {
        if self.stopping.is_cancelled() {
            return Err(ServerError::Stopping.into());
        }
        if Instant::now() < self.ready_at {
            return Err(ServerError::Loading.into());
        }
        Ok(())
    }

    fn model(&self) -> Value {
        json!({
            "id": self.options.model,
            "object": "model",
            "created": self.created,
            "owned_by": OWNER,
            "root": self.options.model,
            "parent": null,
            "max_model_len": self.options.context,
        })
    }

    async fn generate(&self, asked: Generation, planned: Option<Planned>) -> Result<Answered, Error> {
        let Generation { surface, prompt, answer, stream, include_usage } = asked;
        let prompt_tokens = prompt.tokens();
        let (number, fault) = self.begin(planned, answer.tokens())?;
        let mut sequence = self.admit(prompt, answer.tokens(), fault)?;
        let model = self.options.model.clone();
        let call = Call { surface, number, created: now(), model, include_usage };
        if stream {
            if fault == Some(Planned { fault: Fault::Reset, after: 0 }) {
                // Not even the head of an answer comes.
                sequence.fail();
                return Ok(Err(BrokenOff));
            }
            let stream = Stream::new(sequence, Script::new(call), answer, prompt_tokens, fault);
            return Ok(Ok(events(stream)));
        }
        let until =
            fault.filter(|planned| is_an_end(planned.fault)).map_or(usize::MAX, |planned| planned.after);
        sequence.generate(until.min(answer.tokens())).await;
        let usage = Usage { prompt: prompt_tokens, cached: sequence.cached(), completion: answer.tokens() };
        let body = call.whole(&answer, usage);
        self.end(sequence, &body, fault, answer.pieces()).await
    }

    /// Takes the time of a prefill for what was computed already.
    async fn compute(&self, mut vectors: Vectors, planned: Option<Planned>) -> Result<Answered, Error> {
        let (number, fault) = self.begin(planned, 0)?;
        vectors.name(number);
        let mut sequence = self.admit(Prompt::uncached(vectors.prompt_tokens), 0, fault)?;
        sequence.generate(0).await;
        self.end(sequence, &vectors.body, fault, std::iter::empty()).await
    }

    /// Numbers the call and decides whether it fails.
    fn begin(&self, planned: Option<Planned>, tokens: usize) -> Result<(u64, Option<Planned>), Error> {
        let number = self.calls.fetch_add(1, Relaxed);
        self.engine.counters.requests.fetch_add(1, Relaxed);
        let mut draws = Draws::new(digest::mix(self.options.seed.wrapping_add(number)));
        let fault = planned.or_else(|| self.options.failures.draw(&mut draws, tokens));
        match fault {
            Some(Planned { fault: Fault::Busy, .. }) => Err(self.full()),
            Some(Planned { fault: Fault::Error, after: 0 }) => {
                self.engine.counters.failed.fetch_add(1, Relaxed);
                Err(Error::OnDemand)
            }
            fault => Ok((number, fault)),
        }
    }

    fn admit(&self, prompt: Prompt, tokens: usize, fault: Option<Planned>) -> Result<Sequence, Error> {
        let is_late = fault.is_some_and(|planned| planned.fault == Fault::SlowFirst);
        let late = if is_late { SLOW_FIRST.mul_f64(self.engine.times().slow) } else { Duration::ZERO };
        self.engine.admit(Work { prompt, tokens, late }).map_err(|Full| self.full())
    }

    fn full(&self) -> Error {
        self.engine.counters.refused.fetch_add(1, Relaxed);
        let status = StatusCode::from_u16(self.options.full_status);
        Error::Full { status: status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE) }
    }

    /// Answers with `body` as a whole, or fails as planned.
    async fn end(
        &self,
        mut sequence: Sequence,
        body: &Value,
        fault: Option<Planned>,
        text: impl Iterator<Item = &str>,
    ) -> Result<Answered, Error> {
        let Some(fault) = fault.map(|planned| planned.fault).filter(|fault| is_an_end(*fault)) else {
            sequence.finish(text);
            return Ok(Ok(json_value(StatusCode::OK, body)));
        };
        if fault == Fault::Stall {
            // Ends when the client leaves, as then this future is dropped.
            std::future::pending::<()>().await;
        }
        sequence.fail();
        match fault {
            Fault::Error => Err(Error::OnDemand),
            Fault::Reset => Ok(Err(BrokenOff)),
            Fault::Nonsense => Ok(Ok(json_bytes(StatusCode::OK, NONSENSE))),
            _ => {
                let mut half = body.to_string().into_bytes();
                half.truncate(half.len() / 2);
                Ok(Ok(json_bytes(StatusCode::OK, half.into())))
            }
        }
    }

    fn refusal(&self, error: &Error) -> Response<Answering> {
        let mut response = json_value(error.status(), &error.envelope());
        if let Error::Server(ServerError::MethodNotAllowed { allow }) = error {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if matches!(error, Error::Full { .. }) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Whether an answer sent as a whole ends by this fault; the others only delay a stream or cut its end.
fn is_an_end(fault: Fault) -> bool {
    !matches!(fault, Fault::SlowFirst | Fault::NoDone | Fault::Busy)
}

fn planned(value: &HeaderValue) -> Result<Planned, Error> {
    Ok(String::from_utf8_lossy(value.as_bytes()).parse()?)
}

/// Seconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn events(stream: Stream) -> Response<Answering> {
    let mut response = Response::new(Answering::Stream(Box::new(stream)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn text(body: String) -> Response<Answering> {
    let mut response = Response::new(Answering::Whole(Some(body.into())));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn json_value(status: StatusCode, value: &Value) -> Response<Answering> {
    json_bytes(status, value.to_string().into())
}

fn json_bytes(status: StatusCode, body: Bytes) -> Response<Answering> {
    let mut response = Response::new(Answering::Whole(Some(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests;
