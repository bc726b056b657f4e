//! Counters of one model since the server started, as the protocol's statistics call reports them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use proto::inference::{InferBatchStatistics, InferStatistics, ModelStatistics, StatisticDuration};

/// Batch sizes counted each on its own; clients choose them, so there is a bound.
const BATCH_SIZES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Statistics {
    counters: Mutex<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    rows: u64,
    last: Option<SystemTime>,
    success: Total,
    fail: Total,
    queue: Total,
    compute: Total,
    batches: BTreeMap<u64, Total>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Total {
    count: u64,
    time: Duration,
}

/// Where the time of one executed call went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    pub(crate) queue: Duration,
    pub(crate) compute: Duration,
}

impl Total {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.time += time;
    }

    fn report(self) -> Option<StatisticDuration> {
        Some(StatisticDuration {
            count: self.count,
            ns: u64::try_from(self.time.as_nanos()).unwrap_or(u64::MAX),
        })
    }
}

impl Statistics {
    pub(crate) fn succeeded(&self, rows: u64, spent: Spent) {
        let mut counters = self.lock();
        counters.rows += rows;
        counters.last = Some(SystemTime::now());
        counters.success.add(spent.queue + spent.compute);
        counters.queue.add(spent.queue);
        counters.compute.add(spent.compute);
        if counters.batches.len() < BATCH_SIZES_MAX || counters.batches.contains_key(&rows) {
            counters.batches.entry(rows).or_default().add(spent.compute);
        }
    }

    pub(crate) fn failed(&self, spent: Spent) {
        self.lock().fail.add(spent.queue + spent.compute);
    }

    pub(crate) fn report(&self, name: &str, version: &str) -> ModelStatistics {
        let counters = self.lock();
        let last = counters.last.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        ModelStatistics {
            name: name.to_owned(),
            version: version.to_owned(),
            last_inference: last.map_or(0, |at| u64::try_from(at.as_millis()).unwrap_or(u64::MAX)),
            inference_count: counters.rows,
            execution_count: counters.success.count,
            inference_stats: Some(InferStatistics {
                success: counters.success.report(),
                fail: counters.fail.report(),
                queue: counters.queue.report(),
                compute_infer: counters.compute.report(),
                ..InferStatistics::default()
            }),
            batch_stats: counters
                .batches
                .iter()
                .map(|(&batch_size, total)| InferBatchStatistics {
                    batch_size,
                    compute_infer: total.report(),
                    ..InferBatchStatistics::default()
                })
                .collect(),
        }
    }

    /// Counters stay usable whatever happened to a thread that held them.
    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPENT: Spent = Spent { queue: Duration::from_millis(2), compute: Duration::from_millis(3) };

    #[test]
    fn rows_executions_and_batch_sizes_are_counted() {
        let statistics = Statistics::default();
        statistics.succeeded(4, SPENT);
        statistics.succeeded(4, SPENT);
        statistics.succeeded(1, SPENT);
        statistics.failed(SPENT);
        let report = statistics.report("m", "1");
        assert_eq!((report.inference_count, report.execution_count), (9, 3));
        let stats = report.inference_stats.unwrap();
        assert_eq!(stats.success, Some(StatisticDuration { count: 3, ns: 15_000_000 }));
        assert_eq!(stats.fail, Some(StatisticDuration { count: 1, ns: 5_000_000 }));
        let sizes: Vec<_> = report.batch_stats.iter().map(|batch| batch.batch_size).collect();
        assert_eq!(sizes, [1, 4]);
    }

    #[test]
    fn the_number_of_batch_sizes_is_bounded() {
        let statistics = Statistics::default();
        for rows in 1..10_000 {
            statistics.succeeded(rows, SPENT);
        }
        assert_eq!(statistics.report("m", "1").batch_stats.len(), BATCH_SIZES_MAX);
    }
}
