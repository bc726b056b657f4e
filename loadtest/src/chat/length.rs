//! How many tokens prompts and answers have, and text of that many.

use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};
use rand::{Rng, rngs::StdRng};

/// Tokens of one prompt or answer: four bytes each in memory.
const TOKENS_MAX: u32 = 4_000_000;

/// Tokens of one call of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) prompt: u32,
    pub(crate) output: u32,
}

/// How many tokens something has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Fixed(u32),
    /// Evenly spread, both ends included.
    Between(u32, u32),
    /// What the trace says of this call.
    Trace,
}

impl Length {
    /// The number for one call; `traced` is what the trace says of it.
    pub(crate) fn draw(self, traced: u32, rng: &mut StdRng) -> u32 {
        match self {
            Self::Fixed(tokens) => tokens,
            Self::Between(least, most) => rng.random_range(least..=most),
            // Some published traces have calls of no tokens, which no server takes.
            Self::Trace => traced.clamp(1, TOKENS_MAX),
        }
    }
}

impl FromStr for Length {
    type Err = anyhow::Error;

    /// `N`, `N..M` or `trace`.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        if text == "trace" {
            return Ok(Self::Trace);
        }
        let Some((least, most)) = text.split_once("..") else { return Ok(Self::Fixed(tokens(text)?)) };
        let (least, most) = (tokens(least)?, tokens(most)?);
        ensure!(least <= most, "{least} is above {most}");
        Ok(Self::Between(least, most))
    }
}

fn tokens(text: &str) -> anyhow::Result<u32> {
    let tokens: u32 = text.parse().context("use N, N..M or trace")?;
    if !(1..=TOKENS_MAX).contains(&tokens) {
        bail!("{tokens} is not from 1 to {TOKENS_MAX}");
    }
    Ok(tokens)
}

/// Appends random text of so many tokens: words of three letters and a space, so that counting words and dividing
/// bytes by four agree. Nothing in it needs to be escaped in JSON.
pub(crate) fn append_words(tokens: u32, rng: &mut StdRng, text: &mut String) {
    for _ in 0..tokens {
        // Three letters are drawn at once: prompts of many thousand tokens are made while the load runs.
        let mut draw: u32 = rng.random();
        for _ in 0..3 {
            text.push(char::from(b'a' + (draw % 26) as u8));
            draw /= 26;
        }
        text.push(' ');
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn a_length_is_a_number_a_range_or_what_the_trace_says() {
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!("12".parse::<Length>().unwrap().draw(7, &mut rng), 12);
        assert_eq!("trace".parse::<Length>().unwrap().draw(7, &mut rng), 7);
        assert_eq!(Length::Trace.draw(0, &mut rng), 1);
        let range: Length = "3..5".parse().unwrap();
        let mut seen: Vec<u32> = (0..100).map(|_| range.draw(7, &mut rng)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [3, 4, 5]);
        for text in ["", "0", "5..3", "x", "1..", "4000001", "-1"] {
            assert!(text.parse::<Length>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn words_and_bytes_agree_on_the_number_of_tokens() {
        let mut text = String::new();
        append_words(50, &mut StdRng::seed_from_u64(2), &mut text);
        assert_eq!((text.split_whitespace().count(), text.len()), (50, 200));
        assert!(text.bytes().all(|byte| byte == b' ' || byte.is_ascii_lowercase()));
    }
}
