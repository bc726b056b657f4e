//! Numbers and durations as people write them.

use std::time::Duration;

/// A number to three digits or so, thousands apart: 0.13, 3.2, 152, 12,410.
pub(super) fn quantity(number: f64) -> String {
    if number.fract().abs() < 1e-9 || number >= 99.95 {
        return thousands(number.round().max(0.0) as u64);
    }
    let text = if number < 0.995 { format!("{number:.2}") } else { format!("{number:.1}") };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A duration in its natural unit: 3.4 ms, 200 ms, 2.5 s, 42 s, 12 min, 3.5 h.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (number, unit) = match seconds {
        s if s < 0.9995 => (s * 1e3, "ms"),
        s if s < 120.0 => (s, "s"),
        s if s < 7200.0 => (s / 60.0, "min"),
        s => (s / 3600.0, "h"),
    };
    let digits = usize::from(number < 9.95);
    let text = format!("{number:.digits$}");
    format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// How many of what.
pub(super) fn count(n: u32, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_short() {
        let rows = [
            (0.0, "0"),
            (0.1267, "0.13"),
            (0.5, "0.5"),
            (3.24, "3.2"),
            (31.0, "31"),
            (152.4, "152"),
            (12410.0, "12,410"),
            (1_000_000.0, "1,000,000"),
        ];
        for (number, text) in rows {
            assert_eq!(quantity(number), text);
        }
    }

    #[test]
    fn durations_are_in_their_natural_unit() {
        let rows = [
            (0, "0 ms"),
            (3400, "3.4 s"),
            (200, "200 ms"),
            (42_000, "42 s"),
            (600_000, "10 min"),
            (12_600_000, "3.5 h"),
        ];
        for (ms, text) in rows {
            assert_eq!(span(Duration::from_millis(ms)), text);
        }
    }
}
