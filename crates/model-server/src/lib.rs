//! A small ONNX model server: the backend of the embedded default, of the demo and of the tests.
//!
//! One port speaks the Open Inference Protocol over REST (JSON and binary tensors) and over gRPC. A call goes
//! connection → `rest` or `grpc` (decode) → `serving` (ready? known? a free slot?) → `engine` (compute)
//! and back. [`Server`] is for callers in the same process, [`run`] for the command line.
//!
//! [`chat`] is another server on the same listener: a simulated chat engine, which has no model.

mod args;
mod body;
pub mod chat;
mod connection;
mod engine;
mod error;
mod grpc;
mod inference;
mod listen;
mod pace;
mod rest;
mod server;
mod serving;
mod statistics;

pub use args::{Args, ModelFile, run, serve};
pub use engine::{InferError, LoadError, Model};
pub use listen::DrainError;
pub use pace::{Pace, PaceError};
pub use server::{BindError, Options, Server};
