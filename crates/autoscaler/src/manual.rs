//! A number of replicas that somebody else has set: it stands for half an hour, whatever the terms say, unless
//! demand comes to call for just that number, or a request finds none.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::snapshot::FleetView;

/// How long the number stands.
const STANDS: Duration = Duration::from_secs(1800);

/// Who set it, and from what to what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manual {
    pub(crate) by: Arc<str>,
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) until: Duration,
}

impl Manual {
    /// What stands at `now`, if `before` stood until now, with `wished` replicas.
    pub(crate) fn observe(
        before: Option<Self>,
        wished: Option<u32>,
        fleet: &FleetView,
        now: Duration,
    ) -> Option<Self> {
        let until = now + STANDS;
        match &fleet.platform.changed_by {
            Some(by) => {
                let (by, from) = (Arc::clone(by), wished.unwrap_or(fleet.wanted));
                Some(Self { by, from, to: fleet.wanted, until })
            }
            // A clock that went back must not make it stand for longer.
            None => before
                .filter(|manual| manual.to == fleet.wanted && now < manual.until)
                .map(|manual| Self { until: manual.until.min(until), ..manual }),
        }
    }
}
