//! The OpenAI wire format. Bodies and streamed frames are handed on as they came: this module looks into them,
//! and changes a member only by cutting and inserting bytes.
//!
//! [`peek`] reads what the gateway must know of a request, [`with_usage`] asks for the number of tokens on its
//! behalf, and a [`Scanner`] watches the streamed answer and takes that number out again. Only [`embeddings`] are
//! taken apart, since several requests for them make one.

pub mod embeddings;
mod failure;
mod include_usage;
mod peek;
mod prefix;
mod prompt;
mod sse;
mod usage;

pub use failure::{DONE, ErrorText, error_event, error_of};
pub use include_usage::{IncludeUsage, Splice, with_usage};
pub use peek::{Peek, peek};
pub use prefix::{BLOCK_BYTES, BLOCKS_MAX, Prefix};
pub use sse::{Broken, Dialect, FRAME_BYTES_MAX, Facts, Scanner, UsageFrame};
pub use usage::{Usage, is_answer, usage_of};

/// Which call of the API a body belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    ChatCompletions,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/responses`
    Responses,
    /// `/v1/rerank`
    Rerank,
}

impl Endpoint {
    /// The member of a request that the model reads.
    fn prompt(self) -> &'static str {
        match self {
            Self::ChatCompletions => "messages",
            Self::Completions => "prompt",
            Self::Embeddings | Self::Responses => "input",
            Self::Rerank => "documents",
        }
    }

    /// Whether a streamed answer tells its usage only if `stream_options` asks for it.
    fn asks_for_usage(self) -> bool {
        matches!(self, Self::ChatCompletions | Self::Completions)
    }
}

#[cfg(test)]
mod tests;
