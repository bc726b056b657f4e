//! `tidegate check`: whether a cluster is fit for Tidegate, and whether what is installed there stands. It only reads.

use std::{io, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use fleet::kubernetes::{ApiError, Cluster};
use tokio::time::{Instant, sleep, timeout_at};

use self::finding::{Findings, Grade, Line};
use super::{
    client::{Place, UNAVAILABLE, block_on},
    config::BAD_CONFIG,
    output::Output,
    terminal::{Style, print},
};
use crate::config::{self, Config};

mod finding;
mod installation;
mod leader;
mod models;
mod server;

/// Between two looks of `--wait`.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Before an installation: only the API server, and the rights to install
    #[arg(long, conflicts_with = "config")]
    pre: bool,
    /// Repeat until all is fine, at most this long
    #[arg(
        long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "2m",
        value_parser = humantime::parse_duration
    )]
    wait: Option<Duration>,
    /// Look also at the kubernetes models of this configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Carries out the verb: 0 if all is fine or doubtful at most, 1 if something failed, 69 if the API server cannot be
/// asked.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let config = match args.config.as_deref().map(config::load).transpose() {
        Ok(loaded) => loaded.map(|loaded| loaded.config),
        Err(report) => {
            print(&report.render(Style::of(&io::stdout())))?;
            return Ok(ExitCode::from(BAD_CONFIG));
        }
    };
    block_on(async {
        let check = Check::new(args, config).await?;
        let findings = match args.wait {
            None => check.look().await,
            Some(wait) => check.until_fine(Instant::now() + wait).await,
        };
        print(&match args.output {
            Output::Text => findings.render(Style::of(&io::stdout())),
            Output::Json => format!("{:#}\n", findings.to_json()),
        })?;
        Ok(match findings.grade() {
            _ if findings.unreachable => ExitCode::from(UNAVAILABLE),
            Grade::Failed => ExitCode::FAILURE,
            Grade::Fine | Grade::Doubtful => ExitCode::SUCCESS,
        })
    })
}

/// What is looked at, and where.
struct Check {
    cluster: Cluster,
    namespace: String,
    pre: bool,
    config: Option<Config>,
}

impl Check {
    async fn new(args: &CheckArgs, config: Option<Config>) -> anyhow::Result<Self> {
        let cluster = args.place.connect("check").await?;
        let namespace = args.place.namespace().to_owned();
        Ok(Self { cluster, namespace, pre: args.pre, config })
    }

    /// Looks again until nothing fails, or the time is over; what was found last.
    async fn until_fine(&self, end: Instant) -> Findings {
        let mut findings = self.look().await;
        while findings.grade() == Grade::Failed && Instant::now() + PAUSE < end {
            sleep(PAUSE).await;
            match timeout_at(end, self.look()).await {
                Ok(found) => findings = found,
                Err(_) => break,
            }
        }
        findings
    }

    async fn look(&self) -> Findings {
        let mut findings = Findings::default();
        if let Err(error) = self.look_into(&mut findings).await {
            findings.unreachable = true;
            let fix = match error {
                ApiError::Unauthenticated { .. } => "log in again, or name another --context or --kubeconfig",
                _ => {
                    "is the address in the kubeconfig right, and is it reached from here? Ask: kubectl version"
                }
            };
            findings.add("kubernetes-api", vec![Line::failed(unreached(&error), fix)]);
        }
        findings
    }

    async fn look_into(&self, findings: &mut Findings) -> Result<(), ApiError> {
        let Self { cluster, namespace, .. } = self;
        findings.add("kubernetes-api", server::api(cluster).await?);
        if self.pre {
            findings.add("permissions", server::to_install(cluster, namespace).await?);
            return Ok(());
        }
        let names = installation::Names::of(self.config.as_ref());
        findings.add("permissions", server::to_check(cluster, namespace).await?);
        findings.add("installation", installation::lines(cluster, namespace).await);
        findings.add("leader", leader::lines(cluster, namespace, names.lease).await);
        findings.add("gateways", installation::gateways(cluster, namespace, names.gateways).await);
        findings.add("models", models::lines(cluster, namespace, self.config.as_ref()).await);
        Ok(())
    }
}

fn unreached(error: &ApiError) -> String {
    format!("cannot ask the API server: {error}")
}

/// What a read that failed says of the object that was to be looked at.
fn unread(object: &str, error: &ApiError) -> Line {
    match error {
        ApiError::NotFound(_) => Line::failed(
            format!("there is no {object}"),
            "install it: kubectl apply -k manifests/base; or name the place with --namespace and --context",
        ),
        ApiError::Forbidden { what } => Line::doubtful(
            format!("{object} cannot be looked at"),
            format!("this user may not {what}; grant that, or ask as somebody else"),
        ),
        error => Line::failed(
            format!("{object} cannot be looked at: {error}"),
            "the API server did not answer as it should; look at its health: kubectl get --raw /readyz?verbose",
        ),
    }
}
