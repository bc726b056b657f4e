//! Where replicas run: as child processes of this one ([`process`]), at fixed addresses ([`static_addresses`], so
//! named because `static` is a keyword), or as pods of a cluster ([`kubernetes`]). All learn readiness from a
//! [`probe`] that the caller provides, so that nothing here speaks the models' HTTP or gRPC. [`launch`] is the
//! other half of [`process`]: it runs in the child.

use std::sync::Arc;

use autoscaler::fleet::{Fleet, Replica, ReplicaId, ScaleError};
use tokio::sync::watch;

pub mod kubernetes;
pub mod launch;
pub mod probe;
pub mod process;
pub mod static_addresses;

pub use self::{process::ProcessFleet, static_addresses::StaticFleet};

/// A fleet that runs without a cluster, for whoever learns the kind from a config file. Cheap to clone.
#[derive(Clone, Debug)]
pub enum AnyFleet {
    Process(ProcessFleet),
    Static(StaticFleet),
}

impl AnyFleet {
    /// Stops what the fleet started, see [`ProcessFleet::shutdown`]. Fixed addresses are left as they are.
    pub async fn shutdown(&self) {
        match self {
            Self::Process(fleet) => fleet.shutdown().await,
            Self::Static(_) => {}
        }
    }
}

impl Fleet for AnyFleet {
    fn replicas(&self) -> watch::Receiver<Arc<[Replica]>> {
        match self {
            Self::Process(fleet) => fleet.replicas(),
            Self::Static(fleet) => fleet.replicas(),
        }
    }

    async fn scale(&self, target: u32, victims: &[ReplicaId]) -> Result<(), ScaleError> {
        match self {
            Self::Process(fleet) => fleet.scale(target, victims).await,
            Self::Static(fleet) => fleet.scale(target, victims).await,
        }
    }
}
