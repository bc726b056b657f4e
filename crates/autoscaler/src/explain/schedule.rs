//! What schedules have to do with a decision, in words. Times are those of the window's own clock.

use std::time::Duration;

use super::words::span;
use crate::{
    decide::Decision,
    demand::Why,
    schedule::{By, Cap, Edge, Floor, FloorKind, Lead, OnRequest, Transition, When},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Why a floor calls for replicas.
pub(super) fn floor(floor: &Floor, now: Duration) -> String {
    match floor.when {
        When::Open { until } => {
            let pin = if floor.kind == FloorKind::Pin { " (a pin)" } else { "" };
            format!("schedule \"{}\"{pin}{}", floor.by.name, until_when(&floor.by, until, now))
        }
        When::Prewarm { starts, .. } => format!("for {}, {}", clock(&floor.by, starts, now), prewarm(floor)),
    }
}

/// What keeps a model below its own `max`.
pub(super) fn cap(cap: &Cap, now: Duration) -> String {
    let until = until_when(&cap.by, cap.until, now);
    let Cap { replicas, by, pin, yields, .. } = cap;
    if *yields {
        format!("schedule \"{}\" allows no more than the pre-warm needs{until}", by.name)
    } else if *replicas == 0 {
        format!("off{until} by schedule \"{}\"", by.name)
    } else {
        let most = if *pin { "exactly" } else { "at most" };
        format!("schedule \"{}\" allows {most} {replicas}{until}", by.name)
    }
}

/// Why a schedule keeps the model at less than is called for.
pub(super) fn limit(decision: &Decision) -> String {
    let scheduled = decision.schedule.as_ref();
    let Some(found) = scheduled.and_then(|scheduled| scheduled.cap.as_ref()) else {
        return format!("never more than {}", decision.bounds.max);
    };
    let text = cap(found, decision.at);
    let off = scheduled.and_then(|scheduled| scheduled.off());
    match off.filter(|_| decision.to > 0) {
        None => text,
        Some(Cap { on_request: OnRequest::Wake, .. }) => format!("{text}, one answers whoever calls"),
        Some(_) => format!("{text}, one finishes what was admitted before"),
    }
}

/// The cap because of which a model is off, if it is.
pub(super) fn off(decision: &Decision) -> Option<String> {
    let off = decision.schedule.as_ref()?.off()?;
    Some(cap(off, decision.at))
}

/// When a model that is at zero may leave it, where calls do not wake it.
pub(super) fn asleep(decision: &Decision) -> Option<String> {
    let cap = decision.schedule.as_ref()?.refuses()?;
    Some(match cap.until {
        Some(until) => format!("calls are refused until {}", clock(&cap.by, until, decision.at)),
        None => "calls are refused".to_owned(),
    })
}

/// What holds, what is being prepared, and what comes next; empty where schedules say nothing for a week.
pub(super) fn line(decision: &Decision) -> String {
    let Some(scheduled) = &decision.schedule else { return String::new() };
    let now = decision.at;
    let floors = decision.terms.iter().filter_map(|term| match &term.why {
        Why::Schedule(found) => Some(floor_line(found, now)),
        _ => None,
    });
    let caps = scheduled.cap.iter().map(|found| {
        let calls = match found.on_request {
            _ if found.replicas > 0 || found.yields => "",
            OnRequest::Wake => ", a call starts one",
            OnRequest::Reject => ", calls are refused",
        };
        cap(found, now) + calls
    });
    let next = scheduled.next.iter().map(|next| format!("next: {}", transition(next, now)));
    floors.chain(caps).chain(next).collect::<Vec<_>>().join("; ")
}

fn floor_line(found: &Floor, now: Duration) -> String {
    match found.when {
        When::Open { .. } => format!("{}: {}", found.replicas, floor(found, now)),
        When::Prewarm { starts, .. } => {
            format!("{} → {}: {}", clock(&found.by, starts, now), found.replicas, prewarm(found))
        }
    }
}

fn prewarm(floor: &Floor) -> String {
    let lead = match floor.when {
        When::Open { .. } => String::new(),
        When::Prewarm { lead, .. } => match lead {
            Lead::Written(ahead) => format!(" (pre-warm, {} ahead)", span(ahead)),
            Lead::Measured(start) => format!(" (pre-warm, cold start p90 {})", span(start)),
            Lead::Assumed(start) => format!(" (pre-warm, cold start assumed {})", span(start)),
        },
    };
    let which = if floor.kind == FloorKind::OwnMin { "end of schedule" } else { "schedule" };
    format!("{which} \"{}\"{lead}", floor.by.name)
}

fn transition(next: &Transition, now: Duration) -> String {
    let Transition { at, before, after, by, edge } = next;
    let name = &by.name;
    let (raised, lowered) = (after.min > before.min, after.max < before.max);
    let change = match edge {
        Edge::Ends => format!("min {}, max {} after \"{name}\"", after.min, after.max),
        Edge::Begins if after.max == 0 => format!("off by \"{name}\""),
        Edge::Begins if after.min == after.max && lowered => format!("exactly {} by \"{name}\"", after.min),
        Edge::Begins if raised && lowered => format!("floor {}, cap {} by \"{name}\"", after.min, after.max),
        Edge::Begins if raised => format!("floor {} by \"{name}\"", after.min),
        Edge::Begins if lowered => format!("cap {} by \"{name}\"", after.max),
        Edge::Begins => format!("min {}, max {} by \"{name}\"", after.min, after.max),
    };
    let zone = by.timezone.iana_name().map(|zone| format!(" ({zone})")).unwrap_or_default();
    format!("{} {change}{zone}", clock(by, *at, now))
}

fn until_when(by: &By, until: Option<Duration>, now: Duration) -> String {
    until.map(|until| format!(" until {}", clock(by, until, now))).unwrap_or_default()
}

/// The time of day; with the day of the week where it is not within one day.
fn clock(by: &By, at: Duration, now: Duration) -> String {
    let form = match (at.abs_diff(now) < DAY, at.as_secs().is_multiple_of(60)) {
        (true, true) => "%H:%M",
        (true, false) => "%H:%M:%S",
        (false, _) => "%a %H:%M",
    };
    by.clock(at).strftime(form).to_string()
}
