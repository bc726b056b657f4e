//! `tidegate serve`: gateway and autoscaler until a signal stops them.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::{
    config::BAD_CONFIG,
    terminal::{Style, print_error},
};
use crate::{
    config,
    serve::{self, Started},
    telemetry::{self, LogFormat},
};

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The configuration; changes of it are followed
    #[arg(long, default_value = "tidegate.yaml")]
    config: PathBuf,
    /// What this process does
    #[arg(long, value_enum, default_value_t)]
    role: Role,
}

/// Roles that this version knows: apart they need a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Role {
    #[default]
    All,
}

pub(crate) fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let Role::All = args.role;
    let style = Style::of(&std::io::stderr());
    let loaded = match config::load(&args.config) {
        Ok(loaded) => loaded,
        Err(report) => {
            print_error(&report.render(style))?;
            return Ok(ExitCode::from(BAD_CONFIG));
        }
    };
    print_error(&loaded.warnings.render(style))?;
    let format = if std::io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json };
    telemetry::start_logging(format, "info")?;
    let slos = loaded.config.models.iter().map(|model| model.slo.latency);
    let metrics = telemetry::start_metrics(slos)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    // A standard input is read once; there is nothing to follow.
    let file = Some(args.config).filter(|file| file.as_os_str() != "-");
    runtime.block_on(serve::run(loaded.config, file, metrics, |started| announce(&started)))
}

fn announce(started: &Started) {
    for address in &started.listen {
        tracing::info!("serving http://{address}");
    }
    tracing::info!(models = started.registry.views().len(), "status and metrics: http://{}/", started.admin);
}
