//! A gateway on a free loopback port in front of a scripted model, and a client that writes raw bytes.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use gateway::{
    ChatTerms, Config, Deadlines, Dispatch, Drained, Gateway, Listener, Model, Models, Parts, Readiness,
    trace::Tracer, upstream::Protocol,
};
use pipeline::{
    Error, Stats,
    admit::Memory,
    chat::Chat,
    request::{Answer, Class, OpaqueReply, Outcome, Payload, Reply, Request, Timings},
    tensor::{DataType, Metadata, TensorSpec},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, watch},
    task::JoinHandle,
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

/// Longest a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(10);

type Script = dyn Fn(&Request) -> Result<Reply, Error> + Send + Sync;

/// A model that answers by script and remembers what it was asked.
pub(crate) struct Fake {
    passes_through: bool,
    script: Box<Script>,
    pub(crate) seen: Mutex<Vec<Seen>>,
    /// Calls wait for this, if there is one.
    pub(crate) gate: Option<Arc<Notify>>,
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fake").finish_non_exhaustive()
    }
}

/// What the model was asked.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) payload: Payload,
    pub(crate) left: Duration,
    pub(crate) trace: http::HeaderMap,
    pub(crate) class: Class,
    pub(crate) tenant: Arc<str>,
    pub(crate) chat: Option<Arc<Chat>>,
}

impl Dispatch for Fake {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Answer, Error>> {
        Box::pin(async move {
            self.seen.lock().unwrap().push(Seen {
                payload: request.payload.clone(),
                left: request.deadline.saturating_duration_since(tokio::time::Instant::now()),
                trace: request.trace.clone(),
                class: request.class,
                tenant: Arc::clone(&request.tenant),
                chat: request.chat.clone(),
            });
            if let Some(gate) = &self.gate {
                tokio::select! {
                    () = gate.notified() => {}
                    () = sleep_until(request.deadline) => {
                        let stage = pipeline::Stage::Upstream;
                        return Err(Error::DeadlineExceeded { stage, waited: Duration::ZERO });
                    }
                }
            }
            let reply = (self.script)(&request)?;
            let timings = Timings {
                queue: Duration::from_micros(100),
                upstream: Duration::from_micros(200),
                batch_rows: 3,
                cold_start: Some(Duration::from_millis(2040)),
                ..Timings::default()
            };
            Ok(Answer::new(reply, timings))
        })
    }

    fn passes_through(&self) -> bool {
        self.passes_through
    }

    fn stats(&self) -> Stats {
        Stats { completions: 7, max_batch_rows: 8, ..Stats::default() }
    }
}

/// Gives every input back as an output, and every body as it came.
pub(crate) fn echo(request: &Request) -> Result<Reply, Error> {
    Ok(match &request.payload {
        Payload::Tensors(inference) => Reply::Tensors(Outcome {
            model_name: "upstream-name".into(),
            model_version: "1".into(),
            outputs: inference.inputs.clone(),
            ..Outcome::default()
        }),
        Payload::Opaque(opaque) => Reply::Opaque(OpaqueReply {
            status: http::StatusCode::OK,
            headers: opaque.headers.clone(),
            body: opaque.body.clone(),
        }),
    })
}

/// How the model of a test is.
pub(crate) struct Setup {
    pub(crate) protocol: Protocol,
    pub(crate) passes_through: bool,
    pub(crate) script: Box<Script>,
    pub(crate) gated: bool,
    pub(crate) chat: Option<ChatTerms>,
    pub(crate) metadata: Option<Metadata>,
    pub(crate) readiness: Readiness,
    pub(crate) memory: usize,
    pub(crate) config: Config,
    pub(crate) tracer: Option<Tracer>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            protocol: Protocol::V2Grpc,
            passes_through: false,
            script: Box::new(echo),
            gated: false,
            chat: None,
            metadata: Some(metadata()),
            readiness: Readiness::Ready { replicas: 1 },
            memory: 64 << 20,
            config: Config::default(),
            tracer: None,
        }
    }
}

impl Setup {
    pub(crate) fn passing(protocol: Protocol) -> Self {
        Self { protocol, passes_through: true, ..Self::default() }
    }

    pub(crate) fn failing(error: Error) -> Self {
        Self { script: Box::new(move |_| Err(error.clone())), ..Self::default() }
    }

    pub(crate) fn start(self) -> Rig {
        let gate = self.gated.then(|| Arc::new(Notify::new()));
        let fake = Arc::new(Fake {
            passes_through: self.passes_through,
            script: self.script,
            seen: Mutex::default(),
            gate: gate.clone(),
        });
        let (metadata, described) = watch::channel(self.metadata.map(Arc::new));
        let (readiness, ready) = watch::channel(self.readiness);
        let wake = Arc::new(Notify::new());
        let model = Model::new(Parts {
            name: "resnet50".into(),
            dispatch: fake.clone(),
            protocol: self.protocol,
            deadlines: Deadlines {
                default: Duration::from_secs(30),
                max: Duration::from_secs(300),
                cold_start: Duration::from_secs(120),
            },
            metadata: described,
            readiness: ready,
            chat: self.chat,
            wake: wake.clone(),
        });
        let models = Models::default();
        models.replace([model]);
        let memory = Memory::new(self.memory);
        let gateway = Gateway::new(self.config, models.clone(), memory.clone(), self.tracer);
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.address().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { gateway.serve(vec![listener], shutdown).await }
        });
        Rig { address, fake, gate, metadata, readiness, wake, models, memory, shutdown, server }
    }
}

pub(crate) fn metadata() -> Metadata {
    let spec = |name: &str| TensorSpec { name: name.into(), datatype: DataType::Fp32, shape: vec![-1, 2] };
    Metadata {
        name: "name-at-the-server".into(),
        versions: vec!["1".into()],
        platform: "test".into(),
        inputs: vec![spec("x")],
        outputs: vec![spec("x")],
    }
}

/// A running gateway.
pub(crate) struct Rig {
    pub(crate) address: SocketAddr,
    pub(crate) fake: Arc<Fake>,
    pub(crate) gate: Option<Arc<Notify>>,
    pub(crate) metadata: watch::Sender<Option<Arc<Metadata>>>,
    pub(crate) readiness: watch::Sender<Readiness>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) models: Models,
    pub(crate) memory: Memory,
    pub(crate) shutdown: CancellationToken,
    pub(crate) server: JoinHandle<Drained>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Rig {
    pub(crate) async fn connect(&self) -> Wire {
        Wire { stream: TcpStream::connect(self.address).await.unwrap() }
    }

    /// Sends raw bytes and reads one response.
    pub(crate) async fn raw(&self, request: impl AsRef<[u8]>) -> Response {
        let mut wire = self.connect().await;
        wire.send(request).await;
        wire.response().await.expect("an answer")
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.get_with(path, "").await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &str) -> Response {
        self.raw(format!("GET {path} HTTP/1.1\r\nhost: h\r\n{headers}\r\n")).await
    }

    pub(crate) async fn post(&self, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Response {
        let body = body.as_ref();
        let mut request =
            format!("POST {path} HTTP/1.1\r\nhost: h\r\n{headers}content-length: {}\r\n\r\n", body.len())
                .into_bytes();
        request.extend_from_slice(body);
        self.raw(request).await
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.fake.seen.lock().unwrap().clone()
    }

    /// Waits until the model was asked `count` times.
    pub(crate) async fn asked(&self, count: usize) {
        let reached = async {
            while self.seen().len() < count {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, reached).await.expect("the model is asked");
    }
}

/// One raw connection.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
}

impl Wire {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The gateway may close while we still write: what it answered is read all the same.
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// The next response, or `None` if the connection ends without one.
    pub(crate) async fn response(&mut self) -> Option<Response> {
        timeout(PATIENCE, self.read_response()).await.expect("a response in time")
    }

    async fn read_response(&mut self) -> Option<Response> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_ascii_lowercase(), value.to_owned())
        };
        let headers: HashMap<String, String> = lines.map(header).collect();
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            while let Some(chunk) = self.chunk().await {
                body.extend_from_slice(&chunk);
            }
        }
        Some(Response { status, headers, body: body.into() })
    }

    /// The next chunk of a body; `None` for the last one, and if the connection ends.
    async fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut length = Vec::new();
        while !length.ends_with(b"\r\n") {
            length.push(self.stream.read_u8().await.ok()?);
        }
        let length = usize::from_str_radix(std::str::from_utf8(&length).unwrap().trim(), 16).unwrap();
        let mut chunk = vec![0; length + 2];
        self.stream.read_exact(&mut chunk).await.ok()?;
        chunk.truncate(length);
        (length > 0).then_some(chunk)
    }

    /// Whether the gateway closes the connection, with what it said before.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is as good as an end here.
        let _ = timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.expect("the connection ends");
        rest
    }
}

/// A response as it was on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Bytes,
}

impl Response {
    pub(crate) fn reason(&self) -> &str {
        self.headers.get("x-tidegate-reason").map_or("", String::as_str)
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}
