//! Export of traces over OTLP: the gateway hands spans to a channel, and a task sends them on, many at a time. It
//! runs on the runtime of the admin port, so that the data path never encodes or sends a span.

mod export;
mod settings;
mod wire;

use std::time::Duration;

use gateway::trace::Tracer;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use self::export::Export;
pub(crate) use self::settings::Settings;

/// How long the end of the process waits for what is still to be exported.
const LAST_EXPORT: Duration = Duration::from_secs(5);

/// Where spans go in at one end, and the other end.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) tracer: Tracer,
    spans: mpsc::Receiver<SpanData>,
    settings: Settings,
}

/// The running export.
#[derive(Debug)]
pub(crate) struct Exporting {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Settings {
    /// The way from the gateway to the export.
    pub(crate) fn into_pipe(self) -> Pipe {
        let (sender, spans) = mpsc::channel(self.limits.queue);
        Pipe { tracer: Tracer::new(self.sampling.clone(), sender), spans, settings: self }
    }
}

impl Pipe {
    /// Exports on `runtime` what comes.
    ///
    /// # Errors
    /// The endpoint cannot be one, or there are no certificates to trust it by.
    pub(crate) fn export(self, runtime: &Handle) -> anyhow::Result<Exporting> {
        let Self { tracer: _, spans, settings } = self;
        // The connection, which is made when it is first needed, lives there too.
        let _inside = runtime.enter();
        let mut exporter = settings.wire.exporter()?;
        exporter.set_resource(&settings.resource);
        tracing::info!(to = settings.wire.shown(), "exporting traces");
        let stop = CancellationToken::new();
        let export = Export::new(exporter, settings.limits, spans);
        let task = runtime.spawn(export.run(stop.clone()));
        Ok(Exporting { stop, task })
    }
}

impl Exporting {
    /// Exports what is left and ends, in bounded time. Nothing is traced any more by then.
    pub(crate) async fn finish(self) {
        self.stop.cancel();
        match timeout(LAST_EXPORT, self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the export of traces had ended before"),
            Err(_) => tracing::warn!("the last spans were not exported within {LAST_EXPORT:?}"),
        }
    }
}
