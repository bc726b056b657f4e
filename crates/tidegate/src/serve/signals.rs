//! What the operating system asks of the process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code of a process that was interrupted (128 + SIGINT).
const INTERRUPTED: i32 = 130;

/// On the first SIGTERM or SIGINT drains; on the second the process ends at once.
pub(super) async fn stop_gently_then_at_once(shutdown: CancellationToken) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    either(&mut terminate, &mut interrupt).await;
    tracing::info!("draining; a second signal ends the process at once");
    shutdown.cancel();
    either(&mut terminate, &mut interrupt).await;
    std::process::exit(INTERRUPTED)
}

async fn either(a: &mut Signal, b: &mut Signal) {
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
    }
}
