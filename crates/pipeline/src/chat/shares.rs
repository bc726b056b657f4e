//! Who asks for more of a model than its share, and therefore gives way to the others. Pure.
//!
//! By max-min fairness (Bertsekas, Gallager 1992): every tenant gets what it asks for up to a level, at which all
//! places are used. What one asks for is its offered load, arrivals per second times the seconds for which each takes
//! its place (Little's law), not what it has: that depends on what it is given. A low class gives way to every other.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::Courtesy;
use crate::{arrivals::Rate, request::Class};

/// Arrivals are averaged over this time, those of a tenant that is new over the time since it came, and this at least.
const WINDOW: Duration = Duration::from_secs(10);
const LEAST: Duration = Duration::from_secs(1);
/// The level is worked out anew this often.
const REFRESH: Duration = Duration::from_millis(250);
/// Tenants told apart; those who come when there are so many are one together.
const MOST: usize = 4096;
/// The part of the places that are shared out: an engine in which all are taken keeps who comes next waiting.
const USABLE: f64 = 0.8;
/// Arrivals within the window below which nobody is there.
const NOBODY: f64 = 0.05;

#[derive(Debug)]
pub(crate) struct Shares {
    tenants: HashMap<Arc<str>, Tenant>,
    /// Arrivals of classes above low.
    higher: Rate,
    /// Arrivals per second above which a tenant has more than its share; infinite where all get what they ask for.
    level: f64,
    level_of: Option<Instant>,
}

#[derive(Debug)]
struct Tenant {
    since: Instant,
    arrivals: Rate,
}

impl Tenant {
    fn new(now: Instant) -> Self {
        Self { since: now, arrivals: Rate::over(WINDOW, now) }
    }

    /// Arrivals per second, as if it had always come as often as it does.
    fn rate(&self, now: Instant) -> f64 {
        let known = now.saturating_duration_since(self.since).max(LEAST);
        self.arrivals.get(now) / (1.0 - (-known.as_secs_f64() / WINDOW.as_secs_f64()).exp())
    }

    fn is_there(&self, now: Instant) -> bool {
        self.arrivals.get(now) * WINDOW.as_secs_f64() >= NOBODY
    }
}

impl Shares {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            tenants: HashMap::new(),
            higher: Rate::over(WINDOW, now),
            level: f64::INFINITY,
            level_of: None,
        }
    }

    /// A call has come, whether or not it will be admitted.
    pub(crate) fn arrived(&mut self, tenant: &Arc<str>, class: Class, now: Instant) {
        if class != Class::Low {
            self.higher.record(1, now);
        }
        let tenant = if self.tenants.len() < MOST || self.tenants.contains_key(tenant) {
            Arc::clone(tenant)
        } else {
            Arc::default()
        };
        self.tenants.entry(tenant).or_insert_with(|| Tenant::new(now)).arrivals.record(1, now);
    }

    /// What a call of this tenant and class should leave to others, where each call has one of `places` for
    /// `occupancy`, if that is known.
    pub(crate) fn courtesy(
        &mut self,
        tenant: &str,
        class: Class,
        (places, occupancy): (u32, Option<Duration>),
        now: Instant,
    ) -> Courtesy {
        if class == Class::Low && self.higher.get(now) * WINDOW.as_secs_f64() >= NOBODY {
            return Courtesy::GivesWay;
        }
        if let Some(occupancy) = occupancy {
            self.refresh(places, occupancy, now);
        }
        match class {
            _ if self.rate(tenant, now) > self.level => Courtesy::GivesWay,
            Class::Low => Courtesy::LeavesRoom,
            Class::High | Class::Normal => Courtesy::None,
        }
    }

    /// Of a tenant, or of those together who came when there were too many to tell apart.
    fn rate(&self, tenant: &str, now: Instant) -> f64 {
        let found = self.tenants.get(tenant).or_else(|| self.tenants.get(""));
        found.map_or(0.0, |tenant| tenant.rate(now))
    }

    fn refresh(&mut self, places: u32, occupancy: Duration, now: Instant) {
        if self.level_of.is_some_and(|of| now < of + REFRESH) {
            return;
        }
        self.level_of = Some(now);
        self.tenants.retain(|_, tenant| tenant.is_there(now));
        let mut rates: Vec<f64> = self.tenants.values().map(|tenant| tenant.rate(now)).collect();
        self.level = if rates.len() < 2 {
            f64::INFINITY
        } else {
            rates.sort_unstable_by(f64::total_cmp);
            let level = level(&rates, f64::from(places) * USABLE / occupancy.as_secs_f64().max(1e-3));
            // Where all ask for too much there is nobody to give way to: they take turns in the queue.
            let others: f64 = rates.iter().take_while(|rate| **rate <= level).sum();
            if others * WINDOW.as_secs_f64() < NOBODY { f64::INFINITY } else { level }
        };
    }
}

/// The level to which every one of `asked`, in ascending order, is given, so that it is `total` together.
fn level(asked: &[f64], total: f64) -> f64 {
    let mut left = total;
    for (given, rate) in asked.iter().enumerate() {
        let each = left / (asked.len() - given) as f64;
        if *rate > each {
            return each;
        }
        left -= rate;
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct Bench {
        shares: Shares,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            Self { shares: Shares::new(now), now }
        }

        /// Half a minute in which each of these comes so many times a second.
        fn arrive(&mut self, who: &[(&str, Class, u32)]) {
            for tick in 0..3_000 {
                self.now += Duration::from_millis(10);
                for (tenant, class, per_second) in who {
                    if tick * per_second / 100 != (tick + 1) * per_second / 100 {
                        self.shares.arrived(&Arc::from(*tenant), *class, self.now);
                    }
                }
            }
        }

        /// With so many places, each taken for a second.
        fn gives_way(&mut self, tenant: &str, class: Class, places: u32) -> bool {
            let courtesy = self.shares.courtesy(tenant, class, (places, Some(SECOND)), self.now);
            courtesy == Courtesy::GivesWay
        }
    }

    #[test]
    fn all_get_what_they_ask_for_up_to_a_level() {
        assert_eq!(level(&[1.0, 2.0, 30.0], 100.0), f64::INFINITY);
        assert_eq!(level(&[1.0, 2.0, 30.0], 20.0), 17.0);
        assert_eq!(level(&[10.0, 20.0, 30.0], 15.0), 5.0);
        assert_eq!(level(&[], 15.0), f64::INFINITY);
    }

    #[test]
    fn the_one_that_asks_for_more_than_its_share_gives_way() {
        let mut bench = Bench::new();
        bench.arrive(&[("loud", Class::Normal, 90), ("quiet", Class::Normal, 12)]);
        assert!(bench.gives_way("loud", Class::Normal, 32));
        assert!(!bench.gives_way("quiet", Class::Normal, 32));
    }

    #[test]
    fn nobody_gives_way_where_there_is_enough_for_all() {
        let mut bench = Bench::new();
        bench.arrive(&[("loud", Class::Normal, 12), ("quiet", Class::Normal, 2)]);
        assert!(!bench.gives_way("loud", Class::Normal, 32));
    }

    #[test]
    fn nobody_gives_way_where_all_ask_for_too_much() {
        let mut bench = Bench::new();
        bench.arrive(&[("a", Class::Normal, 30), ("b", Class::Normal, 40)]);
        assert!(!bench.gives_way("a", Class::Normal, 32) && !bench.gives_way("b", Class::Normal, 32));
        bench.arrive(&[("a", Class::Normal, 30), ("b", Class::Normal, 40), ("quiet", Class::Normal, 3)]);
        assert!(bench.gives_way("a", Class::Normal, 32) && bench.gives_way("b", Class::Normal, 32));
        assert!(!bench.gives_way("quiet", Class::Normal, 32));
    }

    #[test]
    fn nobody_gives_way_to_itself() {
        let mut bench = Bench::new();
        bench.arrive(&[("only", Class::Normal, 90)]);
        assert!(!bench.gives_way("only", Class::Normal, 8));
    }

    #[test]
    fn a_low_class_gives_way_while_there_are_others() {
        let mut bench = Bench::new();
        bench.arrive(&[("a", Class::Low, 1)]);
        assert!(!bench.gives_way("a", Class::Low, 32));
        bench.arrive(&[("a", Class::Low, 1), ("b", Class::Normal, 1)]);
        assert!(bench.gives_way("a", Class::Low, 32));
        assert!(!bench.gives_way("b", Class::Normal, 32));
        bench.now += Duration::from_secs(60);
        assert!(!bench.gives_way("a", Class::Low, 32));
    }

    #[test]
    fn the_tenants_that_are_told_apart_are_bounded_and_forgotten() {
        let mut bench = Bench::new();
        for i in 0..2 * MOST {
            bench.shares.arrived(&Arc::from(i.to_string()), Class::Normal, bench.now);
        }
        assert!(bench.shares.tenants.len() <= MOST + 1);
        let (last, now) = ((2 * MOST - 1).to_string(), bench.now);
        assert!(bench.shares.rate(&last, now) > 1000.0 * bench.shares.rate("1", now), "all the rest is one");
        bench.now += Duration::from_secs(120);
        assert!(!bench.gives_way("1", Class::Normal, 1));
        assert!(bench.shares.tenants.is_empty());
    }
}
