//! A simulated engine on a port of its own, for the command line and for tests in the same process.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{calls::Simulation, counts::Counts, options::Options};
use crate::listen::{DrainError, Limits, Listener};

/// Connections at a time: a stream over HTTP/1.1 takes one each.
const CONNECTIONS_MAX: usize = 16 << 10;

/// The address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    pub address: SocketAddr,
    source: io::Error,
}

/// A bound simulator; it answers once [`Simulator::run`] is polled.
#[derive(Debug)]
pub struct Simulator {
    listener: Listener,
    simulation: Arc<Simulation>,
}

/// A simulator that runs on a task of its own. Dropped, it goes on until its runtime ends.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    simulation: Arc<Simulation>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), DrainError>>,
}

impl Simulator {
    /// Binds the port.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn bind(options: Options) -> Result<Self, BindError> {
        let limits = Limits { connections: CONNECTIONS_MAX, drain: options.drain };
        let address = options.address;
        let listener =
            Listener::bind(address, limits).await.map_err(|source| BindError { address, source })?;
        Ok(Self { listener, simulation: Arc::new(Simulation::new(options)) })
    }

    /// Binds the port and answers from now on.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn start(options: Options) -> Result<Running, BindError> {
        let simulator = Self::bind(options).await?;
        let (address, simulation) = (simulator.address(), Arc::clone(&simulator.simulation));
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(simulator.run(shutdown.clone()));
        Ok(Running { address, simulation, shutdown, task })
    }

    /// The address bound, with the port that was taken where it was 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Serves until `shutdown`, then refuses new calls and finishes those in flight. Dropping the future cuts
    /// every connection.
    ///
    /// # Errors
    /// Calls in flight did not end within [`Options::drain`] and were cut off.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), DrainError> {
        let Self { listener, simulation } = self;
        listener.run(&simulation, &shutdown, || simulation.stop(), std::future::ready(())).await
    }
}

impl Running {
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the engine counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.simulation.counts()
    }

    /// Stops as [`Simulator::run`] does on its shutdown.
    ///
    /// # Errors
    /// Calls in flight did not end within [`Options::drain`] and were cut off.
    ///
    /// # Panics
    /// If the simulator did.
    pub async fn stop(self) -> Result<(), DrainError> {
        self.shutdown.cancel();
        self.task.await.expect("the simulator does not panic")
    }

    /// Cuts every connection at once, as a killed process would.
    pub fn kill(self) {
        self.task.abort();
    }
}
