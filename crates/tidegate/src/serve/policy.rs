//! A model's configuration in the autoscaler's words.

use std::time::Duration;

use autoscaler::policy::{Assumed, Bounds, IdleAfter, Mode, Objective, Policy, Slo};
use pipeline::Concurrency;

use crate::config::{self, Fleet};

/// How long a child process is believed to take until it is ready, before some starts were measured.
const PROCESS_START: Duration = Duration::from_secs(10);

/// How the model is scaled; `None` where its replicas are fixed.
pub(crate) fn policy(config: &config::Model) -> Option<Policy> {
    let scaling = config.fleet.scaling()?;
    let default = Assumed::default();
    let concurrency = match config.concurrency {
        Concurrency::Fixed(concurrency) => concurrency,
        Concurrency::Auto => default.concurrency,
    };
    let cold_start = match config.fleet {
        Fleet::Process(_) => PROCESS_START,
        Fleet::Kubernetes(_) | Fleet::Static { .. } => default.cold_start,
    };
    Some(Policy {
        bounds: Bounds { min: scaling.min, max: scaling.max },
        slo: slo(config.slo),
        idle_after: scaling.idle_after.map_or(IdleAfter::Auto, IdleAfter::Fixed),
        mode: match scaling.mode {
            config::Mode::Enforce => Mode::Enforce,
            config::Mode::Observe => Mode::Observe,
        },
        assumed: Assumed { concurrency, cold_start },
        schedules: scaling.schedules.clone(),
    })
}

fn slo(slo: config::Slo) -> Slo {
    let objective =
        |config::Objective { quantile, latency }| Objective { target: latency, percentile: quantile };
    match slo {
        config::Slo::Latency(whole) => Slo::Latency(objective(whole)),
        config::Slo::Chat { ttft, tpot } => Slo::Chat { ttft: objective(ttft), tpot: objective(tpot) },
    }
}
