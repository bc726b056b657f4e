//! What one replica does with requests, and how long it takes.

use std::{str::FromStr, time::Duration};

use crate::Error;

const USAGE: &str = "250ms, 8ms+1ms/row, 300ms+20ms/token+0.5ms/stream or 100ms+0.2ms/prompt+20ms/token";
/// Tokens of a prompt where neither trace nor settings tell.
pub const PROMPT: u32 = 500;
/// Tokens of an answer where neither trace nor settings tell.
pub const TOKENS: u32 = 200;
/// Streams that are believed in where one more slows none down: as many as the gateway ever sends.
const STREAMS_MOST: f64 = 8192.0;
/// Rows a merged call has at most, where nothing is said.
const ROWS: u32 = 32;

/// How long calls take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Service {
    /// Each request by itself, in a slot of its own.
    Single { time: Duration },
    /// Requests are merged, one batch at a time: fixed + per_row · rows.
    Batch { fixed: Duration, per_row: Duration, rows: u32 },
    /// Each request is a stream; a token takes longer the more of them the replica has:
    /// first + prompt · (tokens of the prompt) + tokens · (token + per_stream · streams).
    Chat { first: Duration, prompt: Duration, token: Duration, per_stream: Duration },
}

impl Service {
    /// Requests per second of one replica that is always full, with `slots` at a time and answers of `tokens`.
    #[must_use]
    pub fn rate(&self, slots: u32, tokens: f64) -> f64 {
        match self {
            Self::Single { time } => f64::from(slots) / time.as_secs_f64(),
            Self::Batch { fixed, per_row, rows } => {
                let rows = f64::from(*rows);
                rows / (fixed.as_secs_f64() + per_row.as_secs_f64() * rows)
            }
            Self::Chat { first, .. } => f64::from(slots) / (first.as_secs_f64() + tokens * self.token(slots)),
        }
    }

    /// Requests that one replica has at a time, given `slots`.
    #[must_use]
    pub fn at_a_time(&self, slots: u32) -> u32 {
        match self {
            Self::Batch { rows, .. } => *rows,
            Self::Single { .. } | Self::Chat { .. } => slots,
        }
    }

    /// The same where each prompt is one of so many tokens.
    #[must_use]
    pub fn with_prompts(self, tokens: f64) -> Self {
        match self {
            Self::Chat { first, prompt, token, per_stream } => {
                let first = first + prompt.mul_f64(tokens);
                Self::Chat { first, prompt: Duration::ZERO, token, per_stream }
            }
            Self::Single { .. } | Self::Batch { .. } => self,
        }
    }

    /// Seconds until the first token of an answer to a prompt of so many.
    pub(crate) fn first_token(&self, prompt: f64) -> f64 {
        match self {
            Self::Chat { first, prompt: each, .. } => first.as_secs_f64() + each.as_secs_f64() * prompt,
            Self::Single { .. } | Self::Batch { .. } => 0.0,
        }
    }

    /// The most streams of which each token takes no longer than `per_token`; one where none does, or answers are no
    /// streams.
    #[must_use]
    pub fn streams_within(&self, per_token: Duration) -> u32 {
        let Self::Chat { token, per_stream, .. } = self else { return 1 };
        let left = per_token.as_secs_f64() - token.as_secs_f64();
        // A ratio that is whole but for rounding is whole; none at all is slowed down by nobody.
        let streams = (left / per_stream.as_secs_f64() + 1e-9).floor();
        if streams.is_nan() { STREAMS_MOST as u32 } else { streams.clamp(1.0, STREAMS_MOST) as u32 }
    }

    /// Seconds a token takes while `streams` run.
    pub(crate) fn token(&self, streams: u32) -> f64 {
        match self {
            Self::Chat { token, per_stream, .. } => {
                token.as_secs_f64() + per_stream.as_secs_f64() * f64::from(streams)
            }
            Self::Single { .. } | Self::Batch { .. } => 0.0,
        }
    }
}

impl FromStr for Service {
    type Err = Error;

    /// A sum of durations, each for the call, `/row`, `/prompt`, `/token` or `/stream`; `8ms+1ms/row*64` sets the most rows.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let usage = || Error::Part { text: text.to_owned(), usage: USAGE };
        let (sum, rows) = match text.split_once('*') {
            Some((sum, rows)) => (sum, rows.trim().parse().ok().filter(|rows| *rows > 0).ok_or_else(usage)?),
            None => (text, ROWS),
        };
        let (mut call, mut row, mut prompt, mut token, mut stream) = (Duration::ZERO, None, None, None, None);
        for part in sum.split('+') {
            let (time, per) = part.split_once('/').unwrap_or((part, ""));
            let time = duration(time.trim())?;
            match per.trim() {
                "" => call = time,
                "row" => row = Some(time),
                "prompt" => prompt = Some(time),
                "token" => token = Some(time),
                "stream" => stream = Some(time),
                _ => return Err(usage()),
            }
        }
        let service = match (row, token, prompt, stream) {
            (None, None, None, None) => Self::Single { time: call },
            (Some(per_row), None, None, None) => Self::Batch { fixed: call, per_row, rows },
            (None, Some(token), prompt, stream) => Self::Chat {
                first: call,
                prompt: prompt.unwrap_or_default(),
                token,
                per_stream: stream.unwrap_or_default(),
            },
            _ => return Err(usage()),
        };
        if service.rate(1, 1.0).is_finite() { Ok(service) } else { Err(Error::NoTime) }
    }
}

/// A duration as people write it; also with a fraction, as in 0.5ms.
pub(crate) fn duration(text: &str) -> Result<Duration, Error> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(unit).unwrap_or((text, ""));
    let scale = match unit {
        "us" | "µs" => Some(1e-6),
        "ms" => Some(1e-3),
        "s" => Some(1.0),
        _ => None,
    };
    match (number.parse::<f64>(), scale) {
        (Ok(number), Some(scale)) if (0.0..1e9).contains(&number) => {
            Ok(Duration::from_secs_f64(number * scale))
        }
        _ => humantime::parse_duration(text)
            .map_err(|source| Error::Duration { text: text.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: f64) -> Duration {
        Duration::from_secs_f64(ms / 1e3)
    }

    #[test]
    fn a_service_is_written_as_a_sum_of_times() {
        let rows = [
            ("250ms", Service::Single { time: ms(250.0) }),
            ("8ms+1ms/row", Service::Batch { fixed: ms(8.0), per_row: ms(1.0), rows: 32 }),
            ("8ms+1ms/row*64", Service::Batch { fixed: ms(8.0), per_row: ms(1.0), rows: 64 }),
            (
                "0.3s+20ms/token+0.5ms/stream",
                Service::Chat { first: ms(300.0), prompt: ms(0.0), token: ms(20.0), per_stream: ms(0.5) },
            ),
            (
                "100ms+0.2ms/prompt+20ms/token",
                Service::Chat { first: ms(100.0), prompt: ms(0.2), token: ms(20.0), per_stream: ms(0.0) },
            ),
        ];
        for (text, service) in rows {
            assert_eq!(text.parse::<Service>().unwrap(), service, "{text}");
        }
        for text in
            ["", "fast", "0ms", "1ms/row+1ms/token", "1ms/stream", "1ms/prompt", "8ms+1ms/row*0", "1ms/cup"]
        {
            assert!(text.parse::<Service>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_rate_of_a_full_replica_is_what_it_has_over_what_that_takes() {
        let rate = |text: &str, slots| text.parse::<Service>().unwrap().rate(slots, 100.0);
        assert!((rate("250ms", 4) - 16.0).abs() < 1e-9);
        assert!((rate("8ms+1ms/row", 1) - 800.0).abs() < 1e-9);
        assert!((rate("300ms+20ms/token+0.5ms/stream", 16) - 16.0 / 3.1).abs() < 1e-9);
        let prompts: Service = "100ms+1ms/prompt+20ms/token".parse().unwrap();
        assert!((prompts.with_prompts(400.0).rate(5, 100.0) - 5.0 / 2.5).abs() < 1e-9);
        assert!((prompts.first_token(400.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn as_many_streams_fit_as_leave_each_token_its_time() {
        let streams =
            |text: &str, ms_per_token: f64| text.parse::<Service>().unwrap().streams_within(ms(ms_per_token));
        assert_eq!(streams("300ms+20ms/token+0.5ms/stream", 60.0), 80);
        assert_eq!(streams("300ms+20ms/token+0.5ms/stream", 30.4), 20);
        assert_eq!(streams("300ms+20ms/token+0.5ms/stream", 20.1), 1, "one is late, none would be useless");
        assert_eq!((streams("1s+20ms/token", 60.0), streams("1s+20ms/token", 20.0)), (8192, 8192));
        assert_eq!((streams("1s+20ms/token", 10.0), streams("1s", 60.0)), (1, 1));
    }
}
