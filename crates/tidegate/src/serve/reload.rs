//! Follows the configuration file: on a change of its folder (a ConfigMap swaps a symbolic link there) and on
//! SIGHUP, reads it again; what does not validate never replaces what does.

use std::{path::PathBuf, sync::Arc, time::Duration};

use metrics::gauge;
use notify::{RecursiveMode, Watcher as _};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::sleep,
};

use super::registry::Registry;
use crate::{cli::terminal::Style, config};

/// Editors and ConfigMaps make several changes in a row.
const SETTLE: Duration = Duration::from_millis(200);

pub(super) async fn follow(file: PathBuf, registry: Arc<Registry>) {
    let successful = gauge!("tidegate_config_last_reload_successful");
    successful.set(1.0);
    let (changed, mut changes) = mpsc::channel(1);
    let watcher = watch(&file, changed);
    if let Err(error) = &watcher {
        tracing::warn!(%error, "the configuration file is not watched; SIGHUP reads it again");
    }
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    let mut last = std::fs::read(&file).ok();
    loop {
        tokio::select! {
            _ = hangup.recv() => {}
            Some(()) = changes.recv() => {
                sleep(SETTLE).await;
                while changes.try_recv().is_ok() {}
                let now = std::fs::read(&file).ok();
                if now == last {
                    continue;
                }
                last = now;
            }
        }
        successful.set(if reload(&file, &registry).await { 1.0 } else { 0.0 });
    }
}

async fn reload(file: &std::path::Path, registry: &Registry) -> bool {
    let loaded = match config::load(file).and_then(|loaded| loaded.for_role(registry.role()).map(|()| loaded))
    {
        Ok(loaded) => loaded,
        Err(report) => {
            tracing::error!(
                "configuration rejected, the last good one stays:\n{}",
                report.render(Style::Plain)
            );
            return false;
        }
    };
    if let Err(error) = registry.replace_file(loaded.config).await {
        tracing::error!("configuration cannot be carried out, the last good one stays: {error:#}");
        return false;
    }
    true
}

fn watch(file: &std::path::Path, changed: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // One pending change stands for all.
            let _ = changed.try_send(());
        }
    })?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    watcher.watch(folder.unwrap_or(std::path::Path::new(".")), RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
