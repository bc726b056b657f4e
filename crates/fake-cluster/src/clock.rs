//! Wall-clock time that follows the runtime's clock, so that time stamps agree with timers on a paused clock.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use tokio::time::Instant;

/// A wall-clock time and the instant it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Timestamp,
    since: Instant,
}

impl Clock {
    /// A clock that shows `base` now.
    #[must_use]
    pub fn starting_at(base: Timestamp) -> Self {
        Self { base, since: Instant::now() }
    }

    /// What the clock on the wall shows at this moment.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.since.elapsed()).unwrap_or(SignedDuration::MAX);
        self.base.saturating_add(elapsed).unwrap_or(Timestamp::MAX)
    }

    /// The time as objects carry it: RFC 3339 in whole seconds.
    #[must_use]
    pub fn stamp(&self) -> String {
        stamp(self.now())
    }
}

/// RFC 3339 in whole seconds, as `metav1.Time` is written.
pub(crate) fn stamp(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
