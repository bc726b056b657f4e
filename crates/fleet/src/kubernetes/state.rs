//! What was learned of all models, kept in one ConfigMap over changes of leader: a new leader goes on where the last
//! one was, instead of measuring cold starts anew.
//!
//! A record is worth what went into it, so it never gives way to an emptier one, nor to one of an older epoch; and
//! all writes replace exactly what was read.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, api::PostParams};

use super::{
    cluster::{ApiError, Cluster},
    lease::Fence,
};

use self::ledger::{Ledger, Superseded};

mod key;
mod ledger;

/// Where the leader of the last write put its epoch.
const EPOCH: &str = "tidegate.dev/epoch";

/// The state of one model, as it is to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub json: String,
    /// How much was learned, in whatever grows with it: more or equal replaces less.
    pub weight: u64,
}

/// What was kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The JSON of each model.
    pub models: BTreeMap<String, String>,
    /// Of the leader that wrote it; one that reads it must lead with a greater one, see
    /// [`Election::outrank`](super::lease::Election::outrank). Zero: nothing was kept yet.
    pub epoch: u64,
}

impl Memory {
    /// What the ConfigMap keeps that is given as JSON. Entries that cannot be read are left out.
    ///
    /// # Errors
    /// It is no ConfigMap.
    pub fn from_json(map: &str) -> Result<Self, serde_json::Error> {
        Ok(Ledger::of(&serde_json::from_str(map)?).memory())
    }
}

/// What became of the entries of a save.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Models of which more is kept than was given; theirs was left as it is.
    pub outweighed: Vec<String>,
    /// Models that are not kept: there is no room, or what was given is not JSON.
    pub left_out: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaveError {
    /// Nothing was written.
    #[error("this process does not lead any more")]
    Deposed,
    /// Nothing was written: what is kept comes from a later leader.
    #[error("the state is kept by a leader of epoch {0}")]
    Superseded(u64),
    #[error("the state is being changed by somebody else all the time")]
    Contended,
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// A handle to what is kept.
#[derive(Clone, Debug)]
pub struct Store {
    api: Api<ConfigMap>,
    namespace: Arc<str>,
    name: Arc<str>,
    fence: Fence,
}

impl Store {
    pub fn new(cluster: &Cluster, namespace: &str, name: &str, fence: Fence) -> Self {
        Self { api: cluster.api(namespace), namespace: namespace.into(), name: name.into(), fence }
    }

    /// What is kept. Entries that cannot be read are left out.
    pub async fn load(&self) -> Result<Memory, ApiError> {
        let found = self.read().await?;
        Ok(found.as_ref().map(Ledger::of).unwrap_or_default().memory())
    }

    /// Keeps these entries besides what is kept already, as far as there is room: models that are not among them go
    /// first, and then those of which least was learned. Takes at most three tries.
    pub async fn save(&self, entries: &BTreeMap<String, Entry>, epoch: u64) -> Result<Saved, SaveError> {
        const TRIES: usize = 3;
        for _ in 0..TRIES {
            let found = self.read().await?;
            let before = found.as_ref().map(Ledger::of).unwrap_or_default();
            let (ledger, saved) =
                before.with(entries, epoch).map_err(|Superseded(epoch)| SaveError::Superseded(epoch))?;
            if found.is_some() && ledger == before {
                return Ok(saved);
            }
            if self.fence.epoch() != Some(epoch) {
                return Err(SaveError::Deposed);
            }
            match self.write(found, ledger).await {
                Ok(()) => return Ok(saved),
                // Somebody else wrote, deleted or made it since it was read.
                Err(ApiError::Conflict(_) | ApiError::AlreadyExists(_) | ApiError::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(SaveError::Contended)
    }

    async fn read(&self) -> Result<Option<ConfigMap>, ApiError> {
        match self.api.get(&self.name).await.map_err(ApiError::from) {
            Ok(found) => Ok(Some(found)),
            Err(ApiError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, found: Option<ConfigMap>, ledger: Ledger) -> Result<(), ApiError> {
        let params = PostParams::default();
        match found {
            // With the resource version and the UID that were read.
            Some(found) => drop(self.api.replace(&self.name, &params, &ledger.into_map(found)).await?),
            None => drop(self.api.create(&params, &ledger.into_map(self.blank())).await?),
        }
        Ok(())
    }

    fn blank(&self) -> ConfigMap {
        let metadata = ObjectMeta {
            namespace: Some(self.namespace.to_string()),
            name: Some(self.name.to_string()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, ..ConfigMap::default() }
    }
}
