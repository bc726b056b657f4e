//! What may keep a wish from being what demand calls for.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

/// One limit or veto, with the number before and after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    pub kind: LimitKind,
    pub before: u32,
    pub after: u32,
}

/// The limits there are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// The fewest that are allowed.
    Min,
    /// The most that are allowed.
    Max,
    /// At most four more, or twice as many, in 15 seconds.
    UpPace,
    /// Replicas do not start: one more at most.
    Degraded { failed: u32, trouble: Option<Arc<str>> },
    /// Replicas find no place to run.
    Unschedulable { pending: u32, trouble: Option<Arc<str>> },
    /// The highest target of the last while is kept.
    DownWindow { window: Duration },
    /// The wish changed a moment ago.
    DownSpacing { until: Duration },
    /// At most a quarter, or one, at a step.
    DownStep,
    /// The smaller fleet would not hold the SLO with a tenth more load.
    Consolidation,
    /// A gateway is not heard.
    Stale { gateway: Arc<str>, age: Duration },
    /// No gateway has reported.
    NoReports,
    /// There is not enough history to know what is too much.
    Young { until: Duration },
    /// A request waits for a replica to start.
    Waiting,
    /// Too many requests missed the SLO in the last minute.
    SloBurning { misses: f64, arrivals: f64 },
}

impl LimitKind {
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Max => "max",
            Self::UpPace => "up_pace",
            Self::Degraded { .. } => "degraded",
            Self::Unschedulable { .. } => "unschedulable",
            Self::DownWindow { .. } => "down_window",
            Self::DownSpacing { .. } => "down_spacing",
            Self::DownStep => "down_step",
            Self::Consolidation => "consolidation",
            Self::Stale { .. } => "stale",
            Self::NoReports => "no_reports",
            Self::Young { .. } => "young",
            Self::Waiting => "waiting",
            Self::SloBurning { .. } => "slo_burning",
        }
    }
}

/// Notes a limit that changed the number.
pub(super) fn note(limits: &mut Vec<Limit>, kind: LimitKind, before: u32, after: u32) {
    if before != after {
        limits.push(Limit { kind, before, after });
    }
}
