//! One replica, because somebody is there.

use serde::{Deserialize, Serialize};

use super::{Term, Why};
use crate::view::View;

/// Who is there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    pub queued: f64,
    pub in_flight: f64,
    /// A request came since the last look, even if it did not stay: it could not wait for a start, the next
    /// one should not have to.
    pub arrived: bool,
}

pub(crate) fn term(view: &View<'_>) -> Term {
    let waiting =
        Waiting { queued: view.load.queued, in_flight: view.load.in_flight, arrived: view.load.arrived };
    let anybody = view.busy() || view.load.arrived;
    Term { replicas: u32::from(anybody), why: Why::Waiting(waiting) }
}
