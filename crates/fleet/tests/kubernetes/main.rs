//! Replicas in a cluster, seen through an API server: one in memory with its faults on demand, and a real one where
//! `KUBEBUILDER_ASSETS` names a folder with `kube-apiserver` and `etcd`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "everything here is a test or its helper"
)]

#[path = "../shared/api_server.rs"]
mod api_server;
mod budget;
mod endpoints;
mod fleet;
mod outages;
mod real;
mod scale;
mod scenarios;
mod stage;
mod wake;
