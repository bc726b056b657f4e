//! A decision in words: one true sentence with its arithmetic, and the whole picture in a few lines.

mod observed;
mod schedule;
mod turns;
mod words;

use std::{fmt::Write as _, sync::Arc, time::Duration};

pub use self::turns::{Turns, turns};
use self::words::{count, quantity, span};
use crate::{
    capacity::{Basis, Learned, Unit},
    decide::{Decision, Limit, LimitKind, Reason, Zero},
    demand::{
        Backlog, DRAIN_SECONDS, Envelope, Measure, Occupancy, PerReplica, Season, Term, Waiting, Why, binding,
    },
    log::{Entry, Outcome, Stood},
    observe::Observed,
    policy::{Objective, Slo},
    snapshot::Platform,
};

/// Transitions that the whole picture ends with.
const LAST: usize = 3;
const ROLLOUT: &str = "replicas are being exchanged for another revision";
const CANNOT_BE_SET: &str = "the number cannot be set";

/// Why the wish is what it is, in one sentence.
#[must_use]
pub fn sentence(decision: &Decision) -> String {
    reasoned(decision) + &obstacles(decision)
}

/// The same, and what became of it where it was not carried out. `clock` puts a time in words.
#[must_use]
pub fn told(entry: &Entry, clock: &dyn Fn(Duration) -> String) -> String {
    sentence(entry.told()) + &outcome(&entry.outcome, clock)
}

fn reasoned(decision: &Decision) -> String {
    let Decision { from, to, target, bounds, .. } = decision;
    match decision.reason {
        Reason::Steady if *to == 0 => {
            format!("0: {}", schedule::off(decision).unwrap_or_else(|| "nobody asks".to_owned()))
        }
        Reason::Steady if target < to => format!("{to}: never fewer than {}", bounds.min),
        Reason::Steady => format!("{to}: {}", because(decision)),
        Reason::Held => format!("want {target}, keep {to}: {}", limiting(decision)),
        Reason::Limited => {
            format!("want {target}, have {}: {}; {}", had(decision), limiting(decision), because(decision))
        }
        Reason::Override => {
            let want = decision.limits.last().map_or(*target, |limit| limit.before);
            let kept = if want < *to { "keep" } else { "have" };
            format!("want {want}, {kept} {to}: {}", limiting(decision))
        }
        Reason::MinReplicas => format!("{from}→{to}: never fewer than {}", bounds.min),
        Reason::MaxReplicas => format!("{from}→{to}: never more than {}", bounds.max),
        Reason::ScheduleFloor | Reason::Season => {
            format!("{from}→{to}: {}{}", because(decision), so_far(decision))
        }
        Reason::ScheduleCap => format!("{from}→{to}: {}", schedule::limit(decision)),
        Reason::Replacement => {
            let failed = decision.inputs.fleet.failed;
            format!(
                "{from}→{to}: one more, because {} not start",
                count(failed, "replica does", "replicas do")
            )
        }
        Reason::Unschedulable => format!("{from}→{to}: {}", limiting(decision)),
        Reason::Idle => format!("{from}→{to}: {}", idle(decision.zero)),
        Reason::LowLoad => format!("{from}→{to}: {}{}", because(decision), so_far(decision)),
        Reason::FirstRequest => {
            let start = span(decision.inputs.cold_start);
            format!(
                "{from}→{to}: first request, {}; a start takes up to {start}{}{}",
                because(decision),
                so_far(decision),
                ended(decision)
            )
        }
        Reason::Backlog | Reason::Load => format!("{from}→{to}: {}{}", because(decision), so_far(decision)),
    }
}

/// State, load, capacity, decision, limits, what comes next and the last transitions, one to a line. `log`:
/// newest first. `clock` puts a time in words.
#[must_use]
pub fn why(model: &str, latest: &Entry, log: &[Arc<Entry>], clock: &dyn Fn(Duration) -> String) -> String {
    let decision = latest.told();
    let mut lines = vec![
        state(model, latest),
        line("load", &load(&latest.decision)),
        line("capacity", &capacity(decision)),
        line("terms", &terms(decision)),
        line("decision", &told(latest, clock)),
    ];
    lines.extend(decision.limits.iter().map(|limit| {
        let text = format!("{} → {}: {}", limit.before, limit.after, in_words(limit, decision));
        line("limit", &text)
    }));
    lines.extend(turns(decision).map(|turns| line("change", &turns.text)));
    lines.push(line("next", &next(decision, clock)));
    let scheduled = schedule::line(decision);
    if !scheduled.is_empty() {
        lines.push(line("schedule", &scheduled));
    }
    lines.extend(latest.observed.iter().map(|observed| line("observe", &observed::line(observed, clock))));
    let last = transitions(log, clock);
    if !last.is_empty() {
        lines.push(line("last", &last));
    }
    lines.join("\n")
}

/// What observing a model has come to: the number it would have, what that would have cost, and what it would have
/// kept, next to what was. `clock` puts a time in words.
#[must_use]
pub fn observed(observed: &Observed, clock: &dyn Fn(Duration) -> String) -> String {
    observed::line(observed, clock)
}

/// When what stood at a time was decided, and until when it stood: a line to follow those of [`why`].
#[must_use]
pub fn stood(stood: &Stood, clock: &dyn Fn(Duration) -> String) -> String {
    let since = clock(stood.entry.decision.at);
    let until = match stood.until {
        Some(until) => format!("it stood until {}", clock(until)),
        None => "nothing else came since".to_owned(),
    };
    line("decided", &format!("at {since}, with the numbers of then; {until}"))
}

fn line(label: &str, text: &str) -> String {
    format!("  {label:<9} {text}")
}

fn state(model: &str, entry: &Entry) -> String {
    let decision = &entry.decision;
    let fleet = &decision.inputs.fleet;
    let bounds = decision.bounds;
    let ready = count(fleet.ready, "ready replica", "ready replicas");
    let want = if entry.observed.is_some() { "would want" } else { "want" };
    let mut text =
        format!("{model} has {ready} ({want} {}, min {}, max {})", entry.told().to, bounds.min, bounds.max);
    let others = [
        (fleet.starting, "starting"),
        (fleet.unschedulable, "without a place to run"),
        (fleet.failed, "not starting"),
        (fleet.missing, "not created"),
        (fleet.draining, "leaving"),
    ];
    for (n, what) in others.iter().filter(|(n, _)| *n > 0) {
        let _ = write!(text, ", {n} {what}");
    }
    if let Some(eta) = fleet.first_ready {
        let _ = write!(text, ", ready in about {}", span(eta.saturating_sub(decision.at)));
    }
    if let Some(trouble) = &fleet.trouble {
        let _ = write!(text, ": {trouble}");
    }
    text + &platform(decision)
}

/// What the platform says besides the number, if anything.
fn platform(decision: &Decision) -> String {
    let Platform { rival, rollout, unheard, trouble, .. } = &decision.inputs.platform;
    let facts = [
        rival.as_ref().map(|rival| format!("{rival} scales it too")),
        rollout.then(|| ROLLOUT.to_owned()),
        unheard.map(|age| unheard_for("the platform", age)),
        trouble.as_ref().map(|trouble| format!("{CANNOT_BE_SET}: {trouble}")),
    ];
    facts.into_iter().flatten().map(|fact| format!("; {fact}")).collect()
}

fn load(decision: &Decision) -> String {
    let (load, health) = (&decision.inputs.load, &decision.inputs.health);
    let unit = unit(decision);
    let heard = match health.newest {
        Some(age) => {
            format!(
                "{}, newest {} ago",
                count(health.fresh, "gateway reporting", "gateways reporting"),
                span(age)
            )
        }
        None => "no gateway has reported".to_owned(),
    };
    let (rate, in_flight, queued) = (quantity(load.rate), quantity(load.in_flight), quantity(load.queued));
    let oldest = load.oldest.map(|age| format!(", the oldest for {}", span(age))).unwrap_or_default();
    let unit = if decision.inputs.capacity.unit == Unit::Streams { "requests" } else { unit };
    format!("{rate} {unit}/s, {in_flight} in flight, {queued} waiting{oldest} ({heard})")
}

fn capacity(decision: &Decision) -> String {
    let capacity = &decision.inputs.capacity;
    let (slots, unit) = (quantity(capacity.slots), unit(decision));
    match &capacity.basis {
        Basis::Learned(learned) if capacity.unit == Unit::Streams => format!(
            "{}, each {} long (learned from {} streams); SLO {}{}",
            bearing(learned, 1, decision),
            span(learned.service),
            quantity(learned.samples as f64),
            slo_in_words(&decision.inputs.slo),
            if learned.patience.is_zero() { "; a single stream is slower than the SLO" } else { "" },
        ),
        Basis::Assumed => {
            format!("1 replica ≈ {slots} {unit} at a time (assumed until 200 calls were measured)")
        }
        Basis::Learned(learned) => format!(
            "{}, {slots} at a time in {} (learned from {} calls){}",
            bearing(learned, 1, decision),
            span(learned.service),
            quantity(learned.samples as f64),
            if learned.patience.is_zero() { "; a single call takes longer than the SLO" } else { "" },
        ),
    }
}

fn terms(decision: &Decision) -> String {
    let in_words = |term: &Term| match &term.why {
        Why::Season(season) if season.shadow => {
            format!("season {} (shadow: {} by {} so far)", term.replicas, season.replicas, days(season))
        }
        why => format!("{} {}", why.name(), term.replicas),
    };
    decision.terms.iter().map(in_words).collect::<Vec<_>>().join(" · ")
}

fn outcome(outcome: &Outcome, clock: &dyn Fn(Duration) -> String) -> String {
    match outcome {
        Outcome::Unchanged | Outcome::Applied => String::new(),
        Outcome::Observed => " (observed only, nothing is changed)".to_owned(),
        Outcome::Failed(error) => format!(" (not written: {error})"),
        Outcome::Kept(words) => format!(" (not written: {words})"),
        Outcome::ConflictingAutoscaler(rival) => {
            format!(" (not written, ConflictingAutoscaler: {rival} scales it too)")
        }
        Outcome::BackingOff(until) => {
            format!(" (not written: the fleet refused; again at {})", clock(*until))
        }
    }
}

fn next(decision: &Decision, clock: &dyn Fn(Duration) -> String) -> String {
    match decision.zero {
        Zero::Never => format!("never to zero: at least {}", decision.bounds.min),
        Zero::Already | Zero::Due { .. } | Zero::Off if decision.to == 0 => {
            schedule::asleep(decision).unwrap_or_else(|| "starts with the next request".to_owned())
        }
        Zero::Already => "starts now".to_owned(),
        Zero::Busy => "to zero only once nothing waits or runs".to_owned(),
        Zero::Starting => "to zero not before a replica was ready".to_owned(),
        Zero::Expected => "not to zero: on other days somebody came at about this time".to_owned(),
        Zero::At { at } => format!("to zero at {} if nobody comes", clock(at)),
        Zero::Due { .. } | Zero::Off => format!("to zero; blocked: {}", limiting(decision)),
    }
}

fn transitions(log: &[Arc<Entry>], clock: &dyn Fn(Duration) -> String) -> String {
    let moved = |entry: &&Arc<Entry>| {
        let done = entry.outcome == Outcome::Applied || entry.observed.is_some();
        done && entry.told().from != entry.told().to
    };
    let texts: Vec<_> = log
        .iter()
        .filter(moved)
        .take(LAST)
        .map(|entry| format!("{} {}", clock(entry.decision.at), sentence(entry.told())))
        .collect();
    texts.join(" · ")
}

/// The arithmetic of the term that calls for most.
fn because(decision: &Decision) -> String {
    match binding(&decision.terms) {
        None => "nothing calls for a replica".to_owned(),
        Some(Term { replicas, why }) => match why {
            Why::Envelope(envelope) => envelope_in_words(envelope, *replicas, decision),
            Why::Backlog(backlog) => backlog_in_words(backlog, decision),
            Why::Occupancy(occupancy) => occupancy_in_words(occupancy, decision),
            Why::Waiting(waiting) => waiting_in_words(waiting, decision),
            Why::Warm(warm) => format!("idle for less than {}", span(warm.idle_after)),
            Why::Schedule(floor) => schedule::floor(floor, decision.at),
            Why::Season(season) => season_in_words(season, decision),
        },
    }
}

fn envelope_in_words(envelope: &Envelope, replicas: u32, decision: &Decision) -> String {
    let (peak, unit, past) = (quantity(envelope.peak), unit(decision), span(envelope.horizon));
    match (envelope.measure, &decision.inputs.capacity.basis) {
        (Measure::InFlight, _) | (_, Basis::Assumed) => {
            let slots = quantity(decision.inputs.capacity.slots);
            format!("peak of {peak} {unit} in flight within {past} ÷ {slots} per replica")
        }
        (Measure::Rate, Basis::Learned(learned)) => {
            let one = bearing(learned, replicas, decision);
            format!("what came within {past}, served at {peak} {unit}/s, needs {replicas} ({one})")
        }
        (Measure::SparseRate, Basis::Learned(learned)) => {
            let one = bearing(learned, replicas, decision);
            format!("few requests, at most {peak} {unit}/s likely, need {replicas} ({one})")
        }
    }
}

fn backlog_in_words(backlog: &Backlog, decision: &Decision) -> String {
    let (queued, in_flight, unit) = (quantity(backlog.queued), quantity(backlog.in_flight), unit(decision));
    match backlog.per_replica {
        PerReplica::Room(room) if backlog.in_flight == 0.0 => {
            format!("queue {queued} ÷ {} per replica", quantity(room))
        }
        PerReplica::Room(room) => {
            format!("(queue {queued} + {in_flight} in flight) ÷ {} per replica", quantity(room))
        }
        PerReplica::Rate(rate) => format!(
            "({} {unit}/s + {} waiting by {} from now ÷ {} s) ÷ {} {unit}/s per replica",
            quantity(backlog.rate),
            quantity(backlog.projected),
            span(decision.inputs.cold_start),
            quantity(DRAIN_SECONDS),
            quantity(rate),
        ),
    }
}

fn season_in_words(season: &Season, decision: &Decision) -> String {
    let Season { rate, replicas, at, .. } = season;
    let (rate, unit, ahead) = (quantity(*rate), unit(decision), span(at.saturating_sub(decision.at)));
    let one = match &decision.inputs.capacity.basis {
        Basis::Learned(learned) => format!(" ({})", bearing(learned, *replicas, decision)),
        Basis::Assumed => String::new(),
    };
    let days = days(season);
    format!("{ahead} from now {rate} {unit}/s had to be served on {days} before, which needs {replicas}{one}")
}

fn days(season: &Season) -> String {
    count(season.days, "day", "days")
}

fn occupancy_in_words(occupancy: &Occupancy, decision: &Decision) -> String {
    let Occupancy { in_flight, queued, room } = *occupancy;
    let waiting = if queued > 0.0 { format!(" and {} waiting", quantity(queued)) } else { String::new() };
    format!(
        "{} streams in flight{waiting}, {} per replica{}",
        quantity(in_flight),
        quantity(room),
        pace_in_words(decision)
    )
}

/// Where the number of streams per replica comes from.
fn pace_in_words(decision: &Decision) -> String {
    match (&decision.inputs.slo, &decision.inputs.capacity.basis) {
        (Slo::Chat { tpot, .. }, Basis::Learned(_)) => format!(" at TPOT {}", objective_in_words(tpot)),
        _ => " (assumed)".to_owned(),
    }
}

fn waiting_in_words(waiting: &Waiting, decision: &Decision) -> String {
    if waiting.queued + waiting.in_flight > 0.0 {
        let (queued, in_flight) = (quantity(waiting.queued), quantity(waiting.in_flight));
        format!("{queued} waiting and {in_flight} in flight ({})", unit(decision))
    } else {
        "a request came and did not stay".to_owned()
    }
}

/// What `n` replicas bear: full ones answer at their rate, but those who wait for them miss the SLO.
fn bearing(learned: &Learned, n: u32, decision: &Decision) -> String {
    let inputs = &decision.inputs;
    let (slots, unit, full) = (inputs.capacity.slots, unit(decision), quantity(learned.rate));
    if inputs.capacity.unit == Unit::Streams {
        let slots = quantity(slots);
        return format!("1 replica ≈ {slots} streams{}, {full} requests/s", pace_in_words(decision));
    }
    if learned.patience.is_zero() {
        return format!("1 replica ≈ {full} {unit}/s when full");
    }
    let n = n.max(1);
    let rate = learned.rate_of(slots, n, inputs.slo.response().percentile);
    let (replicas, each) = (count(n, "replica", "replicas"), if n == 1 { "" } else { " each" });
    let slo = slo_in_words(&inputs.slo);
    format!("{replicas} ≈ {} {unit}/s at {slo}, {full}{each} when full", quantity(rate))
}

fn slo_in_words(slo: &Slo) -> String {
    match slo {
        Slo::Latency(whole) => objective_in_words(whole),
        Slo::Chat { ttft, tpot } => {
            format!("TTFT {} and TPOT {}", objective_in_words(ttft), objective_in_words(tpot))
        }
    }
}

fn objective_in_words(objective: &Objective) -> String {
    // One decimal is shown only where there is one: p99, p99.9.
    format!("p{} {}", (objective.percentile * 1000.0).round() / 10.0, span(objective.target))
}

fn unit(decision: &Decision) -> &'static str {
    match decision.inputs.capacity.unit {
        Unit::Requests => "requests",
        Unit::Rows => "rows",
        Unit::Streams => "streams",
    }
}

fn idle(zero: Zero) -> String {
    match zero {
        Zero::Due { idle_after } => format!("idle for {}", span(idle_after)),
        _ => "idle".to_owned(),
    }
}

/// What stands between the wish and its fulfilment, besides limits.
fn obstacles(decision: &Decision) -> String {
    let Decision { from, to, inputs, limits, .. } = decision;
    let mut text = String::new();
    let missing = inputs.fleet.missing;
    if missing > 0 && !limits.iter().any(|limit| matches!(limit.kind, LimitKind::NotCreated { .. })) {
        let _ = write!(text, "; want {from}, have {}: {missing} not created", from.saturating_sub(missing));
    }
    if let Some(trouble) = inputs.platform.trouble.as_ref().filter(|_| from != to) {
        let _ = write!(text, "; {CANNOT_BE_SET}: {trouble}");
    }
    text
}

/// That a request has overcome what somebody else had set.
fn ended(decision: &Decision) -> String {
    let ended = decision.limits.iter().find(|limit| matches!(limit.kind, LimitKind::OverrideEnded { .. }));
    ended.map(|limit| format!("; {}", in_words(limit, decision))).unwrap_or_default()
}

/// The limit that decided last.
fn limiting(decision: &Decision) -> String {
    let mut limits =
        decision.limits.iter().filter(|limit| !matches!(limit.kind, LimitKind::OverrideEnded { .. }));
    limits.next_back().map_or_else(|| "a limit".to_owned(), |limit| in_words(limit, decision))
}

/// How many of those that are asked for are ready.
fn had(decision: &Decision) -> String {
    let (ready, to) = (decision.inputs.fleet.ready, decision.to);
    if ready < to { format!("{ready} of {to}") } else { to.to_string() }
}

/// What kept a change from going all the way.
fn so_far(decision: &Decision) -> String {
    if decision.to == decision.target {
        return String::new();
    }
    format!("; {} called for, {}", decision.target, limiting(decision))
}

fn in_words(limit: &Limit, decision: &Decision) -> String {
    let from_now = |at: Duration| span(at.saturating_sub(decision.at));
    let with = |trouble: &Option<Arc<str>>| trouble.as_ref().map(|t| format!(" ({t})")).unwrap_or_default();
    match &limit.kind {
        LimitKind::Min => format!("never fewer than {}", limit.after),
        LimitKind::Max => format!("never more than {}", limit.after),
        LimitKind::ScheduleCap => schedule::limit(decision),
        LimitKind::UpPace => "at most 4 more, or twice as many, in 15 s".to_owned(),
        LimitKind::Degraded { failed, trouble } => {
            format!("{} not start{}", count(*failed, "replica does", "replicas do"), with(trouble))
        }
        LimitKind::Unschedulable { pending, trouble } => {
            format!("{pending} pending without a place to run{}", with(trouble))
        }
        LimitKind::NotCreated { missing } => format!("{missing} of {} not created", limit.after),
        LimitKind::DownWindow { window } => {
            format!("the last {} called for {}", span(*window), limit.after)
        }
        LimitKind::DownSpacing { until } => format!("next step down in {}", from_now(*until)),
        LimitKind::DownStep => "at most a quarter of the replicas, or one, goes at a step".to_owned(),
        LimitKind::Consolidation => {
            let free = match decision.inputs.capacity.basis {
                Basis::Assumed => "",
                Basis::Learned(_) => " and a fifth of their room free",
            };
            format!("{} would not hold the SLO with a tenth more load{free}", limit.before)
        }
        LimitKind::Stale { gateway, age } => unheard_for(gateway, *age),
        LimitKind::NoReports => "no gateway has reported".to_owned(),
        LimitKind::Young { until } => format!("history is long enough in {}", from_now(*until)),
        LimitKind::Waiting => "a request waits for a replica to start".to_owned(),
        LimitKind::SloBurning { misses, arrivals } => format!(
            "{} of {} requests missed the SLO in the last minute",
            quantity(*misses),
            quantity(*arrivals)
        ),
        LimitKind::Rollout => ROLLOUT.to_owned(),
        LimitKind::Unheard { age } => unheard_for("the platform", *age),
        LimitKind::HeardAgain { until } => {
            format!("the platform was away; all must be heard for another {}", from_now(*until))
        }
        LimitKind::Override { by, from, until } => {
            let (to, left) = (limit.after, from_now(*until));
            format!("{by} set it from {from} to {to}, which stands for another {left}")
        }
        LimitKind::OverrideEnded { by } => format!("that ends the {} that {by} had set", limit.before),
    }
}

fn unheard_for(whom: &str, age: Duration) -> String {
    format!("{whom} was not heard for {}", span(age))
}
