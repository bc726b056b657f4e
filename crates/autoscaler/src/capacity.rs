//! From latency model and SLO to what one replica can take, and from an arrival rate to a number of replicas.

mod chat;
mod erlang;
mod forecast;
mod inverse;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::erlang::Pool;
use crate::{
    policy::{Assumed, Objective},
    snapshot::{LatencyModel, deviation},
};

/// Part of the SLO that service may take at the batch size a replica is sized for; the rest is for waiting.
const SERVICE_SHARE: f64 = 0.5;
/// Part of an assumed concurrency that is used.
const ASSUMED_SHARE: f64 = 0.8;
/// Least service time in seconds that is reckoned with: a clock tells no shorter one.
const SERVICE_LEAST: f64 = 1e-6;
/// Variability of independent single arrivals. Bursts are not reckoned with twice: the rate that is sized for has
/// them in it.
const ARRIVAL_VARIABILITY: f64 = 1.0;

/// What load is counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Calls that are not merged.
    #[default]
    Requests,
    /// Elements of the batch dimension, where calls are merged.
    Rows,
    /// Answers that come token by token.
    Streams,
}

/// What one replica can take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    pub unit: Unit,
    /// Units that one replica has in service at a time.
    pub slots: f64,
    pub basis: Basis,
}

/// Where the capacity is from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Too few calls were measured: 80 % of the configured concurrency.
    Assumed,
    Learned(Learned),
}

/// The capacity by the latency model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    /// Units per second of one replica that is always full.
    pub rate: f64,
    /// Time in service of a full batch.
    pub service: Duration,
    /// What the SLO leaves for waiting beside the 95th percentile of service; zero if the SLO cannot be met.
    pub patience: Duration,
    /// Squared coefficient of variation of the service time.
    pub service_variability: f64,
    /// Calls that were measured.
    pub samples: u64,
}

impl Capacity {
    /// Before enough was measured.
    pub(crate) fn assumed(assumed: &Assumed, unit: Unit) -> Self {
        let slots = f64::from(assumed.concurrency.max(1)) * ASSUMED_SHARE;
        Self { unit, slots, basis: Basis::Assumed }
    }

    /// By `model`. `work` is the mean predicted service time of a request, where that is known.
    pub(crate) fn learned(model: &LatencyModel, slo: &Objective, work: Option<Duration>) -> Self {
        let batch = best_batch(model, slo);
        let merges = model.max_batch_rows > 1;
        let modelled = time(model, batch);
        let measured = work.filter(|_| !merges).map_or(modelled, |work| work.as_secs_f64());
        let service = measured.max(SERVICE_LEAST);
        let tail = f64::from(model.tail_permille.max(1000)) / 1000.0;
        let slots = batch * f64::from(model.concurrency.max(1));
        let learned = Learned {
            rate: slots / service,
            service: Duration::from_secs_f64(service),
            patience: slo.target.saturating_sub(Duration::from_secs_f64(service * tail)),
            service_variability: deviation(model.tail_permille).powi(2),
            samples: model.samples,
        };
        let unit = if merges { Unit::Rows } else { Unit::Requests };
        Self { unit, slots, basis: Basis::Learned(learned) }
    }
}

impl Learned {
    /// The fewest replicas of `slots` each, up to `most`, at which no more than 1 − `percentile` of the arrivals
    /// of `rate` per second wait longer than the SLO leaves.
    pub(crate) fn replicas(&self, slots: f64, rate: f64, percentile: f64, most: u32) -> u32 {
        let pool = Pool { misses: 1.0 - percentile, ..self.pool(slots, rate) };
        pool.replicas(most)
    }

    /// The queue that `rate` arrivals per second make at replicas of `slots` each; nobody may wait too long.
    fn pool(&self, slots: f64, rate: f64) -> Pool {
        let service = self.service.as_secs_f64();
        let variability = f64::midpoint(ARRIVAL_VARIABILITY, self.service_variability);
        Pool {
            slots: slots.max(1.0) as u32,
            load: rate * service,
            decay: self.patience.as_secs_f64() / (service * variability),
            misses: 0.0,
        }
    }
}

/// The most rows per call at which service and hold keep within their share of the SLO.
fn best_batch(model: &LatencyModel, slo: &Objective) -> f64 {
    let most = f64::from(model.max_batch_rows.max(1));
    let fixed = model.fixed.as_secs_f64();
    let per_row = model.per_row.as_secs_f64();
    let tail = f64::from(model.tail_permille.max(1000)) / 1000.0;
    let hold = if model.max_batch_rows > 1 { fixed / 4.0 } else { 0.0 };
    let left = (slo.target.as_secs_f64() * SERVICE_SHARE - hold) / tail - fixed;
    if per_row <= 0.0 {
        if left >= 0.0 { most } else { 1.0 }
    } else {
        (left / per_row).floor().clamp(1.0, most)
    }
}

fn time(model: &LatencyModel, rows: f64) -> f64 {
    model.fixed.as_secs_f64() + model.per_row.as_secs_f64() * rows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One replica has four calls of 40 ms at a time, which may wait for 150 ms.
    pub(super) const LEARNED: Learned = Learned {
        rate: 100.0,
        service: Duration::from_millis(40),
        patience: Duration::from_millis(150),
        service_variability: 0.1,
        samples: 1000,
    };

    fn model(fixed: u64, per_row: u64, max_batch_rows: u32, concurrency: u32) -> LatencyModel {
        LatencyModel {
            fixed: Duration::from_millis(fixed),
            per_row: Duration::from_millis(per_row),
            tail_permille: 1200,
            samples: 500,
            max_batch_rows,
            concurrency,
        }
    }

    fn slo(ms: u64) -> Objective {
        Objective { target: Duration::from_millis(ms), percentile: 0.99 }
    }

    fn learned(capacity: Capacity) -> Learned {
        match capacity.basis {
            Basis::Learned(learned) => learned,
            Basis::Assumed => panic!("not learned"),
        }
    }

    #[test]
    fn the_batch_is_the_largest_that_leaves_half_of_the_slo_for_waiting() {
        // (100 ms − 2 ms hold) / 1.2 − 8 ms = 73.7 ms for rows of 1 ms.
        let capacity = Capacity::learned(&model(8, 1, 128, 1), &slo(200), None);
        assert_eq!((capacity.unit, capacity.slots), (Unit::Rows, 73.0));
        let learned = learned(capacity);
        assert!((learned.rate - 73.0 / 0.081).abs() < 1e-6);
        assert_eq!(learned.patience.as_micros(), 200_000 - 97_200);
        assert_eq!(Capacity::learned(&model(8, 1, 32, 1), &slo(200), None).slots, 32.0);
    }

    #[test]
    fn an_slo_shorter_than_one_call_leaves_no_patience_and_a_finite_answer() {
        let capacity = Capacity::learned(&model(50, 1, 32, 1), &slo(40), None);
        let learned = learned(capacity);
        assert_eq!((capacity.slots, learned.patience), (1.0, Duration::ZERO));
        let n = learned.replicas(capacity.slots, 20.0, 0.99, 64);
        assert!((2..20).contains(&n), "{n}");
    }

    #[test]
    fn where_nothing_is_merged_the_mean_work_of_a_request_is_its_service() {
        let capacity = Capacity::learned(&model(10, 1, 1, 4), &slo(500), Some(Duration::from_millis(40)));
        assert_eq!((capacity.unit, capacity.slots), (Unit::Requests, 4.0));
        assert!((learned(capacity).rate - 100.0).abs() < 1e-9);
    }

    #[test]
    fn until_it_is_learned_a_replica_takes_four_fifths_of_its_concurrency() {
        let capacity = Capacity::assumed(&Assumed { concurrency: 25, ..Assumed::default() }, Unit::Rows);
        assert_eq!((capacity.slots, capacity.basis), (20.0, Basis::Assumed));
    }

    #[test]
    fn more_variable_service_needs_no_fewer_replicas() {
        let capacity = Capacity::learned(&model(40, 0, 1, 4), &slo(60), None);
        let with = |service_variability| Learned { service_variability, ..learned(capacity) };
        let sizes: Vec<u32> =
            [0.0, 1.0, 4.0, 16.0].iter().map(|v| with(*v).replicas(4.0, 300.0, 0.99, 64)).collect();
        assert!(sizes.is_sorted() && sizes[0] < sizes[3], "{sizes:?}");
    }
}
