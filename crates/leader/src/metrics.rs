//! How well the gateways are heard: handles made once. The names are promised to users.

use std::time::Duration;

use metrics::{Gauge, gauge};

/// How many gateways are heard, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Hearing {
    /// Gateways with a report of the last three seconds.
    pub(crate) heard: usize,
    /// Gateways that are known and not heard.
    pub(crate) silent: usize,
    /// Age of the last word of the gateway that has been silent longest.
    pub(crate) oldest: Duration,
}

pub(crate) struct Metrics {
    heard: Gauge,
    silent: Gauge,
    age: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            heard: gauge!("tidegate_gateways", "state" => "heard"),
            silent: gauge!("tidegate_gateways", "state" => "silent"),
            age: gauge!("tidegate_metrics_age_seconds"),
        }
    }

    pub(crate) fn hearing(&self, hearing: &Hearing) {
        self.heard.set(hearing.heard as f64);
        self.silent.set(hearing.silent as f64);
        self.age.set(hearing.oldest.as_secs_f64());
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
