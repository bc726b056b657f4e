//! What may be read of a served model: by the admin port, the page, the demo and the cluster's status writer.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwapOption;
use autoscaler::{
    fleet::Replica,
    log::Entry,
    reconcile::{Clock, Handle},
};
use leader::reporter::Directive;
use pipeline::{Pipeline, Stats};
use tokio::sync::watch;

use crate::{admin::History, config};

/// One served model.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) config: config::Model,
    /// `None` where this process serves no clients.
    pub(crate) pipeline: Option<Pipeline>,
    pub(crate) clock: Clock,
    pub(crate) history: Mutex<History>,
    /// The replicas as calls find them.
    pub(super) endpoints: watch::Receiver<Arc<[Replica]>>,
    /// What the leader says, where another process may be it.
    pub(super) directive: Option<watch::Receiver<Option<Arc<Directive>>>>,
    /// The loop that scales, while this process runs it.
    pub(super) deciding: ArcSwapOption<Deciding>,
}

/// The loop that scales one model in this process.
#[derive(Debug)]
pub(crate) struct Deciding {
    pub(crate) handle: Handle,
    pub(crate) replicas: watch::Receiver<Arc<[Replica]>>,
}

impl View {
    /// A model that nobody in this process scales yet.
    pub(super) fn new(
        config: config::Model,
        pipeline: Option<Pipeline>,
        clock: Clock,
        endpoints: watch::Receiver<Arc<[Replica]>>,
    ) -> Self {
        Self {
            config,
            pipeline,
            clock,
            history: Mutex::default(),
            endpoints,
            directive: None,
            deciding: ArcSwapOption::empty(),
        }
    }

    /// The loop that scales the model, if this process runs it.
    pub(crate) fn scaling(&self) -> Option<Arc<Deciding>> {
        self.deciding.load_full()
    }

    /// Whether anybody scales the model, here or elsewhere.
    pub(crate) fn is_scaled(&self) -> bool {
        self.config.fleet.scaling().is_some()
    }

    /// The replicas as whoever decides sees them, or else as calls find them.
    pub(crate) fn replicas(&self) -> Arc<[Replica]> {
        match &*self.deciding.load() {
            Some(deciding) => Arc::clone(&deciding.replicas.borrow()),
            None => Arc::clone(&self.endpoints.borrow()),
        }
    }

    /// The decision that stands, if it was made here.
    pub(crate) fn decision(&self) -> Option<Arc<Entry>> {
        self.scaling().and_then(|deciding| deciding.handle.log.latest())
    }

    /// What the leader said last, if another process may be it.
    pub(crate) fn directive(&self) -> Option<Arc<Directive>> {
        self.directive.as_ref().and_then(|directive| directive.borrow().clone())
    }

    pub(crate) fn stats(&self) -> Option<Stats> {
        self.pipeline.as_ref().map(Pipeline::stats)
    }
}
