//! What became of each request, and what the replicas cost.

use std::time::Duration;

use super::{
    Settings,
    replica::{Job, Rest},
    time::Time,
};
use crate::timeline::Timeline;

/// The pieces of time that requests are counted in by their arrival.
pub(crate) const SLOT: Duration = Duration::from_secs(10);

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcomes {
    /// Answered within the SLO.
    Met,
    /// Answered later than the SLO.
    Late,
    /// Refused.
    Shed,
    /// Not answered by its deadline.
    TimedOut,
}

/// Requests by their outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub met: u64,
    pub late: u64,
    pub shed: u64,
    pub timed_out: u64,
}

impl Counted {
    #[must_use]
    pub fn all(&self) -> u64 {
        self.met + self.late + self.shed + self.timed_out
    }
}

/// Requests whose first token, and whose others, came as fast as they should. One without a whole answer is in neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub ttft: u64,
    pub tpot: u64,
}

/// Another number of replicas is wished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Since the beginning.
    pub at: Duration,
    pub from: u32,
    pub to: u32,
}

/// Requests that arrived in one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) arrivals: u32,
    pub(crate) misses: u32,
}

/// What one simulation came to.
#[derive(Clone, Debug)]
pub struct Run {
    pub length: Duration,
    pub arrivals: u64,
    pub counted: Counted,
    /// `None` where whole answers are judged.
    pub kept: Option<Kept>,
    /// From creation to deletion, pending and draining included, of all replicas.
    pub replica_time: Duration,
    /// Replicas at the beginning.
    pub initial: u32,
    pub changes: Vec<Change>,
    /// Replicas that went before they had served anybody.
    pub wasted: u32,
    pub timeline: Option<Timeline>,
    pub(crate) slots: Vec<Slot>,
}

#[derive(Debug)]
pub(super) struct Judge {
    slo: Duration,
    arrivals: u64,
    counted: Counted,
    kept: Option<Kept>,
    slots: Vec<Slot>,
    changes: Vec<Change>,
    wasted: u32,
}

impl Judge {
    pub(super) fn new(slots: usize, settings: &Settings) -> Self {
        Self {
            slo: settings.slo.target,
            kept: settings.tokens.map(|_| Kept::default()),
            arrivals: 0,
            counted: Counted::default(),
            slots: vec![Slot::default(); slots],
            changes: Vec::new(),
            wasted: 0,
        }
    }

    pub(super) fn arrived(&mut self, at: Time) {
        self.arrivals += 1;
        if let Some(slot) = self.slot(at) {
            slot.arrivals += 1;
        }
    }

    /// What an answer at `now` is worth.
    pub(super) fn answered(&self, arrived: Time, now: Time, deadline: Duration) -> Outcomes {
        let took = now.since(arrived);
        if took > deadline {
            Outcomes::TimedOut
        } else if took > self.slo {
            Outcomes::Late
        } else {
            Outcomes::Met
        }
    }

    /// What a stream is worth whose last token comes `now`.
    pub(super) fn streamed(&mut self, job: &Job, rest: &Rest, now: Time, settings: &Settings) -> Outcomes {
        let Some((slo, kept)) = settings.tokens.zip(self.kept.as_mut()) else { return Outcomes::Late };
        let ttft = rest.since.since(job.arrived);
        if ttft > slo.first_token || now.since(job.arrived) > settings.deadline {
            return Outcomes::TimedOut;
        }
        // One token has no pace.
        let (first, pace) = (ttft <= self.slo, job.tokens < 2.0 || rest.pace.per_token <= slo.tpot.target);
        kept.ttft += u64::from(first);
        kept.tpot += u64::from(pace);
        if first && pace { Outcomes::Met } else { Outcomes::Late }
    }

    pub(super) fn settled(&mut self, arrived: Time, outcome: Outcomes) {
        let count = match outcome {
            Outcomes::Met => &mut self.counted.met,
            Outcomes::Late => &mut self.counted.late,
            Outcomes::Shed => &mut self.counted.shed,
            Outcomes::TimedOut => &mut self.counted.timed_out,
        };
        *count += 1;
        if let Some(slot) = self.slot(arrived).filter(|_| outcome != Outcomes::Met) {
            slot.misses += 1;
        }
    }

    pub(super) fn changed(&mut self, change: Change, wasted: u32) {
        self.changes.push(change);
        self.wasted += wasted;
    }

    pub(super) fn finish(
        self,
        length: Duration,
        replica_time: Duration,
        initial: u32,
        timeline: Option<Timeline>,
    ) -> Run {
        let Self { arrivals, counted, kept, slots, changes, wasted, .. } = self;
        Run { length, arrivals, counted, kept, replica_time, initial, changes, wasted, timeline, slots }
    }

    /// The last one takes what arrives at the very end.
    fn slot(&mut self, at: Time) -> Option<&mut Slot> {
        let last = self.slots.len().saturating_sub(1);
        let index = (at.since(Time::ZERO).as_secs() / SLOT.as_secs()) as usize;
        self.slots.get_mut(index.min(last))
    }
}

#[cfg(test)]
mod tests {
    use autoscaler::policy::{Bounds, Objective};

    use super::*;
    use crate::world::{TokenSlo, replica::Pace};

    /// A first token within 2 s, the others within 60 ms each, and all of them within 20 s.
    fn settings() -> Settings {
        let objective = |ms, percentile| Objective { target: Duration::from_millis(ms), percentile };
        let tokens =
            TokenSlo { tpot: objective(60, 0.95), first_token: Duration::from_secs(5), adaptive: false };
        Settings {
            service: "300ms+20ms/token".parse().unwrap(),
            variation: 0.0,
            prompt: 1,
            answer: 1,
            slots: 8,
            slo: objective(2000, 0.99),
            tokens: Some(tokens),
            deadline: Duration::from_secs(20),
            cold_start: "20s".parse().unwrap(),
            cold_start_timeout: Duration::from_secs(60),
            queue: 8,
            max_hold: Duration::ZERO,
            bounds: Bounds { min: 0, max: 2 },
            initial: None,
            begins: Duration::ZERO,
        }
    }

    #[test]
    fn a_stream_is_in_the_slo_by_its_first_token_and_its_pace_and_each_is_counted() {
        let settings = settings();
        let mut judge = Judge::new(1, &settings);
        let at = |ms| Time::from(Duration::from_millis(ms));
        // First token, time per further one, end, further tokens.
        let rows = [
            ((2000, 60, 8000, 100.0), Outcomes::Met),
            ((2001, 60, 8000, 100.0), Outcomes::Late),
            ((2000, 61, 8100, 100.0), Outcomes::Late),
            ((2001, 61, 8100, 100.0), Outcomes::Late),
            ((1000, 500, 1500, 1.0), Outcomes::Met),
            ((5001, 60, 9000, 100.0), Outcomes::TimedOut),
            ((1000, 60, 20_001, 300.0), Outcomes::TimedOut),
        ];
        for ((first, per_token, end, tokens), outcome) in rows {
            let job = Job { arrived: Time::ZERO, factor: 1.0, prompt: 1, tokens, cold: false };
            let pace = Pace { per_token: Duration::from_millis(per_token), load: 1 };
            let rest = Rest { since: at(first), pace, last: None };
            assert_eq!(judge.streamed(&job, &rest, at(end), &settings), outcome, "{first} {per_token} {end}");
        }
        assert_eq!(judge.kept, Some(Kept { ttft: 3, tpot: 3 }));
    }
}
