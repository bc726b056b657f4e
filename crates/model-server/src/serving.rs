//! The models being served, whether they may be called now, and the limit on concurrent executions.

use std::{
    collections::BTreeMap,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use pipeline::{
    request::{Inference, Outcome},
    tensor::Metadata,
};
use proto::inference::ModelStatistics;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    engine::{Model, VERSION},
    error::{Error, Quoted},
    pace::Pace,
    statistics::{Spent, Statistics},
};

/// Calls inside the server at a time, executing or waiting for a slot.
pub(crate) const CALLS_MAX: usize = 1024;

/// How calls are executed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Execution {
    pub(crate) concurrency: NonZeroUsize,
    pub(crate) batch_size_max: NonZeroU32,
    pub(crate) pace: Pace,
}

#[derive(Debug)]
pub(crate) struct Serving {
    models: BTreeMap<String, Served>,
    execution: Execution,
    calls: Semaphore,
    slots: Arc<Semaphore>,
    running: TaskTracker,
    ready_at: Instant,
    stopping: CancellationToken,
}

/// One model and its counters.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    model: Arc<Model>,
    statistics: Arc<Statistics>,
}

impl Served {
    pub(crate) fn metadata(&self) -> &Metadata {
        self.model.metadata()
    }

    pub(crate) fn statistics(&self) -> ModelStatistics {
        self.statistics.report(&self.metadata().name, VERSION)
    }
}

impl Serving {
    /// Serves `models`, each under its own name, from `start_delay` after now.
    pub(crate) fn new(models: Vec<Model>, execution: Execution, start_delay: Duration) -> Self {
        let served = |model: Model| Served { model: Arc::new(model), statistics: Arc::default() };
        Self {
            models: models.into_iter().map(|model| (model.metadata().name.clone(), served(model))).collect(),
            execution,
            calls: Semaphore::new(CALLS_MAX),
            slots: Arc::new(Semaphore::new(execution.concurrency.get())),
            running: TaskTracker::new(),
            ready_at: Instant::now() + start_delay,
            stopping: CancellationToken::new(),
        }
    }

    /// Whether calls are taken now.
    ///
    /// # Errors
    /// Why they are not.
    pub(crate) fn ready(&self) -> Result<(), Error> {
        if self.stopping.is_cancelled() {
            return Err(Error::Stopping);
        }
        if Instant::now() < self.ready_at {
            return Err(Error::Loading);
        }
        Ok(())
    }

    /// From now on every new call is refused; the ones already here go on.
    pub(crate) fn stop(&self) {
        self.stopping.cancel();
    }

    /// Cancelled by [`Serving::stop`].
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Returns once nothing executes any more. To be called after [`Serving::stop`].
    pub(crate) async fn idle(&self) {
        self.running.close();
        self.running.wait().await;
    }

    pub(crate) fn models(&self) -> impl Iterator<Item = &Served> {
        self.models.values()
    }

    /// The model that answers to `name`. An empty version is the default one.
    pub(crate) fn find(&self, name: &str, version: &str) -> Result<&Served, Error> {
        self.ready()?;
        let served = self.models.get(name).ok_or_else(|| Error::ModelNotFound(Quoted::new(name)))?;
        if !version.is_empty() && version != VERSION {
            return Err(Error::VersionNotFound { model: name.to_owned(), version: Quoted::new(version) });
        }
        Ok(served)
    }

    /// Rows a call of this model may have; 0 where it has no batch dimension.
    pub(crate) fn batch_size_max(&self, served: &Served) -> u32 {
        if served.metadata().has_batch_dimension() { self.execution.batch_size_max.get() } else { 0 }
    }

    /// Computes one call, after waiting for a slot.
    ///
    /// Dropping the future gives up a place in the waiting line. An execution that has begun goes on and keeps
    /// its slot until it ends, as in any server that cannot interrupt its runtime.
    pub(crate) async fn infer(&self, served: &Served, inference: Inference) -> Result<Outcome, Error> {
        let _call = self.calls.try_acquire().map_err(|_| Error::Full { limit: CALLS_MAX })?;
        served.model.check(&inference)?;
        let rows = self.rows(served, &inference)?;
        let arrived = Instant::now();
        let slot =
            Arc::clone(&self.slots).acquire_owned().await.expect("the semaphore of slots is never closed");
        let began = Instant::now();
        let execution = execute(Arc::clone(&served.model), inference, self.execution.pace.of(rows), slot);
        let result = self.running.spawn(execution).await.unwrap_or(Err(Error::Abandoned));
        let spent = Spent { queue: began - arrived, compute: began.elapsed() };
        match &result {
            Ok(_) => served.statistics.succeeded(rows, spent),
            Err(error) => {
                tracing::warn!(model = served.metadata().name, ?error, "call failed");
                served.statistics.failed(spent);
            }
        }
        result
    }

    fn rows(&self, served: &Served, inference: &Inference) -> Result<u64, Error> {
        let limit = self.batch_size_max(served);
        match inference.rows() {
            Some(rows) if limit > 0 && rows > u64::from(limit) => Err(Error::TooManyRows { rows, limit }),
            Some(rows) if limit > 0 => Ok(rows),
            _ => Ok(1),
        }
    }
}

async fn execute(
    model: Arc<Model>,
    inference: Inference,
    pace: Duration,
    slot: OwnedSemaphorePermit,
) -> Result<Outcome, Error> {
    if !pace.is_zero() {
        tokio::time::sleep(pace).await;
    }
    let computed = tokio::task::spawn_blocking(move || {
        let outcome = model.compute(&inference);
        drop(slot);
        outcome
    });
    // The join fails if the runtime's code panicked on this input; the panic stays with this one call.
    Ok(computed.await.map_err(|_| Error::Abandoned)??)
}

#[cfg(test)]
mod tests;
