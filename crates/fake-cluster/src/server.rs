//! The API over HTTP on loopback, for whole processes and `kubectl`.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{cluster::Cluster, service::ApiService};

const CONNECTIONS_MAX: usize = 4096;
/// Pause after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A cluster that is being served; it stops when this is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Serves `cluster` in plain HTTP/1 on `address`; port 0 for any free one.
    ///
    /// # Errors
    /// Those of binding.
    pub async fn start(cluster: &Cluster, address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let connections = Arc::new(AtomicUsize::new(0));
        let accepting = accept(listener, cluster.clone(), stop.clone(), connections.clone());
        tokio::spawn(accepting);
        Ok(Self { address, stop, connections })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// A kubeconfig for this server; with a bearer token if there is one.
    #[must_use]
    pub fn kubeconfig(&self, token: Option<&str>) -> String {
        let url = self.url();
        let user = token.map_or_else(|| "{}".to_owned(), |token| format!("{{token: \"{token}\"}}"));
        format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: fake, cluster: {{server: \"{url}\"}}}}]\n\
             users: [{{name: user, user: {user}}}]\n\
             contexts: [{{name: fake, context: {{cluster: fake, user: user, namespace: default}}}}]\n\
             current-context: fake\n"
        )
    }

    /// Writes that kubeconfig to a file.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write_kubeconfig(&self, file: &Path, token: Option<&str>) -> io::Result<()> {
        std::fs::write(file, self.kubeconfig(token))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    cluster: Cluster,
    stop: CancellationToken,
    connections: Arc<AtomicUsize>,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(_) => {
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // A server that is down closes what the kernel has accepted for it.
        let (Ok(permit), false) = (room.clone().try_acquire_owned(), cluster.is_down()) else { continue };
        let (cluster, stop, connections) = (cluster.clone(), stop.clone(), connections.clone());
        tokio::spawn(async move {
            connections.fetch_add(1, Ordering::Relaxed);
            tokio::select! {
                () = serve(stream, cluster.service()) => {}
                () = broken(&cluster) => {}
                () = stop.cancelled() => {}
            }
            connections.fetch_sub(1, Ordering::Relaxed);
            drop(permit);
        });
    }
}

/// The end of every connection when the server goes down.
async fn broken(cluster: &Cluster) {
    let mut control = cluster.control();
    let begun = control.borrow().breaks;
    // An error means the cluster is gone, which ends the connection too.
    let _ = control.wait_for(|control| control.breaks != begun).await;
}

async fn serve(stream: TcpStream, service: ApiService) {
    // Small events must not wait for each other.
    let _ = stream.set_nodelay(true);
    // No time-outs: one that closes an idle connection would look to a client like a fault nobody asked for.
    let service = TowerToHyperService::new(service);
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // A connection that fails has told its client; faults make many do.
    let _ = connection.await;
}
