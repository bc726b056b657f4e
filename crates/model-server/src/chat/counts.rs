//! What a simulated engine counts, as JSON and for Prometheus.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use serde_json::{Value, json};

/// Counters since the start or the last reset.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) requests: AtomicU64,
    pub(super) finished: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) prompt_tokens: AtomicU64,
    pub(super) cached_tokens: AtomicU64,
    pub(super) generation_tokens: AtomicU64,
    pub(super) running_max: AtomicU64,
    pub(super) waiting_max: AtomicU64,
}

/// The counts of one moment. What was admitted ends as finished, cancelled or failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that asked for work, refused ones included.
    pub requests: u64,
    /// Calls answered to their end.
    pub finished: u64,
    /// Calls whose client left before the end.
    pub cancelled: u64,
    /// Calls turned away because the engine was full, or said it was.
    pub refused: u64,
    /// Calls that failed on demand.
    pub failed: u64,
    /// Tokens of the prompts whose prefill is done, cached ones included.
    pub prompt_tokens: u64,
    /// Of those, the tokens that came from the prefix cache.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generation_tokens: u64,
    /// Sequences that hold a slot now.
    pub running: u64,
    /// Sequences that wait for a slot now.
    pub waiting: u64,
    /// The most that ever held a slot at a time.
    pub running_max: u64,
    /// The most that ever waited at a time.
    pub waiting_max: u64,
}

impl Counters {
    pub(super) fn read(&self, running: u64, waiting: u64) -> Counts {
        Counts {
            requests: self.requests.load(Relaxed),
            finished: self.finished.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            refused: self.refused.load(Relaxed),
            failed: self.failed.load(Relaxed),
            prompt_tokens: self.prompt_tokens.load(Relaxed),
            cached_tokens: self.cached_tokens.load(Relaxed),
            generation_tokens: self.generation_tokens.load(Relaxed),
            running,
            waiting,
            running_max: self.running_max.load(Relaxed),
            waiting_max: self.waiting_max.load(Relaxed),
        }
    }

    pub(super) fn reset(&self) {
        for counter in [
            &self.requests,
            &self.finished,
            &self.cancelled,
            &self.refused,
            &self.failed,
            &self.prompt_tokens,
            &self.cached_tokens,
            &self.generation_tokens,
            &self.running_max,
            &self.waiting_max,
        ] {
            counter.store(0, Relaxed);
        }
    }
}

impl Counts {
    pub(super) fn to_json(self) -> Value {
        json!({
            "requests": self.requests,
            "finished": self.finished,
            "cancelled": self.cancelled,
            "refused": self.refused,
            "failed": self.failed,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "generation_tokens": self.generation_tokens,
            "running": self.running,
            "waiting": self.waiting,
            "running_max": self.running_max,
            "waiting_max": self.waiting_max,
        })
    }

    pub(super) fn to_prometheus(self) -> String {
        let mut text = String::with_capacity(2048);
        for (name, kind, help, value) in [
            ("requests_total", "counter", "Calls that asked for work.", self.requests),
            ("finished_total", "counter", "Calls answered to their end.", self.finished),
            ("cancelled_total", "counter", "Calls whose client left before the end.", self.cancelled),
            ("refused_total", "counter", "Calls turned away as the engine was full.", self.refused),
            ("failed_total", "counter", "Calls that failed on demand.", self.failed),
            (
                "prompt_tokens_total",
                "counter",
                "Tokens of prompts, cached ones included.",
                self.prompt_tokens,
            ),
            (
                "prefix_cache_hit_tokens_total",
                "counter",
                "Tokens of prompts found cached.",
                self.cached_tokens,
            ),
            ("generation_tokens_total", "counter", "Tokens generated.", self.generation_tokens),
            ("running", "gauge", "Sequences that hold a slot.", self.running),
            ("waiting", "gauge", "Sequences that wait for a slot.", self.waiting),
        ] {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "# HELP chat_sim_{name} {help}\n# TYPE chat_sim_{name} {kind}\nchat_sim_{name} {value}"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_shown_alike_in_both_forms_until_reset() {
        let counters = Counters::default();
        counters.cancelled.store(3, Relaxed);
        counters.waiting_max.store(9, Relaxed);
        let counts = counters.read(2, 1);
        let json = counts.to_json();
        assert_eq!(
            (&json["cancelled"], &json["running"], &json["waiting"]),
            (&json!(3), &json!(2), &json!(1))
        );
        let text = counts.to_prometheus();
        assert!(
            text.contains("# TYPE chat_sim_cancelled_total counter\nchat_sim_cancelled_total 3\n"),
            "{text}"
        );
        assert!(text.contains("\nchat_sim_running 2\n"), "{text}");
        counters.reset();
        assert_eq!(counters.read(0, 0), Counts::default());
    }
}
