//! What gRPC clients and tools expect of every server: health (overall and per model) and reflection.

use std::{convert::Infallible, fmt, pin::Pin, time::Duration};

use futures_util::{Stream, stream};
use http::{Request, Response, request::Parts};
use hyper::body::Incoming;
use tokio::{sync::watch, time::sleep};
use tonic::Status;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};
use tower::{ServiceExt as _, util::BoxCloneSyncService};

use super::no_such_method;
use crate::{
    Models,
    frontend::{body::Body as OurBody, call::Call},
    models::Readiness,
    status::Failure,
};

/// How soon a watcher of a model learns that it joined or left the configuration.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

type Service = BoxCloneSyncService<Request<Incoming>, Response<tonic::body::Body>, Infallible>;

/// The services beside inference.
#[derive(Clone)]
pub(in crate::frontend) struct Conventions {
    health: Service,
    reflection: Service,
    reflection_alpha: Service,
    serving: watch::Sender<bool>,
}

impl fmt::Debug for Conventions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conventions").field("serving", &*self.serving.borrow()).finish_non_exhaustive()
    }
}

impl Conventions {
    pub(in crate::frontend) fn new(models: &Models) -> Self {
        let (serving, watched) = watch::channel(true);
        let health = State { models: models.clone(), serving: watched };
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let readable = "the descriptors are made by our own build";
        Self {
            health: BoxCloneSyncService::new(HealthServer::new(health)),
            reflection: BoxCloneSyncService::new(reflection().build_v1().expect(readable)),
            reflection_alpha: BoxCloneSyncService::new(reflection().build_v1alpha().expect(readable)),
            serving,
        }
    }

    /// Reports NOT_SERVING from now on, and ends what watches.
    pub(in crate::frontend) fn stop(&self) {
        self.serving.send_replace(false);
    }

    fn of(&self, path: &str) -> Option<&Service> {
        match path.strip_prefix("/grpc.")?.split_once('/')?.0 {
            "health.v1.Health" => Some(&self.health),
            "reflection.v1.ServerReflection" => Some(&self.reflection),
            "reflection.v1alpha.ServerReflection" => Some(&self.reflection_alpha),
            _ => None,
        }
    }
}

/// Answers a call that is not of the inference service.
pub(super) async fn answer(call: &Call, head: Parts, body: Incoming) -> Result<Response<OurBody>, Failure> {
    let conventions = call.gateway().conventions();
    let service = conventions.of(head.uri.path()).ok_or_else(|| no_such_method(head.uri.path()))?;
    let Ok(response) = service.clone().oneshot(Request::from_parts(head, body)).await;
    Ok(response.map(OurBody::from))
}

/// What health is read from.
#[derive(Clone, Debug)]
struct State {
    models: Models,
    serving: watch::Receiver<bool>,
}

impl State {
    /// The status of a service, which is the gateway itself or a model.
    fn of(&self, service: &str) -> ServingStatus {
        let serving = *self.serving.borrow();
        let ready = match service {
            "" | "inference.GRPCInferenceService" => true,
            name => match self.models.get(name) {
                Some(model) => model.readiness().accepts(),
                None => return ServingStatus::ServiceUnknown,
            },
        };
        if serving && ready { ServingStatus::Serving } else { ServingStatus::NotServing }
    }

    /// Waits until the status of `service` may be another.
    async fn changed(&mut self, service: &str) {
        let readiness = self.models.get(service).map(|model| model.watch_readiness());
        tokio::select! {
            _ = self.serving.changed() => {}
            () = changed(readiness) => {}
            () = sleep(LOOK_AGAIN) => {}
        }
    }
}

async fn changed(readiness: Option<watch::Receiver<Readiness>>) {
    let closed = match readiness {
        Some(mut readiness) => readiness.changed().await.is_err(),
        None => true,
    };
    if closed {
        // The model is not served, or no longer: the next look finds out when that changes.
        std::future::pending().await
    }
}

/// The watch of one service.
struct Watch {
    state: State,
    service: String,
    last: Option<ServingStatus>,
}

impl Watch {
    /// The next status that differs from the last; `None` after the gateway said that it stops.
    async fn next(&mut self) -> Option<ServingStatus> {
        loop {
            let now = self.state.of(&self.service);
            if self.last.replace(now) != Some(now) {
                return Some(now);
            }
            if !*self.state.serving.borrow() {
                return None;
            }
            let service = self.service.clone();
            self.state.changed(&service).await;
        }
    }
}

#[tonic::async_trait]
impl Health for State {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        match self.of(&request.get_ref().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("no model of this name is served")),
            status => Ok(tonic::Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let watch = Watch { state: self.clone(), service: request.into_inner().service, last: None };
        let statuses = stream::unfold(watch, |mut watch| async move {
            let status = watch.next().await?;
            Some((Ok(HealthCheckResponse { status: status.into() }), watch))
        });
        Ok(tonic::Response::new(Box::pin(statuses)))
    }
}
