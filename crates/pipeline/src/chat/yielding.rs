//! How far replicas may be filled by those who give way, so that the others hardly notice them. Pure.
//!
//! An engine near its capacity makes who comes next wait for its first token, and so does a gateway that has no place
//! left. Where that begins shows in the first tokens of those who do not give way: as several come later than they
//! usually do while nobody gives way, replicas had too many; each that does not says that they may have a little more.

use std::time::Duration;

use tokio::time::Instant;

use super::Courtesy;

/// The part of its limit that a replica keeps free before anything was learned: else who comes would wait for one of
/// many long generations to end.
const FREE: f64 = 0.2;
/// Late ones among the first tokens lately, above which it is the number that makes them so: three in a row.
const LATE_SHARE: f64 = 0.25;
/// Weight of the newest first token in their share.
const NEWEST: f64 = 0.1;
/// What is left of the part at which they were late.
const DOWN: f64 = 0.6;
/// What one in time adds, and more while below what the last late ones left. Each time that the part grew too large
/// some ten are late, which should be one in a hundred.
const UP: f64 = 1.5e-4;
const UP_AGAIN: f64 = 0.01;
/// Only what was seen at this much of the part or above says anything.
const NEAR: f64 = 0.75;
/// Where few come whose first tokens would show it, the part grows back in this time from nothing to all that there is.
const FORGOTTEN: Duration = Duration::from_secs(1_800);

/// As parts of what a replica may have: all replicas teach it together.
#[derive(Clone, Debug)]
pub(crate) struct Yielding {
    up_to: f64,
    /// Late ones among the first tokens lately.
    late: f64,
    /// Where they were late last; 0 before they were.
    late_at: f64,
    /// Until when time has been reckoned in.
    as_of: Option<Instant>,
}

impl Default for Yielding {
    fn default() -> Self {
        Self { up_to: 1.0 - FREE, late: 0.0, late_at: 0.0, as_of: None }
    }
}

impl Yielding {
    /// The part of its limit up to which those of this courtesy may fill a replica.
    pub(crate) fn get(&mut self, courtesy: Courtesy, now: Instant) -> f64 {
        match courtesy {
            Courtesy::None => 1.0,
            Courtesy::LeavesRoom => 1.0 - FREE,
            Courtesy::GivesWay => {
                self.pass(now);
                self.up_to
            }
        }
    }

    fn pass(&mut self, now: Instant) {
        let before = self.as_of.replace(now).unwrap_or(now);
        let passed = now.saturating_duration_since(before).as_secs_f64() / FORGOTTEN.as_secs_f64();
        self.up_to = (self.up_to + passed).min(1.0 - FREE);
    }

    /// One that does not give way was given its first token, by a replica that had `load` generations of `limit` as it
    /// was sent.
    pub(crate) fn first_token(&mut self, is_late: bool, (load, limit): (u32, u32), now: Instant) {
        self.pass(now);
        let part = f64::from(load) / f64::from(limit.max(1));
        if part < self.up_to * NEAR {
            return;
        }
        self.late += NEWEST * (f64::from(u8::from(is_late)) - self.late);
        if self.late > LATE_SHARE {
            (self.late, self.late_at) = (0.0, part);
            self.up_to = self.up_to.min(part * DOWN);
        } else if self.late_at > 0.0 {
            self.up_to += if self.up_to < self.late_at * DOWN { UP_AGAIN } else { UP };
            self.up_to = self.up_to.min(1.0 - FREE);
        }
    }
}

/// How late first tokens usually are at most: durations counted in steps of 5 %, the old ones less than the new ones.
#[derive(Debug)]
pub(crate) struct Usual {
    counts: Vec<f32>,
    total: f32,
}

/// The least duration told apart, and how much longer that of each step is.
const LEAST: Duration = Duration::from_micros(100);
const STEP: f64 = 1.05;
/// Up to some nine minutes.
const STEPS: usize = 320;
/// Durations that count; with as many again the old ones count half.
const MEMORY: f32 = 2_000.0;
/// So many are needed to know what is usual.
const ENOUGH: f32 = 50.0;
/// One in twenty may be later and still be usual, and a little more is hardly noticed.
const PERCENTILE: f32 = 0.95;
const TOLERANCE: f64 = 1.2;

impl Default for Usual {
    fn default() -> Self {
        Self { counts: vec![0.0; STEPS], total: 0.0 }
    }
}

impl Usual {
    pub(crate) fn record(&mut self, elapsed: Duration) {
        let steps = (elapsed.as_secs_f64() / LEAST.as_secs_f64()).max(1.0).ln() / STEP.ln();
        let Some(count) = self.counts.get_mut((steps as usize).min(STEPS - 1)) else { return };
        *count += 1.0;
        self.total += 1.0;
        if self.total >= 2.0 * MEMORY {
            self.counts.iter_mut().for_each(|count| *count /= 2.0);
            self.total /= 2.0;
        }
    }

    /// What takes longer is late; `None` before enough were seen.
    pub(crate) fn limit(&self) -> Option<Duration> {
        if self.total < ENOUGH {
            return None;
        }
        let mut left = self.total * (1.0 - PERCENTILE);
        let above = self.counts.iter().rposition(|count| {
            left -= count;
            left < 0.0
        })?;
        Some(LEAST.mul_f64(STEP.powi(above as i32 + 1) * TOLERANCE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_is_usual_is_what_all_but_one_in_a_hundred_take() {
        let mut usual = Usual::default();
        (0..49).for_each(|_| usual.record(ms(100)));
        assert_eq!(usual.limit(), None);
        (0..10_000).for_each(|i| usual.record(if i % 200 == 0 { ms(5_000) } else { ms(50 + i % 50) }));
        let limit = usual.limit().unwrap();
        assert!((ms(113)..ms(121)).contains(&limit), "{limit:?}");
        (0..10_000).for_each(|_| usual.record(ms(1_000)));
        assert!(usual.limit().unwrap() > ms(1_000));
        usual.record(Duration::ZERO);
        usual.record(Duration::from_secs(100_000));
    }

    #[test]
    fn a_part_is_left_to_others_before_anything_was_learned() {
        let mut yielding = Yielding::default();
        let now = Instant::now();
        yielding.first_token(false, (10, 10), now);
        let parts = [Courtesy::None, Courtesy::LeavesRoom, Courtesy::GivesWay].map(|c| yielding.get(c, now));
        assert_eq!(parts, [1.0, 0.8, 0.8]);
    }

    #[test]
    fn the_part_settles_below_what_makes_others_late() {
        let (mut yielding, now) = (Yielding::default(), Instant::now());
        let up_to = |yielding: &mut Yielding| (yielding.get(Courtesy::GivesWay, now) * 40.0) as u32;
        // From 17 of 40 on it is too much, and others have up to three more.
        let mut late = 0;
        for i in 0..2_000 {
            let load = up_to(&mut yielding) + [0, 1, 2, 3][i / 4 % 4];
            late += u32::from(load > 16);
            yielding.first_token(load > 16, (load, 40), now);
        }
        assert!((9..=14).contains(&up_to(&mut yielding)), "{yielding:?}");
        assert!(late <= 20, "{late} of 2,000");
        // What was too much no longer is.
        for _ in 0..10_000 {
            let load = up_to(&mut yielding);
            yielding.first_token(false, (load, 40), now);
        }
        assert_eq!(up_to(&mut yielding), 32);
    }

    #[test]
    fn what_was_too_much_once_is_forgotten_where_nobody_comes_to_show_it() {
        let (mut yielding, now) = (Yielding::default(), Instant::now());
        (0..3).for_each(|_| yielding.first_token(true, (30, 40), now));
        assert!((yielding.get(Courtesy::GivesWay, now) - 0.45).abs() < 1e-9);
        let later = now + FORGOTTEN / 10;
        assert!((yielding.get(Courtesy::GivesWay, later) - 0.55).abs() < 1e-9);
        assert_eq!(yielding.get(Courtesy::GivesWay, now + FORGOTTEN), 0.8);
    }

    #[test]
    fn what_is_late_with_little_to_do_or_once_in_a_while_is_no_reason() {
        let (mut yielding, now) = (Yielding::default(), Instant::now());
        (0..100).for_each(|_| yielding.first_token(true, (3, 40), now));
        (0..1_000).for_each(|i| yielding.first_token(i % 20 == 0, (40, 40), now));
        assert_eq!(yielding.get(Courtesy::GivesWay, now), 0.8);
    }
}
