//! Model servers for tests: answer with the rows they were sent, after fixed + per_row · rows.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use pipeline::{
    Batching, CallError, Concurrency, Config, Error, Pipeline, QueueLimits,
    admit::Charge,
    replica::{Call, Replica, ReplicaSet},
    request::{Answer, Class, Inference, Outcome, Payload, Reply, Request},
    tensor::{DataType, Tensor},
};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tower::{service_fn, util::BoxCloneSyncService};

pub(crate) type Script = Arc<dyn Fn(&Inference) -> Result<(), CallError> + Send + Sync>;

/// A model server and what it saw.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) fixed: Duration,
    pub(crate) per_row: Duration,
    pub(crate) script: Script,
    pub(crate) calls: Arc<Mutex<Vec<u64>>>,
    pub(crate) running: Arc<AtomicU32>,
    pub(crate) most_running: Arc<AtomicU32>,
    pub(crate) late: Arc<AtomicU32>,
}

struct Running(Arc<AtomicU32>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    pub(crate) fn new(fixed_ms: u64, per_row_ms: u64) -> Self {
        Self {
            fixed: Duration::from_millis(fixed_ms),
            per_row: Duration::from_millis(per_row_ms),
            script: Arc::new(|_| Ok(())),
            calls: Arc::default(),
            running: Arc::default(),
            most_running: Arc::default(),
            late: Arc::default(),
        }
    }

    pub(crate) fn scripted(
        mut self,
        script: impl Fn(&Inference) -> Result<(), CallError> + Send + Sync + 'static,
    ) -> Self {
        self.script = Arc::new(script);
        self
    }

    pub(crate) fn rows_per_call(&self) -> Vec<u64> {
        self.calls.lock().unwrap().clone()
    }

    async fn answer(self, call: Call) -> Result<Reply, CallError> {
        let Payload::Tensors(inference) = call.payload else { panic!("tests send tensors") };
        let rows = inference.rows().unwrap_or(1);
        self.calls.lock().unwrap().push(rows);
        if Instant::now() >= call.deadline {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_running.fetch_max(running, Ordering::Relaxed);
        let _running = Running(Arc::clone(&self.running));
        tokio::time::sleep(self.fixed + self.per_row * rows as u32).await;
        (self.script)(&inference)?;
        Ok(Reply::Tensors(Outcome { outputs: inference.inputs, ..Outcome::default() }))
    }

    pub(crate) fn replica(&self, id: &str) -> Replica {
        let server = self.clone();
        let upstream = BoxCloneSyncService::new(service_fn(move |call| server.clone().answer(call)));
        // Old enough that its slow start is over.
        let ready_since = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        Replica { id: id.into(), upstream, ready_since, hold: TaskTracker::new().token() }
    }
}

pub(crate) fn config() -> Config {
    Config {
        model: "m".into(),
        batching: Batching::Merge { max_rows: 32, max_hold: Duration::from_millis(5) },
        queue: QueueLimits { requests: 4096, bytes: 64 << 20 },
        concurrency: Concurrency::Auto,
        idempotent: true,
        slo: Duration::from_secs(10),
        cold_start_timeout: Duration::from_secs(120),
        chat: None,
    }
}

pub(crate) fn serve(config: Config, servers: &[Server]) -> Pipeline {
    let pipeline = Pipeline::start(config);
    pipeline.set_replicas(set(servers));
    pipeline
}

pub(crate) fn set(servers: &[Server]) -> ReplicaSet {
    let replicas = servers.iter().enumerate().map(|(i, s)| s.replica(&format!("r{i}"))).collect();
    ReplicaSet { replicas, batch_dimension: Some(true) }
}

/// A request of rows that no other request has.
pub(crate) fn request(nonce: u32, rows: u64, deadline: Duration) -> Request {
    let data: Vec<u8> = (0..rows as u32).flat_map(|row| (nonce * 1_000 + row).to_le_bytes()).collect();
    let tensor = Tensor::new("x", DataType::Uint32, vec![rows, 1], Bytes::from(data));
    Request {
        payload: Payload::Tensors(Inference { inputs: vec![tensor], ..Inference::default() }),
        deadline: Instant::now() + deadline,
        class: Class::Normal,
        tenant: "".into(),
        trace: http::HeaderMap::new(),
        traced: None,
        charge: Charge::none(),
        chat: None,
    }
}

/// The rows a request was sent with must come back, and no others.
pub(crate) fn is_own_answer(nonce: u32, rows: u64, answer: &Answer) -> bool {
    let Reply::Tensors(outcome) = &answer.reply else { return false };
    let expected: Vec<u8> = (0..rows as u32).flat_map(|row| (nonce * 1_000 + row).to_le_bytes()).collect();
    matches!(outcome.outputs.as_slice(), [y] if y.data[..] == expected[..] && y.shape == [rows, 1])
}

pub(crate) async fn ask(
    pipeline: &Pipeline,
    nonce: u32,
    rows: u64,
    deadline: Duration,
) -> Result<Answer, Error> {
    let answer = pipeline.call(request(nonce, rows, deadline)).await?;
    assert!(is_own_answer(nonce, rows, &answer), "request {nonce} was given somebody else's rows");
    Ok(answer)
}
