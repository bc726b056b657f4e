//! The models in service, and how one configuration follows another.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use autoscaler::reconcile::Clock;
use futures_util::future::join_all;
use gateway::{Model, Models, trace::Tracer};
use tokio::{
    sync::Mutex,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    Role,
    cluster::Cluster,
    model::{After, Served, Site},
    record::Recording,
    view::View,
};
use crate::config::{self, Config};

/// How often the history for the page is sampled and gauges are published.
const SAMPLING: Duration = Duration::from_secs(1);

/// What is to be served: by the file, and by Model resources beside it.
#[derive(Debug)]
struct Declared {
    file: Config,
    resources: Vec<config::Model>,
}

impl Declared {
    /// All models. A resource never takes the name of a model of the file.
    fn models(&self) -> Vec<config::Model> {
        let in_file = |name: &Arc<str>| self.file.models.iter().any(|model| model.name == *name);
        let resources = self.resources.iter().filter(|model| !in_file(&model.name));
        self.file.models.iter().chain(resources).cloned().collect()
    }
}

/// All models in service.
#[derive(Debug)]
pub(crate) struct Registry {
    models: Models,
    site: Site,
    recording: Arc<Recording>,
    served: Mutex<BTreeMap<Arc<str>, Served>>,
    views: Arc<ArcSwap<Vec<Arc<View>>>>,
    declared: Mutex<Declared>,
    known: AtomicBool,
    sampler: tokio::task::JoinHandle<()>,
}

impl Registry {
    /// Starts every model of `config`.
    ///
    /// # Errors
    /// A fleet cannot be started.
    pub(super) async fn start(
        config: Config,
        role: Role,
        cluster: Option<Arc<Cluster>>,
        recording: Recording,
        tracer: Option<Tracer>,
    ) -> anyhow::Result<Self> {
        // Decisions carry the time since the Unix epoch, so that people can read them.
        let offset = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let clock = Clock { start: Instant::now(), offset };
        let site = Site { clock, role, cluster, tracer, record: recording.sink() };
        let recording = Arc::new(recording);
        recording.follow(config.record.as_ref().filter(|_| role.decides())).await;
        let start =
            |model: &config::Model| Ok((Arc::clone(&model.name), Served::start(model.clone(), &site)?));
        let served = config.models.iter().map(start).collect::<anyhow::Result<BTreeMap<_, _>>>()?;
        let views = Arc::new(ArcSwap::default());
        let sampler = tokio::spawn(sample(Arc::clone(&views), Arc::clone(&recording)));
        let registry = Self {
            models: Models::default(),
            site,
            recording,
            served: Mutex::const_new(BTreeMap::new()),
            views,
            declared: Mutex::const_new(Declared { file: config, resources: Vec::new() }),
            known: AtomicBool::new(false),
            sampler,
        };
        registry.publish(&served);
        Ok(Self { served: Mutex::const_new(served), ..registry })
    }

    pub(super) fn role(&self) -> Role {
        self.site.role
    }

    /// What the gateway serves from; follows every change.
    pub(crate) fn models(&self) -> Models {
        self.models.clone()
    }

    /// Whether it is known which models there are and where their replicas are. Once known it stays so: a cluster
    /// that is away is no reason to send clients elsewhere.
    pub(crate) fn is_known(&self) -> bool {
        if self.known.load(Ordering::Relaxed) {
            return true;
        }
        let models = self.served.try_lock().is_ok_and(|served| served.values().all(Served::is_known));
        let known = models && self.site.cluster.as_ref().is_none_or(|cluster| cluster.is_known());
        self.known.store(known, Ordering::Relaxed);
        known
    }

    /// The models as they are, by name.
    pub(crate) fn views(&self) -> Arc<Vec<Arc<View>>> {
        self.views.load_full()
    }

    pub(crate) fn view(&self, model: &str) -> Option<Arc<View>> {
        let views = self.views();
        // They are in the order of their names.
        let place = views.binary_search_by(|view| (*view.config.name).cmp(model)).ok()?;
        views.get(place).cloned()
    }

    /// Goes over to the file's new content: models that stay keep their replicas wherever their command allows it,
    /// and no request is lost. Settings of the process itself, the record aside, are only taken over by a restart; the
    /// log says so. A recording that ended by itself begins again, even where the file is as it was.
    ///
    /// # Errors
    /// A fleet cannot be started; then everything stays as it was.
    pub(crate) async fn replace_file(&self, new: Config) -> anyhow::Result<()> {
        let mut declared = self.declared.lock().await;
        let changes = config::changes(&declared.file, &new);
        let has_changes = changes != config::Changes::default();
        if has_changes {
            let resources = declared.resources.clone();
            self.go_over(&mut declared, Declared { file: new, resources }).await?;
        }
        let record = declared.file.record.as_ref();
        self.recording.follow(record.filter(|_| self.site.role.decides())).await;
        match has_changes {
            true => tracing::info!("configuration read again: {changes}"),
            false => tracing::info!("configuration read again: no changes"),
        }
        Ok(())
    }

    /// Names of the models that the file has.
    pub(super) async fn names_in_file(&self) -> Vec<Arc<str>> {
        self.declared.lock().await.file.models.iter().map(|model| Arc::clone(&model.name)).collect()
    }

    /// Goes over to other Model resources, as [`replace_file`](Self::replace_file) does to another file.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn replace_resources(&self, resources: Vec<config::Model>) -> anyhow::Result<()> {
        let mut declared = self.declared.lock().await;
        if declared.resources == resources {
            return Ok(());
        }
        let file = declared.file.clone();
        self.go_over(&mut declared, Declared { file, resources }).await
    }

    async fn go_over(&self, declared: &mut Declared, new: Declared) -> anyhow::Result<()> {
        let (before, after) = (declared.models(), new.models());
        let mut served = self.served.lock().await;
        let mut successors = Vec::new();
        for model in &after {
            if before.iter().any(|before| before == model) {
                continue;
            }
            let replaced = served.get(&model.name);
            let kept = replaced.filter(|served| served.view.config.fleet.has_same_replicas(&model.fleet));
            successors.push(match kept {
                Some(served) => (served.with(model.clone(), &self.site), After::Keep),
                None => (Served::start(model.clone(), &self.site)?, After::Stop),
            });
        }
        let stays = |name: &Arc<str>| after.iter().any(|model| model.name == *name);
        let gone: Vec<Arc<str>> = served.keys().filter(|name| !stays(name)).cloned().collect();
        let mut leaving: Vec<(Served, After)> =
            gone.iter().filter_map(|name| Some((served.remove(name)?, After::Stop))).collect();
        for (successor, replicas) in successors {
            let name = Arc::clone(&successor.view.config.name);
            leaving.extend(served.insert(name, successor).map(|before| (before, replicas)));
        }
        self.publish(&served);
        drop(served);
        *declared = new;
        for (served, after) in leaving {
            tokio::spawn(served.retire(after));
        }
        Ok(())
    }

    /// Finishes every admitted request and ends every replica.
    pub(crate) async fn stop(&self) {
        self.sampler.abort();
        let served = std::mem::take(&mut *self.served.lock().await);
        self.models.replace([]);
        self.views.store(Arc::default());
        join_all(served.into_values().map(|served| served.retire(After::Stop))).await;
        self.recording.follow(None).await;
    }

    fn publish(&self, served: &BTreeMap<Arc<str>, Served>) {
        self.models.replace(served.values().filter_map(|served| served.parts().map(Model::new)));
        self.views.store(Arc::new(served.values().map(|served| Arc::clone(&served.view)).collect()));
    }
}

async fn sample(views: Arc<ArcSwap<Vec<Arc<View>>>>, recording: Arc<Recording>) {
    let mut tick = interval(SAMPLING);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        recording.publish_gauge();
        for view in views.load().iter() {
            let Some(pipeline) = &view.pipeline else { continue };
            let stats = pipeline.stats();
            pipeline.publish_gauges(&stats);
            let mut history = view.history.lock().unwrap_or_else(PoisonError::into_inner);
            history.sample(view, stats);
        }
    }
}
