//! Where requests go: one `http://host:port` with its address looked up once, or whatever addresses a file lists.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, ensure};
use http::{Uri, uri::Authority};

/// Where new connections go.
#[derive(Debug)]
pub(crate) enum Places {
    One(SocketAddr),
    /// One address a line, read for each connection and taken in turn: connections that are open stay where they
    /// are when the file changes, as they do behind a Kubernetes Service.
    File {
        path: PathBuf,
        turn: AtomicUsize,
    },
}

impl Places {
    pub(crate) fn new(target: &Target, file: Option<&Path>) -> Self {
        match file {
            Some(path) => Self::File { path: path.to_owned(), turn: AtomicUsize::new(0) },
            None => Self::One(target.address),
        }
    }

    /// Where the next connection goes.
    pub(crate) fn next(&self) -> io::Result<SocketAddr> {
        let (path, turn) = match self {
            Self::One(address) => return Ok(*address),
            Self::File { path, turn } => (path, turn),
        };
        let text = std::fs::read_to_string(path)?;
        let addresses: Vec<&str> = text.split_whitespace().collect();
        let turn = turn.fetch_add(1, Ordering::Relaxed).checked_rem(addresses.len());
        let address = turn.and_then(|turn| addresses.get(turn));
        let address = address.ok_or_else(|| io::Error::other("the file lists no address"))?;
        address.parse().map_err(io::Error::other)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_in_turn_to_what_the_file_lists_now() {
        let path = std::env::temp_dir().join(format!("loadtest-places-{}", std::process::id()));
        let places = Places::File { path: path.clone(), turn: AtomicUsize::new(0) };
        std::fs::write(&path, "127.0.0.1:1\n127.0.0.2:2\n").unwrap();
        let ports: Vec<u16> = (0..4).map(|_| places.next().unwrap().port()).collect();
        assert_eq!(ports, [1, 2, 1, 2]);
        std::fs::write(&path, "127.0.0.2:2\n").unwrap();
        assert_eq!(places.next().unwrap().port(), 2);
        std::fs::write(&path, "").unwrap();
        assert!(places.next().is_err());
        std::fs::remove_file(path).unwrap();
    }
}
