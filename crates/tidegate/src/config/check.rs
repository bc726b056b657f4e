//! What no value shows by itself: values that contradict each other, and values that are allowed and doubtful.

use std::{collections::HashMap, hash::Hash, net::SocketAddr, time::Duration};

use super::{
    Bounds,
    read::{TimeOfDay, Window},
    report::quoted,
    scalar::Auto,
    section::{Findings, Setting},
    yaml::Span,
};

/// Of two settings, the lower must not exceed the higher; the finding stands at one that the file has.
pub(super) fn at_most<T: PartialOrd>(
    found: &mut Findings,
    low: Option<&Setting<T>>,
    high: Option<&Setting<T>>,
) {
    let (Some(low), Some(high)) = (low, high) else { return };
    if low.value <= high.value {
        return;
    }
    let (at, relation, other) = explicit(low, "is more than", high, "is less than");
    let message = format!("{} {relation} {}", at.text, other.mention(&at.path));
    found.error(&at.path, at.span, message, "");
}

/// The admin API has no authentication, so whoever reaches it may use it.
pub(super) fn admin(found: &mut Findings, admin: Option<&Setting<SocketAddr>>, allowed: bool) {
    let Some(admin) = admin else { return };
    if !admin.value.ip().is_loopback() && !allowed {
        let message =
            format!("{} is open to other machines, and the admin API has no authentication", admin.text);
        let hint = format!("write 127.0.0.1:{}, or add allowInsecureAdmin: true", admin.value.port());
        found.error(&admin.path, admin.span, message, hint);
    }
}

/// No value may be there twice.
pub(super) fn distinct<'s, T: Eq + Hash + 's>(
    found: &mut Findings,
    settings: impl Iterator<Item = &'s Setting<T>>,
) {
    let mut first: HashMap<&T, &Setting<T>> = HashMap::new();
    for setting in settings {
        if let Some(earlier) = first.get(&setting.value) {
            // Point at whichever stands in the file.
            let (at, other) = if setting.span.is_some() { (setting, *earlier) } else { (*earlier, setting) };
            let message = format!("{} is taken by {}", quoted(&at.text), other.mention(&at.path));
            found.error(&at.path, at.span, message, "write another");
        } else {
            first.insert(&setting.value, setting);
        }
    }
}

/// Rows that wait as long as their whole objective can only miss it.
pub(super) fn hold_within_slo(
    found: &mut Findings,
    hold: Option<&Setting<Duration>>,
    slo: Option<&Setting<Duration>>,
) {
    let (Some(hold), Some(slo)) = (hold, slo) else { return };
    let (at, text) =
        if hold.span.is_some() { (hold, hold.text.clone()) } else { (slo, hold.mention(&slo.path)) };
    if hold.value >= slo.value {
        let message = format!("rows are held {text}, which leaves nothing of {}", slo.mention(&at.path));
        found.error(&at.path, at.span, message, hold_hint(slo.value));
    } else if hold.value * 2 >= slo.value {
        let percent = 100 * hold.value.as_nanos() / slo.value.as_nanos();
        let message = format!(
            "{text} is {percent} % of {}: at low traffic most of it is spent waiting",
            slo.mention(&at.path)
        );
        found.warning(&at.path, at.span, message, hold_hint(slo.value));
    }
}

fn hold_hint(slo: Duration) -> String {
    let tenth = slo / 10;
    format!("try at most {tenth:?}, or batching: auto")
}

/// An objective beyond the deadline is never missed by an answer: those calls have none.
pub(super) fn slo_within_deadline(
    found: &mut Findings,
    slo: Option<&Setting<Duration>>,
    deadline: Option<&Setting<Duration>>,
) {
    let (Some(slo), Some(deadline)) = (slo, deadline) else { return };
    if slo.value > deadline.value {
        let (at, relation, other) = explicit(slo, "is beyond", deadline, "is short of");
        let other = other.mention(&at.path);
        let message = format!("{} {relation} {other}: late calls end before they have an answer", at.text);
        found.warning(&at.path, at.span, message, "");
    }
}

/// Waiting longer for a replica than any call may last is a promise that cannot be kept.
pub(super) fn cold_start_within_deadline(
    found: &mut Findings,
    timeout: Option<&Setting<Duration>>,
    deadline: Option<&Setting<Duration>>,
) {
    let (Some(timeout), Some(deadline)) = (timeout, deadline) else { return };
    if timeout.value > deadline.value {
        let (at, relation, other) = explicit(timeout, "is beyond", deadline, "is short of");
        let other = other.mention(&at.path);
        let message =
            format!("{} {relation} {other}: no call waits that long for a replica to start", at.text);
        found.warning(&at.path, at.span, message, "raise deadline.max, or lower coldStartTimeout");
    }
}

/// Of two settings, the one that the file has, how it relates to the other, and the other.
fn explicit<'s, T>(
    first: &'s Setting<T>,
    relation: &'static str,
    second: &'s Setting<T>,
    inverse: &'static str,
) -> (&'s Setting<T>, &'static str, &'s Setting<T>) {
    if first.span.is_some() { (first, relation, second) } else { (second, inverse, first) }
}

/// A replica learns its port from its command line or its environment.
pub(super) fn port(
    found: &mut Findings,
    command: &[Setting<String>],
    env: &[(Setting<String>, String)],
    place: Option<Span>,
) {
    let Some((program, arguments)) = command.split_first() else { return };
    if program.value.is_empty() {
        found.error(&program.path, program.span, "names no program".to_owned(), "write its name or path");
    }
    let mut texts = arguments.iter().map(|argument| &argument.value).chain(env.iter().map(|(_, text)| text));
    if !texts.any(|text| text.contains("{port}")) {
        let path = program.path.trim_end_matches("[0]");
        let message = "{port} is missing: replicas would not know where to listen".to_owned();
        found.error(path, place, message, "add an argument with \"{port}\", like --port, \"{port}\"");
    }
}

pub(super) fn environment(found: &mut Findings, env: &[(Setting<String>, String)]) {
    for (name, value) in env {
        let is_start = |c: char| c.is_ascii_alphabetic() || c == '_';
        let is_name =
            name.value.starts_with(is_start) && name.value.chars().all(|c| is_start(c) || c.is_ascii_digit());
        if !is_name {
            let message = "is no name of an environment variable".to_owned();
            found.error(&name.path, name.span, message, "write letters, digits and _");
        }
        if value.contains("${") {
            let message = "is passed on as it stands: variables are not expanded here".to_owned();
            found.warning(&name.path, name.span, message, "replicas inherit the gateway's environment");
        } else if is_secret(&name.value) && !value.is_empty() {
            let message = "looks like a secret in plain text".to_owned();
            found.warning(
                &name.path,
                name.span,
                message,
                "leave it out: replicas inherit the gateway's environment",
            );
        }
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "ACCESS_KEY", "PRIVATE_KEY"]
        .iter()
        .any(|word| name.ends_with(word))
}

/// A window that would be empty, or begin at the end of a day.
pub(super) fn window(
    found: &mut Findings,
    from: Option<&Setting<TimeOfDay>>,
    to: Option<&Setting<TimeOfDay>>,
) {
    let (Some(from), Some(to)) = (from, to) else { return };
    if from.value.0 == to.value.0 {
        let message = format!("{} is when the window starts: it would be empty", to.text);
        found.error(&to.path, to.span, message, "for the whole day write 00:00 and 24:00");
    } else if i32::from(from.value.0) == DAY {
        let message = "24:00 is the end of a day, not a start".to_owned();
        found.error(&from.path, from.span, message, "write 00:00 and the next day");
    }
}

/// Replicas that are ready after their window has ended were started for nothing.
pub(super) fn window_outlasts_start(
    found: &mut Findings,
    from: Option<&Setting<TimeOfDay>>,
    to: Option<&Setting<TimeOfDay>>,
    start: Option<Duration>,
) {
    let (Some(from), Some(to), Some(start)) = (from, to, start) else { return };
    let minutes = (i32::from(to.value.0) - i32::from(from.value.0)).rem_euclid(DAY);
    let length = Duration::from_secs(60 * u64::try_from(minutes).unwrap_or(0));
    if !length.is_zero() && length < start {
        let message =
            format!("{} ends the window after {length:?}, and a start is assumed to take {start:?}", to.text);
        found.warning(&to.path, to.span, message, "let it last longer: one late replica is none");
    }
}

/// A floor that is asked for too late begins without its replicas.
pub(super) fn prewarm_covers_start(
    found: &mut Findings,
    prewarm: Option<&Setting<Auto<Duration>>>,
    start: Option<Duration>,
) {
    let (Some(prewarm), Some(start)) = (prewarm, start) else { return };
    if let Auto::Fixed(ahead) = prewarm.value
        && ahead < start
    {
        let message = format!(
            "{} is less than a start is assumed to take, {start:?}: the window would begin without its replicas",
            prewarm.text
        );
        found.warning(&prewarm.path, prewarm.span, message, "write auto: starts are measured");
    }
}

/// A floor that the model has anyway.
pub(super) fn floor_changes_something(
    found: &mut Findings,
    floor: Option<&Setting<u32>>,
    min: Option<&Setting<u32>>,
) {
    let (Some(floor), Some(min)) = (floor, min) else { return };
    if floor.value <= min.value {
        let message = format!("{} changes nothing beside {}", floor.text, min.mention(&floor.path));
        found.warning(&floor.path, floor.span, message, "remove it, or write more");
    }
}

/// A window that allows none, and has calls refused, in spite of the model's floor.
pub(super) fn nothing_overrules_min(
    found: &mut Findings,
    most: Option<&Setting<u32>>,
    min: Option<&Setting<u32>>,
) {
    let (Some(most), Some(min)) = (most, min) else { return };
    if most.value == 0 && min.value > 0 {
        let message = format!(
            "0 is stronger than {}: while the window is open the model is off, and calls are refused",
            min.mention(&most.path)
        );
        found.warning(&most.path, most.span, message, "");
    }
}

/// Where two windows overlap, no floor may exceed a cap. Windows of different zones shift against each other with
/// summer time, and are not compared.
pub(super) fn floors_under_caps(found: &mut Findings, windows: &[Window]) {
    for (index, window) in windows.iter().enumerate() {
        let Bounds::Between { floor: Some(floor), .. } = window.schedule.bounds else { continue };
        for (_, other) in windows.iter().enumerate().filter(|(other, _)| *other != index) {
            let Bounds::Between { cap: Some(cap), .. } = other.schedule.bounds else { continue };
            if floor > cap && overlap(window, other) {
                let line = other.span.map(Span::mention).unwrap_or_default();
                let message = format!(
                    "min {floor} is more than max {cap} of {}{line}, and both apply at times",
                    quoted(&other.schedule.name)
                );
                found.error(&window.path, window.span, message, "let the windows not overlap");
            }
        }
    }
}

fn overlap(a: &Window, b: &Window) -> bool {
    if a.schedule.timezone != b.schedule.timezone {
        return false;
    }
    let starts = |window: &Window| -> Vec<(i32, i32)> {
        let schedule = &window.schedule;
        let (from, to) = (i32::from(schedule.from), i32::from(schedule.to));
        let length = if to > from { to - from } else { to + DAY - from };
        let day = |weekday: &jiff::civil::Weekday| i32::from(weekday.to_monday_zero_offset()) * DAY;
        schedule.days.iter().map(|weekday| (day(weekday) + from, length)).collect()
    };
    let (a, b) = (starts(a), starts(b));
    a.iter().any(|&(start, length)| {
        b.iter().any(|&(other, other_length)| {
            (other - start).rem_euclid(7 * DAY) < length || (start - other).rem_euclid(7 * DAY) < other_length
        })
    })
}

/// Minutes.
const DAY: i32 = 24 * 60;
