//! `tidegate model-server`: the small ONNX server until a signal stops it.

use std::process::ExitCode;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::telemetry::{self, LogFormat};

pub(crate) fn run(args: model_server::Args) -> anyhow::Result<ExitCode> {
    telemetry::start_logging(LogFormat::Text, "warn")?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stopped = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stopped.cancel();
        });
        model_server::run(args, shutdown).await
    })?;
    Ok(ExitCode::SUCCESS)
}
