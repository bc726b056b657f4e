//! `tidegate serve` from configuration to exit code: bind → serve → signals → bounded drain.

mod cluster;
mod data;
mod model;
pub(crate) mod policy;
pub(crate) mod record;
mod registry;
mod reload;
mod role;
mod signals;
mod source;
mod tasks;
mod view;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use gateway::{Drained, Gateway, Listener};
use metrics_exporter_prometheus::PrometheusHandle;
use pipeline::admit::Memory;
use tokio_util::sync::CancellationToken;

use self::{cluster::Cluster, record::Recording};
pub(crate) use self::{
    registry::Registry,
    role::{Identity, Role},
    view::View,
};
use crate::{
    admin::{self, Admin},
    config::{self, Config},
    telemetry::traces,
};

/// What this process is besides its configuration.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) role: Role,
    pub(crate) identity: Identity,
    /// The configuration's file, whose changes are followed.
    pub(crate) file: Option<PathBuf>,
    pub(crate) metrics: PrometheusHandle,
    /// `None`: nothing is traced.
    pub(crate) traces: Option<traces::Settings>,
}

impl Process {
    /// A process that is not part of a cluster.
    pub(crate) fn alone(metrics: PrometheusHandle, traces: Option<traces::Settings>) -> Self {
        let identity = Identity { pod_name: None, pod_namespace: None, pod_ip: None };
        Self { role: Role::All, identity, file: None, metrics, traces }
    }
}

/// Told what runs, once everything is bound.
pub(crate) struct Started {
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) admin: SocketAddr,
    pub(crate) registry: Arc<Registry>,
}

/// Serves `config` until a signal ends it.
///
/// # Errors
/// An address cannot be bound, a model's fleet cannot be started, or it is not known where the cluster is.
pub(crate) async fn run(
    config: Config,
    process: Process,
    announce: impl FnOnce(Started),
) -> anyhow::Result<ExitCode> {
    let Process { role, identity, file, metrics, traces } = process;
    let listeners = if role.serves() { bind_all(&config.listen)? } else { Vec::new() };
    let listen = listeners.iter().map(Listener::address).collect::<Result<Vec<_>, _>>()?;
    let recording = Recording::default();
    let cluster = Cluster::join(&config, role, identity, recording.sink()).await?;
    let traces = traces.filter(|_| role.serves()).map(traces::Settings::into_pipe);
    let tracer = traces.as_ref().map(|pipe| pipe.tracer.clone());
    let registry = Registry::start(config.clone(), role, cluster.clone(), recording, tracer.clone()).await?;
    let registry = Arc::new(registry);
    let memory = Memory::new(config.limits.memory);
    let gateway = Gateway::new(gateway_config(&config), registry.models(), memory, tracer);
    let admin =
        Admin { registry: Arc::clone(&registry), gateway: gateway.clone(), metrics, config: config.clone() };
    let admin =
        admin::start(config.admin, admin).with_context(|| format!("the admin address {}", config.admin))?;
    let exporting = traces.map(|pipe| pipe.export(admin.runtime())).transpose()?;
    announce(Started { listen, admin: admin.address(), registry: Arc::clone(&registry) });

    let shutdown = CancellationToken::new();
    let reloads = file.map(|file| tokio::spawn(reload::follow(file, Arc::clone(&registry))));
    let stopper = tokio::spawn(signals::stop_gently_then_at_once(shutdown.clone()));
    let in_cluster = cluster.map(|cluster| {
        let (registry, shutdown) = (Arc::clone(&registry), shutdown.clone());
        tokio::spawn(cluster.run(registry, shutdown))
    });
    if role.serves() {
        if let Drained::CutOff(connections) = gateway.serve(listeners, shutdown.clone()).await {
            tracing::warn!(connections, "connections were cut off at the end of the drain");
        }
    } else {
        shutdown.cancelled().await;
        gateway.start_draining();
    }
    if let Some(reloads) = reloads {
        reloads.abort();
    }
    registry.stop().await;
    if let Some(in_cluster) = in_cluster {
        // The shutdown ends it; a panic of it was logged.
        let _ = in_cluster.await;
    }
    if let Some(exporting) = exporting {
        exporting.finish().await;
    }
    admin.stop();
    stopper.abort();
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

fn bind_all(addresses: &[SocketAddr]) -> anyhow::Result<Vec<Listener>> {
    let bind = |address: &SocketAddr| {
        Listener::bind(*address).with_context(|| format!("cannot listen on {address}"))
    };
    addresses.iter().map(bind).collect()
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
