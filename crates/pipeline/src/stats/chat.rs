//! What the pipeline of a model that answers in streams of tokens says of itself besides the rest.

use std::time::Duration;

/// Streams of one model in this process: gauges as of now, what was learned, and counters since the start.
#[derive(Clone, Debug, Default)]
pub struct ChatStats {
    /// Streams in flight.
    pub streams: u64,
    /// Tokens of prompts and answers that those streams are estimated to hold at the model servers.
    pub tokens_in_flight: u64,
    /// Mean time to the first token at the model server, without what was spent in the queue.
    pub ttft: Duration,
    /// α of TPOT(b) = α + β·b, the time per further token of a replica with `b` streams.
    pub tpot_fixed: Duration,
    /// β of TPOT(b).
    pub tpot_per_stream: Duration,
    /// The 95th percentile of TPOT as a multiple of its mean.
    pub tpot_tail: f64,
    /// Mean tokens of an answer.
    pub output_tokens: f64,
    /// Streams that all of this was learned from.
    pub samples: u64,
    /// Streams by time to the first token, the queue included: counts per bucket, see
    /// [`Stats::latency_edge`](super::Stats::latency_edge).
    pub ttft_histogram: Vec<u64>,
    /// Streams by mean time per further token, in the same buckets.
    pub tpot_histogram: Vec<u64>,
    /// Streams whose first token came later than the objective.
    pub ttft_misses: u64,
    /// Streams whose further tokens took longer than the objective.
    pub tpot_misses: u64,
    pub output_tokens_total: u64,
    pub prompt_tokens_total: u64,
}
