//! What is reported of chat completions besides what is reported of all requests.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::Quantiles;
use crate::chat::record::ChatRecord;

/// Of good answers only; durations are in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct ChatReport {
    /// From the intended time to the first text.
    pub(crate) ttft: Quantiles,
    /// To the first text from when the generator got to it.
    pub(crate) ttft_service: Quantiles,
    /// Time per token after the first.
    pub(crate) tpot: Quantiles,
    /// The longest time between two frames of each answer.
    pub(crate) gap: Quantiles,
    pub(crate) tokens: u64,
    pub(crate) tokens_per_second: f64,
    /// Frames with text.
    pub(crate) frames: u64,
    pub(crate) prompt_tokens: u64,
    /// Share of the prompts' tokens that servers had in their caches, where they say so.
    pub(crate) cached_share: Option<f64>,
}

impl ChatReport {
    pub(crate) fn new(record: &ChatRecord, measured: Duration) -> Self {
        let share = record.cached_tokens as f64 / record.prompt_tokens as f64;
        Self {
            ttft: (&record.first_token).into(),
            ttft_service: (&record.first_token_service).into(),
            tpot: (&record.per_token).into(),
            gap: (&record.gap).into(),
            tokens: record.tokens,
            tokens_per_second: if measured.is_zero() {
                0.0
            } else {
                record.tokens as f64 / measured.as_secs_f64()
            },
            frames: record.frames,
            prompt_tokens: record.prompt_tokens,
            cached_share: share.is_finite().then_some(share),
        }
    }

    /// By name, in the order they are shown.
    pub(super) fn quantiles(&self) -> [(&'static str, &Quantiles); 3] {
        [("ttft", &self.ttft), ("tpot", &self.tpot), ("max gap", &self.gap)]
    }
}

impl fmt::Display for ChatReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, tokens_per_second, frames, prompt_tokens, cached_share, .. } = self;
        write!(f, "{tokens} in {frames} frames ({tokens_per_second:.1}/s) for {prompt_tokens} of prompts")?;
        match cached_share {
            Some(share) => write!(f, ", {:.1} % of them cached", 100.0 * share),
            None => Ok(()),
        }
    }
}
