//! The objects through which autoscalers agree and tell: the Lease, the state, models and their status, events. On an
//! API server in memory with its faults on demand, and on a real one where `KUBEBUILDER_ASSETS` names a folder with
//! `kube-apiserver` and `etcd`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "everything here is a test or its helper"
)]

#[path = "../shared/api_server.rs"]
mod api_server;
mod events;
mod follow;
mod lease;
mod models;
mod real;
mod stage;
mod state;
mod status;
