//! The command line: one file for each verb.

pub(crate) mod check;
mod client;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod exec_replica;
pub(crate) mod model_server;
mod output;
pub(crate) mod plan;
pub(crate) mod predict;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod terminal;
pub(crate) mod why;
