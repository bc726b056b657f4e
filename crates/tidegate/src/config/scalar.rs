//! Values from text: strict, because a guess about a unit or a boolean is an outage later.

use std::{net::SocketAddr, time::Duration};

use super::{
    keys::{Form, Kind},
    report::quoted,
    yaml::Scalar,
};

/// Longer times are mistakes, and sums of them could overflow a clock.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A value that one scalar holds.
pub(crate) trait FromScalar: Sized {
    /// Reads it as `kind` says.
    ///
    /// # Errors
    /// What is wrong and what to write instead.
    fn from_scalar(scalar: &Scalar, kind: &Kind) -> Result<Self, Complaint>;
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// A closed set of words.
pub(crate) trait Choice: Copy + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

/// A value, or the word `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auto<T> {
    Auto,
    Fixed(T),
}

impl<T> Auto<T> {
    pub(crate) fn fixed(self) -> Option<T> {
        match self {
            Self::Auto => None,
            Self::Fixed(value) => Some(value),
        }
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bytes(pub(crate) usize);

fn complain<T>(message: String, hint: impl Into<String>) -> Result<T, Complaint> {
    Err(Complaint { message, hint: hint.into() })
}

impl<T: Choice> FromScalar for T {
    fn from_scalar(scalar: &Scalar, kind: &Kind) -> Result<Self, Complaint> {
        match T::WORDS.iter().find(|(word, _)| *word == scalar.text) {
            Some((_, value)) => Ok(*value),
            None => not_a_choice(&scalar.text, T::WORDS.iter().map(|(word, _)| *word), kind),
        }
    }
}

fn not_a_choice<T>(
    text: &str,
    words: impl Iterator<Item = &'static str>,
    kind: &Kind,
) -> Result<T, Complaint> {
    match super::guess::guess(text, words) {
        Some(word) => complain(format!("{} is unknown, did you mean {word}?", quoted(text)), kind.words()),
        None => complain(format!("{} is unknown", quoted(text)), kind.words()),
    }
}

impl<T: FromScalar> FromScalar for Auto<T> {
    fn from_scalar(scalar: &Scalar, kind: &Kind) -> Result<Self, Complaint> {
        if scalar.text == "auto" { Ok(Self::Auto) } else { T::from_scalar(scalar, kind).map(Self::Fixed) }
    }
}

impl FromScalar for bool {
    fn from_scalar(scalar: &Scalar, _: &Kind) -> Result<Self, Complaint> {
        let text = scalar.text.as_str();
        match (text, scalar.quoted) {
            ("true", false) => Ok(true),
            ("false", false) => Ok(false),
            ("true" | "false", true) => {
                complain(format!("{} is a text here", quoted(text)), format!("write {text}, without quotes"))
            }
            _ => complain(format!("{} is not true or false", quoted(text)), boolean_hint(text)),
        }
    }
}

fn boolean_hint(text: &str) -> &'static str {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "y" | "1" | "true" | "t" => "write true",
        "no" | "off" | "n" | "0" | "false" | "f" => "write false",
        _ => "write true or false",
    }
}

impl FromScalar for String {
    fn from_scalar(scalar: &Scalar, _: &Kind) -> Result<Self, Complaint> {
        if scalar.text.contains('\0') {
            return complain("contains a NUL character".to_owned(), "remove it");
        }
        Ok(scalar.text.clone())
    }
}

impl FromScalar for u32 {
    fn from_scalar(scalar: &Scalar, kind: &Kind) -> Result<Self, Complaint> {
        let number = whole_number(scalar, kind)?;
        let (Kind::Number { min, max, .. } | Kind::NumberOrText { min, max, .. }) = kind else {
            return Ok(number);
        };
        if (*min..=*max).contains(&u64::from(number)) {
            return Ok(number);
        }
        complain(format!("{number} is out of range"), format!("write {}", kind.words()))
    }
}

fn whole_number(scalar: &Scalar, kind: &Kind) -> Result<u32, Complaint> {
    let text = scalar.text.as_str();
    let is_digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if is_digits && scalar.quoted {
        return complain(format!("{} is a text here", quoted(text)), format!("write {text}, without quotes"));
    }
    if is_digits && text.len() > 1 && text.starts_with('0') {
        let plain = text.trim_start_matches('0');
        let plain = if plain.is_empty() { "0" } else { plain };
        return complain(
            format!("{} begins with 0, which some read as octal", quoted(text)),
            format!("write {plain}"),
        );
    }
    match text.parse::<u32>() {
        Ok(number) if is_digits => Ok(number),
        _ if is_digits => {
            complain(format!("{} is out of range", quoted(text)), format!("write {}", kind.words()))
        }
        _ => complain(format!("{} is not a whole number", quoted(text)), format!("write {}", kind.words())),
    }
}

impl FromScalar for f64 {
    fn from_scalar(scalar: &Scalar, kind: &Kind) -> Result<Self, Complaint> {
        let text = scalar.text.as_str();
        let is_plain = text.starts_with(|c: char| c.is_ascii_digit())
            && text.ends_with(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_digit() || c == '.');
        let Some(number) = text.parse::<f64>().ok().filter(|number| is_plain && number.is_finite()) else {
            return complain(format!("{} is not a number", quoted(text)), format!("write {}", kind.words()));
        };
        if scalar.quoted {
            return complain(
                format!("{} is a text here", quoted(text)),
                format!("write {text}, without quotes"),
            );
        }
        match kind {
            Kind::Decimal { min, max } if !(*min as f64..=*max as f64).contains(&number) => {
                complain(format!("{text} is out of range"), format!("write {}", kind.words()))
            }
            _ => Ok(number),
        }
    }
}

impl FromScalar for Duration {
    fn from_scalar(scalar: &Scalar, kind: &Kind) -> Result<Self, Complaint> {
        let text = scalar.text.as_str();
        if let Ok(number) = text.parse::<f64>()
            && number.is_finite()
            && !text.starts_with(['+', '-'])
        {
            // Zero is zero in every unit, but a file that is uniform is easier to read.
            return complain(format!("{} needs a unit", quoted(text)), duration_hint(text, number));
        }
        match duration(text) {
            Some(duration) if duration <= DURATION_MAX => Ok(duration),
            Some(_) => complain(format!("{} is longer than a year", quoted(text)), "write at most 365d"),
            None if text.starts_with('-') => complain(format!("{} is negative", quoted(text)), ""),
            None => complain(format!("{} is no duration", quoted(text)), format!("write {}", kind.words())),
        }
    }
}

/// What `text` may have meant: large numbers rather milliseconds, small ones rather seconds.
fn duration_hint(text: &str, number: f64) -> String {
    if number >= 100.0 {
        format!("write {text}ms or {}s", number / 1000.0)
    } else {
        format!("write {text}s or {text}ms")
    }
}

/// The sum of numbers with units, like `1.5s` or `1h30m`; `None` if it is something else or overflows.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, unit, after) = quantity(rest)?;
        let nanos = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            _ => return None,
        };
        let nanos = u64::try_from(scaled(number, nanos)?).ok()?;
        total = total.checked_add(Duration::from_nanos(nanos))?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

/// Splits off a number and the unit after it.
fn quantity(text: &str) -> Option<(&str, &str, &str)> {
    let (number, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.')?);
    let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, after) = rest.split_at(end);
    Some((number, unit, after))
}

/// `number`, digits with at most nine decimals, times `unit`, rounded down.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || decimals.is_empty() || decimals.len() > 9 {
        return None;
    }
    let whole = whole.parse::<u128>().ok()?.checked_mul(unit)?;
    let scale = 10_u128.checked_pow(u32::try_from(decimals.len()).ok()?)?;
    let part = decimals.parse::<u128>().ok()?.checked_mul(unit)? / scale;
    whole.checked_add(part)
}

impl FromScalar for Bytes {
    fn from_scalar(scalar: &Scalar, kind: &Kind) -> Result<Self, Complaint> {
        let text = scalar.text.as_str();
        if text.parse::<f64>().is_ok() && !text.starts_with(['+', '-']) {
            return complain(format!("{} needs a unit", quoted(text)), format!("write {text}MiB or {text}B"));
        }
        let Some((number, unit, "")) = quantity(text) else {
            return complain(format!("{} is no size", quoted(text)), format!("write {}", kind.words()));
        };
        let Some(factor) = bytes_in(unit) else {
            return complain(format!("{} is no unit of size", quoted(unit)), unit_hint(number, unit));
        };
        match scaled(number, factor).map(usize::try_from) {
            Some(Ok(0)) => complain(format!("{} is nothing", quoted(text)), "write a size above 0"),
            Some(Ok(bytes)) => Ok(Self(bytes)),
            Some(Err(_)) => complain(format!("{} is too large", quoted(text)), ""),
            None => complain(format!("{} is no size", quoted(text)), format!("write {}", kind.words())),
        }
    }
}

fn bytes_in(unit: &str) -> Option<u128> {
    Some(match unit {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    })
}

fn unit_hint(number: &str, unit: &str) -> String {
    match unit.chars().next() {
        Some(prefix @ ('k' | 'K' | 'm' | 'M' | 'g' | 'G')) => {
            format!("write {number}{}iB", prefix.to_ascii_uppercase())
        }
        _ => format!("write {number}MiB, {number}KiB or {number}B"),
    }
}

impl FromScalar for SocketAddr {
    fn from_scalar(scalar: &Scalar, kind: &Kind) -> Result<Self, Complaint> {
        let text = scalar.text.as_str();
        text.parse().or_else(|_| {
            complain(format!("{} is no address and port", quoted(text)), address_hint(text, kind))
        })
    }
}

fn address_hint(text: &str, kind: &Kind) -> String {
    let port = |text: &str| text.parse::<u16>().is_ok();
    match text.rsplit_once(':') {
        None if port(text) => format!("write 127.0.0.1:{text} or 0.0.0.0:{text}"),
        Some(("", after)) if port(after) => format!("write 0.0.0.0:{after}"),
        Some(("localhost", after)) if port(after) => format!("write 127.0.0.1:{after}"),
        Some((_, after)) if port(after) => "write an IP address: names are not looked up".to_owned(),
        _ => format!("write {}", kind.words()),
    }
}

/// A text that has the form its key asks for, which `fits` decides.
pub(crate) fn formed(
    scalar: &Scalar,
    kind: &Kind,
    fits: impl FnOnce(&str) -> bool,
) -> Result<String, Complaint> {
    if fits(&scalar.text) {
        return Ok(scalar.text.clone());
    }
    let words = match kind {
        Kind::Text(Form { words, .. }) => (*words).to_owned(),
        other => other.words(),
    };
    complain(format!("{} is not allowed here", quoted(&scalar.text)), format!("write {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: FromScalar>(text: &str, kind: &Kind) -> Result<T, String> {
        let scalar = Scalar { text: text.to_owned(), quoted: false };
        T::from_scalar(&scalar, kind).map_err(|complaint| complaint.message)
    }

    #[test]
    fn durations_are_sums_of_numbers_with_units() {
        let read = |text| read::<Duration>(text, &Kind::Duration { or: &[] });
        let good = [
            ("0s", 0),
            ("1ns", 1),
            ("5us", 5_000),
            ("5µs", 5_000),
            ("200ms", 200_000_000),
            ("0.2s", 200_000_000),
            ("1.5m", 90_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("365d", 31_536_000_000_000_000),
        ];
        for (text, nanos) in good {
            assert_eq!(read(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        let bad = [
            "", "s", "1", "1.5", "-1s", "+1s", "1 s", "1S", "1.s", ".5s", "1..5s", "1e3s", "366d", "1h2",
            "NaN",
        ];
        for text in bad {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_numbers_with_units() {
        let read = |text| read::<Bytes>(text, &Kind::Bytes).map(|bytes| bytes.0);
        let good = [("1B", 1), ("1kB", 1000), ("1.5KiB", 1536), ("64MiB", 64 << 20), ("2GB", 2_000_000_000)];
        for (text, bytes) in good {
            assert_eq!(read(text), Ok(bytes), "{text}");
        }
        for text in ["", "B", "1", "0B", "-1B", "1 B", "1Mi", "1MiBB", "1MiB1KiB", "99999999999TiB", "1e3B"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn decimals_are_plain_and_within_bounds() {
        let kind = Kind::Decimal { min: 1, max: 10 };
        for (text, number) in [("1", 1.0), ("1.0", 1.0), ("1.25", 1.25), ("10", 10.0)] {
            assert_eq!(read::<f64>(text, &kind), Ok(number), "{text}");
        }
        for text in ["", "0.99", "10.1", "-1", "+2", "1e0", "NaN", "inf", ".5", "2.", "1.2.3", "1,5"] {
            assert!(read::<f64>(text, &kind).is_err(), "{text}");
        }
    }

    #[test]
    fn whole_numbers_have_one_spelling() {
        let kind = Kind::Number { min: 0, max: 10, or: &["auto"] };
        assert_eq!(read::<Auto<u32>>("auto", &kind), Ok(Auto::Auto));
        assert_eq!(read::<Auto<u32>>("10", &kind), Ok(Auto::Fixed(10)));
        for text in ["11", "-1", "+1", "01", "0x1", "0o1", "1.0", "1_0", "1e1", "", "99999999999", "true"] {
            assert!(read::<Auto<u32>>(text, &kind).is_err(), "{text}");
        }
    }
}
