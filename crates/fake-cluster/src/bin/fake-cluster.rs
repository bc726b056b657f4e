//! Serves a cluster in memory until it is interrupted: Deployments come to life, nothing is kept.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use fake_cluster::{
    Cluster, Options, Server,
    workload::{Start, Workload, WorkloadOptions},
};
use jiff::Timestamp;

/// A Kubernetes API server in memory, for tests.
#[derive(Debug, Parser)]
#[command(name = "fake-cluster")]
struct Arguments {
    /// Port on 127.0.0.1; 0 for any free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Writes a kubeconfig for this server.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Seconds from the creation of a pod to its readiness.
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    start: u64,
    /// Runs no controllers: objects stay as they are written.
    #[arg(long)]
    still: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let cluster = Cluster::with(Options { starts_at: Timestamp::now(), ..Options::default() });
    let creating = Duration::from_secs(arguments.start);
    let script = Arc::new(move |_: &_| Start::after(creating, Duration::ZERO));
    let workload = (!arguments.still)
        .then(|| Workload::start(&cluster, WorkloadOptions { script, ..Default::default() }));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, arguments.port));
    let server = Server::start(&cluster, address).await?;
    if let Some(file) = &arguments.kubeconfig {
        server.write_kubeconfig(file, None)?;
    }
    let mut out = std::io::stdout();
    writeln!(out, "{}", server.url())?;
    out.flush()?;
    tokio::signal::ctrl_c().await?;
    drop(workload);
    Ok(())
}
