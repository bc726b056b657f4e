//! One call from its first to its last moment: its id, its model, its one recorded outcome.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use pipeline::{
    admit::Charge,
    chat::{Chat, Usage},
    request::{Answer, Class, Payload, Reply, Request as Work, Timings},
    tensor::Metadata,
};
use tokio::time::Instant;

use super::{
    Gateway,
    body::Body,
    intake::Terms,
    request_id::{self, REQUEST_ID},
    route::Route,
};
use crate::{
    metrics::{ModelMetrics, Observation, Surface},
    models::Model,
    status::{Failure, Situation},
    trace::{End, Purpose, Served, TRACEPARENT, TRACESTATE},
};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const BATCH_ROWS: HeaderName = HeaderName::from_static("x-tidegate-batch-rows");
/// OpenAI's clients, of whatever language, name theirs with it.
const OPENAI_CLIENT: HeaderName = HeaderName::from_static("x-stainless-lang");
const COLD_START: HeaderName = HeaderName::from_static("x-tidegate-cold-start");
const TRACE_CONTEXT: [HeaderName; 2] = [TRACEPARENT, TRACESTATE];

/// One call. Dropped without an outcome, it was cancelled by the client.
#[derive(Debug)]
pub(super) struct Call {
    gateway: Gateway,
    started: Instant,
    id: HeaderValue,
    surface: Surface,
    model: Option<Arc<Model>>,
    /// How long a replica had to start before the body could even be read.
    started_for: Option<Duration>,
    timings: Option<Timings>,
    generated: Option<Generated>,
    /// Where this call is traced.
    span: Option<Box<Served>>,
    state: State,
}

/// What a model that generates tokens made of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Generated {
    /// As far as the engine told.
    pub(super) usage: Option<Usage>,
    pub(super) ttft: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Its messages are recorded one by one.
    Streaming,
    Finished,
}

/// What a call asks of its model.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) payload: Payload,
    pub(super) deadline: Instant,
    pub(super) class: Class,
    pub(super) charge: Charge,
}

/// Who asks, and for what besides the body.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) tenant: Arc<str>,
    pub(super) chat: Option<Arc<Chat>>,
}

impl Call {
    pub(super) fn begin(gateway: Gateway, request: &Request<Incoming>) -> Self {
        let surface = surface(request);
        let id = request_id::of(request.headers());
        let span = gateway.shared.tracer.as_ref().and_then(|tracer| Served::begin(tracer, request));
        Self {
            gateway,
            started: Instant::now(),
            id,
            surface,
            model: None,
            started_for: None,
            timings: None,
            generated: None,
            span,
            state: State::Open,
        }
    }

    /// One message of a stream as a call of its own, with the id of the stream.
    pub(super) fn message(&self) -> Self {
        Self {
            gateway: self.gateway.clone(),
            started: Instant::now(),
            id: self.id.clone(),
            surface: self.surface,
            model: None,
            started_for: None,
            timings: None,
            generated: None,
            span: self.span.as_ref().map(|span| span.message()),
            state: State::Open,
        }
    }

    /// The answer of this call, which is recorded when it ends. From here on this call has no outcome of its own.
    pub(super) fn hand_over(&mut self) -> Self {
        self.state = State::Streaming;
        let mut span = self.span.take();
        if let Some(span) = &mut span {
            span.begun_with(StatusCode::OK);
        }
        let mut answer = self.message();
        answer.started = self.started;
        answer.model.clone_from(&self.model);
        answer.timings = self.timings;
        answer.span = span;
        answer
    }

    /// This call becomes the source of messages, each with an outcome of its own.
    pub(super) fn becomes_stream(&mut self) {
        self.state = State::Streaming;
    }

    /// Says what this call is for, for its span.
    pub(super) fn is_for(&mut self, purpose: Purpose) {
        if let Some(span) = &mut self.span {
            span.is_for(purpose);
        }
    }

    /// This call only asks about the server or a model, as probes do each few seconds: it is not traced.
    pub(super) fn is_about(&mut self) {
        self.span = None;
    }

    pub(super) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.surface == Surface::V2Grpc
    }

    /// What a decoder may allocate for this call.
    pub(super) fn decoder_limits(&self) -> convert::Limits {
        convert::Limits { decoded_bytes: self.gateway.config().limits.body }
    }

    /// The terms on which bodies of this call are read.
    pub(super) fn terms(&self, deadline: Instant) -> Terms<'_> {
        let shared = &self.gateway.shared;
        Terms {
            memory: &shared.memory,
            body_max: shared.config.limits.body,
            idle: shared.config.timeouts.body_idle,
            deadline,
        }
    }

    /// Finds the model; from then on the call counts as its.
    pub(super) fn find_model(&mut self, name: &str) -> Result<Arc<Model>, Failure> {
        let model = self.gateway.shared.models.find(name)?;
        self.model = Some(Arc::clone(&model));
        Ok(model)
    }

    /// What the model says of itself, for a call that cannot be read without. If a replica has to start for it,
    /// that is part of what the client is told.
    pub(super) async fn metadata(
        &mut self,
        model: &Model,
        deadline: Instant,
    ) -> Result<Arc<Metadata>, Failure> {
        if let Some(metadata) = model.known_metadata() {
            return Ok(metadata);
        }
        let is_cold = !model.readiness().has_replicas();
        let asked = Instant::now();
        let metadata = model.metadata(deadline).await?;
        self.started_for = is_cold.then(|| asked.elapsed());
        Ok(metadata)
    }

    /// Has the model answer.
    pub(super) async fn run(
        &mut self,
        model: &Model,
        headers: &HeaderMap,
        job: Job,
    ) -> Result<Reply, Failure> {
        let caller = Caller { tenant: self.nobody(), chat: None };
        Ok(self.run_for(model, headers, job, caller).await?.reply)
    }

    /// As [`run`](Self::run), with what is known of whoever called.
    pub(super) async fn run_for(
        &mut self,
        model: &Model,
        headers: &HeaderMap,
        job: Job,
        caller: Caller,
    ) -> Result<Answer, Failure> {
        let work = Work {
            payload: job.payload,
            deadline: job.deadline,
            class: job.class,
            tenant: caller.tenant,
            trace: self.trace(headers),
            traced: self.span.as_ref().map(|span| span.traced()),
            charge: job.charge,
            chat: caller.chat,
        };
        let answer = model.dispatch().call(work).await?;
        self.timings = Some(after_start(answer.timings, self.started_for));
        Ok(answer)
    }

    /// The tenant of calls whose caller is not known.
    pub(super) fn nobody(&self) -> Arc<str> {
        Arc::clone(&self.gateway.shared.nobody)
    }

    /// Notes what was generated, for the record of this call.
    pub(super) fn generated(&mut self, generated: Generated) {
        self.generated = Some(generated);
    }

    fn trace(&self, headers: &HeaderMap) -> HeaderMap {
        let mut trace = HeaderMap::with_capacity(TRACE_CONTEXT.len() + 1);
        trace.insert(REQUEST_ID, self.id.clone());
        if self.span.as_ref().is_some_and(|span| !span.has_parent()) {
            // What the client said of its trace is not valid, or it said nothing.
            return trace;
        }
        for name in TRACE_CONTEXT {
            if let Some(value) = headers.get(&name) {
                trace.insert(name, value.clone());
            }
        }
        trace
    }

    /// Counts a panic while this call was handled.
    pub(super) fn panicked(&self) -> Failure {
        tracing::error!(request_id = ?self.id, "the handler of a call panicked");
        self.gateway.shared.metrics.panicked();
        Failure::internal()
    }

    /// Writes the outcome, and records it.
    pub(super) fn finish(&mut self, result: Result<Response<Body>, Failure>) -> Response<Body> {
        let failed = result.as_ref().err().map(|failure| failure.situation);
        let mut response = result.unwrap_or_else(|failure| self.render(&failure));
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, self.id.clone());
        if let Some(timings) = &self.timings {
            describe(timings, self.started.elapsed(), headers);
        }
        if failed.is_some() || self.state == State::Open {
            self.record(failed);
        }
        response
    }

    /// Records the outcome of a message, which has no response of its own.
    pub(super) fn record(&mut self, failed: Option<Situation>) {
        self.state = State::Finished;
        let total = self.started.elapsed();
        let timings = self.timings.as_ref();
        self.metrics(failed).record(&Observation { surface: self.surface, failed, total, timings });
        let usage = self.generated.and_then(|generated| generated.usage);
        let ttft = self.generated.and_then(|generated| generated.ttft);
        tracing::debug!(
            target: "tidegate::access",
            request_id = self.id.to_str().unwrap_or_default(),
            protocol = self.surface.as_str(),
            model = self.model.as_ref().map(|model| &**model.name()),
            reason = failed.map_or("ok", |situation| situation.row().reason),
            total_ms = total.as_secs_f64() * 1e3,
            ttft_ms = ttft.map(|ttft| ttft.as_secs_f64() * 1e3),
            // The names that OpenTelemetry gives them.
            gen_ai.usage.input_tokens = usage.map(|usage| usage.prompt_tokens),
            gen_ai.usage.output_tokens = usage.map(|usage| usage.output_tokens),
        );
        if let Some(span) = self.span.take() {
            span.end(&End {
                surface: self.surface,
                failed,
                id: &self.id,
                model: self.model.as_ref().map(|model| &**model.name()),
                timings,
                usage,
                ttft,
            });
        }
    }

    fn metrics(&self, failed: Option<Situation>) -> &ModelMetrics {
        match (&self.model, failed) {
            (Some(model), _) => &model.metrics,
            (None, Some(Situation::ModelNotFound)) => &self.gateway.shared.metrics.unknown,
            (None, _) => &self.gateway.shared.metrics.server,
        }
    }

    fn render(&self, failure: &Failure) -> Response<Body> {
        match self.surface {
            Surface::V2Grpc => failure.to_grpc(),
            Surface::OpenAi => failure.to_openai(),
            Surface::V1 | Surface::V2Http => failure.to_http(&self.id),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.state == State::Open {
            self.record(Some(Situation::ClientCancelled));
        }
    }
}

fn surface(request: &Request<Incoming>) -> Surface {
    let (headers, path) = (request.headers(), request.uri().path());
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if content_type.is_some_and(is_grpc) && request.version() == Version::HTTP_2 {
        return Surface::V2Grpc;
    }
    match Route::surface(path) {
        // What a model is, is asked alike in V1 and by OpenAI's clients; these read errors differently.
        Surface::V1 if !path.contains(':') && headers.contains_key(OPENAI_CLIENT) => Surface::OpenAi,
        surface => surface,
    }
}

/// `application/grpc` with or without `+proto` and parameters; not its relatives, which have other frames.
fn is_grpc(content_type: &[u8]) -> bool {
    let Some(rest) = content_type.strip_prefix(b"application/grpc") else { return false };
    let rest = rest.strip_prefix(b"+proto").unwrap_or(rest);
    matches!(rest.first(), None | Some(b';' | b' '))
}

/// Adds to the timings of an answer what a replica's start took before the model was asked.
fn after_start(timings: Timings, waited: Option<Duration>) -> Timings {
    let Some(waited) = waited else { return timings };
    Timings {
        queue: timings.queue + waited,
        cold_start: Some(timings.cold_start.unwrap_or_default() + waited),
        ..timings
    }
}

/// Where the time of a good answer went.
fn describe(timings: &Timings, total: Duration, headers: &mut HeaderMap) {
    let gateway = total.saturating_sub(timings.queue + timings.batch + timings.upstream);
    let mut text = String::with_capacity(80);
    let entries = [
        ("queue", timings.queue),
        ("batch", timings.batch),
        ("upstream", timings.upstream),
        ("gateway", gateway),
    ];
    for (name, duration) in entries {
        let separator = if text.is_empty() { "" } else { ", " };
        let (millis, micros) = (duration.as_millis(), duration.subsec_micros() % 1000);
        write!(text, "{separator}{name};dur={millis}.{micros:03}").expect("a string takes any text");
    }
    headers.insert(SERVER_TIMING, ascii(text));
    headers.insert(BATCH_ROWS, timings.batch_rows.into());
    if let Some(waited) = timings.cold_start {
        headers.insert(COLD_START, ascii(format!("{:.2}s", waited.as_secs_f64())));
    }
}

fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digits and words are valid in a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_are_written_in_milliseconds() {
        let timings = Timings {
            queue: Duration::from_micros(1200),
            batch: Duration::from_nanos(40_999),
            upstream: Duration::from_millis(1003),
            batch_rows: 8,
            cold_start: Some(Duration::from_millis(2038)),
        };
        let mut headers = HeaderMap::new();
        describe(&timings, Duration::from_micros(1_004_500), &mut headers);
        let expected = "queue;dur=1.200, batch;dur=0.040, upstream;dur=1003.000, gateway;dur=0.259";
        assert_eq!(headers[SERVER_TIMING], expected);
        assert_eq!(headers[BATCH_ROWS], "8");
        assert_eq!(headers[COLD_START], "2.04s");
    }

    #[test]
    fn a_start_before_the_model_was_asked_is_queueing_and_a_cold_start() {
        let ms = Duration::from_millis;
        let timings = Timings { queue: ms(1), ..Timings::default() };
        assert_eq!(after_start(timings, None), timings);
        let started = after_start(timings, Some(ms(2000)));
        assert_eq!((started.queue, started.cold_start), (ms(2001), Some(ms(2000))));
        let again = after_start(started, Some(ms(500)));
        assert_eq!(again.cold_start, Some(ms(2500)));
    }

    #[test]
    fn only_plain_grpc_is_grpc() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc+json", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(content_type.as_bytes()), expected, "{content_type}");
        }
    }
}
