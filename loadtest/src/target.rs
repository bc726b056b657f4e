//! Where requests go: one `http://host:port` with its address looked up once.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use http::{Uri, uri::Authority};

/// A server under load.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) authority: Authority,
    pub(crate) address: SocketAddr,
    /// Path of the URL without a trailing slash; in front of every API path, and all of it for raw requests.
    pub(crate) path: String,
}

impl Target {
    /// Looks the host up; only the first address is used, so that a run never mixes two servers.
    pub(crate) async fn resolve(url: &Uri) -> anyhow::Result<Self> {
        ensure!(url.scheme_str() == Some("http"), "{url}: only http:// URLs (TLS would measure the cipher)");
        let authority = url.authority().with_context(|| format!("{url} has no host"))?.clone();
        let port = authority.port_u16().unwrap_or(80);
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let mut addresses = tokio::net::lookup_host((host.as_str(), port))
            .await
            .with_context(|| format!("cannot look up {host}"))?;
        let address = addresses.next().with_context(|| format!("{host} has no address"))?;
        let path_and_query = url.path_and_query().map_or("", |path| path.as_str());
        Ok(Self { authority, address, path: path_and_query.trim_end_matches('/').to_owned() })
    }
}
