//! The two protocols of OTLP.

use std::{fmt, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    SpanExporter, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
    tonic_types::transport::{Certificate, ClientTlsConfig, Identity},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::time::timeout;

use super::settings::{certificates, key};

/// Longest answer of a collector, in bytes; it is a few in practice.
const ANSWER_MAX: usize = 1 << 20;
/// Connections are closed after this, before a collector does.
const IDLE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    /// `http/protobuf`.
    Http,
}

/// How the collector is spoken to.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) protocol: Protocol,
    pub(super) endpoint: String,
    /// Its scheme, host and port, without what may be secret.
    pub(super) host: String,
    /// For one export.
    pub(super) timeout: Duration,
    pub(super) tls: Option<Tls>,
}

/// Whom to trust, and as whom to come.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    /// `None`: whomever the system trusts.
    pub(super) trusted: Option<Pem>,
    /// A certificate and its key.
    pub(super) identity: Option<(Pem, Pem)>,
}

/// The content of a file of certificates or keys, which is not shown.
#[derive(Clone)]
pub(super) struct Pem(pub(super) Vec<u8>);

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pem")
    }
}

impl Wire {
    /// The exporter, made inside the runtime on which it is to export.
    ///
    /// # Errors
    /// The system has no certificates to trust, or a key does not fit its certificate.
    pub(super) fn exporter(&self) -> anyhow::Result<SpanExporter> {
        let problem = || format!("the OTEL_EXPORTER_OTLP_… variables, for {}", self.shown());
        self.built().with_context(problem)
    }

    fn built(&self) -> anyhow::Result<SpanExporter> {
        let exporter = match self.protocol {
            Protocol::Grpc => {
                let builder = SpanExporter::builder().with_tonic();
                let builder = builder.with_endpoint(&self.endpoint).with_timeout(self.timeout);
                match &self.tls {
                    Some(tls) => builder.with_tls_config(tls.for_grpc()).build(),
                    None => builder.build(),
                }
            }
            Protocol::Http => {
                let builder = SpanExporter::builder().with_http().with_http_client(self.http_client()?);
                let builder = builder.with_protocol(opentelemetry_otlp::Protocol::HttpBinary);
                builder.with_endpoint(&self.endpoint).with_timeout(self.timeout).build()
            }
        };
        Ok(exporter?)
    }

    /// What people are told.
    pub(super) fn shown(&self) -> String {
        let protocol = match self.protocol {
            Protocol::Grpc => "grpc",
            Protocol::Http => "http/protobuf",
        };
        format!("{} ({protocol})", self.host)
    }

    fn http_client(&self) -> anyhow::Result<Collector> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = match &self.tls {
            Some(Tls { trusted: None, .. }) => {
                config.with_native_roots().context("the certificates that the system trusts")?
            }
            Some(Tls { trusted: Some(trusted), .. }) => config.with_root_certificates(roots(trusted)?),
            // Nothing is sent over TLS.
            None => config.with_root_certificates(RootCertStore::empty()),
        };
        let identity = self.tls.as_ref().and_then(|tls| tls.identity.as_ref());
        let config = match identity {
            Some((certificate, private)) => {
                let chain = certificates(&certificate.0).map_err(anyhow::Error::msg)?;
                let key = key(&private.0).map_err(anyhow::Error::msg)?;
                config.with_client_auth_cert(chain, key).context("the client's certificate and its key")?
            }
            None => config.with_no_client_auth(),
        };
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
        let mut client = Client::builder(TokioExecutor::new());
        let client = client.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).build(connector);
        Ok(Collector { client, timeout: self.timeout })
    }
}

fn roots(trusted: &Pem) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&trusted.0).map_err(anyhow::Error::msg)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

impl Tls {
    fn for_grpc(&self) -> ClientTlsConfig {
        let config = match &self.trusted {
            Some(trusted) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&trusted.0)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match &self.identity {
            Some((certificate, key)) => config.identity(Identity::from_pem(&certificate.0, &key.0)),
            None => config,
        }
    }
}

/// A client of a collector over HTTP.
#[derive(Debug)]
struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
}

#[tonic::async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = async {
            let (head, body) = self.client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        let sent = timeout(self.timeout, sent).await.unwrap_or_else(|late| Err(HttpError::from(late)));
        // The exporter says no more of it than that it was the network.
        sent.inspect_err(|error| tracing::debug!(error = ?error, "a collector was not reached"))
    }
}
