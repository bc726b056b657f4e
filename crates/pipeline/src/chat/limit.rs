//! How many generations a replica may have at a time. Pure.
//!
//! Two rules, the lower counts. Time per output token grows with the generations that share a step of the engine,
//! nearly in a line, which all replicas teach together: the limit is the most at which the line keeps the target.
//! Where their number hardly changes, which says nothing of the line, the limit goes by what the tokens take: down by
//! an eighth if that is too much, up if it is below, once a round. And an engine whose own slots or memory are
//! exhausted queues inside, out of our sight, where no class counts, with time to first token growing while time per
//! token does not: as most first tokens take much longer than they do with little to do the limit shrinks, else it
//! grows with each round in which it was met, at first twofold (slow start, additive increase, multiplicative
//! decrease, as TCP's).

use std::time::Duration;

use super::Config;
use crate::latency::Latency;

const START: f64 = 32.0;
const MOST: f64 = 8192.0;
/// The line is believed up to this multiple of the most generations that were seen together.
const AHEAD: u32 = 2;
/// So many are allowed before anything was seen.
const AHEAD_LEAST: u32 = 16;
/// Segments that must have been seen before the line says anything.
const SEGMENTS: u64 = 20;
/// Differences in the number of generations, over its mean, from which the line is believed.
const SPREAD: f64 = 0.15;
/// Tokens that take less than this part of the target leave room for more.
const WELL_BELOW: f64 = 0.9;
/// And less than this for half as many again.
const FAR_BELOW: f64 = 0.6;
/// A first token is late that takes this many times as long as with little to do, and this part of its target.
const LATE: f64 = 3.0;
const TTFT_SHARE: f64 = 0.1;
/// Late ones among the first tokens, above which it is the load that makes them so, and not their prompts.
const LATE_SHARE: f64 = 0.3;
/// Weight of the newest first token in their share.
const NEWEST: f64 = 0.1;
/// Little to do: so many generations, or this part of the limit.
const FEW: f64 = 4.0;
const LITTLE: f64 = 0.25;
/// A late first token shrinks the limit by this part, spread over as many calls as there are at a time.
const DECREASE: f64 = 0.5;
/// By so much the limit grows with each round in which it was met, once a first token was late. Until then it doubles.
const INCREASE: f64 = 2.0;
/// What a refusal of the engine leaves of the limit.
const REFUSED: f64 = 0.9;

/// The generations that one replica may have at a time, and what that follows from.
#[derive(Clone, Debug)]
pub struct Streams {
    /// By time to first token.
    admitted: f64,
    /// First tokens were late: the engine's own limit is near.
    met: bool,
    /// Seconds to the first token with little to do; 0 before there was one.
    alone: f64,
    /// Late ones among the first tokens lately.
    late: f64,
    /// By time per output token; `None` until the line is known.
    paced: Option<u32>,
    /// Most generations seen together.
    together: u32,
    /// Segments since `paced` last changed.
    round: u32,
    ttft: f64,
    tpot: Duration,
}

impl Streams {
    /// Before anything was seen.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            admitted: START,
            met: false,
            alone: 0.0,
            late: 0.0,
            paced: None,
            together: 0,
            round: 0,
            ttft: config.ttft.latency.as_secs_f64() * TTFT_SHARE,
            tpot: config.tpot.latency,
        }
    }

    /// Generations it may have now; at least one.
    #[must_use]
    pub fn get(&self) -> u32 {
        (self.admitted as u32).min(self.paced.unwrap_or(u32::MAX)).max(1)
    }

    /// A first token came after `elapsed` while the replica had `load` generations, this one included.
    pub fn first_token(&mut self, elapsed: Duration, load: u32) {
        let (load, seconds) = (f64::from(load), elapsed.as_secs_f64());
        if load <= FEW.max(self.admitted * LITTLE) {
            let weight = if self.alone > 0.0 { NEWEST } else { 1.0 };
            self.alone += weight * (seconds - self.alone);
        }
        let is_late = seconds > self.ttft.max(LATE * self.alone);
        self.late += NEWEST * (f64::from(u8::from(is_late)) - self.late);
        if is_late {
            // With little to do it was not the others that made it late.
            if self.late > LATE_SHARE && load * 2.0 >= self.admitted && load > 1.0 {
                self.met = true;
                self.admitted -= self.admitted * DECREASE / self.admitted.max(4.0);
            }
        } else if load >= self.admitted * 0.75 {
            self.admitted += if self.met { INCREASE / self.admitted.max(2.0) } else { 1.0 };
        }
        self.admitted = self.admitted.clamp(1.0, MOST);
    }

    /// A segment's tokens took `per_token` each while the replica, which is `slowness` times as slow as the line says,
    /// had `load` generations.
    pub fn paced(&mut self, line: &Latency, slowness: f64, per_token: Duration, load: u32) {
        self.together = self.together.max(load);
        if line.samples() < SEGMENTS {
            return;
        }
        let most = (self.together * AHEAD).max(AHEAD_LEAST).min(MOST as u32);
        let before = self.get();
        let after = if line.spread() >= SPREAD {
            most_at(line, self.tpot.div_f64(slowness.max(0.1)), most)
        } else {
            self.step(per_token, load).min(most)
        };
        self.round = if after == before { self.round.saturating_add(1) } else { 0 };
        self.paced = Some(after);
    }

    /// The limit after a look at what tokens take, at most once a round: as many segments as there are generations.
    fn step(&self, per_token: Duration, load: u32) -> u32 {
        let limit = self.get();
        if self.round < load {
            limit
        } else if per_token > self.tpot && load <= limit {
            (limit - (limit / 8).max(1)).max(1)
        } else if load < limit {
            limit
        } else if per_token < self.tpot.mul_f64(FAR_BELOW) {
            limit + (limit / 2).max(1)
        } else if per_token < self.tpot.mul_f64(WELL_BELOW) {
            limit + 1
        } else {
            limit
        }
    }

    pub(crate) fn overloaded(&mut self) {
        self.admitted = (self.admitted.min(f64::from(self.get())) * REFUSED).max(1.0);
    }
}

/// The most generations, up to `most`, at which the 95th percentile of the time per token is within `target`. A target
/// that not even one alone keeps leaves as many as double the time of one: with less, little would be generated and
/// the target be missed all the same.
fn most_at(line: &Latency, target: Duration, most: u32) -> u32 {
    if line.p95(1) <= target {
        return line.rows_within(target, most);
    }
    line.rows_within(line.p95(1) * 2, most)
}

#[cfg(test)]
mod tests {
    use super::{super::Target, *};

    fn config(tpot_ms: u64) -> Config {
        let tpot = Target { latency: Duration::from_millis(tpot_ms), percentile: 0.95 };
        Config { tpot, ..Config::default() }
    }

    /// 20 ms and 0.5 ms for each generation.
    fn line(up_to: u32) -> Latency {
        let mut line = Latency::default();
        for i in 0..400 {
            let load = 1 + i % up_to;
            line.observe(load, Duration::from_secs_f64(0.02 + 0.0005 * f64::from(load)), 1.0);
        }
        line
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn as_many_are_allowed_as_keep_the_time_per_token() {
        let mut limit = Streams::new(&config(30));
        limit.paced(&line(32), 1.0, ms(36), 32);
        // (30 − 20) / 0.5 = 20.
        assert!((18..=20).contains(&limit.get()), "{}", limit.get());
        limit.paced(&line(32), 1.25, ms(45), 32);
        // (24 − 20) / 0.5 = 8.
        assert!((7..=8).contains(&limit.get()), "{}", limit.get());
    }

    #[test]
    fn the_line_is_not_believed_far_beyond_what_was_seen() {
        let mut limit = Streams::new(&config(1000));
        assert_eq!(limit.get(), 32);
        limit.paced(&line(4), 1.0, ms(22), 4);
        assert_eq!(limit.get(), 16);
        limit.paced(&line(12), 1.0, ms(26), 12);
        assert_eq!(limit.get(), 24);
    }

    #[test]
    fn a_target_that_one_alone_misses_still_leaves_some() {
        let mut limit = Streams::new(&config(10));
        limit.paced(&line(32), 1.0, ms(36), 32);
        // Double of 20.5 ms: (41 − 20) / 0.5 = 42 at most, of which 32 are allowed to start with.
        assert_eq!(limit.get(), 32);
    }

    #[test]
    fn a_load_that_never_changes_is_stepped_away_from_and_back() {
        let mut limit = Streams::new(&config(30));
        let mut line = Latency::default();
        let mut seen = Vec::new();
        for _ in 0..4_000 {
            let load = limit.get();
            let per_token = ms(20) + ms(1).mul_f64(0.5 * f64::from(load));
            line.observe(load, per_token, 1.0);
            limit.paced(&line, 1.0, per_token, load);
            seen.push(limit.get());
        }
        // (30 − 20) / 0.5 = 20, and room is only made use of below nine tenths of the target, which is at 14.
        let late = &seen[3_000..];
        assert!(late.iter().all(|limit| (13..=20).contains(limit)), "{late:?}");
    }

    #[test]
    fn an_engine_that_queues_inside_is_sent_no_more_than_it_has_slots_for() {
        // 16 slots; each generation beyond them waits another second for its first token.
        let mut limit = Streams::new(&config(1000));
        for _ in 0..3_000 {
            let load = limit.get();
            limit.first_token(ms(200) + ms(1000) * load.saturating_sub(16), load);
        }
        assert!((12..=20).contains(&limit.get()), "{}", limit.get());
    }

    #[test]
    fn prompts_that_are_long_now_and_then_are_no_reason_to_shrink() {
        let mut limit = Streams::new(&config(1000));
        for i in 0..5_000 {
            let first = if i % 8 == 0 { ms(1500) } else { ms(100) };
            limit.first_token(first, limit.get());
        }
        assert!(limit.get() > 100, "{}", limit.get());
    }

    #[test]
    fn the_limit_grows_only_while_it_is_met() {
        let mut limit = Streams::new(&config(1000));
        for _ in 0..10_000 {
            limit.first_token(ms(100), 4);
        }
        assert_eq!(limit.get(), 32);
        for _ in 0..10_000 {
            limit.first_token(ms(100), limit.get());
        }
        assert!(limit.get() > 100, "{}", limit.get());
        limit.overloaded();
        assert!(limit.get() > 90);
    }

    #[test]
    fn a_long_prompt_alone_is_late_by_itself() {
        let mut limit = Streams::new(&config(1000));
        for _ in 0..1_000 {
            limit.first_token(ms(5_000), 1);
        }
        assert_eq!(limit.get(), 32);
    }
}
