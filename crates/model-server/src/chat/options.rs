//! What a simulated engine is like.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use super::fail::Failures;

/// How to simulate.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port 0 takes a free one.
    pub address: SocketAddr,
    /// The name the model is served under.
    pub model: String,
    /// Imitates a slow load: live at once, ready after this long.
    pub start_delay: Duration,
    pub times: Times,
    /// Sequences that run at a time; the others wait in the order they came.
    pub slots: NonZeroUsize,
    /// Sequences that may wait; more are refused.
    pub queue: usize,
    /// The status of that refusal: 503, or 429.
    pub full_status: u16,
    /// Tokens the prefix cache holds, in blocks of 16; 0 turns it off.
    pub prefix_cache: usize,
    /// Tokens a prompt and its answer may have together.
    pub context: usize,
    /// Tokens of an answer.
    pub output_tokens: OutputTokens,
    pub failures: Failures,
    /// Decides who fails by chance, and the jitter.
    pub seed: u64,
    /// How long calls in flight may take once the server is to stop.
    pub drain: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            model: "sim".to_owned(),
            start_delay: Duration::ZERO,
            times: Times::default(),
            slots: NonZeroUsize::new(32).expect("32 is not zero"),
            queue: 1024,
            full_status: 503,
            prefix_cache: 64_000,
            context: 128_000,
            output_tokens: OutputTokens::Fixed(128),
            failures: Failures::default(),
            seed: 0,
            drain: Duration::from_secs(30),
        }
    }
}

/// How long an engine takes for what.
///
/// Prefill is serialised: one prompt at a time, in the order of arrival, at `prefill` uncached tokens a second.
/// The fixed `ttft` comes on top and is not serialised. While it decodes, every sequence gets a token each
/// `tpot + tpot_per_stream · decoding sequences`, as in continuous batching; prefill does not slow that down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    pub ttft: Duration,
    /// Uncached prompt tokens a second; 0 takes no time at all.
    pub prefill: u64,
    pub tpot: Duration,
    pub tpot_per_stream: Duration,
    /// Every time is drawn uniformly from 1 ± this share of itself.
    pub jitter: f64,
    /// Multiplies every time.
    pub slow: f64,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            ttft: Duration::from_millis(200),
            prefill: 2000,
            tpot: Duration::from_millis(20),
            tpot_per_stream: Duration::from_micros(500),
            jitter: 0.0,
            slow: 1.0,
        }
    }
}

/// A factor no time is multiplied beyond, so that no product overflows.
pub(super) const SLOW_MAX: f64 = 1e6;

impl Times {
    /// As fast as the machine can.
    #[must_use]
    pub fn none() -> Self {
        let zero = Duration::ZERO;
        Self { ttft: zero, prefill: 0, tpot: zero, tpot_per_stream: zero, jitter: 0.0, slow: 1.0 }
    }

    /// How long the prefill of that many uncached tokens keeps an engine busy that is not slowed.
    pub(super) fn prefill(&self, tokens: usize) -> Duration {
        if self.prefill == 0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64(tokens as f64 / self.prefill as f64)
    }

    /// `time`, slowed and jittered by `unit`, which is drawn from 0 to 1.
    pub(super) fn vary(&self, time: Duration, unit: f64) -> Duration {
        time.mul_f64(self.slow * (1.0 + self.jitter * (2.0 * unit - 1.0)))
    }

    /// The time between two tokens of a sequence while that many decode.
    pub(super) fn step(&self, decoding: usize) -> Duration {
        self.tpot + self.tpot_per_stream.saturating_mul(u32::try_from(decoding).unwrap_or(u32::MAX))
    }
}

/// How many tokens an answer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputTokens {
    /// What the client allows, to the last; this many where it sets no limit.
    Fixed(usize),
    /// Uniform over the range by the prompt, whatever the client allows beyond that.
    Range(RangeInclusive<usize>),
}

impl OutputTokens {
    /// How many tokens the answer to a prompt of this `digest` has before any limit but `asked`.
    pub(super) fn of(&self, digest: u64, asked: Option<usize>) -> usize {
        match self {
            Self::Fixed(tokens) => asked.unwrap_or(*tokens),
            Self::Range(range) => {
                let width = (range.end() - range.start() + 1) as u64;
                let natural = range.start() + usize::try_from(digest % width).unwrap_or(0);
                asked.map_or(natural, |asked| natural.min(asked))
            }
        }
    }
}

/// The text is not `N` or `LEAST-MOST`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a number of tokens: write N, or LEAST-MOST, of at least 1")]
pub struct OutputTokensError(String);

impl FromStr for OutputTokens {
    type Err = OutputTokensError;

    fn from_str(text: &str) -> Result<Self, OutputTokensError> {
        let number = |part: &str| tokens(part).ok().filter(|tokens| *tokens > 0);
        let parsed = match text.split_once('-') {
            None => number(text).map(Self::Fixed),
            Some((least, most)) => match (number(least), number(most)) {
                (Some(least), Some(most)) if least <= most => Some(Self::Range(least..=most)),
                _ => None,
            },
        };
        parsed.ok_or_else(|| OutputTokensError(text.to_owned()))
    }
}

/// The most tokens any option may name.
const TOKENS_MAX: usize = 100_000_000;

/// A number of tokens such as `500`, `64k` or `1M`.
pub(super) fn tokens(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1000),
        None => text.strip_suffix('M').map_or((text, 1), |digits| (digits, 1_000_000)),
    };
    let number: usize = digits.parse().map_err(|_| "write a number such as 500, 64k or 1M".to_owned())?;
    number.checked_mul(unit).filter(|tokens| *tokens <= TOKENS_MAX).ok_or_else(|| "too many".to_owned())
}

/// A rate of tokens a second such as `2000`, `2000/s` or `8k/s`.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    tokens(text.strip_suffix("/s").unwrap_or(text)).map(|tokens| tokens as u64)
}

/// A factor above 0.
pub(super) fn factor(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "write a number such as 1.5".to_owned())?;
    let fits = factor > 0.0 && factor <= SLOW_MAX;
    if fits { Ok(factor) } else { Err(format!("write a number above 0, to {SLOW_MAX}")) }
}

/// A share from 0 to 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "write a number such as 0.1".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("write a number from 0 to 1".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_per_token_grows_linearly_with_the_streams() {
        let times = Times::default();
        assert_eq!(times.step(1), Duration::from_micros(20_500));
        assert_eq!(times.step(32), Duration::from_millis(36));
        assert_eq!(Times::none().step(2000), Duration::ZERO);
    }

    #[test]
    fn prefill_takes_its_rate_and_everything_its_factor() {
        let times = Times { slow: 3.0, ..Times::default() };
        assert_eq!(times.prefill(2000), Duration::from_secs(1));
        assert_eq!(times.vary(times.prefill(2000), 0.5), Duration::from_secs(3));
        assert_eq!(times.vary(times.ttft, 0.9), Duration::from_millis(600));
        assert_eq!(Times { prefill: 0, ..times }.prefill(2000), Duration::ZERO);
    }

    #[test]
    fn jitter_stays_within_its_share() {
        let times = Times { jitter: 0.25, ..Times::default() };
        let second = Duration::from_secs(1);
        assert_eq!(times.vary(second, 0.0), Duration::from_millis(750));
        assert_eq!(times.vary(second, 0.5), second);
        assert_eq!(times.vary(second, 1.0), Duration::from_millis(1250));
    }

    #[test]
    fn the_length_of_an_answer_follows_the_client_or_the_prompt() {
        let fixed: OutputTokens = "128".parse().unwrap();
        assert_eq!((fixed.of(5, None), fixed.of(5, Some(7)), fixed.of(5, Some(999))), (128, 7, 999));
        let range: OutputTokens = "10-19".parse().unwrap();
        assert_eq!((range.of(25, None), range.of(25, Some(12)), range.of(25, Some(999))), (15, 12, 15));
        for text in ["", "0", "5-4", "0-4", "x", "1-", "-1"] {
            assert!(text.parse::<OutputTokens>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn numbers_of_tokens_may_have_a_unit() {
        assert_eq!((tokens("64k"), tokens("1M"), tokens("0")), (Ok(64_000), Ok(1_000_000), Ok(0)));
        assert_eq!((rate("2000/s"), rate("8k/s"), rate("0")), (Ok(2000), Ok(8000), Ok(0)));
        assert!(tokens("1G").is_err() && tokens("9999M").is_err() && rate("/s").is_err());
        assert!(factor("0").is_err() && factor("inf").is_err() && factor("0.5").is_ok());
        assert!(share("1.1").is_err() && share("NaN").is_err() && share("0.1").is_ok());
    }
}
