//! Leaders, gateways, and what connects them: pipes in memory that can be cut like a cable, or closed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use autoscaler::{
    fleet::ReplicaId,
    reconcile::{Outlook, Source as _},
    snapshot::{GatewayView, Report},
};
use hyper_util::rt::TokioIo;
use proto::signals::autoscaler_client::AutoscalerClient;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Channel, Endpoint, Server};
use tower::service_fn;

use crate::{
    collector::{Collector, Listed, ModelSource},
    reporter::{Config, Connect, Directive, ModelHandle, Reporter},
    server::Signals,
};

pub(super) const MODEL: &str = "digits";
pub(super) const LEADER: &str = "leader-1:9091";
const PIPE_BYTES: usize = 16 << 10;

pub(super) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(super) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn ids(names: &[&str]) -> Vec<ReplicaId> {
    names.iter().map(|name| ReplicaId::from(*name)).collect()
}

/// Who can be called, by address.
#[derive(Clone, Default)]
pub(super) struct Net {
    hosts: Arc<Mutex<BTreeMap<String, Host>>>,
}

struct Host {
    accept: mpsc::Sender<io::Result<DuplexStream>>,
    cables: Vec<AbortOnDropHandle<()>>,
}

impl Net {
    /// Connections of one gateway; nothing goes through them while `whole` is false.
    fn connect(&self, whole: watch::Receiver<bool>) -> Connect {
        let net = self.clone();
        Arc::new(move |endpoint: Endpoint| {
            let (net, whole) = (net.clone(), whole.clone());
            Box::pin(async move {
                let dial = service_fn(move |uri: tonic::codegen::http::Uri| {
                    let (net, whole) = (net.clone(), whole.clone());
                    let address = uri.authority().map(ToString::to_string);
                    async move { net.dial(address, whole).await.map(TokioIo::new) }
                });
                endpoint.connect_with_connector(dial).await
            })
        })
    }

    async fn dial(&self, address: Option<String>, whole: watch::Receiver<bool>) -> io::Result<DuplexStream> {
        let (near, near_end) = duplex(PIPE_BYTES);
        let (far, far_end) = duplex(PIPE_BYTES);
        let accept = {
            let mut hosts = self.lock();
            let host = address.and_then(|address| hosts.get_mut(&address));
            let host = host.ok_or(io::ErrorKind::ConnectionRefused)?;
            host.cables.push(AbortOnDropHandle::new(tokio::spawn(cable(near_end, far_end, whole))));
            host.accept.clone()
        };
        accept.send(Ok(far)).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(near)
    }

    /// A plain connection, for calls that no gateway of ours would make.
    pub(super) async fn client(&self, address: &str) -> AutoscalerClient<Channel> {
        let connect = self.connect(watch::channel(true).1);
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let endpoint = endpoint.initial_stream_window_size(1 << 16);
        AutoscalerClient::new(connect(endpoint).await.expect("is served"))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Host>> {
        self.hosts.lock().expect("no test panics with it")
    }
}

async fn cable(a: DuplexStream, b: DuplexStream, whole: watch::Receiver<bool>) {
    let ((a_read, a_write), (b_read, b_write)) = (split(a), split(b));
    tokio::join!(pass(a_read, b_write, whole.clone()), pass(b_read, a_write, whole));
}

async fn pass(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    mut whole: watch::Receiver<bool>,
) {
    let mut bytes = [0; 4096];
    loop {
        let n = from.read(&mut bytes).await.unwrap_or(0);
        if whole.wait_for(|whole| *whole).await.is_err() {
            std::future::pending::<()>().await;
        }
        if n == 0 || to.write_all(&bytes[..n]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}

/// An autoscaler process.
pub(super) struct Leader {
    pub(super) collector: Collector,
    pub(super) leading: watch::Sender<Option<u64>>,
    pub(super) listed: watch::Sender<Listed>,
    net: Net,
    address: String,
    _server: AbortOnDropHandle<()>,
}

impl Leader {
    pub(super) fn start(net: &Net, address: &str, epoch: Option<u64>) -> Self {
        let (leading, led) = watch::channel(epoch);
        let (listed, seen) = watch::channel(Listed::default());
        let collector = Collector::new(seen);
        let name = address.split(':').next().expect("has a host");
        let service = Signals::service(collector.clone(), name.into(), led);
        let (accept, accepted) = mpsc::channel(16);
        let server = async move {
            let server = Server::builder().add_service(service);
            server.serve_with_incoming(ReceiverStream::new(accepted)).await.expect("only ends with the test");
        };
        net.lock().insert(address.to_owned(), Host { accept, cables: Vec::new() });
        let server = AbortOnDropHandle::new(tokio::spawn(server));
        Self { collector, leading, listed, net: net.clone(), address: address.to_owned(), _server: server }
    }

    pub(super) fn list(&self, names: &[&str]) {
        let names: BTreeSet<Arc<str>> = names.iter().map(|name| Arc::from(*name)).collect();
        self.listed.send_replace(Arc::new(names));
    }

    /// A source that has decided for `desired` replicas.
    pub(super) fn decides(&self, desired: u32) -> ModelSource {
        let source = self.collector.source(MODEL.into());
        source.decide(desired, Outlook::Ready, "");
        source
    }

    /// The process is gone, and its connections with it.
    pub(super) fn kill(self) {
        self.net.lock().remove(&self.address);
    }
}

/// What `source` knows of `gateway`.
pub(super) fn view(source: &ModelSource, gateway: &str) -> Option<GatewayView> {
    source.gateways(secs(1000)).into_iter().find(|view| &*view.name == gateway)
}

/// Age of the newest report of `gateway`.
pub(super) fn age(source: &ModelSource, gateway: &str) -> Option<Duration> {
    Some(secs(1000) - view(source, gateway)?.report?.at)
}

/// A gateway process with one model.
pub(super) struct Gateway {
    pub(super) reporter: Reporter,
    pub(super) model: Arc<ModelHandle>,
    pub(super) counts: Arc<Mutex<Report>>,
    /// Reports taken.
    pub(super) taken: Arc<AtomicU32>,
    pub(super) leaders: watch::Sender<Option<Arc<str>>>,
    pub(super) whole: watch::Sender<bool>,
    /// Whether withdrawals are carried out.
    pub(super) obeys: watch::Sender<bool>,
    _data_path: AbortOnDropHandle<()>,
}

impl Gateway {
    pub(super) fn start(net: &Net, name: &str, leader: Option<&str>) -> Self {
        let (leaders, led) = watch::channel(leader.map(Arc::from));
        let (whole, cable) = watch::channel(true);
        let config = Config { gateway: name.into(), version: "test".into() };
        let reporter = Reporter::start_over(config, led, net.connect(cable));
        let (counts, taken) = (Arc::<Mutex<Report>>::default(), Arc::<AtomicU32>::default());
        let (counted, takes) = (Arc::clone(&counts), Arc::clone(&taken));
        let report = move || {
            takes.fetch_add(1, Relaxed);
            counted.lock().expect("no test panics with it").clone()
        };
        let model = Arc::new(reporter.model(MODEL.into(), Arc::new(report)));
        let (obeys, obeyed) = watch::channel(true);
        let data_path = AbortOnDropHandle::new(tokio::spawn(obey(Arc::clone(&model), obeyed)));
        Self { reporter, model, counts, taken, leaders, whole, obeys, _data_path: data_path }
    }

    /// A gateway that is connected and has reported.
    pub(super) async fn connected(net: &Net, name: &str) -> Self {
        let gateway = Self::start(net, name, Some(LEADER));
        gateway.connect().await;
        tokio::time::sleep(millis(20)).await;
        gateway
    }

    pub(super) async fn connect(&self) {
        let connected = async { self.reporter.connected().wait_for(|connected| *connected).await.map(drop) };
        timeout(secs(10), connected).await.expect("somebody leads").expect("the reporter lives");
    }

    pub(super) fn is_connected(&self) -> bool {
        *self.reporter.connected().borrow()
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.counts.lock().expect("no test panics with it"));
    }

    /// A request arrives, and no replica is there.
    pub(super) fn request(&self) {
        self.count(|report| {
            report.counters.arrivals += 1;
            report.gauges.queued_requests += 1;
        });
        self.model.wake();
    }

    pub(super) fn directive(&self) -> Option<Arc<Directive>> {
        self.model.directive().borrow().clone()
    }

    pub(super) fn withdrawn(&self) -> Vec<ReplicaId> {
        self.directive().map(|directive| directive.withdrawal.replicas.to_vec()).unwrap_or_default()
    }
}

async fn obey(model: Arc<ModelHandle>, mut obeys: watch::Receiver<bool>) {
    let mut directive = model.directive();
    loop {
        if obeys.wait_for(|obeys| *obeys).await.is_err() {
            return;
        }
        let number = directive.borrow_and_update().as_ref().map(|directive| directive.withdrawal.number);
        if let Some(number) = number {
            model.carried_out(number);
        }
        if directive.changed().await.is_err() {
            return;
        }
    }
}
