//! How the API server is reached: its address and our credentials, and the connections to it.
//!
//! The layers are kube's; the pool and what is left out are ours. A connection that was idle for a while may be dead
//! without a sign, and each such would cost a call its whole patience, so none is kept for long. kube's own stack also
//! repeats calls, and logs each failed one as an error.

use std::{path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderValue, header::USER_AGENT};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tower::{Layer as _, ServiceExt as _, util::option_layer};

use super::error::words;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(15);
const IDLE_MAX: Duration = Duration::from_secs(15);

/// Where the API server is and who we are to it.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Default: `$KUBECONFIG` or `~/.kube/config`, and without those the service account of this pod.
    pub kubeconfig: Option<PathBuf>,
    /// Default: the current one of the kubeconfig.
    pub context: Option<String>,
    /// What the API server's audit log knows us by, like `tidegate/0.1.0 (autoscaler)`.
    pub agent: String,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a usable kubeconfig nor the service account of a pod.
    #[error("{0}")]
    Config(Arc<str>),
    #[error("the connection to the API server cannot be set up: {0}")]
    Client(Arc<str>),
}

pub(super) async fn connect(options: ConnectOptions) -> Result<Client, ConnectError> {
    install_tls_provider();
    let ConnectOptions { kubeconfig, context, agent } = options;
    let mut config = configuration(kubeconfig, context).await?;
    if config.proxy_url.is_some() {
        return Err(ConnectError::Client("the kubeconfig names a proxy, and those are not supported".into()));
    }
    let agent = HeaderValue::from_str(&agent).map_err(|error| ConnectError::Client(words(&error)))?;
    config.headers.push((USER_AGENT, agent));
    client(config).map_err(|error| ConnectError::Client(words(&error)))
}

fn client(config: Config) -> kube::Result<Client> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let connections: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .build(connector);
    let service = config.extra_headers_layer()?.layer(connections.map_err(Into::into));
    let service = option_layer(config.auth_layer()?).layer(service);
    let service = config.base_uri_layer().layer(service);
    Ok(Client::new(service, config.default_namespace))
}

/// The binary installs one first thing; tests and tools that do not would panic at the first connection.
fn install_tls_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Refused only if somebody else was faster, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
    }
}

async fn configuration(kubeconfig: Option<PathBuf>, context: Option<String>) -> Result<Config, ConnectError> {
    let options = KubeConfigOptions { context, cluster: None, user: None };
    match kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|error| config_error(&error))?;
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| config_error(&error))
        }
        None if options.context.is_some() => {
            Config::from_kubeconfig(&options).await.map_err(|error| config_error(&error))
        }
        None => Config::infer().await.map_err(|error| inference_error(&error)),
    }
}

fn config_error(error: &KubeconfigError) -> ConnectError {
    ConnectError::Config(match error {
        // In its own words it quotes the lines around the fault, and those may hold credentials.
        KubeconfigError::Parse(_) => "the kubeconfig cannot be parsed as YAML of a kubeconfig".into(),
        error => words(error),
    })
}

fn inference_error(error: &(dyn std::error::Error + 'static)) -> ConnectError {
    match error.source().and_then(|source| source.downcast_ref()) {
        Some(error @ KubeconfigError::Parse(_)) => config_error(error),
        _ => ConnectError::Config(words(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    async fn refused(kubeconfig: &str) -> ConnectError {
        let path = std::env::temp_dir().join(format!("tidegate-kubeconfig-{}", std::process::id()));
        std::fs::write(&path, kubeconfig).unwrap();
        let options = ConnectOptions { kubeconfig: Some(path.clone()), context: None, agent: "test".into() };
        let error = connect(options).await.err().unwrap();
        std::fs::remove_file(path).unwrap();
        error
    }

    #[tokio::test]
    async fn a_broken_kubeconfig_is_refused_without_its_secrets() {
        let error = refused("users: [{name: u, user: {token: geheim, x: [}}]").await;
        assert_eq!(error.to_string(), "the kubeconfig cannot be parsed as YAML of a kubeconfig");
        assert!(error.source().is_none());
        let error = refused("{apiVersion: v1, kind: Config}").await;
        assert!(matches!(error, ConnectError::Config(_)), "{error}");
        let proxied = refused(
            "{apiVersion: v1, kind: Config, current-context: c,
              clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1', proxy-url: 'http://127.0.0.1:2'}}],
              users: [{name: u, user: {}}], contexts: [{name: c, context: {cluster: c, user: u}}]}",
        )
        .await;
        assert!(matches!(proxied, ConnectError::Client(_)), "{proxied}");
    }
}
