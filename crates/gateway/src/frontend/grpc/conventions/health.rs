//! `grpc.health.v1`: whether the gateway, or one model, takes calls.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

use crate::{
    Models,
    frontend::{
        body::Body,
        call::Call,
        deadline::Patience,
        grpc::{
            Source, decode,
            frame::{self, Reader},
            only, reply, streamed,
        },
    },
    models::Readiness,
    status::{Failure, Situation},
};

/// How soon a watcher of a model learns that it joined or left the configuration.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What health is read from.
#[derive(Clone, Debug)]
pub(super) struct Health {
    models: Models,
    serving: watch::Receiver<bool>,
}

impl Health {
    pub(super) fn new(models: Models, serving: watch::Receiver<bool>) -> Self {
        Self { models, serving }
    }

    pub(super) async fn check(
        &self,
        call: &Call,
        reader: Reader,
        patience: Patience,
    ) -> Result<Response<Body>, Failure> {
        match self.of(&asked(call, reader, patience).await?) {
            ServingStatus::ServiceUnknown => {
                Err(Failure::new(Situation::ModelNotFound, "no model of this name is served"))
            }
            status => Ok(reply(&HealthCheckResponse { status: status.into() })),
        }
    }

    pub(super) async fn watch(
        self,
        call: &Call,
        reader: Reader,
        patience: Patience,
    ) -> Result<Response<Body>, Failure> {
        let service = asked(call, reader, patience).await?;
        let deadline = patience.deadline_of_stream()?;
        Ok(streamed(Watch { health: self, service, deadline, last: None }))
    }

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
    health: Health,
    service: String,
    deadline: Instant,
    last: Option<ServingStatus>,
}

impl Source for Watch {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let late = |_| Failure::deadline_exceeded("while health was watched");
        let Some(status) = timeout_at(self.deadline, self.status()).await.map_err(late)? else {
            return Ok(None);
        };
        let message = HealthCheckResponse { status: status.into() };
        frame::encode(&message).map(Some).ok_or_else(Failure::internal)
    }
}

impl Watch {
    /// The next status that differs from the last; `None` after the gateway said that it stops.
    async fn status(&mut self) -> Option<ServingStatus> {
        loop {
            let now = self.health.of(&self.service);
            if self.last.replace(now) != Some(now) {
                return Some(now);
            }
            if !*self.health.serving.borrow() {
                return None;
            }
            let service = self.service.clone();
            self.health.changed(&service).await;
        }
    }
}

/// The service that a call asks for.
async fn asked(call: &Call, reader: Reader, patience: Patience) -> Result<String, Failure> {
    let message = only(call, reader, patience).await?;
    decode::<HealthCheckRequest>(message.body).map(|request| request.service)
}
