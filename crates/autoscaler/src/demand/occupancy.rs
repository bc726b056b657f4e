//! Replicas for the streams that are there: long ones fill a replica long before the rate of arrivals shows it.

use serde::{Deserialize, Serialize};

use super::{Term, Why};
use crate::{
    capacity::Unit,
    view::{View, whole},
};

/// Streams, and how many a replica has room for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Occupancy {
    pub in_flight: f64,
    pub queued: f64,
    /// Streams per replica.
    pub room: f64,
}

/// `None` where answers are no streams: what is in flight is over in a moment, and arrivals say all.
pub(crate) fn term(view: &View<'_>) -> Option<Term> {
    if view.capacity.unit != Unit::Streams {
        return None;
    }
    let occupancy =
        Occupancy { in_flight: view.load.in_flight, queued: view.load.queued, room: view.capacity.slots };
    let replicas = whole((occupancy.in_flight + occupancy.queued) / occupancy.room);
    Some(Term { replicas, why: Why::Occupancy(occupancy) })
}
