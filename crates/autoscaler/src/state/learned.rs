//! What a digest says of a model, for whoever judges a configuration by it.

use std::time::Duration;

use super::{Digest, digest::Highest};
use crate::{
    capacity::{Basis, Capacity, Unit},
    coldstart::ColdStarts,
    policy::{Policy, Slo},
    snapshot::{ChatModel, LatencyModel},
    view::whole,
};

/// Replicas that are counted at most.
const MOST: u32 = 20_000;
/// What was learned of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Learned {
    /// The 90th percentile of the starts that were measured, if that was enough of them, and their number.
    pub cold_start: Option<(Duration, usize)>,
    pub latency: Option<LatencyModel>,
    pub chat: Option<ChatModel>,
    pub peak: Option<RecordedPeak>,
}

/// The highest load of the last week before the digest was made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecordedPeak {
    pub amount: f64,
    pub unit: Unit,
    /// It is what was in flight; else what arrived in a second.
    pub in_flight: bool,
}

/// What a load needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Needed {
    /// The fewest replicas that keep the SLO.
    pub replicas: u32,
    pub capacity: Capacity,
    /// The most of that load that the policy's most replicas bear.
    pub borne: f64,
}

impl Digest {
    /// What it says.
    #[must_use]
    pub fn learned(&self) -> Learned {
        let starts = ColdStarts::restored(self.starts.iter().map(|took| Duration::from_millis(*took)));
        let believed = starts.is_believed();
        // What is counted in another unit than the model's load of late says nothing beside its latency.
        let counts = |highest: &Highest| self.peak.is_none_or(|peak| peak.unit == highest.unit);
        Learned {
            cold_start: believed.then(|| (starts.lead(Duration::ZERO), starts.samples().len())),
            latency: self.latency.map(LatencyModel::from),
            chat: self.chat.map(ChatModel::from),
            peak: self.highest.filter(counts).or(self.peak).map(|peak| RecordedPeak {
                amount: peak.peak.max(0.0),
                unit: peak.unit,
                in_flight: peak.in_flight,
            }),
        }
    }
}

impl Learned {
    /// How many replicas keep the SLO of `policy` under `peak`, by what was learned; until a call was measured, by
    /// what is assumed, which only says how many have room for what is in flight. `None` where it cannot be said.
    #[must_use]
    pub fn needed(&self, policy: &Policy, peak: &RecordedPeak) -> Option<Needed> {
        let capacity = self.capacity(policy, peak.unit)?;
        let slots = capacity.slots;
        let most = policy.bounds.max;
        let (replicas, borne) = match &capacity.basis {
            Basis::Learned(learned) if !peak.in_flight => {
                let percentile = policy.slo.response().percentile;
                let replicas = learned.replicas(slots, peak.amount, percentile, MOST);
                (replicas, learned.rate_of(slots, most, percentile))
            }
            // A rate says nothing of replicas without the time of a call.
            Basis::Assumed if !peak.in_flight => return None,
            _ => (whole(peak.amount / slots), f64::from(most) * slots),
        };
        Some(Needed { replicas, capacity, borne })
    }

    fn capacity(&self, policy: &Policy, unit: Unit) -> Option<Capacity> {
        match (&policy.slo, self.latency, self.chat) {
            (Slo::Latency(slo), Some(latency), _) => Some(Capacity::learned(&latency, slo, None)),
            (Slo::Chat { ttft, tpot }, latency, Some(chat)) => {
                let calls = latency.map(|latency| latency.concurrency).filter(|calls| *calls > 0);
                let concurrency = calls.unwrap_or(policy.assumed.concurrency);
                Some(Capacity::chat(&chat, ttft, tpot, concurrency))
            }
            _ => Some(Capacity::assumed(&policy.assumed, unit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::up_to;

    fn learned() -> Learned {
        let latency = LatencyModel {
            fixed: Duration::from_millis(40),
            tail_permille: 1200,
            samples: 1000,
            max_batch_rows: 1,
            concurrency: 4,
            ..LatencyModel::default()
        };
        Learned { latency: Some(latency), ..Learned::default() }
    }

    fn peak(amount: f64, in_flight: bool) -> RecordedPeak {
        RecordedPeak { amount, unit: Unit::Requests, in_flight }
    }

    #[test]
    fn a_peak_needs_what_the_sizing_says_and_the_most_replicas_bear_less() {
        let needed = learned().needed(&up_to(3), &peak(610.0, false)).expect("a call's time is known");
        // One replica serves 100 /s, and six would be full at 600 /s.
        assert_eq!(needed.replicas, 7);
        assert!((250.0..300.0).contains(&needed.borne), "{}", needed.borne);
        let enough = learned().needed(&up_to(7), &peak(610.0, false)).expect("as before");
        assert!(enough.borne >= 610.0, "{}", enough.borne);
    }

    #[test]
    fn without_the_time_of_a_call_only_what_is_in_flight_can_be_judged() {
        let unknown = Learned::default();
        assert_eq!(unknown.needed(&up_to(3), &peak(610.0, false)), None);
        // Eight at a time, of which four fifths count.
        let room = unknown.needed(&up_to(3), &peak(20.0, true)).expect("room is assumed");
        assert_eq!((room.replicas, room.borne), (4, 3.0 * 6.4));
    }
}
