//! Answers that are streams of tokens, where the first one and the pace of the others are judged: what they teach the
//! gateway, how long they may wait and how many a replica has, by the functions of `pipeline::chat` that decide it.

use std::time::Duration;

use autoscaler::{policy::Objective, snapshot::ChatModel};
use pipeline::{
    batch::stretched,
    chat::{Averages, Config, Target, limit::Streams, patience, prompt_rows},
    latency::Latency,
};

use super::{Settings, replica::Pace};

/// Shortest time that a stream is believed to have its place for, in seconds.
const OCCUPANCY_LEAST: f64 = 1e-3;

/// What is asked of answers that are streams of tokens, besides the time to the first one, which [`Settings::slo`] is
/// of then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenSlo {
    /// Mean time per token after the first.
    pub tpot: Objective,
    /// When the first token must have come, else the request has failed.
    pub first_token: Duration,
    /// Whether each replica has as many streams at a time as the gateway finds to keep `tpot`; else it is
    /// [`Settings::slots`].
    pub adaptive: bool,
}

/// What the gateway has learned of the streams of its model.
#[derive(Debug)]
pub(super) struct Tokens {
    config: Config,
    averages: Averages,
}

impl Tokens {
    /// `None` where whole answers are judged.
    pub(super) fn new(settings: &Settings) -> Option<Self> {
        Some(Self { config: config(settings)?, averages: Averages::default() })
    }

    /// A first token came so long after its request was sent.
    pub(super) fn begun(&mut self, at_replica: Duration) {
        self.averages.begun(at_replica);
    }

    /// Some tokens came at that pace. The `limit` of their replica learns too, where it does.
    pub(super) fn paced(&mut self, pace: Pace, limit: Option<&mut Streams>) {
        let line = &mut self.averages.line;
        line.observe(pace.load, pace.per_token, 1.0);
        if let Some(limit) = limit {
            limit.paced(line, 1.0, pace.per_token, pace.load);
        }
    }

    /// A stream of `tokens` has ended that had its place for `occupancy`.
    pub(super) fn ended(&mut self, tokens: u64, occupancy: Duration) {
        self.averages.ended(tokens, occupancy);
    }

    /// What replicas take to a first token for it to come with near certainty, and to the end of an answer on average,
    /// where the prompt has so many tokens; `first`: what was learned of first tokens.
    pub(super) fn needs(&self, first: &Latency, prompt: u32) -> (Duration, Duration) {
        let rows = prompt_rows(prompt);
        let rest = self.averages.line.expected(1).mul_f64(self.averages.mean_tokens());
        (stretched(first.p95(rows)), first.expected(rows) + rest)
    }

    /// How long a request may wait for a place; `None` before a stream has ended.
    pub(super) fn patience(&self, answer: Duration) -> Option<Duration> {
        self.averages.occupancy().map(|_| patience(self.config.ttft.latency, answer))
    }

    /// How long the last of `ahead` requests waits for one of `places`; `None` before a stream has ended.
    pub(super) fn wait(&self, ahead: u64, places: u32) -> Option<Duration> {
        let occupancy = self.averages.occupancy()?.as_secs_f64().max(OCCUPANCY_LEAST);
        (places > 0).then(|| stretched(Duration::from_secs_f64(ahead as f64 * occupancy / f64::from(places))))
    }

    /// As `tidegate serve` reports it.
    pub(super) fn model(&self) -> ChatModel {
        let line = &self.averages.line;
        ChatModel {
            ttft: self.averages.ttft(),
            tpot_fixed: Duration::from_secs_f64(line.fixed()),
            tpot_per_stream: Duration::from_secs_f64(line.per_row()),
            tpot_tail_permille: (line.tail() * 1e3).round() as u32,
            output_tokens_milli: (self.averages.mean_tokens() * 1e3).round() as u64,
            samples: self.averages.samples(),
        }
    }
}

/// How many streams a new replica may have at a time, where that is found out.
pub(super) fn limit(settings: &Settings) -> Option<Streams> {
    let adaptive = settings.tokens.is_some_and(|tokens| tokens.adaptive);
    config(settings).filter(|_| adaptive).map(|config| Streams::new(&config))
}

fn config(settings: &Settings) -> Option<Config> {
    let target =
        |objective: Objective| Target { latency: objective.target, percentile: objective.percentile };
    let tpot = target(settings.tokens?.tpot);
    Some(Config { ttft: target(settings.slo), tpot, ..Config::default() })
}
