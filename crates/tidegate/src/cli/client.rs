//! One HTTP request to a running gateway.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
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
