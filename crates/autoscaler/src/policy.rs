//! What the owner of a model asked for, and the numbers of the rules that follow from it.
//!
//! An explicit `idleAfter` is the owner's word on how long capacity may outlive its demand. It is obeyed as
//! written for the way to zero, and it also shortens the memory of the way down: replicas that are wanted only
//! because of a burst are not kept for longer than silence would be.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::schedule::Schedule;

/// Longest memory of the way down: the highest target of this long is kept.
const DOWN_WINDOW: Duration = Duration::from_secs(300);
/// Shortest memory of the way down, whatever `idleAfter` says.
const DOWN_WINDOW_LEAST: Duration = Duration::from_secs(10);
/// Steps down that fit into one memory: 60 s apart where it is 300 s.
const STEPS_PER_WINDOW: u32 = 5;
/// Least time over which the envelope looks back where `idleAfter` does not shorten it. Targets are remembered for as
/// long again on the way down; more was paid for and not needed.
const HORIZON: Duration = Duration::from_secs(300);
/// Most time over which the envelope looks back, however slow the cold start.
pub(crate) const HORIZON_MOST: Duration = Duration::from_secs(3600);

/// How one model is scaled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub bounds: Bounds,
    pub slo: Slo,
    pub idle_after: IdleAfter,
    pub mode: Mode,
    pub assumed: Assumed,
    /// Windows with other bounds; see [`crate::schedule`].
    #[serde(default)]
    pub schedules: Vec<Schedule>,
}

/// Fewest and most replicas; `min` is not above `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    pub min: u32,
    pub max: u32,
}

impl Bounds {
    /// `replicas`, moved into the bounds. A cap is stronger than a floor.
    #[must_use]
    pub fn clamp(self, replicas: u32) -> u32 {
        replicas.max(self.min).min(self.max)
    }
}

/// What answers are to keep. An objective by itself is that of whole answers, as it always was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Slo {
    /// Of streams of tokens: time to the first, and mean time per further one.
    Chat {
        ttft: Objective,
        tpot: Objective,
    },
    Latency(Objective),
}

/// The latency that `percentile` (in 0..1, e.g. 0.99) of the requests must keep.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    pub target: Duration,
    pub percentile: f64,
}

impl Slo {
    /// The objective that waiting counts towards: of whole answers, or of the first token.
    #[must_use]
    pub fn response(&self) -> &Objective {
        match self {
            Self::Latency(whole) => whole,
            Self::Chat { ttft, .. } => ttft,
        }
    }

    /// Part of the requests that may miss it: the most that one of its objectives allows.
    pub(crate) fn misses(&self) -> f64 {
        match self {
            Self::Latency(whole) => 1.0 - whole.percentile,
            Self::Chat { ttft, tpot } => 1.0 - ttft.percentile.min(tpot.percentile),
        }
    }
}

/// How long a model stays up without a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdleAfter {
    /// Learned from the gaps between requests: 10 to 60 minutes.
    Auto,
    /// As written by the owner.
    Fixed(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Decide, explain and write.
    Enforce,
    /// Decide and explain; change nothing.
    Observe,
}

/// What is believed until it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assumed {
    /// Rows (requests, where nothing is merged) one replica has room for at a time. Used at 80 % until 200
    /// calls were measured.
    pub concurrency: u32,
    /// From the wish for a replica until it is ready. Used until three starts were measured.
    pub cold_start: Duration,
}

impl Default for Assumed {
    fn default() -> Self {
        Self { concurrency: 8, cold_start: Duration::from_secs(120) }
    }
}

impl Policy {
    /// How long a target is remembered on the way down: 300 s, or an explicit `idleAfter` if that is shorter.
    pub(crate) fn down_window(&self) -> Duration {
        match self.idle_after {
            IdleAfter::Auto => DOWN_WINDOW,
            IdleAfter::Fixed(idle) => idle.clamp(DOWN_WINDOW_LEAST, DOWN_WINDOW),
        }
    }

    /// Least time between a change of the wish and a step down.
    pub(crate) fn down_spacing(&self) -> Duration {
        self.down_window() / STEPS_PER_WINDOW
    }

    /// How far back the envelope looks, given a cold start of `lead`: max(300 s, twice the start), or
    /// twice the memory of the way down where an explicit `idleAfter` has shortened that.
    pub(crate) fn horizon(&self, lead: Duration) -> Duration {
        let long = HORIZON.max(lead * 2).min(HORIZON_MOST);
        if self.down_window() < DOWN_WINDOW { (self.down_window() * 2).min(long) } else { long }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// At most so many replicas, to zero, 99 % within 200 ms.
    pub(crate) fn up_to(max: u32) -> Policy {
        Policy {
            bounds: Bounds { min: 0, max },
            slo: Slo::Latency(Objective { target: Duration::from_millis(200), percentile: 0.99 }),
            idle_after: IdleAfter::Auto,
            mode: Mode::Enforce,
            assumed: Assumed::default(),
            schedules: Vec::new(),
        }
    }

    fn policy(idle_after: IdleAfter) -> Policy {
        Policy { idle_after, ..up_to(4) }
    }

    #[test]
    fn an_explicit_idle_time_shortens_the_memory_and_a_long_one_does_not_lengthen_it() {
        let lead = Duration::from_secs(120);
        let rows =
            [(None, 300, 60, 300), (Some(30), 30, 6, 60), (Some(1), 10, 2, 20), (Some(3600), 300, 60, 300)];
        for (idle, window, spacing, horizon) in rows {
            let idle = idle.map_or(IdleAfter::Auto, |s| IdleAfter::Fixed(Duration::from_secs(s)));
            let policy = policy(idle);
            assert_eq!(policy.down_window().as_secs(), window, "{idle:?}");
            assert_eq!(policy.down_spacing().as_secs(), spacing, "{idle:?}");
            assert_eq!(policy.horizon(lead).as_secs(), horizon, "{idle:?}");
        }
    }

    #[test]
    fn policies_recorded_before_there_were_objectives_of_tokens_are_still_read() {
        let recorded = r#"{"target":{"secs":1,"nanos":0},"percentile":0.9}"#;
        let whole = Objective { target: Duration::from_secs(1), percentile: 0.9 };
        assert_eq!(serde_json::from_str::<Slo>(recorded).unwrap(), Slo::Latency(whole));
        let tpot = Objective { target: Duration::from_millis(60), percentile: 0.95 };
        for slo in [Slo::Latency(whole), Slo::Chat { ttft: whole, tpot }] {
            let json = serde_json::to_string(&slo).unwrap();
            assert_eq!(serde_json::from_str::<Slo>(&json).unwrap(), slo);
        }
    }

    #[test]
    fn a_slow_start_lengthens_the_horizon_up_to_an_hour() {
        let auto = policy(IdleAfter::Auto);
        assert_eq!(auto.horizon(Duration::from_secs(500)).as_secs(), 1000);
        assert_eq!(auto.horizon(Duration::from_secs(9000)).as_secs(), 3600);
    }

    #[test]
    fn a_cap_is_stronger_than_a_floor() {
        assert_eq!(Bounds { min: 3, max: 2 }.clamp(9), 2);
        assert_eq!(Bounds { min: 1, max: 2 }.clamp(0), 1);
    }
}
