//! What the generations of one model teach, over all of its replicas, and their metrics.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metrics::{Counter, Histogram, counter, histogram};

use tokio::time::Instant;

use super::{
    Chat, Config, Courtesy, Table, Usage,
    shares::Shares,
    yielding::{Usual, Yielding},
};
use crate::{latency::Latency, metrics::LatencyHistogram, request::Request, stats::ChatStats};

/// Output tokens of a call that is expected to need as many as any, before one has ended.
const OUTPUT_TOKENS: f64 = 256.0;
/// A first token later than this part of its target, and than twice the mean, is late where it is not known how late
/// they usually are.
const UNKNOWN: f64 = 0.1;
/// How late first tokens usually are is learned while replicas have this part of what they may have, from those that
/// waited for no more than this part of their time.
const LEISURELY: f64 = 0.6;
const WAITED: f64 = 0.05;
/// Weight of the newest generation in the averages, once there were enough to average.
const WEIGHT: f64 = 0.02;

#[derive(Debug)]
pub(crate) struct Learned {
    pub(crate) config: Config,
    pub(crate) counts: Counts,
    averages: Mutex<Averages>,
    table: Mutex<Table>,
    shares: Mutex<Shares>,
    /// First tokens while nobody gave way.
    usual: Mutex<Usual>,
    yielding: Mutex<Yielding>,
    metrics: Metrics,
}

/// Averages over generations that ended well, and the time per token by how many there were at a time.
#[derive(Clone, Debug, Default)]
pub struct Averages {
    /// Time per output token, with generations at the replica in place of rows.
    pub line: Latency,
    /// Seconds that replicas take to a first token.
    ttft: f64,
    /// First tokens so far.
    begun: u64,
    /// Output tokens of one generation; meaningless before the first.
    output_tokens: f64,
    /// Seconds for which one takes its place at a replica.
    occupancy: f64,
    /// Generations that ended well.
    ended: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Generations under way.
    pub(crate) streams: AtomicU64,
    /// Estimated tokens of those, prompts and outputs.
    pub(crate) tokens_in_flight: AtomicU64,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) output_tokens: AtomicU64,
    pub(crate) ttft: LatencyHistogram,
    pub(crate) tpot: LatencyHistogram,
    pub(crate) ttft_misses: AtomicU64,
    pub(crate) tpot_misses: AtomicU64,
}

#[derive(Debug)]
struct Metrics {
    model: String,
    ttft: Histogram,
    tpot: Histogram,
    input: Counter,
    output: Counter,
}

impl Learned {
    pub(crate) fn new(model: &str, config: Config) -> Self {
        let label = || model.to_owned();
        let tokens =
            |direction| counter!("tidegate_tokens_total", "model" => label(), "direction" => direction);
        Self {
            config,
            counts: Counts::default(),
            averages: Mutex::default(),
            table: Mutex::default(),
            shares: Mutex::new(Shares::new(Instant::now())),
            usual: Mutex::default(),
            yielding: Mutex::default(),
            metrics: Metrics {
                model: label(),
                ttft: histogram!("tidegate_ttft_seconds", "model" => label()),
                tpot: histogram!("tidegate_tpot_seconds", "model" => label()),
                input: tokens("input"),
                output: tokens("output"),
            },
        }
    }

    pub(crate) fn averages(&self) -> MutexGuard<'_, Averages> {
        // Nothing panics while it is held; what a poisoned lock holds is still sound.
        self.averages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who asks for more than its share.
    pub(crate) fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a call should leave to others of the `places` there are.
    pub(crate) fn courtesy(&self, request: &Request, places: u32, now: Instant) -> Courtesy {
        let occupancy = self.averages().occupancy();
        self.shares().courtesy(&request.tenant, request.class, (places, occupancy), now)
    }

    /// How far those who give way may fill replicas.
    pub(crate) fn yielding(&self) -> MutexGuard<'_, Yielding> {
        self.yielding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first token of a call that does not give way has come, `elapsed` after its request and `at_replica` after it
    /// was sent, of a replica that had so many of the generations that it may have.
    pub(crate) fn first_token_beside(
        &self,
        giving_way: u32,
        (elapsed, at_replica): (Duration, Duration),
        (load, limit): (u32, u32),
        now: Instant,
    ) {
        let mut usual = self.usual.lock().unwrap_or_else(PoisonError::into_inner);
        if giving_way == 0 {
            // What waits for others of its kind is not usual either.
            let has_waited = elapsed > at_replica.mul_f64(1.0 + WAITED);
            if !has_waited && f64::from(load) <= f64::from(limit) * LEISURELY {
                usual.record(elapsed);
            }
            return;
        }
        let usual = usual.limit().unwrap_or_else(|| {
            let mean = Duration::from_secs_f64(self.averages().ttft);
            self.config.ttft.latency.mul_f64(UNKNOWN).max(mean * 2)
        });
        self.yielding().first_token(elapsed > usual, (load, limit), now);
    }

    /// Tokens that a call is expected to keep a replica busy with.
    pub(crate) fn work(&self, chat: &Chat) -> u64 {
        u64::from(chat.prompt_tokens) + self.averages().output_tokens(chat) as u64
    }

    /// A first token has come, `elapsed` after its request and `at_replica` after it was sent. Whether it was late.
    pub(crate) fn first_token(&self, elapsed: Duration, at_replica: Duration) -> bool {
        self.averages().begun(at_replica);
        self.counts.ttft.record(elapsed);
        self.metrics.ttft.record(elapsed);
        let late = elapsed > self.config.ttft.latency;
        self.counts.ttft_misses.fetch_add(u64::from(late), Ordering::Relaxed);
        late
    }

    /// Whether it was too slow.
    pub(crate) fn pace_of(&self, per_token: Duration) -> bool {
        self.counts.tpot.record(per_token);
        self.metrics.tpot.record(per_token);
        let late = per_token > self.config.tpot.latency;
        self.counts.tpot_misses.fetch_add(u64::from(late), Ordering::Relaxed);
        late
    }

    pub(crate) fn stats(&self) -> ChatStats {
        let averages = self.averages().clone();
        let counts = &self.counts;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ChatStats {
            streams: read(&counts.streams),
            tokens_in_flight: read(&counts.tokens_in_flight),
            ttft: averages.ttft(),
            tpot_fixed: Duration::from_secs_f64(averages.line.fixed()),
            tpot_per_stream: Duration::from_secs_f64(averages.line.per_row()),
            tpot_tail: averages.line.tail(),
            output_tokens: averages.mean_tokens(),
            samples: averages.samples(),
            ttft_histogram: counts.ttft.counts(),
            tpot_histogram: counts.tpot.counts(),
            ttft_misses: read(&counts.ttft_misses),
            tpot_misses: read(&counts.tpot_misses),
            output_tokens_total: read(&counts.output_tokens),
            prompt_tokens_total: read(&counts.prompt_tokens),
        }
    }

    pub(crate) fn used(&self, usage: Usage) {
        self.counts.prompt_tokens.fetch_add(usage.prompt_tokens, Ordering::Relaxed);
        self.counts.output_tokens.fetch_add(usage.output_tokens, Ordering::Relaxed);
        self.metrics.input.increment(usage.prompt_tokens);
        self.metrics.output.increment(usage.output_tokens);
    }

    /// An answer that had begun broke off.
    pub(crate) fn broken(&self, reason: &'static str) {
        counter!("tidegate_stream_broken_total", "model" => self.metrics.model.clone(), "reason" => reason)
            .increment(1);
    }
}

impl Averages {
    /// A first token has come, so long after its call was sent.
    pub fn begun(&mut self, at_replica: Duration) {
        self.begun += 1;
        let weight = WEIGHT.max(1.0 / self.begun as f64);
        self.ttft += weight * (at_replica.as_secs_f64() - self.ttft);
    }

    /// Learns from a generation of so many tokens that had its place at a replica for `occupancy`.
    pub fn ended(&mut self, output_tokens: u64, occupancy: Duration) {
        self.ended += 1;
        let weight = WEIGHT.max(1.0 / self.ended as f64);
        self.output_tokens += weight * (output_tokens as f64 - self.output_tokens);
        self.occupancy += weight * (occupancy.as_secs_f64() - self.occupancy);
    }

    /// Output tokens that a call is expected to be given.
    pub(crate) fn output_tokens(&self, chat: &Chat) -> f64 {
        let usual = if self.ended == 0 { OUTPUT_TOKENS } else { self.output_tokens };
        chat.output_tokens_max.map_or(usual, |most| usual.min(f64::from(most)))
    }

    /// For how long a generation has its place at a replica; `None` before one has ended.
    #[must_use]
    pub fn occupancy(&self) -> Option<Duration> {
        (self.ended > 0).then(|| Duration::from_secs_f64(self.occupancy))
    }

    /// Mean time that replicas take to a first token; zero before there was one.
    #[must_use]
    pub fn ttft(&self) -> Duration {
        Duration::from_secs_f64(self.ttft)
    }

    /// Mean output tokens of a generation; zero before one has ended.
    #[must_use]
    pub fn mean_tokens(&self) -> f64 {
        self.output_tokens
    }

    /// Generations that ended well.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Delivery, *};

    #[test]
    fn a_call_is_expected_to_take_what_others_took_or_what_it_asks_for_if_that_is_less() {
        let mut averages = Averages::default();
        let chat = |most| Chat {
            prompt_tokens: 100,
            output_tokens_max: most,
            affinity: super::super::Affinity::default(),
            delivery: Delivery::Whole,
        };
        assert_eq!(averages.output_tokens(&chat(None)), OUTPUT_TOKENS);
        assert_eq!(averages.occupancy(), None);
        for tokens in [10, 30] {
            averages.ended(tokens, Duration::from_secs(tokens));
        }
        assert_eq!(averages.output_tokens(&chat(None)), 20.0);
        assert_eq!(averages.output_tokens(&chat(Some(7))), 7.0);
        assert_eq!(averages.occupancy(), Some(Duration::from_secs(20)));
    }
}
