//! `tidegate serve`: gateway, autoscaler or both until a signal stops them.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Args;

use super::{
    config::BAD_CONFIG,
    terminal::{Style, complain, print_error},
};
use crate::{
    config,
    serve::{self, Identity, Role, Started},
    telemetry::{self, LogFormat, traces::Settings},
};

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The configuration; changes of it are followed
    #[arg(long, default_value = "tidegate.yaml")]
    config: PathBuf,
    /// What this process does
    #[arg(long, value_enum, default_value_t)]
    role: Role,
    #[command(flatten)]
    identity: Identity,
}

pub(crate) fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let style = Style::of(&std::io::stderr());
    let loaded = config::load(&args.config).and_then(|loaded| loaded.for_role(args.role).map(|()| loaded));
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(report) => {
            print_error(&report.render(style))?;
            return Ok(ExitCode::from(BAD_CONFIG));
        }
    };
    print_error(&loaded.warnings.render(style))?;
    let traces = match Settings::read(std::env::vars_os()) {
        Ok(traces) => traces,
        Err(wrong) => {
            complain(&wrong.to_string())?;
            return Ok(ExitCode::from(BAD_CONFIG));
        }
    };
    let format = if std::io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json };
    telemetry::start_logging(format, "info")?;
    let slos = loaded.config.models.iter().flat_map(|model| model.slo.times());
    let metrics = telemetry::start_metrics(slos)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    // A standard input is read once; there is nothing to follow.
    let file = Some(args.config).filter(|file| file.as_os_str() != "-");
    let process = serve::Process { role: args.role, identity: args.identity, file, metrics, traces };
    runtime.block_on(serve::run(loaded.config, process, |started| announce(&started)))
}

fn announce(started: &Started) {
    for address in &started.listen {
        tracing::info!("serving http://{address}");
    }
    tracing::info!(models = started.registry.views().len(), "status and metrics: http://{}/", started.admin);
}
