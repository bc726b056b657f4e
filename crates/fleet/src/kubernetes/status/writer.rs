//! The task that brings statuses to the cluster, and the handle through which they are set.

use std::{
    future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde_json::Value;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::{
    super::{
        cluster::{ApiError, Cluster},
        lease::Fence,
        models::{GROUP, KIND, ModelObject, PLURAL, VERSION},
    },
    ModelStatus,
    board::{Board, Key, TooMany},
    slot::{Call, Slot},
};

/// Calls under way at once.
const CALLS_MAX: usize = 4;
/// Between the begins of two calls: after a change of leader all models are due together.
const SPACING: Duration = Duration::from_millis(200);
/// How often a process that does not lead looks whether it does.
const IDLE: Duration = Duration::from_secs(1);

/// Keeps the statuses of models in the cluster up to date, as long as this process leads. The newest status of each
/// model is what counts, and is there in the end. Cheap to clone; the last one that is dropped ends the writing.
#[derive(Clone, Debug)]
pub struct StatusWriter {
    shared: Arc<Shared>,
    _task: Arc<AbortOnDropHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    board: Mutex<Board>,
    /// Something is due earlier than before.
    bell: Notify,
}

impl StatusWriter {
    /// Must be called within a runtime, which then runs it.
    pub fn start(cluster: &Cluster, fence: Fence) -> Self {
        let shared = Arc::new(Shared::default());
        let worker =
            Worker { cluster: cluster.clone(), fence, shared: Arc::clone(&shared), calls: JoinSet::new() };
        Self { shared, _task: Arc::new(AbortOnDropHandle::new(tokio::spawn(worker.run()))) }
    }

    /// This is to be the status of that object from now on. Returns at once.
    pub fn set(&self, object: &ModelObject, status: &ModelStatus) -> Result<(), TooMany> {
        let subject = (key(object), &object.uid);
        if self.shared.lock().set(subject, status, (Instant::now(), Timestamp::now()))? {
            self.shared.bell.notify_one();
        }
        Ok(())
    }

    /// That object is gone, or no model of ours any more: its status is left as it is.
    pub fn forget(&self, object: &ModelObject) {
        self.shared.lock().forget(&key(object));
    }
}

fn key(object: &ModelObject) -> Key {
    (Arc::clone(&object.namespace), Arc::clone(&object.name))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Worker {
    cluster: Cluster,
    fence: Fence,
    shared: Arc<Shared>,
    calls: JoinSet<(Key, Result<Done, Failure>)>,
}

/// What a call has brought, by a leader of that epoch.
enum Done {
    Read { status: Value, version: String, epoch: u64 },
    Written { status: Value, version: String, epoch: u64 },
}

enum Failure {
    /// There is no such object any more, or another one of its name.
    Gone,
    Deposed,
    Api(ApiError),
}

impl Worker {
    async fn run(mut self) {
        let mut earliest = Instant::now();
        loop {
            let due = self.shared.lock().first_due().filter(|_| self.calls.len() < CALLS_MAX);
            tokio::select! {
                Some(done) = self.calls.join_next() => match done {
                    Ok((key, result)) => self.note(&key, result),
                    Err(error) => debug!(%error, "a status call has ended early"),
                },
                () = self.shared.bell.notified() => {}
                () = until(due.map(|due| due.max(earliest))) => earliest = Instant::now() + self.begin(),
            }
        }
    }

    /// Begins the call that is due; returns how long the next one has to wait.
    fn begin(&mut self) -> Duration {
        let Some(epoch) = self.fence.epoch() else { return IDLE };
        let Some((key, call)) = self.shared.lock().begin(epoch, Instant::now()) else {
            return Duration::ZERO;
        };
        let resource = ApiResource {
            group: GROUP.to_owned(),
            version: VERSION.to_owned(),
            api_version: format!("{GROUP}/{VERSION}"),
            kind: KIND.to_owned(),
            plural: PLURAL.to_owned(),
        };
        let api = Api::namespaced_with(self.cluster.client(), &key.0, &resource);
        let fence = self.fence.clone();
        self.calls.spawn(async move {
            let done = match call {
                Call::Read { uid } => read(api, &key.1, &uid, epoch).await,
                Call::Patch { patch, epoch } => write(api, &key.1, patch, (&fence, epoch)).await,
            };
            (key, done)
        });
        SPACING
    }

    fn note(&self, key: &Key, result: Result<Done, Failure>) {
        let (mut board, now) = (self.shared.lock(), Instant::now());
        match result {
            Ok(Done::Read { status, version, epoch }) => {
                board.tell(key, |slot| slot.read(status, version, (epoch, now)));
            }
            Ok(Done::Written { status, version, epoch }) => {
                board.tell(key, |slot| slot.wrote(status, version, (epoch, now)));
            }
            Err(Failure::Gone) => board.forget(key),
            Err(Failure::Deposed | Failure::Api(ApiError::Conflict(_))) => {
                board.tell(key, Slot::refused);
            }
            Err(Failure::Api(error)) => {
                let news = board.tell(key, |slot| slot.failed(error.retry_after(), now));
                if news == Some(true) {
                    warn!(namespace = %key.0, object = %key.1, %error, "the status cannot be written");
                }
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => future::pending().await,
    }
}

async fn read(api: Api<DynamicObject>, name: &str, uid: &str, epoch: u64) -> Result<Done, Failure> {
    let mut object = api.get(name).await.map_err(Failure::of)?;
    if object.metadata.uid.as_deref() != Some(uid) {
        return Err(Failure::Gone);
    }
    let status = object.data.get_mut("status").map(Value::take).unwrap_or_default();
    Ok(Done::Read { status, version: object.metadata.resource_version.unwrap_or_default(), epoch })
}

async fn write(
    api: Api<DynamicObject>,
    name: &str,
    mut patch: Value,
    (fence, epoch): (&Fence, u64),
) -> Result<Done, Failure> {
    if fence.epoch() != Some(epoch) {
        return Err(Failure::Deposed);
    }
    let written = api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    let object = written.map_err(Failure::of)?;
    // Not what came back: fields that an older definition of the kind does not keep would be a difference for ever.
    let status = patch.get_mut("status").map(Value::take).unwrap_or_default();
    Ok(Done::Written { status, version: object.metadata.resource_version.unwrap_or_default(), epoch })
}

impl Failure {
    fn of(error: kube::Error) -> Self {
        match ApiError::from(error) {
            ApiError::NotFound(_) => Self::Gone,
            error => Self::Api(error),
        }
    }
}
