//! `tidegate serve` from configuration to exit code: bind → serve → signals → bounded drain.

mod model;
mod registry;
mod reload;
mod signals;
mod source;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use gateway::{Drained, Gateway, Listener};
use metrics_exporter_prometheus::PrometheusHandle;
use pipeline::admit::Memory;
use tokio_util::sync::CancellationToken;

pub(crate) use self::{model::View, registry::Registry};
use crate::{
    admin::{self, Admin},
    config::{self, Config},
};

/// Told what runs, once everything is bound.
pub(crate) struct Started {
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) admin: SocketAddr,
    pub(crate) registry: Arc<Registry>,
}

/// Serves `config` until a signal ends it. With `file`, follows its changes.
///
/// # Errors
/// An address cannot be bound, or a model's fleet cannot be started.
pub(crate) async fn run(
    config: Config,
    file: Option<PathBuf>,
    metrics: PrometheusHandle,
    announce: impl FnOnce(Started),
) -> anyhow::Result<ExitCode> {
    let listeners = config.listen.iter().map(|address| bind(*address)).collect::<anyhow::Result<Vec<_>>>()?;
    let listen = listeners.iter().map(Listener::address).collect::<Result<Vec<_>, _>>()?;
    let memory = Memory::new(config.limits.memory);
    let registry = Arc::new(Registry::start(config.clone())?);
    let gateway = Gateway::new(gateway_config(&config), registry.models(), memory);
    let admin =
        Admin { registry: Arc::clone(&registry), gateway: gateway.clone(), metrics, config: config.clone() };
    let admin =
        admin::start(config.admin, admin).with_context(|| format!("the admin address {}", config.admin))?;
    announce(Started { listen, admin: admin.address(), registry: Arc::clone(&registry) });

    let shutdown = CancellationToken::new();
    let reloads = file.map(|file| tokio::spawn(reload::follow(file, Arc::clone(&registry))));
    let stopper = tokio::spawn(signals::stop_gently_then_at_once(shutdown.clone()));
    let drained = gateway.serve(listeners, shutdown).await;
    if let Drained::CutOff(connections) = drained {
        tracing::warn!(connections, "connections were cut off at the end of the drain");
    }
    if let Some(reloads) = reloads {
        reloads.abort();
    }
    registry.stop().await;
    admin.stop();
    stopper.abort();
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

fn bind(address: SocketAddr) -> anyhow::Result<Listener> {
    Listener::bind(address).with_context(|| format!("cannot listen on {address}"))
}

fn gateway_config(config: &Config) -> gateway::Config {
    let config::Limits { memory: _, max_body, max_headers, max_connections, http2_max_streams, timeouts } =
        &config.limits;
    gateway::Config {
        limits: gateway::Limits {
            body: *max_body,
            header_bytes: max_headers.bytes,
            headers: max_headers.count as usize,
            connections: *max_connections as usize,
            http2_streams: *http2_max_streams,
        },
        timeouts: gateway::Timeouts {
            first_byte: timeouts.first_byte,
            header: timeouts.header,
            body_idle: timeouts.body_idle,
            idle: timeouts.idle,
        },
        shutdown: gateway::Shutdown { accept_for: config.shutdown.accept_for, drain: config.shutdown.drain },
    }
}
