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
    /// The most that a schedule allows.
    ScheduleCap,
    /// At most four more, or twice as many, in 15 seconds.
    UpPace,
    /// Replicas do not start: one more at most.
    Degraded { failed: u32, trouble: Option<Arc<str>> },
    /// Replicas find no place to run.
    Unschedulable { pending: u32, trouble: Option<Arc<str>> },
    /// Replicas that were asked for are not there.
    NotCreated { missing: u32 },
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
    /// Replicas are being exchanged for those of another revision.
    Rollout,
    /// The platform is not heard.
    Unheard { age: Duration },
    /// The platform, or a gateway since, was not heard a moment ago.
    HeardAgain { until: Duration },
    /// Somebody else has set the number, from `from` to what it is.
    Override { by: Arc<str>, from: u32, until: Duration },
    /// Somebody else has set the number to zero, and a request came nevertheless.
    OverrideEnded { by: Arc<str> },
}

impl LimitKind {
    /// Every name a limit can have.
    pub const NAMES: [&'static str; 21] = [
        "min",
        "max",
        "schedule_cap",
        "up_pace",
        "degraded",
        "unschedulable",
        "not_created",
        "down_window",
        "down_spacing",
        "down_step",
        "consolidation",
        "stale",
        "no_reports",
        "young",
        "waiting",
        "slo_burning",
        "rollout",
        "unheard",
        "heard_again",
        "override",
        "override_ended",
    ];

    /// Whether it forbids every step down, however few are called for, until something is known or over.
    #[must_use]
    pub fn is_veto(&self) -> bool {
        matches!(
            self,
            Self::Stale { .. }
                | Self::NoReports
                | Self::Young { .. }
                | Self::Waiting
                | Self::SloBurning { .. }
                | Self::Rollout
                | Self::Unheard { .. }
                | Self::HeardAgain { .. }
        )
    }

    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Max => "max",
            Self::ScheduleCap => "schedule_cap",
            Self::UpPace => "up_pace",
            Self::Degraded { .. } => "degraded",
            Self::Unschedulable { .. } => "unschedulable",
            Self::NotCreated { .. } => "not_created",
            Self::DownWindow { .. } => "down_window",
            Self::DownSpacing { .. } => "down_spacing",
            Self::DownStep => "down_step",
            Self::Consolidation => "consolidation",
            Self::Stale { .. } => "stale",
            Self::NoReports => "no_reports",
            Self::Young { .. } => "young",
            Self::Waiting => "waiting",
            Self::SloBurning { .. } => "slo_burning",
            Self::Rollout => "rollout",
            Self::Unheard { .. } => "unheard",
            Self::HeardAgain { .. } => "heard_again",
            Self::Override { .. } => "override",
            Self::OverrideEnded { .. } => "override_ended",
        }
    }
}

/// Notes a limit that changed the number.
pub(super) fn note(limits: &mut Vec<Limit>, kind: LimitKind, before: u32, after: u32) {
    if before != after {
        limits.push(Limit { kind, before, after });
    }
}
