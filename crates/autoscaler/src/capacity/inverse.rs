//! The other way round: the arrival rate up to which a number of replicas is enough.

use super::Learned;

/// Halvings of the range in which the rate is looked for: enough for a millionth of it.
const HALVINGS: u32 = 20;

impl Learned {
    /// The highest rate, in units per second, of which [`replicas`](Self::replicas) says that `n` of `slots` each
    /// are enough; 0 if they are enough for none.
    pub(crate) fn rate_of(&self, slots: f64, n: u32, percentile: f64) -> f64 {
        let enough = |rate: f64| self.replicas(slots, rate, percentile, n.saturating_add(1)) <= n;
        // More than always full is more than they can do.
        let (mut low, mut high) = (0.0, f64::from(n) * slots / self.service.as_secs_f64());
        for _ in 0..HALVINGS {
            let middle = (low + high) / 2.0;
            if enough(middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::LEARNED;

    #[test]
    fn a_rate_below_it_needs_no_more_and_one_above_it_does() {
        for n in [1, 2, 7, 40] {
            let rate = LEARNED.rate_of(4.0, n, 0.99);
            let needs = |rate| LEARNED.replicas(4.0, rate, 0.99, 1000);
            assert_eq!((needs(rate * 0.9999), needs(rate * 1.0001)), (n, n + 1), "{n}: {rate}");
        }
        assert_eq!(LEARNED.rate_of(4.0, 0, 0.99), 0.0);
    }
}
