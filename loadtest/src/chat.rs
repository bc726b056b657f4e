//! Chat completions: sessions of one or more turns, and their answers as streams of tokens.
//!
//! [`length`] says how many tokens, [`session`] makes the requests, [`reply`] reads the answers, [`record`] keeps what
//! they took, [`stalled`] holds streams that nobody reads.

pub(crate) mod length;
pub(crate) mod record;
pub(crate) mod reply;
pub(crate) mod session;
pub(crate) mod stalled;
