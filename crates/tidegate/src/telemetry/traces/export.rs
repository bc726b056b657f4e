//! Sends spans on as they come, many at a time.

use std::time::Duration;

use metrics::Counter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

/// How many spans wait, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Spans that wait; more are dropped where they come from.
    pub(super) queue: usize,
    /// Spans that are sent together.
    pub(super) batch: usize,
    /// How long spans wait for company.
    pub(super) delay: Duration,
    /// For one batch, repeats included.
    pub(super) timeout: Duration,
}

/// The task that exports.
#[derive(Debug)]
pub(super) struct Export<E> {
    exporter: E,
    limits: Limits,
    spans: Receiver<SpanData>,
    exported: Counter,
    failed: Counter,
    is_failing: bool,
}

impl<E: SpanExporter> Export<E> {
    pub(super) fn new(exporter: E, limits: Limits, spans: Receiver<SpanData>) -> Self {
        let count = |outcome| metrics::counter!("tidegate_spans_total", "outcome" => outcome);
        let (exported, failed) = (count("exported"), count("failed"));
        Self { exporter, limits, spans, exported, failed, is_failing: false }
    }

    /// Exports what comes until nothing can come any more; after `stop` what is there and no more.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let batch = self.gather(&stop).await;
            if batch.is_empty() {
                return;
            }
            self.send(batch).await;
        }
    }

    /// As many spans as are sent together, or those that came in the delay after the first; none at the end.
    async fn gather(&mut self, stop: &CancellationToken) -> Vec<SpanData> {
        let mut batch = Vec::new();
        let mut until = None;
        while batch.len() < self.limits.batch {
            let (room, due) = (self.limits.batch - batch.len(), until.unwrap_or_else(Instant::now));
            let came = tokio::select! {
                biased;
                came = self.spans.recv_many(&mut batch, room) => came,
                () = stop.cancelled(), if !self.spans.is_closed() => {
                    self.spans.close();
                    continue;
                }
                () = sleep_until(due), if until.is_some() => break,
            };
            if came == 0 {
                break;
            }
            until.get_or_insert_with(|| Instant::now() + self.limits.delay);
        }
        batch
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        let problem = match timeout(self.limits.timeout, self.exporter.export(batch)).await {
            Ok(Ok(())) => {
                self.exported.increment(count);
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("spans are exported again");
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not within {:?} (OTEL_BSP_EXPORT_TIMEOUT)", self.limits.timeout),
        };
        self.failed.increment(count);
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(
                problem,
                "spans could not be exported and are lost; further ones are counted in tidegate_spans_total"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::SystemTime,
    };

    use opentelemetry::{
        InstrumentationScope, SpanId,
        trace::{SpanContext, SpanKind, Status},
    };
    use opentelemetry_sdk::{
        error::{OTelSdkError, OTelSdkResult},
        trace::{SpanEvents, SpanLinks},
    };
    use tokio::{
        sync::mpsc::{self, Sender},
        task::JoinHandle,
        time::sleep,
    };

    use super::*;

    const LIMITS: Limits =
        Limits { queue: 8, batch: 3, delay: Duration::from_secs(5), timeout: Duration::from_secs(30) };

    /// Notes when it was given how many spans.
    #[derive(Debug)]
    struct Collector {
        began: Instant,
        taken: Arc<Mutex<Vec<(u64, usize)>>>,
        /// What an export takes, and whether it then fails.
        takes: Duration,
        fails: bool,
    }

    impl SpanExporter for Collector {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.taken.lock().unwrap().push((self.began.elapsed().as_secs(), batch.len()));
            sleep(self.takes).await;
            if self.fails { Err(OTelSdkError::InternalFailure("away".to_owned())) } else { Ok(()) }
        }
    }

    struct Stage {
        spans: Sender<SpanData>,
        taken: Arc<Mutex<Vec<(u64, usize)>>>,
        stop: CancellationToken,
        task: JoinHandle<()>,
    }

    fn start(takes: Duration, fails: bool) -> Stage {
        let (spans, receiver) = mpsc::channel(LIMITS.queue);
        let taken = Arc::default();
        let collector = Collector { began: Instant::now(), taken: Arc::clone(&taken), takes, fails };
        let stop = CancellationToken::new();
        let task = tokio::spawn(Export::new(collector, LIMITS, receiver).run(stop.clone()));
        Stage { spans, taken, stop, task }
    }

    impl Stage {
        async fn send(&self, count: usize) {
            for _ in 0..count {
                self.spans.send(span()).await.unwrap();
            }
        }

        fn taken(&self) -> Vec<(u64, usize)> {
            self.taken.lock().unwrap().clone()
        }
    }

    fn span() -> SpanData {
        SpanData {
            span_context: SpanContext::NONE,
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: "queue".into(),
            start_time: SystemTime::UNIX_EPOCH,
            end_time: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn spans_wait_for_company_but_not_for_long() {
        let stage = start(Duration::ZERO, false);
        stage.send(2).await;
        sleep(Duration::from_secs(6)).await;
        assert_eq!(stage.taken(), [(5, 2)]);
        stage.send(7).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(stage.taken(), [(5, 2), (6, 3), (6, 3)], "full batches do not wait");
        sleep(Duration::from_secs(5)).await;
        assert_eq!(stage.taken(), [(5, 2), (6, 3), (6, 3), (11, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_everything_that_is_there_is_sent_at_once() {
        let stage = start(Duration::ZERO, false);
        stage.send(4).await;
        stage.stop.cancel();
        stage.task.await.unwrap();
        assert_eq!(*stage.taken.lock().unwrap(), [(0, 3), (0, 1)]);
        assert!(stage.spans.is_closed(), "nothing can come any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_hangs_or_fails_holds_up_nobody_for_ever() {
        for (takes, fails) in [(Duration::from_secs(1000), false), (Duration::from_secs(1), true)] {
            let stage = start(takes, fails);
            stage.send(6).await;
            stage.stop.cancel();
            stage.task.await.unwrap();
            let waited = takes.min(LIMITS.timeout).as_secs();
            assert_eq!(*stage.taken.lock().unwrap(), [(0, 3), (waited, 3)]);
        }
    }
}
