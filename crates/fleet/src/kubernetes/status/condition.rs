//! Conditions: what holds of a model, in types and reasons that are API. `True` is the good news, but for the two of
//! the last group, which are there only while something is out of the ordinary.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition as Wire, Time};

use super::cut;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub fact: Fact,
    /// In a sentence; may be empty.
    pub message: String,
}

/// A condition's type, status and reason, of those that go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    Ready(Ready),
    Active(Active),
    SloMet(SloMet),
    ScalingActive(ScalingActive),
    ScalingLimited(ScalingLimited),
    Accepted(Accepted),
    Reconciling(Reconciling),
    Stalled(Stalled),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    True,
    False,
    Unknown,
}

/// An enum of reasons, each with its word and the status it stands for.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($reason:ident $word:literal $holds:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($reason,)+
        }

        impl $name {
            const fn parts(self) -> (Holds, &'static str) {
                match self {
                    $(Self::$reason => (Holds::$holds, $word),)+
                }
            }
        }
    };
}

reasons! {
    /// It can serve a request now, or by waking.
    Ready {
        Serving "Serving" True,
        SloMet "SLOMet" True,
        AtZeroCanWake "AtZeroCanWake" True,
        Starting "Starting" True,
        NoEndpoints "NoEndpoints" False,
        ColdStartFailed "ColdStartFailed" False,
        TargetNotFound "TargetNotFound" False,
        CrashLoop "CrashLoop" False,
        InvalidSpec "InvalidSpec" False,
    }
}

reasons! {
    /// It has replicas.
    Active {
        Traffic "Traffic" True,
        MinReplicas "MinReplicas" True,
        Warm "Warm" True,
        ScaledToZero "ScaledToZero" False,
    }
}

reasons! {
    /// Its answers come within what was promised.
    SloMet {
        WithinTarget "WithinTarget" True,
        LatencyBreach "LatencyBreach" False,
        ErrorBudgetBurn "ErrorBudgetBurn" False,
        NotEnoughData "NotEnoughData" Unknown,
    }
}

reasons! {
    /// Its number of replicas is decided here.
    ScalingActive {
        Computing "Computing" True,
        Paused "Paused" False,
        MetricsStale "MetricsStale" False,
        ApiServerUnavailable "APIServerUnavailable" Unknown,
        NotLeader "NotLeader" Unknown,
        Contended "Contended" False,
    }
}

reasons! {
    /// Something keeps the number of replicas from what the load calls for.
    ScalingLimited {
        AtMax "AtMax" True,
        AtMin "AtMin" True,
        RateLimited "RateLimited" True,
        CostCap "CostCap" True,
        Unschedulable "Unschedulable" True,
        WithinBounds "WithinBounds" False,
    }
}

reasons! {
    /// Its spec is what we go by.
    Accepted {
        SpecApplied "SpecApplied" True,
        UnsupportedValue "UnsupportedValue" False,
        Conflicted "Conflicted" False,
    }
}

reasons! {
    /// Only while it is on its way to what is desired.
    Reconciling {
        ColdStart "ColdStart" True,
        Scaling "Scaling" True,
        Rollout "Rollout" True,
    }
}

reasons! {
    /// Only while it gets no further by itself.
    Stalled {
        Forbidden "Forbidden" True,
        TargetNotFound "TargetNotFound" True,
        InvalidSpec "InvalidSpec" True,
        CrashLoop "CrashLoop" True,
        Unschedulable "Unschedulable" True,
    }
}

impl Fact {
    const fn parts(self) -> (&'static str, Holds, &'static str) {
        let (kind, (holds, reason)) = match self {
            Self::Ready(reason) => ("Ready", reason.parts()),
            Self::Active(reason) => ("Active", reason.parts()),
            Self::SloMet(reason) => ("SLOMet", reason.parts()),
            Self::ScalingActive(reason) => ("ScalingActive", reason.parts()),
            Self::ScalingLimited(reason) => ("ScalingLimited", reason.parts()),
            Self::Accepted(reason) => ("Accepted", reason.parts()),
            Self::Reconciling(reason) => ("Reconciling", reason.parts()),
            Self::Stalled(reason) => ("Stalled", reason.parts()),
        };
        (kind, holds, reason)
    }
}

impl Holds {
    const fn word(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// The conditions as the API server is told. One that has the status it had `before` has it since then.
pub(super) fn stamp(conditions: &[Condition], before: &[Wire], generation: i64, now: Timestamp) -> Vec<Wire> {
    const MESSAGE_CHARS: usize = 1_024;
    let mut stamped: Vec<Wire> = Vec::with_capacity(conditions.len());
    for Condition { fact, message } in conditions {
        let (kind, holds, reason) = fact.parts();
        if stamped.iter().any(|condition| condition.type_ == kind) {
            continue;
        }
        let since = before.iter().find(|before| before.type_ == kind && before.status == holds.word());
        stamped.push(Wire {
            type_: kind.to_owned(),
            status: holds.word().to_owned(),
            reason: reason.to_owned(),
            message: cut(message, MESSAGE_CHARS).to_owned(),
            observed_generation: Some(generation),
            last_transition_time: since.map_or(Time(now), |before| before.last_transition_time.clone()),
        });
    }
    stamped
}

/// The same conditions, each since the earliest time at which it is known to have had its status.
pub(super) fn since_earliest(conditions: &mut [Wire], seen: &[Wire]) {
    for condition in conditions {
        let same = |seen: &&Wire| seen.type_ == condition.type_ && seen.status == condition.status;
        if let Some(seen) = seen.iter().find(same)
            && seen.last_transition_time.0 < condition.last_transition_time.0
        {
            condition.last_transition_time = seen.last_transition_time.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ready(reason: Ready) -> Condition {
        Condition { fact: Fact::Ready(reason), message: "m".to_owned() }
    }

    #[test]
    fn a_condition_is_dated_from_when_its_status_changed_not_from_its_reason_or_message() {
        let first = stamp(&[ready(Ready::Serving)], &[], 1, at(10));
        let second = stamp(&[ready(Ready::AtZeroCanWake)], &first, 2, at(20));
        assert_eq!((&*second[0].reason, second[0].last_transition_time.0), ("AtZeroCanWake", at(10)));
        let third = stamp(&[ready(Ready::CrashLoop)], &second, 2, at(30));
        assert_eq!((&*third[0].status, third[0].last_transition_time.0), ("False", at(30)));
    }

    #[test]
    fn no_type_is_there_twice() {
        let both = [ready(Ready::Serving), ready(Ready::NoEndpoints)];
        let stamped = stamp(&both, &[], 1, at(10));
        assert_eq!(stamped.iter().map(|condition| &*condition.reason).collect::<Vec<_>>(), ["Serving"]);
    }

    #[test]
    fn what_another_leader_wrote_dates_what_still_holds() {
        let theirs = stamp(&[ready(Ready::Serving)], &[], 1, at(10));
        let mut ours = stamp(&[ready(Ready::SloMet)], &[], 1, at(99));
        since_earliest(&mut ours, &theirs);
        assert_eq!(ours[0].last_transition_time.0, at(10));
        let mut ours = stamp(&[ready(Ready::CrashLoop)], &[], 1, at(99));
        since_earliest(&mut ours, &theirs);
        assert_eq!(ours[0].last_transition_time.0, at(99));
    }
}
