//! The custom resources `Model` (`models.tidegate.dev/v1alpha1`) as they are now. Their specs are handed on as they
//! came: what they mean is for the reader of the configuration file, whose words they use.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use tokio::{sync::watch, time::Instant};

use super::cluster::{ApiError, Cluster};

use self::lookout::Lookout;

mod lookout;
mod wire;

pub(super) const GROUP: &str = "tidegate.dev";
pub(super) const VERSION: &str = "v1alpha1";
pub(super) const PLURAL: &str = "models";
pub(super) const KIND: &str = "Model";

/// More are not taken notice of: the oldest count.
pub const OBJECTS_MAX: usize = 10_000;

#[derive(Clone, Debug, PartialEq)]
pub struct ModelObject {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    /// Grows with each change of the spec.
    pub generation: i64,
    pub created: Timestamp,
    /// `null` where there is none.
    pub spec: Value,
}

/// Whose models are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    AllNamespaces,
    Namespaces(Vec<String>),
}

/// All models, the oldest first.
#[derive(Clone, Debug)]
pub struct Catalogue {
    pub objects: Arc<[Arc<ModelObject>]>,
    /// How many there are beyond [`OBJECTS_MAX`].
    pub beyond: usize,
    pub freshness: Freshness,
}

/// Whether the objects of a catalogue are those that there are.
#[derive(Clone, Debug, PartialEq)]
pub enum Freshness {
    /// They were not read yet.
    Unread,
    Current,
    /// The cluster does not know the kind. It is asked again each minute; objects that were seen stay.
    KindMissing,
    /// They are as they were at that time.
    Unheard {
        since: Instant,
        error: ApiError,
    },
}

/// Follows all models of that scope, until nobody listens any more. Must be called within a runtime.
pub fn follow(cluster: &Cluster, scope: Scope) -> watch::Receiver<Catalogue> {
    let unread = Catalogue { objects: Arc::default(), beyond: 0, freshness: Freshness::Unread };
    let (publisher, catalogue) = watch::channel(unread);
    let lookout = Lookout::new(cluster.clone(), scope, publisher);
    tokio::spawn(lookout.run());
    catalogue
}
