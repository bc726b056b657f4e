//! Numbers drawn from bytes: the same on every machine and in every build, unlike the standard library's hashers.

const START: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads every bit of `word` over the whole result (the finalizer of splitmix64).
pub(super) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The digest of `bytes` after what `before` is the digest of.
pub(super) fn after(before: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut digest = before ^ START;
    for word in words {
        digest = mix(digest.wrapping_add(START) ^ u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    mix(digest.wrapping_add(bytes.len() as u64) ^ u64::from_le_bytes(last))
}

/// The digest of `bytes` alone.
pub(super) fn of(bytes: &[u8]) -> u64 {
    after(0, bytes)
}

/// A sequence of numbers that its seed determines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draws(u64);

impl Draws {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(START);
        mix(self.0)
    }

    /// Uniform in 0 (included) to 1 (excluded).
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0 to `bound` (excluded), 0 where that is 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound as u64).max(1)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_depend_on_every_byte_the_length_and_what_came_before() {
        let digests =
            [of(b""), of(b"\0"), of(b"12345678"), of(b"12345679"), of(b"123456789"), after(1, b"12345678")];
        for (at, digest) in digests.iter().enumerate() {
            assert!(!digests[..at].contains(digest), "{at}");
        }
        assert_eq!(of(b"12345678"), of(b"12345678"));
    }

    #[test]
    fn draws_are_uniform_and_repeat_with_their_seed() {
        let draw = |seed| {
            let mut draws = Draws::new(seed);
            std::iter::repeat_with(|| draws.unit()).take(10_000).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let mean = draw(1).iter().sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        assert!((0..100).all(|seed| Draws::new(seed).below(3) < 3));
    }
}
