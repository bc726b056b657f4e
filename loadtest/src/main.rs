//! Open-loop load for predict and chat endpoints, and a fast fake model server to compare proxies with.
//!
//! Life of a run: [`cli`] arguments → [`arrivals`] say when, [`source`] encodes what → [`generate`] sends at those
//! times ([`chat`] makes its requests as it goes), each [`call`] over a [`connection`] → [`meter`] keeps the [`record`] → [`report`]. [`mod@run`] wires them.

mod call;
mod chat;
mod check;
mod cli;
mod connection;
mod generate;
mod message;
mod meter;
mod outcome;
mod pacer;
mod process;
mod progress;
mod record;
mod report;
mod run;
mod source;
mod sse;
mod target;
mod upstream;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use http::Uri;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Cli, Format, OutputArgs, RunArgs, UpstreamArgs, Verb},
    report::Report,
    upstream::{Behaviour, Replies},
};

/// Exit code when the interrupted run was interrupted again.
const INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match (cli.verb, cli.url) {
        (Some(Verb::Upstream(args)), _) => upstream(&args),
        (None, Some(url)) => run(&url, &cli.run),
        (None, None) => Cli::command().error(ErrorKind::MissingRequiredArgument, "a URL is missing").exit(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            // Nothing is left to be done if even this cannot be written.
            _ = writeln!(io::stderr(), "loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(url: &Uri, args: &RunArgs) -> anyhow::Result<ExitCode> {
    raise_descriptor_limit()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stop = CancellationToken::new();
    runtime.spawn(stop_on_interrupt(stop.clone()));
    let report = runtime.block_on(run::run(url, args, stop))?;
    write_report(&report, &args.output)?;
    match report.verdict() {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(why) => {
            writeln!(io::stderr(), "loadtest: {why}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The first interrupt ends sending and still gives a report, the second ends the process.
async fn stop_on_interrupt(stop: CancellationToken) {
    if tokio::signal::ctrl_c().await.is_ok() {
        stop.cancel();
    }
    if tokio::signal::ctrl_c().await.is_ok() {
        std::process::exit(INTERRUPTED);
    }
}

fn write_report(report: &Report, args: &OutputArgs) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(report)?;
    if let Some(path) = &args.json {
        std::fs::write(path, &json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    match args.output {
        Format::Text => write!(io::stdout(), "{report}")?,
        Format::Json => writeln!(io::stdout(), "{json}")?,
    }
    Ok(())
}

fn upstream(args: &UpstreamArgs) -> anyhow::Result<ExitCode> {
    raise_descriptor_limit()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.threads.max(1))
        .enable_all()
        .build()?;
    let behaviour = Behaviour {
        latency: args.latency,
        latency_per_row: args.latency_per_row,
        slots: args.concurrency.map(Semaphore::new),
        replies: if args.echo { Replies::Echo } else { Replies::Fixed },
    };
    runtime.block_on(async {
        let listener = TcpListener::bind(args.listen)
            .await
            .with_context(|| format!("cannot listen on {}", args.listen))?;
        writeln!(io::stdout(), "listening on http://{}", listener.local_addr()?)?;
        io::stdout().flush()?;
        tokio::select! {
            served = upstream::serve(listener, behaviour) => served?,
            interrupted = tokio::signal::ctrl_c() => interrupted?,
        }
        anyhow::Ok(())
    })?;
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(ExitCode::SUCCESS)
}

/// Ten thousand connections need as many descriptors; the soft limit is often a thousand.
fn raise_descriptor_limit() -> anyhow::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}
