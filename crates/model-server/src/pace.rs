//! Imitates a slower model: a time per call and a time per row, held on top of the real computation.

use std::{fmt, str::FromStr, time::Duration};

/// How much longer a call takes than the model itself needs: `fixed + rows · per_row`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    pub fixed: Duration,
    pub per_row: Duration,
}

/// The text is not `FIXED` or `FIXED+PER_ROW`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{text:?} is not a pace: write FIXED+PER_ROW in durations with units, such as 8ms+1ms")]
pub struct PaceError {
    text: String,
}

impl Pace {
    #[must_use]
    pub fn of(&self, rows: u64) -> Duration {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        self.fixed.saturating_add(self.per_row.saturating_mul(rows))
    }
}

impl FromStr for Pace {
    type Err = PaceError;

    fn from_str(text: &str) -> Result<Self, PaceError> {
        let (fixed, per_row) = text.split_once('+').unwrap_or((text, "0s"));
        // Room for "1ms/row", as one would say it.
        let per_row = per_row.strip_suffix("/row").unwrap_or(per_row);
        let parse = |part: &str| {
            humantime::parse_duration(part.trim()).map_err(|_| PaceError { text: text.to_owned() })
        };
        Ok(Self { fixed: parse(fixed)?, per_row: parse(per_row)? })
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (fixed, per_row) =
            (humantime::format_duration(self.fixed), humantime::format_duration(self.per_row));
        write!(f, "{fixed}+{per_row}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_has_a_fixed_part_and_a_part_per_row() {
        let pace: Pace = "8ms+1ms".parse().unwrap();
        assert_eq!(pace.of(1), Duration::from_millis(9));
        assert_eq!(pace.of(32), Duration::from_millis(40));
        assert_eq!("8ms + 1ms/row".parse(), Ok(pace));
        assert_eq!(pace.to_string().parse(), Ok(pace));
    }

    #[test]
    fn the_part_per_row_may_be_left_out() {
        assert_eq!("250us".parse::<Pace>().unwrap().of(7), Duration::from_micros(250));
    }

    #[test]
    fn a_pace_without_units_is_refused() {
        for text in ["8+1", "", "8ms+", "8ms+1ms+1ms", "-8ms"] {
            assert!(text.parse::<Pace>().is_err(), "{text}");
        }
    }
}
