//! The one write a gateway may do: from no replica to one, when a request waits and nobody who decides has acted.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::timeout};

use super::{
    cluster::{ApiError, Cluster},
    scale::{Change, Scaled, WriteError},
    target::{Lookup, TargetRef},
};

/// Longest that one wake may take in all.
const PATIENCE: Duration = Duration::from_secs(20);

/// The means to wake one model. Cheap to clone; clones are the same.
#[derive(Clone, Debug)]
pub struct Wake {
    cluster: Cluster,
    namespace: Arc<str>,
    target: TargetRef,
    kind: Lookup,
    turn: Arc<Mutex<()>>,
}

/// How a wake ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The number is not zero now, by this write or somebody else's.
    Awake,
    /// Another wake of the same handle is under way.
    UnderWay,
}

impl Wake {
    #[must_use]
    pub fn new(cluster: &Cluster, namespace: Arc<str>, target: TargetRef) -> Self {
        let kind = Lookup::new(cluster, &target);
        Self { cluster: cluster.clone(), namespace, target, kind, turn: Arc::default() }
    }

    /// Sets the number from zero to one, and leaves any other number as it is. After an error, or when dropped
    /// half-way, it may have been set all the same; doing it again does no harm.
    pub async fn wake(&self) -> Result<Woken, ApiError> {
        let Ok(_turn) = self.turn.try_lock() else { return Ok(Woken::UnderWay) };
        timeout(PATIENCE, self.write()).await.unwrap_or(Err(ApiError::Late(PATIENCE)))
    }

    async fn write(&self) -> Result<Woken, ApiError> {
        let resource = self.kind.resource().await?;
        let name = self.target.name();
        let scaled = Scaled::new(&self.cluster, resource, &self.namespace, name, "tidegate-wake");
        let change = Change { uid: None, from: 0, to: 1 };
        match scaled.write(&change, || true).await {
            Ok(_) | Err(WriteError::Conflict(_)) => Ok(Woken::Awake),
            Err(WriteError::Failed(error)) => Err(error),
            Err(WriteError::Deposed) => unreachable!("a wake is not fenced"),
        }
    }
}
