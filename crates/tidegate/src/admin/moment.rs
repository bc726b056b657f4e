//! Times as people write them, and queries as clients do.

use std::{borrow::Cow, time::Duration};

use jiff::{SignedDuration, Timestamp, ToSpan as _, civil, tz::TimeZone};

/// What a time may look like.
pub(super) const FORMS: &str = "a time like 15:04, an RFC 3339 time, or a duration like 10m (or -10m) ago";

/// The time since the Unix epoch that `text` means at `now`: RFC 3339, a time of day (the last one that is past, by
/// the clock of `zone`), or a duration ago, with or without a sign. `None`: it is nothing of that.
pub(super) fn moment(text: &str, now: Duration, zone: &TimeZone) -> Option<Duration> {
    let ago = text.strip_prefix('-').unwrap_or(text);
    if let Ok(ago) = humantime::parse_duration(ago) {
        return Some(now.saturating_sub(ago));
    }
    let timestamp = match text.parse::<Timestamp>() {
        Ok(timestamp) => timestamp,
        Err(_) => last(text.parse().ok()?, now, zone)?,
    };
    // Before 1970 nothing was decided either.
    Some(Duration::try_from(timestamp.as_duration()).unwrap_or_default())
}

/// When a clock last showed this time.
fn last(time: civil::Time, now: Duration, zone: &TimeZone) -> Option<Timestamp> {
    let now = Timestamp::from_duration(SignedDuration::try_from(now).ok()?).ok()?;
    let today = now.to_zoned(zone.clone()).date();
    let on = |day: civil::Date| Some(day.to_datetime(time).to_zoned(zone.clone()).ok()?.timestamp());
    let past = |at: &Timestamp| *at <= now;
    on(today).filter(past).or_else(|| on(today.checked_sub(1.day()).ok()?))
}

/// The parameters of a query. A plus sign is one: it is part of RFC 3339, and nobody sends spaces.
pub(super) struct Query<'q>(Vec<(&'q str, Cow<'q, str>)>);

impl<'q> Query<'q> {
    /// # Errors
    /// A parameter that is not among `known`, comes twice, or cannot be read, in words.
    pub(super) fn parse(query: &'q str, known: &[&str]) -> Result<Self, String> {
        let mut parameters: Vec<(&str, Cow<'_, str>)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&name) {
                return Err(format!("there is no such parameter; there are: {}", known.join(", ")));
            }
            if parameters.iter().any(|(earlier, _)| *earlier == name) {
                return Err(format!("{name} is given twice"));
            }
            let value = decoded(value).ok_or_else(|| format!("{name} is not percent-encoded UTF-8"))?;
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value)
    }
}

fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(text.into());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        bytes.push(match byte {
            b'%' => u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?,
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-28T09:15:30Z";

    fn at(text: &str) -> Option<String> {
        let now = Duration::try_from(NOW.parse::<Timestamp>().unwrap().as_duration()).unwrap();
        let zone = TimeZone::get("Europe/Prague").unwrap();
        let at = moment(text, now, &zone)?;
        Some(Timestamp::from_duration(SignedDuration::try_from(at).unwrap()).unwrap().to_string())
    }

    #[test]
    fn a_time_is_a_date_or_a_duration_ago_or_the_last_time_of_day() {
        let rows = [
            ("2026-11-27T23:00:00Z", "2026-11-27T23:00:00Z"),
            ("2026-11-28T09:00:00+02:00", "2026-11-28T07:00:00Z"),
            ("10m", "2026-11-28T09:05:30Z"),
            ("-10m", "2026-11-28T09:05:30Z"),
            ("-1h30m", "2026-11-28T07:45:30Z"),
            // In Prague it is 10:15:30.
            ("10:15", "2026-11-28T09:15:00Z"),
            ("10:15:30", "2026-11-28T09:15:30Z"),
            ("10:15:31", "2026-11-27T09:15:31Z"),
            ("23:00", "2026-11-27T22:00:00Z"),
        ];
        for (text, expected) in rows {
            assert_eq!(at(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "-", "yesterday", "25:00", "--10m", "2026-11-28"] {
            assert_eq!(at(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_query_is_decoded_and_what_it_must_not_have_is_refused() {
        let known = ["at", "n"];
        let query = Query::parse("at=2026-11-28T09%3A00:00%2B02:00&n=5", &known).unwrap();
        assert_eq!(query.get("at"), Some("2026-11-28T09:00:00+02:00"));
        assert_eq!((query.get("n"), query.get("absent")), (Some("5"), None));
        let plain = Query::parse("at=09:00:00+02:00", &known).unwrap();
        assert_eq!(plain.get("at"), Some("09:00:00+02:00"));
        for wrong in ["since=1h", "n=1&n=2", "at=%zz", "at=%ff", "at=%4"] {
            assert!(Query::parse(wrong, &known).is_err(), "{wrong}");
        }
        assert!(Query::parse("", &known).unwrap().get("at").is_none());
    }
}
