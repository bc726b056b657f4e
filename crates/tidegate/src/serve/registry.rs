//! The models in service, and how one configuration follows another.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use autoscaler::reconcile::Clock;
use futures_util::future::join_all;
use gateway::{Model, Models};
use tokio::{
    sync::Mutex,
    time::{Instant, MissedTickBehavior, interval},
};

use super::model::{Replicas, Served, View};
use crate::config::{self, Config};

/// How often the history for the page is sampled and gauges are published.
const SAMPLING: Duration = Duration::from_secs(1);

/// All models in service.
#[derive(Debug)]
pub(crate) struct Registry {
    models: Models,
    clock: Clock,
    served: Mutex<BTreeMap<Arc<str>, Served>>,
    views: Arc<ArcSwap<Vec<Arc<View>>>>,
    config: Mutex<Config>,
    sampler: tokio::task::JoinHandle<()>,
}

impl Registry {
    /// Starts every model of `config`.
    ///
    /// # Errors
    /// A fleet cannot be started.
    pub(crate) fn start(config: Config) -> anyhow::Result<Self> {
        // Decisions carry the time since the Unix epoch, so that people can read them.
        let offset = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let clock = Clock { start: Instant::now(), offset };
        let start =
            |model: &config::Model| Ok((Arc::clone(&model.name), Served::start(model.clone(), clock)?));
        let served = config.models.iter().map(start).collect::<anyhow::Result<BTreeMap<_, _>>>()?;
        let views = Arc::new(ArcSwap::default());
        let sampler = tokio::spawn(sample(Arc::clone(&views)));
        let registry = Self {
            models: Models::default(),
            clock,
            served: Mutex::const_new(BTreeMap::new()),
            views,
            config: Mutex::const_new(config),
            sampler,
        };
        registry.publish(&served);
        Ok(Self { served: Mutex::const_new(served), ..registry })
    }

    /// What the gateway serves from; follows every change.
    pub(crate) fn models(&self) -> Models {
        self.models.clone()
    }

    /// The models as they are, by name.
    pub(crate) fn views(&self) -> Arc<Vec<Arc<View>>> {
        self.views.load_full()
    }

    pub(crate) fn view(&self, model: &str) -> Option<Arc<View>> {
        self.views().iter().find(|view| &*view.config.name == model).cloned()
    }

    /// Goes over to `new`: models that stay keep their replicas wherever their command allows it, and no request
    /// is lost. Settings of the process itself are only taken over by a restart; the log says so.
    ///
    /// # Errors
    /// A fleet cannot be started; then everything stays as it was.
    pub(crate) async fn replace(&self, new: Config) -> anyhow::Result<()> {
        let mut config = self.config.lock().await;
        let changes = config::changes(&config, &new);
        if changes == config::Changes::default() {
            tracing::info!("configuration read again: no changes");
            return Ok(());
        }
        let mut served = self.served.lock().await;
        let mut successors = Vec::new();
        for model in &new.models {
            let unchanged = config.models.iter().any(|before| before == model);
            if unchanged {
                continue;
            }
            let before = served.get(&model.name);
            let kept = before.filter(|before| before.view.config.fleet.has_same_replicas(&model.fleet));
            successors.push(match kept {
                Some(before) => (before.with(model.clone()), Replicas::Keep),
                None => (Served::start(model.clone(), self.clock)?, Replicas::Stop),
            });
        }
        let stays = |name: &Arc<str>| new.models.iter().any(|model| model.name == *name);
        let gone: Vec<Arc<str>> = served.keys().filter(|name| !stays(name)).cloned().collect();
        let mut leaving: Vec<(Served, Replicas)> =
            gone.iter().filter_map(|name| Some((served.remove(name)?, Replicas::Stop))).collect();
        for (successor, replicas) in successors {
            let name = Arc::clone(&successor.view.config.name);
            leaving.extend(served.insert(name, successor).map(|before| (before, replicas)));
        }
        self.publish(&served);
        drop(served);
        tracing::info!("configuration read again: {changes}");
        *config = new;
        for (served, replicas) in leaving {
            tokio::spawn(served.retire(replicas));
        }
        Ok(())
    }

    /// Finishes every admitted request and ends every replica.
    pub(crate) async fn stop(&self) {
        self.sampler.abort();
        let served = std::mem::take(&mut *self.served.lock().await);
        self.models.replace([]);
        self.views.store(Arc::default());
        join_all(served.into_values().map(|served| served.retire(Replicas::Stop))).await;
    }

    fn publish(&self, served: &BTreeMap<Arc<str>, Served>) {
        self.models.replace(served.values().map(|served| Model::new(served.parts())));
        self.views.store(Arc::new(served.values().map(|served| Arc::clone(&served.view)).collect()));
    }
}

async fn sample(views: Arc<ArcSwap<Vec<Arc<View>>>>) {
    let mut tick = interval(SAMPLING);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for view in views.load().iter() {
            let stats = view.pipeline.stats();
            view.pipeline.publish_gauges(&stats);
            let mut history = view.history.lock().unwrap_or_else(PoisonError::into_inner);
            history.sample(view, stats);
        }
    }
}
