//! How much two prompts have in common from their start, for routing to the replica that has it in its cache.

use std::{
    hash::{BuildHasher as _, Hasher as _},
    sync::LazyLock,
};

use foldhash::quality::RandomState;

use super::Endpoint;

/// Bytes of a block: about 64 tokens, four pages of an engine's cache. A common part shorter than this saves a
/// replica little; a longer block would round long common parts down too far.
pub const BLOCK_BYTES: usize = 256;
/// Most blocks of a chain: 32 KiB of prompt, about 8000 tokens. Prompts that have that much in common are told
/// apart no further.
pub const BLOCKS_MAX: usize = 128;

/// Random for each process, so that nobody outside can construct prompts that collide. Chains of two processes
/// cannot be compared.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// A chain of hashes over the raw bytes of a prompt: the hash at `i` stands for the first `i + 1` blocks.
///
/// Two prompts share as many blocks as their chains share hashes. The bytes are taken as the client wrote them:
/// the same messages in other white space have another chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Prefix(Vec<u64>);

impl Prefix {
    /// The chain of the raw JSON `value`. What closes it is left out, and so is a last block that is not full:
    /// a message more, or more text, changes no hash that was there.
    pub(super) fn new(endpoint: Endpoint, value: &[u8]) -> Self {
        let mut hash = KEY.hash_one(endpoint);
        let blocks = open_part(value).chunks_exact(BLOCK_BYTES).take(BLOCKS_MAX);
        let chain = blocks.map(|block| {
            let mut hasher = KEY.build_hasher();
            hasher.write_u64(hash);
            hasher.write(block);
            hash = hasher.finish();
            hash
        });
        Self(chain.collect())
    }

    /// The hashes, the shortest common part first; at most [`BLOCKS_MAX`].
    #[must_use]
    pub fn blocks(&self) -> &[u64] {
        &self.0
    }
}

/// A list without its bracket, a string without its last quote.
fn open_part(value: &[u8]) -> &[u8] {
    match value.split_last() {
        Some((b']' | b'"', open)) => open.trim_ascii_end(),
        _ => value,
    }
}
