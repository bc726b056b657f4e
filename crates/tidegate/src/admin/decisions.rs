//! `/api/models/{m}/decisions` and `…/why`: what was decided, and the reasons in words.

use std::{sync::Arc, time::Duration};

use autoscaler::{
    explain,
    fleet::Phase,
    log::{Entry, Filter, KEPT, Log, NoSuch, NotKept, Stood},
    observe::Observed,
};
use http::StatusCode;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{
    api::{Answer, bad_query, timestamp},
    moment::{FORMS, Query, moment},
};
use crate::serve::View;

/// Decisions listed where the query does not say.
const LISTED: usize = 50;
/// Within this time a time of day says enough.
const NEAR: Duration = Duration::from_secs(20 * 3600);

/// Puts a time in words as people here read it: the time of day, with the date where it is not near `now`.
fn clock(now: Duration) -> impl Fn(Duration) -> String {
    move |at| {
        let form = if at.abs_diff(now) < NEAR { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
        match timestamp(at) {
            Some(timestamp) => timestamp.to_zoned(TimeZone::system()).strftime(form).to_string(),
            None => format!("{at:?}"),
        }
    }
}

/// The newest first, of those that the query asks for.
pub(super) fn decisions(view: &View, query: &str) -> Answer {
    const KNOWN: [&str; 7] = ["n", "since", "until", "changes", "reason", "term", "limit"];
    let query = Query::parse(query, &KNOWN).map_err(bad_query)?;
    let wanted = match query.get("n") {
        None => LISTED,
        Some(n) => n.parse().map_err(|_| bad_query("n must be a number"))?,
    };
    let filter = filter(view, &query)?;
    let log = view.scaling().map(|deciding| deciding.handle.log.clone()).unwrap_or_default();
    let clock = clock(view.clock.now());
    let list: Vec<Value> =
        log.select(&filter, wanted.min(KEPT)).iter().map(|entry| decision(entry, &clock)).collect();
    Ok(json!({ "model": view.config.name, "oldest": oldest(&log), "decisions": list }))
}

/// When the oldest decision that is kept was made.
fn oldest(log: &Log) -> Option<String> {
    let at = log.recent(KEPT).last()?.decision.at;
    timestamp(at).map(|at| at.to_string())
}

fn filter(view: &View, query: &Query<'_>) -> Result<Filter, (StatusCode, String)> {
    let unknown = |error: NoSuch| bad_query(error.to_string());
    let time = |name| query.get(name).map(|text| time(view, name, text)).transpose();
    let changes = match query.get("changes") {
        None | Some("false") => false,
        Some("" | "true") => true,
        Some(_) => return Err(bad_query("changes must be true or false")),
    };
    Ok(Filter {
        since: time("since")?,
        until: time("until")?,
        changes,
        reason: query.get("reason").map(Filter::reason).transpose().map_err(unknown)?,
        term: query.get("term").map(Filter::term).transpose().map_err(unknown)?,
        limited: query.get("limit").map(Filter::limited).transpose().map_err(unknown)?,
    })
}

fn time(view: &View, name: &str, text: &str) -> Result<Duration, (StatusCode, String)> {
    let at = moment(text, view.clock.now(), &TimeZone::system());
    at.ok_or_else(|| bad_query(format!("{name} must be {FORMS}")))
}

fn decision(entry: &Entry, clock: &dyn Fn(Duration) -> String) -> Value {
    let told = entry.told();
    json!({
        "time": clock(told.at),
        "at": timestamp(told.at).map(|at| at.to_string()),
        "summary": explain::sentence(told),
        "text": explain::told(entry, clock),
        "decision": told,
        "outcome": entry.outcome,
        "observed": entry.observed.as_deref().map(|found| observed(found, told.at)),
    })
}

/// What a model that is only observed would have, and what it would have come to.
pub(super) fn observed(observed: &Observed, now: Duration) -> Value {
    let Observed { decision, actual, totals } = observed;
    let hours = |seconds: f64| seconds / 3600.0;
    json!({
        "replicas": decision.to,
        "actual_replicas": actual,
        "since": timestamp(totals.since).map(|at| at.to_string()),
        "seconds": totals.observed.as_secs_f64(),
        "replica_hours": hours(totals.replica_seconds),
        "actual_replica_hours": hours(totals.actual_replica_seconds),
        "requests": totals.arrivals,
        "within_slo": totals.within(),
        "predicted_requests": totals.predicted,
        "predicted_within_slo": totals.predicted_within(),
        "text": explain::observed(observed, &clock(now)),
    })
}

pub(super) fn why(view: &View, query: &str) -> Answer {
    let query = Query::parse(query, &["at"]).map_err(bad_query)?;
    let name = &view.config.name;
    let Some(deciding) = view.scaling() else { return Ok(json!({ "model": name, "text": undecided(view) })) };
    let log = &deciding.handle.log;
    let clock = clock(view.clock.now());
    let (stood, asked) = match query.get("at") {
        None => (log.latest().map(|entry| Stood { entry, until: None }).ok_or(NotKept::Nothing), None),
        Some(text) => {
            let at = time(view, "at", text)?;
            if at > view.clock.now() {
                return Err((StatusCode::NOT_FOUND, format!("{} is still to come", clock(at))));
            }
            (log.stood_at(at), Some(at))
        }
    };
    let stood = stood.map_err(|why| (StatusCode::NOT_FOUND, not_kept(why, &clock)))?;
    let entry = &stood.entry;
    let earlier: Vec<Arc<Entry>> =
        log.recent(KEPT).into_iter().filter(|earlier| earlier.decision.at <= entry.decision.at).collect();
    let mut text = explain::why(name, entry, &earlier, &clock);
    if asked.is_some() {
        text = format!("{text}\n{}", explain::stood(&stood, &clock));
    }
    let until = stood.until.and_then(timestamp).map(|at| at.to_string());
    let change = explain::turns(entry.told());
    Ok(json!({
        "model": name,
        "text": text,
        "decision": decision(entry, &clock),
        "change": change,
        "until": until,
    }))
}

/// Why there is nothing to tell of a time, and from when on there is.
fn not_kept(why: NotKept, clock: &dyn Fn(Duration) -> String) -> String {
    match why {
        NotKept::Nothing => "nothing was decided yet".to_owned(),
        NotKept::Earlier { first } => format!(
            "that is before this process, or its present configuration of the model, began to decide, at {}",
            clock(first)
        ),
        NotKept::Forgotten { oldest } => format!(
            "that is longer ago than is remembered: only the last {KEPT} decisions that differ are kept, since {}",
            clock(oldest)
        ),
    }
}

/// Why this process cannot tell how a number came about.
fn undecided(view: &View) -> String {
    let name = &view.config.name;
    let ready = view.replicas().iter().filter(|replica| replica.phase == Phase::Ready).count();
    match view.directive() {
        _ if !view.is_scaled() => {
            format!("{name} has fixed addresses, {ready} of them ready; nothing is scaled")
        }
        Some(directive) => format!(
            "{name}: {}\n  decided by {}, which can tell more; {ready} ready as seen from here",
            directive.why, directive.leader
        ),
        _ => format!("{name}: no leader is known here, nothing is decided; {ready} ready, and they serve"),
    }
}
