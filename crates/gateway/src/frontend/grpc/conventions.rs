//! What gRPC clients and tools expect of every server: health (overall and per model) and reflection. Their
//! messages are read and refused like all others.

mod health;
mod reflection;

use http::{Response, request::Parts};
use hyper::body::Incoming;
use tokio::sync::watch;

use self::{health::Health, reflection::Reflection};
use super::{frame::Reader, no_such_method};
use crate::{
    Models,
    frontend::{body::Body, call::Call, deadline::Patience},
    status::Failure,
};

/// The services beside inference.
#[derive(Debug)]
pub(in crate::frontend) struct Conventions {
    health: Health,
    reflection: Reflection,
    serving: watch::Sender<bool>,
}

impl Conventions {
    pub(in crate::frontend) fn new(models: &Models) -> Self {
        let (serving, watched) = watch::channel(true);
        Self { health: Health::new(models.clone(), watched), reflection: Reflection::new(), serving }
    }

    /// Reports NOT_SERVING from now on, and ends what watches.
    pub(in crate::frontend) fn stop(&self) {
        self.serving.send_replace(false);
    }
}

/// Answers a call that is not of the inference service.
pub(super) async fn answer(call: &mut Call, head: Parts, body: Incoming) -> Result<Response<Body>, Failure> {
    let path = head.uri.path();
    let method = path.strip_prefix("/grpc.").ok_or_else(|| no_such_method(path))?;
    let conventions = call.gateway().conventions();
    let health = conventions.health.clone();
    let reflection = conventions.reflection.version(method);
    let patience = Patience::of(&head.headers, call.started())?;
    let reader = Reader::new(&head.headers, body)?;
    match (method, reflection) {
        ("health.v1.Health/Check", _) => health.check(call, reader, patience).await,
        ("health.v1.Health/Watch", _) => health.watch(call, reader, patience).await,
        (_, Some(reflection)) => Ok(reflection.answer(call, reader, patience)),
        _ => Err(no_such_method(path)),
    }
}
