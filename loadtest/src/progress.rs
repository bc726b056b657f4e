//! One line a second while the run goes on: redrawn on a terminal, a plain line now and then elsewhere.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use crate::{generate::Shard, meter::Interval};

/// Seconds between two lines where nothing can be redrawn.
const PLAIN_EVERY: u64 = 5;

/// Seconds kept for the report.
const SECONDS_MAX: usize = 100_000;

/// What happened in one second of the run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Second {
    /// Seconds since the start at which it ended.
    pub(crate) second: u64,
    pub(crate) sent: u64,
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) in_flight: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) lag_p99_ms: f64,
}

/// Whether progress is written to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verbosity {
    Shown,
    Quiet,
}

/// Looks at all shards once a second.
#[derive(Debug)]
pub(crate) struct Progress {
    shards: Vec<Arc<Shard>>,
    sent: u64,
    seconds: Vec<Second>,
    verbosity: Verbosity,
}

impl Progress {
    pub(crate) fn new(shards: Vec<Arc<Shard>>, verbosity: Verbosity) -> Self {
        Self { shards, sent: 0, seconds: Vec::new(), verbosity }
    }

    /// Runs until it is dropped; the seconds seen so far stay readable.
    pub(crate) async fn watch(&mut self, start: Instant) {
        let mut ticks = tokio::time::interval_at(start + Duration::from_secs(1), Duration::from_secs(1));
        loop {
            let second = (ticks.tick().await - start).as_secs();
            let look = self.look(second);
            self.show(&look);
            if self.seconds.len() < SECONDS_MAX {
                self.seconds.push(look);
            }
        }
    }

    /// Leaves the line on a terminal as it is, and gives all seconds.
    pub(crate) fn finish(self) -> Vec<Second> {
        if self.verbosity == Verbosity::Shown && stderr().is_terminal() {
            // Progress that cannot be shown is no reason to lose the run.
            _ = writeln!(stderr());
        }
        self.seconds
    }

    fn look(&mut self, second: u64) -> Second {
        let mut interval = Interval::new();
        for shard in &self.shards {
            shard.meter.drain_interval(&mut interval);
        }
        let sent: u64 = self.shards.iter().map(|shard| shard.meter.sent()).sum();
        let since = sent - std::mem::replace(&mut self.sent, sent);
        Second {
            second,
            sent: since,
            ok: interval.ok,
            failed: interval.failed,
            in_flight: self.shards.iter().map(|shard| shard.meter.in_flight() as u64).sum(),
            p50_ms: interval.latency.quantile(0.5).as_secs_f64() * 1e3,
            p99_ms: interval.latency.quantile(0.99).as_secs_f64() * 1e3,
            lag_p99_ms: interval.lag.quantile(0.99).as_secs_f64() * 1e3,
        }
    }

    fn show(&self, second: &Second) {
        let terminal = stderr().is_terminal();
        if self.verbosity == Verbosity::Quiet || (!terminal && !second.second.is_multiple_of(PLAIN_EVERY)) {
            return;
        }
        let Second { second, sent, ok, failed, in_flight, p50_ms, p99_ms, lag_p99_ms } = second;
        let line = format!(
            "{second:>5}s  sent {sent}/s  ok {ok}/s  failed {failed}/s  in flight {in_flight}  \
             p50 {p50_ms:.2} ms  p99 {p99_ms:.2} ms  lag p99 {lag_p99_ms:.2} ms"
        );
        _ = if terminal { write!(stderr(), "\r\x1b[2K{line}") } else { writeln!(stderr(), "{line}") };
    }
}
