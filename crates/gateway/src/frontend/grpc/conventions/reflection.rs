//! `grpc.reflection`, v1 and v1alpha. The generated service answers message by message; reading them, with all
//! its limits, is ours.

use std::{convert::Infallible, fmt};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tower::{ServiceExt as _, util::BoxCloneSyncService};

use crate::{
    frontend::{
        body::Body,
        call::Call,
        deadline::Patience,
        grpc::{
            Source,
            frame::{self, Reader},
            invalid, streamed,
        },
    },
    status::{Failure, Situation},
};

type Inner = BoxCloneSyncService<Request<Full<Bytes>>, Response<tonic::body::Body>, Infallible>;

/// Both versions of the service.
#[derive(Debug)]
pub(super) struct Reflection {
    v1: Service,
    v1alpha: Service,
}

impl Reflection {
    pub(super) fn new() -> Self {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let readable = "the descriptors are made by our own build";
        let v1 = BoxCloneSyncService::new(builder().build_v1().expect(readable));
        let v1alpha = BoxCloneSyncService::new(builder().build_v1alpha().expect(readable));
        Self {
            v1: Service { inner: v1, path: "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo" },
            v1alpha: Service {
                inner: v1alpha,
                path: "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            },
        }
    }

    /// The service that has `method`, which is named without the `/grpc.` before it.
    pub(super) fn version(&self, method: &str) -> Option<Service> {
        match method {
            "reflection.v1.ServerReflection/ServerReflectionInfo" => Some(self.v1.clone()),
            "reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Some(self.v1alpha.clone()),
            _ => None,
        }
    }
}

/// One version of the service.
#[derive(Clone)]
pub(super) struct Service {
    inner: Inner,
    path: &'static str,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Service {
    /// Answers each message of the client in turn.
    pub(super) fn answer(self, call: &mut Call, reader: Reader, patience: Patience) -> Response<Body> {
        let mut messages = call.message();
        messages.becomes_stream();
        call.becomes_stream();
        streamed(Messages { call: messages, reader, patience, service: self })
    }

    /// The answer to one message, framed.
    async fn ask(&self, message: &Bytes) -> Result<Bytes, Failure> {
        let frame = frame::of(message).ok_or_else(Failure::internal)?;
        let mut request = Request::new(Full::new(frame));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_static(self.path);
        let Ok(response) = self.inner.clone().oneshot(request).await;
        let body = response.into_body().collect().await.map_err(|_| unreadable())?.to_bytes();
        if body.is_empty() { Err(unreadable()) } else { Ok(body) }
    }
}

fn unreadable() -> Failure {
    invalid("the message is not a valid reflection request")
}

/// Where the messages of one stream come from.
struct Messages {
    call: Call,
    reader: Reader,
    patience: Patience,
    service: Service,
}

impl Source for Messages {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let idle = self.call.gateway().config().timeouts.idle;
        let terms = self.call.terms(self.patience.deadline_of_stream()?);
        let Some(received) = self.reader.next(&terms, idle).await? else { return Ok(None) };
        self.service.ask(&received.body).await.map(Some)
    }

    fn failed(&mut self, situation: Situation) {
        self.call.record(Some(situation));
    }
}
