//! The client side over loopback: bad input, both ways through, deadlines, and the end of a connection.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in its helpers"
)]

mod grpc;
mod http1;
mod http2;
mod lifecycle;
mod openai;
mod rest;
mod rig;
mod traces;
