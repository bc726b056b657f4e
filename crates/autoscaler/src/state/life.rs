//! Since when things are as they are: history without a hole, the wish, readiness, and how far the platform is to be
//! believed.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use crate::snapshot::{FleetView, Phase, Platform};

/// A pause between observations beyond which history has a hole, and is begun anew.
const GAP: Duration = Duration::from_secs(15);
/// How long wishes are remembered, for the pace of the way up.
const UP_PERIOD: Duration = Duration::from_secs(15);
/// How long everything must have been heard, after the platform was not, before it is acted upon.
const SETTLED_AFTER: Duration = Duration::from_secs(60);
/// How long replicas that are wished for may take to be listed.
const CREATED_WITHIN: Duration = Duration::from_secs(60);

/// Since when things are as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Life {
    /// The latest observation.
    observed: Option<Duration>,
    /// Since when there is history without a hole.
    pub(crate) since: Duration,
    /// When replicas were last wished for after none were.
    pub(crate) woke: Duration,
    /// When the first of the present replicas became ready.
    pub(crate) ready_since: Option<Duration>,
    /// A request came later than this, and none came later than the observation that followed.
    #[serde(default)]
    pub(crate) asked: Option<Duration>,
    /// When the wish last changed.
    pub(crate) stepped: Option<Duration>,
    /// The wish at each observation of the last seconds, newest last.
    wishes: VecDeque<(Duration, u32)>,
    /// When the platform, or since then a gateway, was last not heard; `None` once that is long ago.
    #[serde(default)]
    unheard: Option<Duration>,
    #[serde(default)]
    short: Option<Short>,
}

/// Fewer replicas are listed than are wished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Short {
    /// Since when, or since when no more have come.
    since: Duration,
    /// The most that were listed meanwhile.
    most: u32,
}

/// Replicas that are wished for and not listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// They may be on their way, since this time.
    Expected { since: Duration },
    /// They should be there by now.
    Overdue,
}

impl Life {
    /// What of it is still true in another process.
    pub(super) fn restored(&self, now: Duration) -> Self {
        Self { woke: self.woke.min(now), ..Self::default() }
    }

    /// Whether its times cannot be those of `now`, or it has none.
    pub(super) fn began_after(&self, now: Duration) -> bool {
        self.observed.is_none_or(|observed| observed > now)
    }

    /// The latest observation.
    pub(super) fn observed(&self) -> Option<Duration> {
        self.observed
    }

    /// The latest wish.
    pub(super) fn wish(&self) -> Option<u32> {
        self.wishes.back().map(|(_, wish)| *wish)
    }

    /// The least wish of the last seconds: what the pace of the way up is reckoned from.
    pub(crate) fn least_wish(&self) -> Option<u32> {
        self.wishes.iter().map(|(_, wish)| *wish).min()
    }

    /// When the platform, which was not heard, has been heard for long enough.
    pub(crate) fn settled_at(&self) -> Option<Duration> {
        self.unheard.map(|at| at + SETTLED_AFTER)
    }

    /// How it stands with the replicas that are not listed, if some are not.
    pub(crate) fn missing(&self, now: Duration) -> Option<Missing> {
        let since = self.short?.since;
        let overdue = now.saturating_sub(since) > CREATED_WITHIN;
        Some(if overdue { Missing::Overdue } else { Missing::Expected { since } })
    }

    /// Notes that an observation is made, and says whether there was a hole before it.
    pub(super) fn resumes(&mut self, now: Duration) -> bool {
        let hole = self.observed.is_none_or(|before| before > now || now - before > GAP);
        self.observed = Some(now);
        if hole {
            *self = Self { observed: self.observed, since: now, woke: self.woke.min(now), ..Self::default() };
        }
        hole
    }

    pub(super) fn observe(&mut self, fleet: &FleetView, all_heard: bool, now: Duration) {
        self.observe_wish(fleet.wanted, now);
        let ready = fleet.replicas.iter().any(|replica| replica.phase == Phase::Ready);
        self.ready_since = if ready { self.ready_since.or(Some(now)) } else { None };
        self.observe_hearing(&fleet.platform, all_heard, now);
        self.observe_creation(fleet, now);
    }

    fn observe_wish(&mut self, wanted: u32, now: Duration) {
        if let Some((_, before)) = self.wishes.back().copied().filter(|(_, before)| *before != wanted) {
            self.stepped = Some(now);
            if before == 0 {
                self.woke = now;
            }
        }
        match self.wishes.back_mut() {
            Some((at, wish)) if *wish == wanted && at.as_secs() == now.as_secs() => *at = now,
            _ => self.wishes.push_back((now, wanted)),
        }
        while self.wishes.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= UP_PERIOD) {
            self.wishes.pop_front();
        }
    }

    fn observe_hearing(&mut self, platform: &Platform, all_heard: bool, now: Duration) {
        let again = self.unheard.is_some() && !all_heard;
        if platform.unheard.is_some() || again {
            self.unheard = Some(now);
        } else if self.settled_at().is_some_and(|at| now >= at) {
            self.unheard = None;
        }
    }

    /// While the platform is not heard it may have created any number: that time does not count.
    fn observe_creation(&mut self, fleet: &FleetView, now: Duration) {
        let listed = fleet.staying();
        let short = fleet.platform.shared && listed < fleet.wanted;
        let before = self.short.filter(|s| listed <= s.most && fleet.platform.unheard.is_none());
        self.short = short.then(|| before.unwrap_or(Short { since: now, most: listed }));
    }
}
