//! Spans of calls, where they are wanted: which calls are traced, and what is recorded of them. Spans are made when
//! their call has ended, from what is known of it anyway; without a [`Tracer`] a call costs one look whether there is
//! one.
//!
//! Attributes never hold payloads, prompts or credentials. Their names are those of OpenTelemetry's conventions for
//! HTTP, RPC and generative AI, and `tidegate.…` for what those have no word for.

mod context;
mod sent;
mod served;

use std::{
    borrow::Cow,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use metrics::Counter;
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_sdk::trace::{
    Sampler, SamplingDecision, ShouldSample as _, SpanData, SpanEvents, SpanLinks,
};
use pipeline::trace::Context;
use tokio::{
    sync::mpsc::{Sender, error::TrySendError},
    time::Instant,
};

use self::context::Inbound;
pub(crate) use self::{
    context::{TRACEPARENT, TRACESTATE},
    sent::{Sent, Target},
    served::{End, Purpose, Served},
};

/// Spans that one span links to; one that would link to more says how many are left out.
const LINKS_MAX: usize = 128;

/// Which calls are traced.
#[derive(Clone, Debug)]
pub struct Sampling {
    /// Of calls that are part of no trace, and of all calls unless [`follows_caller`](Self::follows_caller).
    pub root: Sampler,
    /// Calls that are part of a trace are traced if their caller is.
    pub follows_caller: bool,
}

impl Sampling {
    fn takes(&self, trace: u128, inbound: Option<&Inbound>) -> bool {
        match inbound {
            Some(inbound) if self.follows_caller => inbound.sampled,
            _ => {
                let id = TraceId::from(trace);
                let result = self.root.should_sample(None, id, "", &SpanKind::Server, &[], &[]);
                result.decision == SamplingDecision::RecordAndSample
            }
        }
    }
}

/// Takes the spans of the calls that are traced. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tracer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    sampling: Sampling,
    scope: InstrumentationScope,
    spans: Sender<SpanData>,
    dropped: OnceLock<Counter>,
    was_full: AtomicBool,
}

impl Tracer {
    /// Hands spans to `spans`, never waiting: what does not fit is dropped and counted.
    #[must_use]
    pub fn new(sampling: Sampling, spans: Sender<SpanData>) -> Self {
        let scope = InstrumentationScope::builder("tidegate").with_version(env!("CARGO_PKG_VERSION")).build();
        let (dropped, was_full) = (OnceLock::new(), AtomicBool::new(false));
        Self { shared: Arc::new(Shared { sampling, scope, spans, dropped, was_full }) }
    }

    fn send(&self, span: SpanData) {
        let Err(error) = self.shared.spans.try_send(span) else { return };
        let dropped = || metrics::counter!("tidegate_spans_total", "outcome" => "dropped");
        self.shared.dropped.get_or_init(dropped).increment(1);
        if matches!(error, TrySendError::Full(_)) && !self.shared.was_full.swap(true, Relaxed) {
            tracing::warn!(
                "spans are dropped because they come faster than they are exported (OTEL_BSP_MAX_QUEUE_SIZE); \
                 further ones are counted in tidegate_spans_total"
            );
        }
    }

    /// A span without anything in it.
    fn span(
        &self,
        (context, parent): (Context, Option<u64>),
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
        (start_time, end_time): (SystemTime, SystemTime),
    ) -> SpanData {
        SpanData {
            span_context: recorded(context, TraceState::NONE),
            parent_span_id: parent.map_or(SpanId::INVALID, SpanId::from),
            parent_span_is_remote: false,
            span_kind: kind,
            name: name.into(),
            start_time,
            end_time,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.shared.scope.clone(),
        }
    }
}

fn recorded(context: Context, state: TraceState) -> SpanContext {
    let (trace, span) = (TraceId::from(context.trace), SpanId::from(context.span));
    SpanContext::new(trace, span, TraceFlags::SAMPLED, false, state)
}

/// A span of its own trace.
fn new_trace() -> Context {
    // Zero is no id.
    Context { trace: rand::random::<u128>().max(1), span: 0 }.with_new_span()
}

trait Further {
    /// Another span of the same trace.
    fn with_new_span(self) -> Self;
}

impl Further for Context {
    fn with_new_span(self) -> Self {
        Self { span: rand::random::<u64>().max(1), ..self }
    }
}

fn text(key: &'static str, value: impl Into<Cow<'static, str>>) -> KeyValue {
    KeyValue::new(key, opentelemetry::Value::from(value.into()))
}

fn number(key: &'static str, value: impl TryInto<i64>) -> KeyValue {
    KeyValue::new(key, value.try_into().unwrap_or(i64::MAX))
}

fn seconds(key: &'static str, value: Duration) -> KeyValue {
    KeyValue::new(key, value.as_secs_f64())
}

/// A moment on both clocks, by which others are translated: spans have times of the calendar.
#[derive(Clone, Copy, Debug)]
struct Moment {
    calendar: SystemTime,
    monotonic: Instant,
}

impl Moment {
    fn now() -> Self {
        Self { calendar: SystemTime::now(), monotonic: Instant::now() }
    }

    fn calendar(&self, at: Instant) -> SystemTime {
        let later = self.calendar + at.saturating_duration_since(self.monotonic);
        later.checked_sub(self.monotonic.saturating_duration_since(at)).unwrap_or(later)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn inbound(sampled: bool) -> Inbound {
        Inbound { context: Context { trace: 7, span: 7 }, sampled, state: TraceState::NONE }
    }

    #[test]
    fn whoever_follows_the_caller_asks_the_sampler_of_roots_only() {
        let follows = Sampling { root: Sampler::AlwaysOff, follows_caller: true };
        assert!(follows.takes(7, Some(&inbound(true))));
        assert!(!follows.takes(7, Some(&inbound(false))));
        assert!(!follows.takes(7, None));
        let decides = Sampling { root: Sampler::AlwaysOn, follows_caller: false };
        assert!(decides.takes(7, Some(&inbound(false))));
    }

    #[test]
    fn a_share_of_the_traces_is_taken() {
        let half = Sampling { root: Sampler::TraceIdRatioBased(0.5), follows_caller: true };
        let taken = (0..1000).filter(|_| half.takes(new_trace().trace, None)).count();
        assert!((350..650).contains(&taken), "{taken} of 1000");
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted_and_nobody_waits() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let rendered = recorder.handle();
        let (spans, mut taken) = mpsc::channel(2);
        metrics::with_local_recorder(&recorder, || {
            let tracer = Tracer::new(Sampling { root: Sampler::AlwaysOn, follows_caller: true }, spans);
            let now = SystemTime::now();
            for _ in 0..5 {
                tracer.send(tracer.span((new_trace(), None), SpanKind::Internal, "queue", (now, now)));
            }
        });
        assert!(taken.try_recv().is_ok() && taken.try_recv().is_ok() && taken.try_recv().is_err());
        let text = rendered.render();
        assert!(text.contains(r#"tidegate_spans_total{outcome="dropped"} 3"#), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn moments_before_and_after_are_translated() {
        let before = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        let moment = Moment::now();
        assert_eq!(moment.calendar(before), moment.calendar - Duration::from_secs(1));
        let after = moment.monotonic + Duration::from_secs(2);
        assert_eq!(moment.calendar(after), moment.calendar + Duration::from_secs(2));
    }
}
