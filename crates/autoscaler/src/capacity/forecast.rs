//! What part of the requests a number of replicas should answer in time: the sizing read the other way.

use super::{Learned, Pool};

impl Learned {
    /// The predicted part of `rate` arrivals per second that wait no longer than the SLO leaves, at `n` replicas of
    /// `slots` each: none where they are fewer than the load needs to be served at all. `None` where a single call
    /// takes longer than the SLO, so that waiting does not decide.
    pub(crate) fn within(&self, slots: f64, rate: f64, n: u32) -> Option<f64> {
        if self.patience.is_zero() {
            return None;
        }
        let pool = self.pool(slots, rate);
        Some(1.0 - pool.late(n))
    }
}

impl Pool {
    /// The part of the arrivals that wait longer than allowed where there are `n` replicas.
    fn late(&self, n: u32) -> f64 {
        let idle = f64::from(n) * f64::from(self.slots) - self.load;
        if self.load <= 0.0 {
            0.0
        } else if idle <= 0.0 {
            1.0
        } else {
            (self.waiting(n) * (-idle * self.decay).exp()).clamp(0.0, 1.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::tests::LEARNED, *};

    #[test]
    fn the_number_that_the_sizing_finds_is_the_first_that_is_predicted_to_keep_the_slo() {
        for rate in [3.0, 70.0, 410.0, 5000.0] {
            let n = LEARNED.replicas(4.0, rate, 0.99, 1000);
            let within = |n| LEARNED.within(4.0, rate, n).expect("a call is shorter than the SLO");
            assert!(within(n) >= 0.99 && (n == 1 || within(n - 1) < 0.99), "{rate}/s at {n}: {}", within(n));
        }
    }

    #[test]
    fn too_few_answer_nobody_in_time_and_nobody_is_late_where_nobody_comes() {
        assert_eq!(LEARNED.within(4.0, 401.0, 4), Some(0.0));
        assert_eq!(LEARNED.within(4.0, 0.0, 0), Some(1.0));
        assert_eq!(LEARNED.within(4.0, 1.0, 0), Some(0.0));
        let slow = Learned { patience: Duration::ZERO, ..LEARNED };
        assert_eq!(slow.within(4.0, 1.0, 9), None);
    }
}
