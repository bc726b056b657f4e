//! What the gateway says of itself and its models, the same on every surface.

use pipeline::tensor::Metadata;

use crate::{
    models::{Model, Readiness},
    status::{Failure, Situation},
};

pub(super) const SERVER: &str = "tidegate";
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
pub(super) const EXTENSIONS: [&str; 4] =
    ["binary_tensor_data", "model_configuration", "statistics", "model_repository"];

/// The model's own description under the name by which it is served here.
pub(super) fn under_own_name(metadata: &Metadata, model: &Model) -> Metadata {
    Metadata { name: model.name().to_string(), ..metadata.clone() }
}

/// State and reason in the words of the model repository extension.
pub(super) fn repository_state(readiness: Readiness) -> (&'static str, &'static str) {
    match readiness {
        Readiness::Ready { .. } => ("READY", ""),
        Readiness::Starting => ("LOADING", "starting"),
        Readiness::Zero => ("READY", "at zero replicas; a request starts it"),
        Readiness::Off => ("UNAVAILABLE", "no replica may be started now"),
    }
}

pub(super) fn unload_unsupported() -> Failure {
    let sentence = "models are not unloaded by clients: they stop by themselves when idle";
    Failure::new(Situation::Unsupported, sentence)
}
