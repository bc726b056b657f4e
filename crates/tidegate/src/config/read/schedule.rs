//! Weekly windows of a model's scaling.

use std::time::Duration;

use jiff::{civil::Weekday, tz::TimeZone};

use crate::config::{
    Bounds, OnRequest, Schedule, check,
    guess::guess,
    keys::Kind,
    report::quoted,
    scalar::{Auto, Choice, Complaint, FromScalar, formed},
    section::{Findings, Section, Setting},
    yaml::{Scalar, Span},
};

/// What the model says for all times, which windows change.
pub(super) struct Own<'s> {
    pub(super) min: Option<&'s Setting<u32>>,
    pub(super) max: Option<&'s Setting<u32>>,
    /// How long a start is assumed to take, where that is long enough to be worth a word.
    pub(super) start: Option<Duration>,
}

/// A window, and where it stands.
pub(in crate::config) struct Window {
    pub(in crate::config) schedule: Schedule,
    pub(in crate::config) path: String,
    pub(in crate::config) span: Option<Span>,
}

pub(super) fn all(found: &mut Findings, scaling: &Section<'_>, own: &Own<'_>) -> Option<Vec<Schedule>> {
    let sections = found.sections(scaling, "schedules");
    let mut names = Vec::new();
    let mut windows = Vec::new();
    let mut complete = true;
    for section in sections {
        let name = found.get::<String>(&section, "name");
        match one(found, &section, name.as_ref(), own) {
            Some(schedule) => {
                windows.push(Window { schedule, path: section.path.clone(), span: section.span })
            }
            None => complete = false,
        }
        names.extend(name);
    }
    check::distinct(found, names.iter());
    check::floors_under_caps(found, &windows);
    complete.then(|| windows.into_iter().map(|window| window.schedule).collect())
}

fn one(
    found: &mut Findings,
    section: &Section<'_>,
    name: Option<&Setting<String>>,
    own: &Own<'_>,
) -> Option<Schedule> {
    let timezone = found.get::<Zone>(section, "timezone");
    let days = found.list::<Day>(section, "days");
    let from = found.get::<TimeOfDay>(section, "from");
    let to = found.get::<TimeOfDay>(section, "to");
    check::window(found, from.as_ref(), to.as_ref());
    let sides = Sides::of(found, section, own.max);
    let bounds = bounds(found, section, &sides);
    let on_request = found.get::<OnRequestWord>(section, "onRequest");
    let prewarm = found.get::<Auto<Duration>>(section, "prewarm");
    if sides.ask_for_replicas() {
        check::window_outlasts_start(found, from.as_ref(), to.as_ref(), own.start);
        check::prewarm_covers_start(found, prewarm.as_ref(), own.start);
    }
    check::floor_changes_something(found, sides.floor.as_ref(), own.min);
    if on_request.as_ref().is_some_and(|setting| setting.value.0 == OnRequest::Reject) {
        check::nothing_overrules_min(found, sides.cap.as_ref().or(sides.pin.as_ref()), own.min);
    }
    Some(Schedule {
        name: name?.value.as_str().into(),
        timezone: timezone?.value.0,
        days: days.into_iter().map(|day| day.value.0).collect(),
        from: from?.value.0,
        to: to?.value.0,
        bounds: bounds?,
        on_request: on_request?.value.0,
        prewarm: prewarm?.value.fixed(),
    })
}

/// The bounds of a window, as written.
struct Sides {
    floor: Option<Setting<u32>>,
    cap: Option<Setting<u32>>,
    pin: Option<Setting<u32>>,
}

impl Sides {
    fn of(found: &mut Findings, section: &Section<'_>, max: Option<&Setting<u32>>) -> Self {
        let floor = found.get::<u32>(section, "min");
        let cap = found.get::<u32>(section, "max");
        let pin = found.get::<u32>(section, "replicas");
        check::at_most(found, floor.as_ref(), cap.as_ref());
        check::at_most(found, floor.as_ref(), max);
        check::at_most(found, pin.as_ref(), max);
        Self { floor, cap, pin }
    }

    fn ask_for_replicas(&self) -> bool {
        [&self.floor, &self.pin].into_iter().flatten().any(|setting| setting.value > 0)
    }
}

fn bounds(found: &mut Findings, section: &Section<'_>, sides: &Sides) -> Option<Bounds> {
    let Sides { floor, cap, pin } = sides;
    let bounded = section.has("min") || section.has("max");
    match (section.has("replicas"), bounded) {
        (true, true) => {
            let message = "a pin makes min and max meaningless".to_owned();
            found.error(
                &section.path_of("replicas"),
                section.place_of("replicas"),
                message,
                "remove one or the other",
            );
            None
        }
        (true, false) => Some(Bounds::Exactly(pin.as_ref()?.value)),
        (false, true) => Some(Bounds::Between {
            floor: floor.as_ref().map(|setting| setting.value),
            cap: cap.as_ref().map(|setting| setting.value),
        }),
        (false, false) if section.is_broken() => None,
        (false, false) => {
            let message = "changes nothing".to_owned();
            found.error(&section.path, section.span, message, "add min, max or replicas");
            None
        }
    }
}

struct Zone(TimeZone);

impl FromScalar for Zone {
    fn from_scalar(scalar: &Scalar, _: &Kind) -> Result<Self, Complaint> {
        let text = scalar.text.as_str();
        // Short names stand for several zones or none with summer time: only names of the database.
        if let Ok(zone) = TimeZone::get(text) {
            return Ok(Self(zone));
        }
        let known: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
        let hint = match guess(text, known.iter().map(String::as_str)) {
            Some(name) => format!("did you mean {name}?"),
            None => "write an IANA name, like Europe/Prague".to_owned(),
        };
        Err(Complaint { message: format!("{} is no time zone", quoted(text)), hint })
    }
}

#[derive(Clone, Copy)]
struct Day(Weekday);

impl Choice for Day {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("mon", Self(Weekday::Monday)),
        ("tue", Self(Weekday::Tuesday)),
        ("wed", Self(Weekday::Wednesday)),
        ("thu", Self(Weekday::Thursday)),
        ("fri", Self(Weekday::Friday)),
        ("sat", Self(Weekday::Saturday)),
        ("sun", Self(Weekday::Sunday)),
    ];
}

#[derive(Clone, Copy)]
struct OnRequestWord(OnRequest);

impl Choice for OnRequestWord {
    const WORDS: &'static [(&'static str, Self)] =
        &[("wake", Self(OnRequest::Wake)), ("reject", Self(OnRequest::Reject))];
}

/// Minutes after midnight, up to and including 24:00.
pub(in crate::config) struct TimeOfDay(pub(in crate::config) u16);

impl FromScalar for TimeOfDay {
    fn from_scalar(scalar: &Scalar, kind: &Kind) -> Result<Self, Complaint> {
        let text = formed(scalar, kind, |text| minutes(text).is_some())?;
        Ok(Self(minutes(&text).expect("the form was checked")))
    }
}

fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two_digits = |text: &str| -> Option<u16> {
        (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
    };
    let (hours, minutes) = (two_digits(hours)?, two_digits(minutes)?);
    let total = hours * 60 + minutes;
    (minutes < 60 && total <= 24 * 60).then_some(total)
}
