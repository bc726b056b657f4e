//! The bounds around the present, kept from one decision to the next: they are the same for hours, and a decision
//! is made each second.

use std::{ops::Range, sync::Arc, time::Duration};

use super::{
    Cap, Floor, FloorKind, Lead, Schedule, Scheduled, When,
    timeline::{Rule, Segment, segments},
    transition,
};
use crate::policy::{self, Policy};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Every window comes again within a week; one day of daylight saving, and one in which the agenda is good.
const AROUND: Duration = Duration::from_secs(9 * 24 * 3600);

/// What the policy's schedules make of the days around the last observation. It is no memory: it follows from
/// policy and time alone, and whoever finds it wanting works it out anew.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agenda(Option<Arc<Days>>);

impl PartialEq for Agenda {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Days {
    schedules: Vec<Schedule>,
    base: policy::Bounds,
    /// When this may be consulted.
    good: Range<Duration>,
    segments: Vec<Segment>,
    /// The longest pre-warm that is written.
    prewarm: Duration,
}

/// What schedules say at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Look {
    /// The model's bounds, as schedules and the pre-warm of floors change them.
    pub(crate) bounds: policy::Bounds,
    pub(crate) floor: Option<Floor>,
    pub(crate) scheduled: Scheduled,
}

impl Agenda {
    /// Makes looks at about `now` cheap.
    pub(crate) fn follow(&mut self, policy: &Policy, now: Duration) {
        if policy.schedules.is_empty() {
            self.0 = None;
        } else if !self.0.as_ref().is_some_and(|days| days.are_good_for(policy, now)) {
            self.0 = Some(Arc::new(Days::new(policy, now)));
        }
    }

    /// What `policy`'s schedules say at `now` if a start takes `lead`; `None` if it has none.
    pub(crate) fn look(&self, policy: &Policy, lead: Lead, now: Duration) -> Option<Look> {
        if policy.schedules.is_empty() {
            return None;
        }
        match self.0.as_ref().filter(|days| days.are_good_for(policy, now)) {
            Some(days) => days.look(lead, now),
            None => Days::new(policy, now).look(lead, now),
        }
    }
}

impl Days {
    fn new(policy: &Policy, now: Duration) -> Self {
        let schedules = policy.schedules.clone();
        let range = now.saturating_sub(AROUND)..now.saturating_add(AROUND);
        Self {
            base: policy.bounds,
            good: now.saturating_sub(DAY)..now.saturating_add(DAY),
            segments: segments(&schedules, policy.bounds, &range),
            prewarm: schedules.iter().filter_map(|schedule| schedule.prewarm).max().unwrap_or_default(),
            schedules,
        }
    }

    fn are_good_for(&self, policy: &Policy, now: Duration) -> bool {
        self.good.contains(&now) && self.base == policy.bounds && self.schedules == policy.schedules
    }

    fn look(&self, lead: Lead, now: Duration) -> Option<Look> {
        let ahead = self.segments.partition_point(|segment| segment.from <= now);
        let (past, future) = self.segments.split_at_checked(ahead)?;
        let (present, past) = past.split_last()?;
        let prewarm = self.prewarm(present, future, lead, now);
        let policy::Bounds { mut min, mut max } = present.bounds;
        if let Some(prewarm) = &prewarm {
            (min, max) = (min.max(prewarm.replicas), max.max(prewarm.replicas));
        }
        let yields = max > present.bounds.max;
        let cap = present.cap.and_then(|rule| self.cap(rule, past, present, future));
        let next = future.iter().find_map(|later| transition(&self.schedules, present, later));
        Some(Look {
            bounds: policy::Bounds { min, max },
            floor: prewarm.or_else(|| self.floor(present, future)),
            scheduled: Scheduled { cap: cap.map(|cap| Cap { yields, ..cap }), next },
        })
    }

    /// The highest floor that begins so soon that its replicas must be asked for now; the first of equals.
    fn prewarm(&self, present: &Segment, future: &[Segment], lead: Lead, now: Duration) -> Option<Floor> {
        let latest = now.saturating_add(lead.ahead().max(self.prewarm));
        let soon = future.iter().take_while(|segment| segment.from <= latest);
        let higher = soon.filter(|segment| segment.bounds.min > present.bounds.min);
        let due = higher.filter_map(|segment| {
            let (index, kind) = match (segment.floor, segment.turn) {
                (Some(rule), _) => (rule.schedule, kind(rule)),
                (None, turn) => (turn?.schedule, FloorKind::OwnMin),
            };
            let schedule = self.schedules.get(index)?;
            let written = schedule.prewarm.filter(|_| kind != FloorKind::OwnMin);
            let lead = written.map_or(lead, Lead::Written);
            let floor = || Floor {
                replicas: segment.bounds.min,
                by: schedule.by(),
                kind,
                when: When::Prewarm { starts: segment.from, lead },
            };
            (segment.from <= now.saturating_add(lead.ahead())).then(floor)
        });
        due.reduce(|highest, other| if other.replicas > highest.replicas { other } else { highest })
    }

    fn floor(&self, present: &Segment, future: &[Segment]) -> Option<Floor> {
        let rule = present.floor?;
        let until = future.iter().find(|later| later.floor != Some(rule)).map(|later| later.from);
        Some(Floor {
            replicas: present.bounds.min,
            by: self.schedules.get(rule.schedule)?.by(),
            kind: kind(rule),
            when: When::Open { until },
        })
    }

    fn cap(&self, rule: Rule, past: &[Segment], present: &Segment, future: &[Segment]) -> Option<Cap> {
        let off = present.is_off();
        let before = |segment: &&Segment| if off { segment.is_off() } else { segment.cap == Some(rule) };
        let like = |segment: &Segment| match segment.cap {
            Some(cap) if off => segment.is_off() && cap.on_request == rule.on_request,
            cap => cap == Some(rule),
        };
        let first = past.iter().rev().take_while(before).last().unwrap_or(present);
        Some(Cap {
            replicas: present.bounds.max,
            by: self.schedules.get(rule.schedule)?.by(),
            pin: rule.pin,
            on_request: rule.on_request,
            since: first.from,
            until: future.iter().find(|later| !like(later)).map(|later| later.from),
            yields: false,
        })
    }
}

fn kind(rule: Rule) -> FloorKind {
    if rule.pin { FloorKind::Pin } else { FloorKind::Floor }
}
