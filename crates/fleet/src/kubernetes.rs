//! Replicas as the pods of a Deployment, a StatefulSet, or any other object with a scale subresource.
//!
//! The two roles see them in two ways: a gateway needs the addresses behind a Service ([`endpoints`]) and can wake
//! a model that has none ([`wake`]); an autoscaler needs the pods and the number ([`fleet`]). Both learn all they
//! know from watches that are shared by all models of a namespace, over one [`Cluster`], so what they cost the API
//! server does not grow with the number of pods.

pub mod access;
pub mod cluster;
pub mod endpoints;
pub mod events;
pub mod fleet;
pub mod lease;
pub mod models;
mod pods;
mod rivals;
mod scale;
pub mod state;
pub mod status;
pub mod target;
pub mod wake;
mod watch;

pub use self::cluster::{ApiError, Cluster, ConnectError, ConnectOptions, Hearing};
