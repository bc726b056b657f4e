//! `Model` resources: read with the configuration's own reader, and served beside the models of the file.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use fleet::kubernetes::models::{self, Catalogue, Freshness, ModelObject};

use super::Cluster;
use crate::{config, serve::Registry};

/// A `Model` resource and what became of it.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) object: Arc<ModelObject>,
    pub(super) fate: Fate,
    /// Whether its owner was told that it is not served.
    pub(super) told: AtomicBool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    Served,
    /// Its spec is not valid, for these reasons.
    Refused(Vec<String>),
    /// The name is taken: by the configuration file, or by the older resource of this namespace.
    Taken {
        by: Option<Arc<str>>,
    },
}

/// Goes over to the resources as they are, each time they change.
pub(super) async fn follow(cluster: &Cluster, registry: &Registry) {
    let Some(scope) = cluster.resources.clone() else {
        cluster.read.store(true, Ordering::Relaxed);
        return;
    };
    let mut catalogue = models::follow(&cluster.api, scope);
    loop {
        let Catalogue { objects, beyond, freshness } = catalogue.borrow_and_update().clone();
        match freshness {
            Freshness::Unread => {}
            _ => take_over(cluster, registry, &objects).await,
        }
        if beyond > 0 {
            tracing::error!(beyond, "there are more Model resources than are served");
        }
        if catalogue.changed().await.is_err() {
            return;
        }
    }
}

async fn take_over(cluster: &Cluster, registry: &Registry, objects: &[Arc<ModelObject>]) {
    let in_file = registry.names_in_file().await;
    let (resources, models) = sort_out(objects, &in_file, &cluster.limits);
    if let Err(error) = registry.replace_resources(models).await {
        tracing::error!("the Model resources cannot be carried out, the last ones stay: {error:#}");
    }
    cluster.declared.send_replace(resources.into());
    cluster.read.store(true, Ordering::Relaxed);
}

/// Which resources are served. The oldest of a name wins, so that a newcomer never takes a model's calls over.
fn sort_out(
    objects: &[Arc<ModelObject>],
    in_file: &[Arc<str>],
    limits: &config::Limits,
) -> (Vec<Resource>, Vec<config::Model>) {
    let mut taken: BTreeMap<Arc<str>, Option<Arc<str>>> =
        in_file.iter().map(|name| (Arc::clone(name), None)).collect();
    let mut models = Vec::new();
    let mut resources = Vec::new();
    for object in objects {
        let fate = match taken.get(&object.name) {
            Some(by) => Fate::Taken { by: by.clone() },
            None => match config::resource(&object.namespace, &object.name, &object.spec, limits) {
                Ok(model) => {
                    taken.insert(Arc::clone(&object.name), Some(Arc::clone(&object.namespace)));
                    models.push(model);
                    Fate::Served
                }
                Err(reasons) => Fate::Refused(reasons),
            },
        };
        resources.push(Resource { object: Arc::clone(object), fate, told: AtomicBool::new(false) });
    }
    (resources, models)
}
