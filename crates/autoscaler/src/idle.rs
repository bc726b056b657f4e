//! When a model was last busy, and how long it tends to stay idle.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bounds of the learned idle time-out; the lower one holds until enough gaps were seen.
const SHORTEST: Duration = Duration::from_secs(600);
const LONGEST: Duration = Duration::from_secs(3600);
/// Gaps between requests that are at least this long are kept: shorter ones say nothing about ten minutes.
const GAP: Duration = Duration::from_secs(60);
/// Gaps needed before they are believed.
pub(crate) const GAPS_NEEDED: u32 = 50;
/// Gaps kept at full weight; past this all are halved, so that the recent ones count more.
const GAPS_MOST: u32 = 1000;
/// Width and number of buckets; the last one holds everything longer.
const BUCKET: Duration = Duration::from_secs(30);
const BUCKETS: usize = 241;
/// A model may go to zero when a request is less likely than this to come within one cold start.
const REGRET: f64 = 0.05;

/// How long a model has been idle and, by its history, how long that is worth waiting out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Idle {
    /// When a request last arrived, waited or ran.
    pub(crate) busy_at: Option<Duration>,
    /// Gaps by length.
    gaps: Vec<u32>,
}

impl Idle {
    pub(crate) fn busy(&mut self, now: Duration) {
        let gap = self.busy_at.map(|before| now.saturating_sub(before));
        self.busy_at = Some(now);
        if let Some(gap) = gap.filter(|gap| *gap >= GAP) {
            self.count(gap);
        }
    }

    /// Gaps by length, without the empty end.
    pub(crate) fn gaps(&self) -> &[u32] {
        let filled = self.gaps.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        self.gaps.get(..filled).unwrap_or_default()
    }

    /// What another process has seen.
    pub(crate) fn restored(gaps: &[u32], busy_at: Option<Duration>) -> Self {
        let mut gaps: Vec<u32> = gaps.iter().take(BUCKETS).map(|count| *count.min(&GAPS_MOST)).collect();
        if !gaps.is_empty() {
            gaps.resize(BUCKETS, 0);
        }
        Self { busy_at, gaps }
    }

    /// The shortest idle time, 10 to 60 minutes, after which a request within `lead` is improbable.
    pub(crate) fn learned_timeout(&self, lead: Duration) -> Duration {
        if self.gaps.iter().sum::<u32>() < GAPS_NEEDED {
            return SHORTEST;
        }
        let mut timeout = SHORTEST;
        while timeout < LONGEST && self.chance_of_a_request(timeout, lead) >= REGRET {
            timeout += BUCKET;
        }
        timeout
    }

    /// P(the gap ends within `lead` | it has lasted `idle`). A gap longer than any seen ends some other day.
    fn chance_of_a_request(&self, idle: Duration, lead: Duration) -> f64 {
        let longer: u32 = self.gaps.iter().skip(bucket(idle)).sum();
        let beyond: u32 = self.gaps.iter().skip(bucket(idle + lead) + 1).sum();
        f64::from(longer - beyond) / f64::from(longer.max(1))
    }

    fn count(&mut self, gap: Duration) {
        self.gaps.resize(BUCKETS, 0);
        if let Some(count) = self.gaps.get_mut(bucket(gap)) {
            *count += 1;
        }
        if self.gaps.iter().sum::<u32>() > GAPS_MOST {
            self.gaps.iter_mut().for_each(|count| *count /= 2);
        }
    }
}

fn bucket(gap: Duration) -> usize {
    ((gap.as_secs() / BUCKET.as_secs()) as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAD: Duration = Duration::from_secs(120);

    fn with_gaps(minutes: impl IntoIterator<Item = u64>) -> Idle {
        let mut idle = Idle::default();
        let mut now = Duration::from_secs(1);
        idle.busy(now);
        for gap in minutes {
            now += Duration::from_secs(gap * 60);
            idle.busy(now);
        }
        idle
    }

    #[test]
    fn ten_minutes_hold_until_fifty_gaps_were_seen() {
        assert_eq!(with_gaps([11; 49]).learned_timeout(LEAD), SHORTEST);
        assert!(with_gaps([11; 50]).learned_timeout(LEAD) > SHORTEST);
    }

    #[test]
    fn gaps_of_any_length_are_waited_out_and_gaps_of_one_length_are_not() {
        let timeout = with_gaps([15; 60]).learned_timeout(LEAD);
        assert_eq!(timeout, SHORTEST, "nothing comes within two minutes of minute ten");
        let spread = with_gaps((0..200).map(|i| 8 + i % 20)).learned_timeout(LEAD);
        assert_eq!(spread.as_secs(), 27 * 60 + 30, "gaps of 8 to 27 minutes are waited out");
    }

    #[test]
    fn short_gaps_do_not_keep_a_model_up() {
        assert_eq!(with_gaps([2; 300]).learned_timeout(LEAD), SHORTEST);
    }

    #[test]
    fn the_timeout_never_exceeds_an_hour() {
        let one_in_twenty_a_minute =
            (10..90).flat_map(|minute: u64| vec![minute; (50.0 * 0.95f64.powi(minute as i32 - 10)) as usize]);
        assert_eq!(with_gaps(one_in_twenty_a_minute).learned_timeout(LEAD), LONGEST);
    }

    #[test]
    fn history_is_bounded() {
        let idle = with_gaps([3; 5000]);
        assert!(idle.gaps.iter().sum::<u32>() <= GAPS_MOST && idle.gaps.len() == BUCKETS);
    }
}
