//! Logs, metrics and traces: the process-wide recorders, set up once.

pub(crate) mod traces;

use std::{io, time::Duration};

use anyhow::Context as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Upper edges of duration histograms in seconds: three a decade and a few more where SLOs are.
const SECONDS: [f64; 24] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
    0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0,
];
const COUNTS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Json,
    /// For people at a terminal.
    Text,
}

/// Starts logging to standard error. `RUST_LOG` chooses what; `info` without it.
pub(crate) fn start_logging(format: LogFormat, default: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let layers = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Json => {
            let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(io::stderr);
            layers.with(lines).try_init()
        }
        LogFormat::Text => {
            let lines = tracing_subscriber::fmt::layer().with_target(false).with_writer(io::stderr);
            layers.with(lines).try_init()
        }
    }
    .context("logging was started before")
}

/// Installs the recorder behind every metric. `slos` become bucket edges, so that "within the SLO" can be read off
/// exactly.
pub(crate) fn start_metrics(slos: impl Iterator<Item = Duration>) -> anyhow::Result<PrometheusHandle> {
    let mut seconds = SECONDS.to_vec();
    seconds.extend(slos.map(|slo| slo.as_secs_f64()));
    seconds.sort_by(f64::total_cmp);
    seconds.dedup();
    let suffix = |suffix: &str| Matcher::Suffix(suffix.to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(suffix("_seconds"), &seconds)
        .and_then(|builder| builder.set_buckets_for_metric(suffix("batch_rows"), &COUNTS))
        .and_then(|builder| builder.set_buckets_for_metric(suffix("batch_requests"), &COUNTS))
        .context("histogram buckets")?
        .install_recorder()
        .context("installing the metrics recorder")
}
