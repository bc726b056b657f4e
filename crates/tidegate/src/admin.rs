//! Liveness, metrics and the status page, on a thread and runtime of their own: a busy data path never fails a
//! probe.

mod api;
mod decisions;
mod history;
mod moment;

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use gateway::Gateway;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    time::{Instant, interval, timeout},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    api::{timestamp, wall_clock},
    history::History,
};
use crate::{config::Config, serve::Registry};

/// Connections at a time; more wait in the backlog.
const CONNECTIONS: usize = 64;
/// Longest a request may take, from its first byte to the last of its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The data path counts as alive if it ran a task within this time.
const HEARTBEAT_MAX: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Metrics that were recorded are folded into their buckets this often, so that they do not pile up unscraped.
const UPKEEP: Duration = Duration::from_secs(5);

const PAGE: &str = include_str!("admin/page.html");

/// What the admin port shows.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) registry: Arc<Registry>,
    pub(crate) gateway: Gateway,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) config: Config,
}

/// The running admin server.
#[derive(Debug)]
pub(crate) struct Running {
    address: SocketAddr,
    runtime: Handle,
    stop: CancellationToken,
}

impl Running {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// For what is to run beside the data path until [`stop`](Self::stop), as this server does.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

/// Binds `address` and serves until [`Running::stop`]. Called on the data path's runtime, whose heart it watches.
pub(crate) fn start(address: SocketAddr, admin: Admin) -> io::Result<Running> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let pulse = Pulse::start(&Handle::current());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stopped, handle) = (stop.clone(), runtime.handle().clone());
    thread::Builder::new().name("admin".into()).spawn(move || {
        let serve = serve(listener, Arc::new(admin), pulse);
        if let Some(Err(error)) = runtime.block_on(stopped.run_until_cancelled(serve)) {
            tracing::error!(%error, "the admin server ended");
        }
    })?;
    Ok(Running { address, runtime: handle, stop })
}

/// When the data path's runtime last ran a task.
#[derive(Clone, Debug)]
struct Pulse {
    epoch: Instant,
    beat: Arc<AtomicU64>,
}

impl Pulse {
    fn start(runtime: &Handle) -> Self {
        let pulse = Self { epoch: Instant::now(), beat: Arc::default() };
        let beating = pulse.clone();
        runtime.spawn(async move {
            let mut tick = interval(HEARTBEAT);
            loop {
                tick.tick().await;
                beating.beat.store(beating.epoch.elapsed().as_millis() as u64, Ordering::Relaxed);
            }
        });
        pulse
    }

    fn is_alive(&self) -> bool {
        let last = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        self.epoch.elapsed().saturating_sub(last) < HEARTBEAT_MAX
    }
}

async fn serve(listener: TcpListener, admin: Arc<Admin>, pulse: Pulse) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let metrics = admin.metrics.clone();
    tokio::spawn(async move {
        let mut tick = interval(UPKEEP);
        loop {
            tick.tick().await;
            metrics.run_upkeep();
        }
    });
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the admin server could not accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (admin, pulse) = (Arc::clone(&admin), pulse.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&admin), pulse.clone(), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away is no event.
            let _ = connection.await;
            drop(place);
        });
    }
}

async fn answer(
    admin: Arc<Admin>,
    pulse: Pulse,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let routed = async { route(&admin, &pulse, &request) };
    Ok(timeout(PATIENCE, routed)
        .await
        .unwrap_or_else(|_| plain(StatusCode::SERVICE_UNAVAILABLE, "too slow\n")))
}

fn route(admin: &Admin, pulse: &Pulse, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !is_ours(admin, request) {
        return plain(StatusCode::FORBIDDEN, "this host name is not the admin server's\n");
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "everything here is read with GET\n");
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/" => text(StatusCode::OK, "text/html; charset=utf-8", PAGE.into()),
        "/livez" if pulse.is_alive() => plain(StatusCode::OK, "ok\n"),
        "/livez" => plain(StatusCode::SERVICE_UNAVAILABLE, "the data path has not run for 10 s\n"),
        "/readyz" if !admin.registry.is_known() => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "the cluster has not told yet which models and replicas there are\n",
        ),
        "/readyz" if admin.gateway.is_ready() => plain(StatusCode::OK, "ok\n"),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        "/metrics" => text(StatusCode::OK, "text/plain; version=0.0.4", admin.metrics.render()),
        path => match path.strip_prefix("/api/") {
            Some(path) => api::answer(admin, path, request.uri().query().unwrap_or_default()),
            None => {
                plain(StatusCode::NOT_FOUND, "not found; see /, /metrics, /livez, /readyz, /api/models\n")
            }
        },
    }
}

/// A page elsewhere must not read this one through a name that resolves to loopback: on loopback only loopback
/// names are answered to.
fn is_ours(admin: &Admin, request: &Request<Incoming>) -> bool {
    if !admin.config.admin.ip().is_loopback() {
        return true;
    }
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

fn plain(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    text(status, "text/plain; charset=utf-8", body.into())
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}
