//! Who is compared, and with which tunings.

use std::fmt;

use autoscaler::policy::{Policy as Rules, Slo};

use crate::policy::{Delay, Fixed, Hpa, Keda, Kpa, Ours, Policy};

/// Requests per replica as a part of those it can have at a time, for HPA and KEDA.
const TARGETS: [u32; 9] = [30, 40, 50, 60, 70, 80, 90, 100, 120];
/// Target utilisation for KPA; 70 is its default.
const UTILISATIONS: [u32; 8] = [20, 30, 40, 50, 60, 70, 80, 90];
/// Percentiles of the SLO (of first tokens, where it is one of tokens), in hundredths of a percent, that Tidegate's rules
/// are given besides the configured one.
const PERCENTILES: [u32; 6] = [9000, 9500, 9800, 9900, 9950, 9990];

/// A kind of policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Ours,
    Hpa,
    Keda,
    Kpa,
    KpaDelayed,
    Static,
    Optimum,
}

/// Its one parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tuning {
    /// Percentile of the SLO, in hundredths of a percent.
    Percentile(u32),
    /// Requests per replica, in percent of those it can have.
    Target(u32),
    Replicas(u32),
    /// What a miss is worth: this power of four times the replica time that a request takes.
    Price(u32),
    /// The same, by somebody who counts a slot as missed if one soon after it would be: a queue that is let grow is
    /// missed for later.
    Foresight(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Contestant {
    pub family: Family,
    pub tuning: Tuning,
}

impl Family {
    /// Everything Tidegate can be compared with.
    pub const OTHERS: [Self; 6] =
        [Self::Hpa, Self::Keda, Self::Kpa, Self::KpaDelayed, Self::Static, Self::Optimum];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ours => "tidegate",
            Self::Hpa => "hpa",
            Self::Keda => "keda",
            Self::Kpa => "kpa",
            Self::KpaDelayed => "kpa-delay",
            Self::Static => "static",
            Self::Optimum => "optimum",
        }
    }
}

impl Contestant {
    pub(super) fn ours(percentile: f64) -> Self {
        Self { family: Family::Ours, tuning: Tuning::Percentile((percentile * 1e4).round() as u32) }
    }

    /// `at_a_time`: requests that one replica can have.
    pub(super) fn policy(self, rules: &Rules, at_a_time: f64) -> Box<dyn Policy> {
        let least = rules.bounds.min;
        let target = |percent: u32| at_a_time * f64::from(percent) / 100.0;
        match (self.family, self.tuning) {
            (Family::Hpa, Tuning::Target(percent)) => Box::new(Hpa::new(target(percent), least)),
            (Family::Keda, Tuning::Target(percent)) => Box::new(Keda::new(target(percent), least)),
            (Family::Kpa, Tuning::Target(percent)) => Box::new(Kpa::new(target(percent), Delay::None, least)),
            (Family::KpaDelayed, Tuning::Target(percent)) => {
                Box::new(Kpa::new(target(percent), Delay::FiveMinutes, least))
            }
            (_, Tuning::Replicas(replicas)) => Box::new(Fixed(replicas)),
            (_, tuning) => {
                let mut rules = rules.clone();
                if let Tuning::Percentile(percentile) = tuning {
                    let response = match &mut rules.slo {
                        Slo::Latency(whole) => whole,
                        Slo::Chat { ttft, .. } => ttft,
                    };
                    response.percentile = f64::from(percentile) / 1e4;
                }
                Box::new(Ours::new(rules))
            }
        }
    }
}

/// Tidegate as configured and with other percentiles, and the others that are asked for; those that follow from
/// other simulations left out.
pub(super) fn all(rules: &Rules, against: &[Family]) -> Vec<Contestant> {
    let ours = Contestant::ours(rules.slo.response().percentile);
    let tuned = |family: Family| -> Vec<Contestant> {
        let targets: &[u32] = match family {
            Family::Hpa | Family::Keda => &TARGETS,
            Family::Kpa | Family::KpaDelayed => &UTILISATIONS,
            Family::Ours | Family::Static | Family::Optimum => &[],
        };
        targets.iter().map(|percent| Contestant { family, tuning: Tuning::Target(*percent) }).collect()
    };
    let others = PERCENTILES.iter().map(|p| Contestant { tuning: Tuning::Percentile(*p), ..ours });
    let mut all = vec![ours];
    all.extend(others.filter(|other| *other != ours));
    all.extend(against.iter().flat_map(|family| tuned(*family)));
    all
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = self.family.as_str();
        match self.tuning {
            Tuning::Percentile(percentile) => write!(f, "{family} p{}", f64::from(percentile) / 100.0),
            Tuning::Target(percent) => write!(f, "{family} {percent} %"),
            Tuning::Replicas(replicas) => write!(f, "{family} {replicas}"),
            Tuning::Price(power) => write!(f, "{family} ×{}", 4u64.saturating_pow(power)),
            Tuning::Foresight(power) => write!(f, "{family} ahead ×{}", 4u64.saturating_pow(power)),
        }
    }
}
