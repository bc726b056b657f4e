//! What another policy would have wanted, moment by moment, on signals that its wishes did not change.

use std::time::Duration;

use autoscaler::{decide::Decision, explain::sentence};
use serde::Serialize;

/// A pause between ticks beyond which nobody knows what was wished for.
const PAUSE: Duration = Duration::from_secs(15);
/// Moments that are kept; more are counted.
const KEPT: usize = 5;

/// Two policies on the same signals.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Open {
    pub ticks: u64,
    /// Ticks at which the wishes differ.
    pub other: u64,
    pub recorded: Wishes,
    pub changed: Wishes,
    /// Moments at which the wishes begin to differ, or to differ otherwise.
    pub moments: Vec<Moment>,
    #[serde(skip)]
    before: Option<(Duration, u32, u32)>,
}

/// What one policy wished for.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Wishes {
    /// Replicas times how long they were wished for.
    pub replica_time: Duration,
    pub most: u32,
    /// Ticks at which it wished for another number than there was meant to be.
    pub changes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Moment {
    pub at: Duration,
    pub recorded: String,
    pub changed: String,
}

impl Open {
    pub(super) fn take(&mut self, recorded: &Decision, changed: &Decision) {
        let (a, b) = (recorded.to, changed.to);
        self.ticks += 1;
        let passed =
            self.before.and_then(|(at, ..)| recorded.at.checked_sub(at)).filter(|span| *span <= PAUSE);
        if let (Some(passed), Some((_, a, b))) = (passed, self.before) {
            self.recorded.replica_time += passed * a;
            self.changed.replica_time += passed * b;
        }
        self.recorded.count(recorded);
        self.changed.count(changed);
        if a != b {
            self.other += 1;
            let news = self.before.is_none_or(|(_, before_a, before_b)| (before_a, before_b) != (a, b));
            if news && self.moments.len() < KEPT {
                let (recorded_words, changed_words) = (sentence(recorded), sentence(changed));
                self.moments.push(Moment {
                    at: recorded.at,
                    recorded: recorded_words,
                    changed: changed_words,
                });
            }
        }
        self.before = Some((recorded.at, a, b));
    }
}

impl Wishes {
    fn count(&mut self, decision: &Decision) {
        self.most = self.most.max(decision.to);
        self.changes += u64::from(decision.to != decision.from);
    }
}
