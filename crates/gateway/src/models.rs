//! The served models by name, swapped as a whole on reload, and what the frontends need of each.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use http::HeaderName;
use pipeline::{
    Error, Pipeline, Rejection, Stats,
    request::{Answer, Request},
    tensor::Metadata,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

use crate::{
    metrics::ModelMetrics,
    status::{Failure, Situation, quote},
    upstream::Protocol,
};

/// Names a guess is sought among when a model is not found.
const GUESSES_MAX: usize = 1000;

/// Answers the requests of one model.
pub trait Dispatch: fmt::Debug + Send + Sync {
    /// Answers one request, not later than its deadline. Dropping the future cancels it.
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Answer, Error>>;
    /// Whether bodies should be handed over as they came, where client and server speak the same protocol.
    fn passes_through(&self) -> bool;
    fn stats(&self) -> Stats;
}

impl Dispatch for Pipeline {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Answer, Error>> {
        Box::pin(Pipeline::call(self, request))
    }

    fn passes_through(&self) -> bool {
        Pipeline::passes_through(self)
    }

    fn stats(&self) -> Stats {
        Pipeline::stats(self)
    }
}

/// How far a model is from answering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// No replica, but a request would start one.
    #[default]
    Zero,
    /// Replicas are starting.
    Starting,
    Ready {
        replicas: u32,
    },
    /// No replica, and none may be started now.
    Off,
}

impl Readiness {
    /// Whether a request sent now would be answered, if need be after a cold start.
    pub(crate) fn accepts(self) -> bool {
        self != Self::Off
    }

    pub(crate) fn has_replicas(self) -> bool {
        matches!(self, Self::Ready { .. })
    }
}

/// Time limits of one model's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Where the client names none.
    pub default: Duration,
    /// However much the client asks for.
    pub max: Duration,
    /// Longest a call waits for a replica to start.
    pub cold_start: Duration,
}

/// What the calls of a model that speaks the OpenAI protocol go by, besides their deadlines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTerms {
    /// Longest a streamed answer may take to begin, from the arrival of its request.
    pub first_token: Duration,
    /// Longest silence within a streamed answer.
    pub between_tokens: Duration,
    /// The header by which clients name the conversation a call belongs to.
    pub session_header: HeaderName,
}

/// What a [`Model`] is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    pub name: Arc<str>,
    pub dispatch: Arc<dyn Dispatch>,
    pub protocol: Protocol,
    pub deadlines: Deadlines,
    /// `None` until some replica told.
    pub metadata: watch::Receiver<Option<Arc<Metadata>>>,
    pub readiness: watch::Receiver<Readiness>,
    /// Of a model that is called over the OpenAI protocol.
    pub chat: Option<ChatTerms>,
    /// Notified when the model should start without a request in its queue: its metadata is wanted, or a client
    /// asked to load it.
    pub wake: Arc<Notify>,
}

/// One served model.
#[derive(Debug)]
pub struct Model {
    parts: Parts,
    pub(crate) metrics: ModelMetrics,
}

impl Model {
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let metrics = ModelMetrics::new(Arc::clone(&parts.name));
        Self { parts, metrics }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.parts.name
    }

    pub(crate) fn deadlines(&self) -> Deadlines {
        self.parts.deadlines
    }

    pub(crate) fn chat_terms(&self) -> Option<&ChatTerms> {
        self.parts.chat.as_ref()
    }

    pub(crate) fn dispatch(&self) -> &dyn Dispatch {
        &*self.parts.dispatch
    }

    /// Whether a body in `protocol` goes to the model server as it came. A V1 body cannot be read without the
    /// model's metadata, which a server that only speaks V1 never tells.
    pub(crate) fn forwards(&self, protocol: Protocol) -> bool {
        let unreadable = || protocol == Protocol::V1 && self.known_metadata().is_none();
        self.parts.protocol == protocol && (self.parts.dispatch.passes_through() || unreadable())
    }

    pub(crate) fn readiness(&self) -> Readiness {
        *self.parts.readiness.borrow()
    }

    /// Notified of every change of readiness.
    pub(crate) fn watch_readiness(&self) -> watch::Receiver<Readiness> {
        self.parts.readiness.clone()
    }

    pub(crate) fn wake(&self) {
        self.parts.wake.notify_one();
    }

    /// What the model says of itself, if a replica ever told.
    pub(crate) fn known_metadata(&self) -> Option<Arc<Metadata>> {
        self.parts.metadata.borrow().clone()
    }

    /// What the model says of itself; one that never ran is started for it.
    pub(crate) async fn metadata(&self, deadline: Instant) -> Result<Arc<Metadata>, Failure> {
        if let Some(metadata) = self.known_metadata() {
            return Ok(metadata);
        }
        if self.parts.protocol == Protocol::OpenAi {
            let sentence = "this model is served over the OpenAI protocol only, which has no metadata";
            return Err(Failure::new(Situation::Unsupported, sentence));
        }
        if self.readiness() == Readiness::Off {
            let retry_after = Duration::from_secs(60);
            return Err(Rejection::NoReplicas { retry_after }.into());
        }
        self.wake();
        let started = Instant::now();
        let until = deadline.min(started + self.parts.deadlines.cold_start);
        let mut known = self.parts.metadata.clone();
        match timeout_at(until, known.wait_for(Option::is_some)).await {
            Ok(Ok(metadata)) => metadata.clone().ok_or_else(Failure::internal),
            // The model left the configuration while we waited.
            Ok(Err(_)) => Err(not_found(&self.parts.name, None)),
            Err(_) if until == deadline => Err(Failure::deadline_exceeded("while the model was starting")),
            Err(_) => {
                let waited = started.elapsed();
                Err(Rejection::ColdStartTimeout { waited, retry_after: waited }.into())
            }
        }
    }
}

/// The served models. Cheap to clone; every clone sees a [`Models::replace`].
#[derive(Clone, Debug, Default)]
pub struct Models {
    by_name: Arc<ArcSwap<HashMap<Arc<str>, Arc<Model>>>>,
}

impl Models {
    /// Serves exactly `models` from now on. Calls that already found their model keep it.
    pub fn replace(&self, models: impl IntoIterator<Item = Model>) {
        let named = |model: Model| (Arc::clone(model.name()), Arc::new(model));
        self.by_name.store(Arc::new(models.into_iter().map(named).collect()));
    }

    /// Every model, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Model>> {
        let mut models: Vec<_> = self.by_name.load().values().cloned().collect();
        models.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        models
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Model>> {
        self.by_name.load().get(name).cloned()
    }

    /// The model of this name, or a failure that guesses which one was meant.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Model>, Failure> {
        self.get(name).ok_or_else(|| not_found(name, self.nearest(name).as_deref()))
    }

    fn nearest(&self, name: &str) -> Option<Arc<str>> {
        let models = self.by_name.load();
        let distance = |known: &Arc<str>| (strsim::damerau_levenshtein(known, name), Arc::clone(known));
        let (distance, nearest) = models.keys().take(GUESSES_MAX).map(distance).min()?;
        (distance <= name.len().div_ceil(3)).then_some(nearest)
    }
}

fn not_found(name: &str, guess: Option<&str>) -> Failure {
    let name = quote(name);
    let sentence = match guess {
        Some(guess) => format!("model {name} not found; did you mean {guess:?}?"),
        None => format!("model {name} not found; GET /v1/models lists what is served"),
    };
    Failure::new(Situation::ModelNotFound, sentence)
}
