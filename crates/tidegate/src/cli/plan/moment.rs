//! A moment of a load or of a record: so long after its beginning, or by the clock.

use std::{str::FromStr, time::Duration};

use jiff::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    After(Duration),
    /// Since the Unix epoch.
    At(Duration),
}

impl Moment {
    /// In the times of a record that begins at `begins`.
    pub(super) fn in_record(self, begins: Duration) -> Duration {
        match self {
            Self::After(after) => begins.saturating_add(after),
            Self::At(at) => at,
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(after) = humantime::parse_duration(text) {
            return Ok(Self::After(after));
        }
        let at = text.parse::<Timestamp>().ok().and_then(|at| Duration::try_from(at.as_duration()).ok());
        at.map(Self::At).ok_or_else(|| {
            "write how long after the beginning, like 10m, or a time like 2026-01-05T08:00:00Z".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_after_the_beginning_or_one_by_the_clock() {
        let begins = Duration::from_secs(1_767_600_000);
        let moment = |text: &str| text.parse::<Moment>().map(|moment| moment.in_record(begins));
        assert_eq!(moment("10m"), Ok(begins + Duration::from_secs(600)));
        assert_eq!(moment("2026-01-05T08:00:30Z"), Ok(begins + Duration::from_secs(30)));
        assert!(moment("soon").unwrap_err().contains("like 10m"));
    }
}
