//! How many replicas an arrival rate needs, by the Erlang-C formula with an exponential tail of the wait.

/// Load up to which the recursion goes slot by slot. Beyond it slots are taken together, which overstates waiting
/// a little and keeps the cost of one sizing to microseconds.
const STEPS_MOST: f64 = 2048.0;

/// A pool that grows by whole replicas.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pool {
    /// Units one replica has in service at a time; at least 1.
    pub(super) slots: u32,
    /// Mean units in service: arrival rate times service time.
    pub(super) load: f64,
    /// By how many e-folds per idle slot the chance of a wait shrinks over the wait that is allowed.
    pub(super) decay: f64,
    /// Part of the arrivals that may wait longer than allowed.
    pub(super) misses: f64,
}

impl Pool {
    /// min n ≤ `most`: C(n·slots, load) · exp(−(n·slots − load) · decay) ≤ misses. Nothing needs nothing.
    pub(super) fn replicas(&self, most: u32) -> u32 {
        if self.load <= 0.0 {
            return 0;
        }
        if self.load >= f64::from(most) * f64::from(self.slots) {
            return most;
        }
        self.by_grain(most, self.grain())
    }

    /// Probability that an arrival has to wait at all where there are `n` replicas.
    pub(super) fn waiting(&self, n: u32) -> f64 {
        let per_replica = (self.slots / self.grain()).max(1);
        let mut line = Line::new(self.load * f64::from(per_replica) / f64::from(self.slots));
        line.extend(n.saturating_mul(per_replica));
        line.waiting()
    }

    /// Slots that are taken as one.
    fn grain(&self) -> u32 {
        (self.load / STEPS_MOST).ceil().max(1.0) as u32
    }

    /// The search with `grain` slots taken as one.
    fn by_grain(&self, most: u32, grain: u32) -> u32 {
        let per_replica = (self.slots / grain).max(1);
        let mut line = Line::new(self.load * f64::from(per_replica) / f64::from(self.slots));
        for n in 1..most {
            line.extend(per_replica);
            let idle = f64::from(n) * f64::from(self.slots) - self.load;
            if idle > 0.0 && line.waiting() * (-idle * self.decay).exp() <= self.misses {
                return n;
            }
        }
        most
    }
}

/// The Erlang recursion, kept as the inverse of the blocking probability: it only grows, so that it runs to
/// infinity (nobody is blocked) and never to nonsense.
struct Line {
    load: f64,
    servers: f64,
    blocking_inverse: f64,
}

impl Line {
    fn new(load: f64) -> Self {
        Self { load, servers: 0.0, blocking_inverse: 1.0 }
    }

    fn extend(&mut self, servers: u32) {
        let step = self.load.recip();
        for _ in 0..servers {
            self.servers += 1.0;
            self.blocking_inverse = self.blocking_inverse * (self.servers * step) + 1.0;
        }
    }

    /// Probability that an arrival has to wait: Erlang C. 1 where the load is more than the servers.
    fn waiting(&self) -> f64 {
        if self.servers <= self.load {
            return 1.0;
        }
        let blocking = self.blocking_inverse.recip();
        blocking / (1.0 - self.load / self.servers * (1.0 - blocking))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn erlang_c(servers: u32, load: f64) -> f64 {
        let mut line = Line::new(load);
        line.extend(servers);
        line.waiting()
    }

    /// The defining sum, in logarithms.
    fn by_definition(servers: u32, load: f64) -> f64 {
        let mut log_term = 0.0;
        let mut logs = vec![0.0];
        for k in 1..=servers {
            log_term += (load / f64::from(k)).ln();
            logs.push(log_term);
        }
        let n = f64::from(servers);
        let last = logs.pop().expect("has servers + 1 entries") + (n / (n - load)).ln();
        let top = logs.iter().copied().fold(last, f64::max);
        let sum: f64 = logs.iter().map(|l| (l - top).exp()).sum();
        (last - top).exp() / (sum + (last - top).exp())
    }

    #[test]
    fn erlang_c_has_its_known_values() {
        // One server waits with its utilisation; two with 2ρ²/(1+ρ); the rest from published tables.
        let rows = [(1, 0.5, 0.5), (1, 0.9, 0.9), (2, 1.0, 1.0 / 3.0), (5, 4.0, 0.5541), (10, 8.0, 0.4092)];
        for (servers, load, expected) in rows {
            assert!((erlang_c(servers, load) - expected).abs() < 5e-5, "C({servers}, {load})");
        }
    }

    #[test]
    fn erlang_c_agrees_with_its_definition_from_small_to_large() {
        for servers in [1u32, 3, 17, 100, 1500] {
            for utilisation in [0.05, 0.5, 0.9, 0.999] {
                let load = f64::from(servers) * utilisation;
                let (fast, slow) = (erlang_c(servers, load), by_definition(servers, load));
                assert!((fast - slow).abs() < 1e-9, "C({servers}, {load}): {fast} against {slow}");
            }
        }
    }

    #[test]
    fn tiny_and_huge_loads_give_sane_answers() {
        let pool = |load| Pool { slots: 32, load, decay: 1.0, misses: 0.01 };
        assert_eq!(pool(0.0).replicas(64), 0);
        assert_eq!(pool(1e-300).replicas(64), 1);
        assert_eq!(pool(1e12).replicas(64), 64);
        assert_eq!(pool(f64::MIN_POSITIVE).replicas(1), 1);
    }

    #[test]
    fn a_small_pool_gets_more_headroom_than_a_large_one() {
        let pool = |load| Pool { slots: 1, load, decay: 0.5, misses: 0.01 };
        let headroom = |load: f64| f64::from(pool(load).replicas(2000)) / load;
        assert!(headroom(1.0) > headroom(10.0) && headroom(10.0) > headroom(100.0));
        assert!(headroom(1000.0) < 1.1);
    }

    #[test]
    fn taking_slots_together_errs_towards_more_and_by_little() {
        let pool = Pool { slots: 32, load: 3000.0, decay: 0.01, misses: 0.01 };
        let (fine, coarse) = (pool.by_grain(200, 1), pool.replicas(200));
        assert!(coarse >= fine && coarse <= fine + 2, "{fine} against {coarse}");
    }
}
