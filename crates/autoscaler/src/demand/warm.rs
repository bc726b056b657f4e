//! One replica, because it is too early to go to zero.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Term, Why};
use crate::{decide::Zero, view::View};

/// Why the last replica stays.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Warm {
    /// How long the model must be idle.
    pub idle_after: Duration,
    /// When it goes to zero if nobody comes; `None` while that cannot be said.
    pub until: Option<Duration>,
}

pub(crate) fn term(view: &View<'_>, zero: Zero) -> Option<Term> {
    let until = match zero {
        Zero::At { at } => Some(at),
        Zero::Starting => None,
        Zero::Busy | Zero::Expected | Zero::Due { .. } | Zero::Off | Zero::Already | Zero::Never => {
            return None;
        }
    };
    let idle_after = view.idle_after();
    Some(Term { replicas: 1, why: Why::Warm(Warm { idle_after, until }) })
}
