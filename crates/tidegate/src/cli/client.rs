//! One HTTP request to a running gateway, or to the leader in a cluster by way of its API server.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use fleet::kubernetes::{
    ApiError, Cluster, ConnectOptions,
    access::{self, PodPort},
};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// EX_UNAVAILABLE of sysexits.h.
pub(super) const UNAVAILABLE: u8 = 69;
const CONNECT: Duration = Duration::from_secs(2);
const ANSWER_MAX: usize = 64 << 20;

/// Where the gateway's admin port is
#[derive(Debug, Args)]
pub(super) struct AdminAddress {
    /// Admin address of the gateway
    #[arg(long, env = "TIDEGATE_ADMIN", default_value = "127.0.0.1:9090", value_name = "HOST:PORT")]
    pub(super) admin: String,
}

/// The admin port of a pod, as the manifests have it.
pub(super) const ADMIN_PORT: u16 = 9090;
/// What asking a pod through the API server takes.
pub(super) const PROXY_RULE: &str =
    "grant it by a Role: rules: [{apiGroups: [\"\"], resources: [pods/proxy], verbs: [get]}]";
const LEASE: &str = "tidegate";
const NAMESPACE: &str = "tidegate";

/// Which installation in which cluster
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Namespace of the installation [default: tidegate]
    #[arg(long)]
    namespace: Option<String>,
    /// Context of the kubeconfig, if not the current one
    #[arg(long)]
    context: Option<String>,
    /// File with the way to the cluster, if neither $KUBECONFIG nor ~/.kube/config
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

impl Place {
    pub(super) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(NAMESPACE)
    }

    /// # Errors
    /// No usable kubeconfig.
    pub(super) async fn connect(&self, verb: &str) -> anyhow::Result<Cluster> {
        /// Somebody waits for the answer.
        const PATIENCE: Duration = Duration::from_secs(5);
        let agent = format!("tidegate/{} ({verb})", env!("CARGO_PKG_VERSION"));
        let Self { context, kubeconfig, .. } = self;
        let options = ConnectOptions { kubeconfig: kubeconfig.clone(), context: context.clone(), agent };
        let cluster = Cluster::connect(options).await.context("no way to a cluster")?;
        Ok(cluster.within(PATIENCE))
    }
}

/// Whose admin port is asked
#[derive(Debug, Args)]
#[command(
    mut_arg("namespace", |arg| arg.requires("cluster")),
    mut_arg("context", |arg| arg.requires("cluster")),
    mut_arg("kubeconfig", |arg| arg.requires("cluster"))
)]
pub(super) struct AdminSource {
    #[command(flatten)]
    address: AdminAddress,
    /// Ask the leading autoscaler of a cluster, through the API server
    #[arg(long)]
    cluster: bool,
    #[command(flatten)]
    place: Place,
}

/// An admin port that can be asked again and again.
pub(super) enum AdminPort {
    At(AdminAddress),
    Leader { cluster: Cluster, namespace: String },
}

impl AdminSource {
    /// # Errors
    /// No usable kubeconfig.
    pub(super) async fn open(&self) -> anyhow::Result<AdminPort> {
        if !self.cluster {
            return Ok(AdminPort::At(AdminAddress { admin: self.address.admin.clone() }));
        }
        let cluster = self.place.connect("status").await?;
        Ok(AdminPort::Leader { cluster, namespace: self.place.namespace().to_owned() })
    }
}

impl AdminPort {
    /// Asks for JSON; says in words why there is none.
    ///
    /// # Errors
    /// Nobody answers, nobody leads, or the answer is a refusal.
    pub(super) async fn ask(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        match self {
            Self::At(address) => ask_admin(address, path).await,
            Self::Leader { cluster, namespace } => ask_leader(cluster, namespace, path).await,
        }
    }
}

async fn ask_leader(cluster: &Cluster, namespace: &str, path: &str) -> anyhow::Result<serde_json::Value> {
    let tenure = match access::tenure(cluster, namespace, LEASE).await {
        Ok(tenure) => tenure,
        Err(ApiError::NotFound(_)) => bail!(
            "there is no Lease {namespace}/{LEASE}: no autoscaler has led there yet; is --namespace right? See: \
             tidegate check --namespace {namespace}"
        ),
        Err(error) => bail!("who leads cannot be learned: {error}"),
    };
    let Some(leader) = tenure.holder else {
        bail!(
            "nobody leads: Lease {namespace}/{LEASE} has no holder; see: tidegate check --namespace {namespace}"
        )
    };
    let to = PodPort { namespace, pod: &leader, port: ADMIN_PORT };
    let answer =
        access::proxy_get(cluster, to, path).await.map_err(|error| unanswered(&error, &leader, namespace))?;
    serde_json::from_str(&answer)
        .with_context(|| format!("port {ADMIN_PORT} of {leader} is not an admin port of tidegate"))
}

/// Why the leader said nothing: the API server would not ask it, could not, or it refused.
fn unanswered(error: &ApiError, leader: &str, namespace: &str) -> anyhow::Error {
    let refusal = match error {
        ApiError::NotFound(words) | ApiError::Invalid(words) => refusal(words),
        _ => None,
    };
    match error {
        _ if let Some(refusal) = refusal => anyhow::anyhow!("{refusal}"),
        ApiError::Forbidden { what } => {
            anyhow::anyhow!("the leader is {leader}, and this user may not {what}; {PROXY_RULE}")
        }
        ApiError::NotFound(words) if words.starts_with("pods ") => anyhow::anyhow!(
            "Lease {namespace}/{LEASE} is held by {leader}, and there is no such pod in namespace {namespace}: it is \
             gone and not replaced yet, or runs outside of the cluster"
        ),
        error => anyhow::anyhow!("the leader {leader} was not reached through the API server: {error}"),
    }
}

/// The sentence of an admin port that refused.
fn refusal(body: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(body).ok()?;
    Some(value.get("error")?.as_str()?.to_owned())
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Sends `body`, or asks with GET if there is none, and waits at most `patience` for the whole answer.
///
/// # Errors
/// Nobody listens at `address`, or it does not answer in time.
pub(super) async fn send(
    address: &str,
    path: &str,
    body: Option<Bytes>,
    patience: Duration,
) -> anyhow::Result<Reply> {
    let connect = timeout(CONNECT, TcpStream::connect(address));
    let stream = match connect.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            bail!("cannot reach {address}: {error}; is `tidegate serve` or `tidegate demo` running?")
        }
        Err(_) => bail!("cannot reach {address} within {CONNECT:?}"),
    };
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let method = if body.is_some() { http::Method::POST } else { http::Method::GET };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, address)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body.unwrap_or_default()))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(|error| anyhow::anyhow!(error))?;
        driver.abort();
        anyhow::Ok(Response::from_parts(head, body.to_bytes()))
    };
    let response = timeout(patience, exchange)
        .await
        .with_context(|| format!("{address} did not answer within {patience:?}"))?
        .with_context(|| format!("asking {address}"))?;
    let (head, body) = response.into_parts();
    Ok(Reply { status: head.status, headers: head.headers, body })
}

/// Asks the admin port for JSON; says in words why there is none.
///
/// # Errors
/// As [`send`], or the admin port refuses.
pub(super) async fn ask_admin(address: &AdminAddress, path: &str) -> anyhow::Result<serde_json::Value> {
    let reply = send(&address.admin, path, None, Duration::from_secs(5)).await?;
    let value: serde_json::Value = serde_json::from_slice(&reply.body)
        .with_context(|| format!("{} is not an admin port of tidegate", address.admin))?;
    if reply.status.is_success() {
        return Ok(value);
    }
    bail!("{}", value.get("error").and_then(serde_json::Value::as_str).unwrap_or("the gateway refused"))
}

/// Runs a verb that talks to a gateway; whatever keeps it from that ends the process with 69.
pub(super) fn block_on(verb: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    Ok(runtime.block_on(verb).unwrap_or_else(|error| {
        // Nothing is left to tell if standard error is gone.
        let _ = super::terminal::complain(&format!("{error:#}"));
        ExitCode::from(UNAVAILABLE)
    }))
}
