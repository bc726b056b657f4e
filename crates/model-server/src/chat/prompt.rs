//! A prompt as the engine counts and caches it: four bytes are a token, sixteen tokens a block.
//!
//! A token id is taken as its four bytes, so a prompt of ids and one of text are counted alike.

use super::digest;

/// Bytes of text that count as one token; a rest counts as a whole one.
pub(super) const TOKEN_BYTES: usize = 4;
/// Tokens of a block of the prefix cache, as in vLLM.
pub(super) const BLOCK_TOKENS: usize = 16;
const BLOCK_BYTES: usize = BLOCK_TOKENS * TOKEN_BYTES;

/// The length of a prompt and the names of its whole blocks.
///
/// A block's name depends on all blocks before it: equal names mean equal prompts up to there.
#[derive(Clone, Debug, Default)]
pub(super) struct Prompt {
    bytes: usize,
    blocks: Vec<u64>,
    /// The bytes after the last whole block.
    rest: Vec<u8>,
}

impl Prompt {
    pub(super) fn of_text(text: &str) -> Self {
        let mut prompt = Self::default();
        prompt.push(text.as_bytes());
        prompt
    }

    pub(super) fn of_ids(ids: &[u32]) -> Self {
        let mut prompt = Self::default();
        for id in ids {
            prompt.push(&id.to_le_bytes());
        }
        prompt
    }

    /// That many tokens which no cache knows.
    pub(super) fn uncached(tokens: usize) -> Self {
        Self { bytes: tokens.saturating_mul(TOKEN_BYTES), ..Self::default() }
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len();
        if !self.rest.is_empty() {
            let missing = BLOCK_BYTES - self.rest.len();
            let (now, later) = bytes.split_at(missing.min(bytes.len()));
            self.rest.extend_from_slice(now);
            bytes = later;
            if self.rest.len() == BLOCK_BYTES {
                let block = std::mem::take(&mut self.rest);
                self.push_block(&block);
            }
        }
        let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
        for block in blocks {
            self.push_block(block);
        }
        self.rest.extend_from_slice(rest);
    }

    fn push_block(&mut self, block: &[u8]) {
        let before = self.blocks.last().copied().unwrap_or(0);
        self.blocks.push(digest::after(before, block));
    }

    pub(super) fn tokens(&self) -> usize {
        self.bytes.div_ceil(TOKEN_BYTES)
    }

    /// The names of the whole blocks, in their order.
    pub(super) fn blocks(&self) -> &[u64] {
        &self.blocks
    }

    /// The blocks that may come from a cache: the last token has always to be computed.
    pub(super) fn cacheable(&self) -> &[u64] {
        let most = self.tokens().saturating_sub(1) / BLOCK_TOKENS;
        self.blocks.get(..most).unwrap_or(&self.blocks)
    }

    /// A number that depends on the whole prompt.
    pub(super) fn digest(&self) -> u64 {
        digest::after(self.blocks.last().copied().unwrap_or(0), &self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_bytes_or_one_id_are_a_token() {
        for (text, tokens) in [("", 0), ("a", 1), ("four", 1), ("fours", 2)] {
            assert_eq!(Prompt::of_text(text).tokens(), tokens, "{text:?}");
        }
        assert_eq!(Prompt::of_ids(&[1, 70_000, 3]).tokens(), 3);
    }

    #[test]
    fn blocks_are_the_same_however_the_bytes_arrive() {
        let text = "x".repeat(1000);
        let whole = Prompt::of_text(&text);
        for size in [1, 63, 64, 65, 200] {
            let mut parts = Prompt::default();
            text.as_bytes().chunks(size).for_each(|part| parts.push(part));
            assert_eq!(parts.blocks(), whole.blocks(), "{size}");
            assert_eq!((parts.tokens(), parts.digest()), (250, whole.digest()), "{size}");
        }
        assert_eq!(whole.blocks().len(), 15);
    }

    #[test]
    fn a_block_is_named_after_everything_before_it() {
        let blocks = |first: &str| Prompt::of_text(&format!("{first}{}", "y".repeat(127))).blocks().to_vec();
        let (a, b) = (blocks("a"), blocks("b"));
        assert_eq!(a.len(), 2);
        assert!(a[0] != b[0] && a[1] != b[1]);
    }

    #[test]
    fn the_last_token_never_comes_from_the_cache() {
        assert_eq!(Prompt::of_text(&"x".repeat(128)).cacheable().len(), 1);
        assert_eq!(Prompt::of_text(&"x".repeat(129)).cacheable().len(), 2);
        assert!(Prompt::of_text("").cacheable().is_empty());
    }
}
