//! When a model may go to zero: after it has been idle for long enough, counted from its first readiness, and
//! never while it starts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    demand::season,
    policy::IdleAfter,
    schedule::{Cap, OnRequest},
    view::View,
};

/// A learned idle time does not let a model go sooner than this after it was woken.
const AWAKE_LEAST: Duration = Duration::from_secs(600);
/// Where calls go on coming although a schedule refuses them, those from before have this long to end by
/// themselves. What then still runs is left to the fleet, which stops no replica that works.
const FINISHED_WITHIN: Duration = Duration::from_secs(60);

/// Where a model stands on the way to zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Zero {
    /// The floor is above zero.
    Never,
    /// It is there.
    Already,
    /// Something waits or runs.
    Busy,
    /// None is ready yet, and one is starting.
    Starting,
    /// Idle; other days were busy at about the time at which a replica could be back.
    Expected,
    /// Idle; goes to zero at this time if nobody comes.
    At { at: Duration },
    /// Idle for long enough.
    Due { idle_after: Duration },
    /// A schedule allows none, and what came before it did is finished.
    Off,
}

impl Zero {
    /// Whether it is time to go.
    pub(super) fn is_due(self) -> bool {
        matches!(self, Self::Due { .. } | Self::Off)
    }
}

pub(super) fn check(view: &View<'_>) -> Zero {
    if view.bounds.min > 0 {
        Zero::Never
    } else if view.wanted == 0 {
        Zero::Already
    } else if view.off().is_some_and(|cap| closes(view, cap)) {
        Zero::Off
    } else if view.busy() {
        Zero::Busy
    } else if view.fleet.ready == 0 && view.fleet.starting > 0 {
        Zero::Starting
    } else if season::expects(view) {
        Zero::Expected
    } else {
        countdown(view)
    }
}

/// Whether the replicas of a model that may have none can go. Idleness need not be waited out; but where calls
/// wake, those that came since the cap began have the replica that they would start again. Where they are refused
/// they do not keep it: else a replica that is never without a call would never go.
fn closes(view: &View<'_>, cap: &Cap) -> bool {
    let life = &view.state.life;
    let asked = life.asked.is_some_and(|asked| asked >= cap.since);
    match cap.on_request {
        OnRequest::Wake => {
            // Whether somebody came before history began is not known.
            let nobody = !asked && life.since <= cap.since;
            nobody && !view.busy() && !view.load.arrived
        }
        OnRequest::Reject if view.busy() => {
            let older = cap.is_younger_than(view.load.oldest, view.now);
            asked && !older && view.now >= cap.since + FINISHED_WITHIN
        }
        OnRequest::Reject => true,
    }
}

fn countdown(view: &View<'_>) -> Zero {
    let life = &view.state.life;
    let idle_since =
        [view.state.idle.busy_at, life.ready_since].into_iter().flatten().fold(life.since, Duration::max);
    let idle_after = view.idle_after();
    let mut at = idle_since + idle_after;
    if view.policy.idle_after == IdleAfter::Auto {
        at = at.max(life.woke + AWAKE_LEAST);
    }
    if view.now >= at { Zero::Due { idle_after } } else { Zero::At { at } }
}
