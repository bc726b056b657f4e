//! Edges of the data path: HTTP and gRPC in, model servers out.
//!
//! [`Gateway::serve`] accepts connections (`listen`), routes each call (`frontend`) to its model (`models`),
//! decodes it or hands it on as it came, and writes the answer, or the one line of the status table (`status`)
//! that says why there is none. [`upstream`] is the other edge: the model servers. Both tell [`trace`] of the calls
//! that are traced.

mod frontend;
mod listen;
mod metrics;
mod models;
mod status;
pub mod trace;
pub mod upstream;

use std::time::Duration;

pub use frontend::Gateway;
pub use listen::{Drained, Listener};
pub use models::{ChatTerms, Deadlines, Dispatch, Model, Models, Parts, Readiness};

/// Limits of the gateway's client side. The defaults are those of the configuration file.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub shutdown: Shutdown,
}

/// How much a client may send or hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one body or gRPC message, as sent and after decompression.
    pub body: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Header fields of a request.
    pub headers: usize,
    /// Open connections; beyond them, new ones wait in the listen backlog.
    pub connections: usize,
    /// Concurrent calls on one HTTP/2 connection.
    pub http2_streams: u32,
}

/// How long a client may take.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// To the first byte of a connection.
    pub first_byte: Duration,
    /// For a request's head, from its first byte.
    pub header: Duration,
    /// Between two pieces of a body. Over the whole body a client must also keep 1 KiB/s.
    pub body_idle: Duration,
    /// Between two requests on a connection, or two messages on a stream.
    pub idle: Duration,
}

/// How the gateway stops.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// How long new connections are still accepted, because clients learn late that they should go elsewhere.
    pub accept_for: Duration,
    /// How long open calls may take to finish after that.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body: 64 << 20, header_bytes: 16 << 10, headers: 100, connections: 10_000, http2_streams: 256 }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(5),
            header: Duration::from_secs(10),
            body_idle: Duration::from_secs(10),
            idle: Duration::from_secs(60),
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { accept_for: Duration::from_secs(5), drain: Duration::from_secs(30) }
    }
}
