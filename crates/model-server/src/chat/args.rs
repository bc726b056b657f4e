//! The command line of the simulated chat engine.

use std::{num::NonZeroUsize, time::Duration};

use super::{
    fail::Failures,
    options::{self, Options, OutputTokens, Times},
};

/// How the simulated chat engine behaves.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Simulated chat engine (with --chat-sim)")]
pub struct SimulatorArgs {
    /// Simulate a chat engine behind OpenAI's interfaces instead of serving a model; NAME is the model it answers
    /// to. Its text is an echo; a token of a prompt is four bytes
    #[arg(long = "chat-sim", value_name = "NAME", num_args = 0..=1, default_missing_value = "sim")]
    #[arg(conflicts_with_all = ["models", "max_concurrency", "max_batch_size", "pace"])]
    pub chat_sim: Option<String>,
    /// Fixed time to the first token, on top of waiting and prefill
    #[arg(long, value_name = "DURATION", default_value = "200ms", conflicts_with = "models", value_parser = humantime::parse_duration)]
    pub ttft: Duration,
    /// Uncached prompt tokens computed a second, one prompt after the other; 0 takes no time
    #[arg(long, value_name = "TOKENS/s", default_value = "2000/s", conflicts_with = "models", value_parser = options::rate)]
    pub prefill: u64,
    /// Time per token of every stream
    #[arg(long, value_name = "DURATION", default_value = "20ms", conflicts_with = "models", value_parser = humantime::parse_duration)]
    pub tpot: Duration,
    /// Time per token that every stream decoding adds to all of them
    #[arg(long, value_name = "DURATION", default_value = "500us", conflicts_with = "models", value_parser = humantime::parse_duration)]
    pub tpot_per_stream: Duration,
    /// Draw every time uniformly from 1 ± this share of itself
    #[arg(long, value_name = "SHARE", default_value = "0", conflicts_with = "models", value_parser = options::share)]
    pub jitter: f64,
    /// Multiply every time
    #[arg(long, value_name = "FACTOR", default_value = "1", conflicts_with = "models", value_parser = options::factor)]
    pub slow: f64,
    /// Sequences that run at a time; the others wait in the order they came
    #[arg(long, value_name = "N", default_value = "32", conflicts_with = "models")]
    pub slots: NonZeroUsize,
    /// Sequences that may wait; more are refused
    #[arg(long, value_name = "N", default_value_t = 1024, conflicts_with = "models")]
    pub queue: usize,
    /// Status of that refusal
    #[arg(long, value_name = "503|429", default_value = "503", conflicts_with = "models", value_parser = full_status)]
    pub full_status: u16,
    /// Tokens the prefix cache holds, in blocks of 16; 0 turns it off; k is 1,000
    #[arg(long, value_name = "TOKENS", default_value = "64k", conflicts_with = "models", value_parser = options::tokens)]
    pub prefix_cache: usize,
    /// Tokens a prompt and its answer may have together
    #[arg(long, value_name = "TOKENS", default_value = "128k", conflicts_with = "models", value_parser = options::tokens)]
    pub context: usize,
    /// Tokens of an answer: N where the client sets no limit, else all it allows; or LEAST-MOST, drawn by the
    /// prompt, within what the client allows
    #[arg(long, value_name = "N|LEAST-MOST", default_value = "128", conflicts_with = "models")]
    pub output_tokens: OutputTokens,
    /// Fail by chance, e.g. error=0.01,reset=0.01; also stall, nonsense, truncate, slow-first, no-done and busy.
    /// The header `x-sim-fail: FAULT[@N]` lets one call fail, after N tokens
    #[arg(
        long,
        value_name = "FAULT=CHANCE,…",
        default_value = "",
        hide_default_value = true,
        conflicts_with = "models"
    )]
    pub fail: Failures,
    /// Decides who fails, and the jitter
    #[arg(long, value_name = "NUMBER", default_value_t = 0, conflicts_with = "models")]
    pub seed: u64,
}

fn full_status(text: &str) -> Result<u16, String> {
    match text {
        "503" => Ok(503),
        "429" => Ok(429),
        _ => Err("write 503 or 429".to_owned()),
    }
}

impl SimulatorArgs {
    /// The options asked for, on top of `base`, which has what all servers share; nothing if a simulator is not.
    pub(crate) fn options(&self, base: Options) -> Option<Options> {
        let model = self.chat_sim.clone()?;
        let times = Times {
            ttft: self.ttft,
            prefill: self.prefill,
            tpot: self.tpot,
            tpot_per_stream: self.tpot_per_stream,
            jitter: self.jitter,
            slow: self.slow,
        };
        Some(Options {
            model,
            times,
            slots: self.slots,
            queue: self.queue,
            full_status: self.full_status,
            prefix_cache: self.prefix_cache,
            context: self.context,
            output_tokens: self.output_tokens.clone(),
            failures: self.fail.clone(),
            seed: self.seed,
            ..base
        })
    }
}
