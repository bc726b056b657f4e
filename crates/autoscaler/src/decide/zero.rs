//! When a model may go to zero: after it has been idle for long enough, counted from its first readiness, and
//! never while it starts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{policy::IdleAfter, view::View};

/// A learned idle time does not let a model go sooner than this after it was woken.
const AWAKE_LEAST: Duration = Duration::from_secs(600);

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
    /// Idle; goes to zero at this time if nobody comes.
    At { at: Duration },
    /// Idle for long enough.
    Due { idle_after: Duration },
}

pub(super) fn check(view: &View<'_>) -> Zero {
    if view.policy.bounds.min > 0 {
        Zero::Never
    } else if view.wanted == 0 {
        Zero::Already
    } else if view.busy() {
        Zero::Busy
    } else if view.fleet.ready == 0 && view.fleet.starting > 0 {
        Zero::Starting
    } else {
        countdown(view)
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
