//! Replicas because a window sets a floor, or is going to when those asked for now are ready.

use super::{Term, Why};
use crate::view::View;

pub(crate) fn term(view: &View<'_>) -> Option<Term> {
    let floor = view.schedule.as_ref()?.floor.clone()?;
    Some(Term { replicas: floor.replicas, why: Why::Schedule(floor) })
}
