//! What a model's answers are to keep: one percentile of whole answers, or one each of the first token and of further
//! ones.

use std::time::Duration;

use super::{Deadlines, openai_only};
use crate::config::{
    Objective, Protocol, Slo, check,
    read::positive,
    section::{Findings, Section, Setting},
};

/// The percentiles an objective may name.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)];
const TOKENS: [&str; 2] = ["ttft", "tpot"];

/// A quantile and the latency that it is to keep.
type Percentile = (f64, Setting<Duration>);

/// An [`Slo`] as it stands in the file.
pub(super) enum Objectives {
    Whole(Percentile),
    Tokens { ttft: Percentile, tpot: Percentile },
}

impl Objectives {
    pub(super) fn value(&self) -> Slo {
        let objective =
            |(quantile, latency): &Percentile| Objective { quantile: *quantile, latency: latency.value };
        match self {
            Self::Whole(whole) => Slo::Latency(objective(whole)),
            Self::Tokens { ttft, tpot } => Slo::Chat { ttft: objective(ttft), tpot: objective(tpot) },
        }
    }

    /// The latency of whole answers, if that is the objective.
    pub(super) fn whole(&self) -> Option<&Setting<Duration>> {
        match self {
            Self::Whole((_, latency)) => Some(latency),
            Self::Tokens { .. } => None,
        }
    }

    /// Objectives that lie beyond a deadline are doubtful.
    pub(super) fn within(&self, found: &mut Findings, deadlines: &Deadlines) {
        match self {
            Self::Whole((_, latency)) => {
                check::slo_within_deadline(found, Some(latency), Some(&deadlines.default));
            }
            Self::Tokens { ttft, tpot } => {
                let (first, between) =
                    deadlines.tokens.as_ref().map(|(first, between)| (first, between)).unzip();
                check::slo_within_deadline(found, Some(&ttft.1), first);
                check::slo_within_deadline(found, Some(&tpot.1), between);
            }
        }
    }
}

pub(super) fn slo(
    found: &mut Findings,
    model: &Section<'_>,
    protocol: Option<&Setting<Protocol>>,
) -> Option<Objectives> {
    let section = found.section(model, "slo");
    let openai = protocol.is_some_and(|protocol| protocol.value == Protocol::OpenAi);
    for name in TOKENS {
        openai_only(found, &section, name, protocol, "write p99: 100ms, the time of whole answers");
    }
    let tokens = TOKENS.into_iter().find(|name| section.has(name));
    let whole = PERCENTILES.into_iter().find(|(name, _)| section.has(name));
    if let (Some(token), Some((percentile, _)), true) = (tokens, whole, openai) {
        let message = format!(
            "either whole answers or tokens have an objective, and there is {} already",
            section.mention(token)
        );
        let hint = format!("remove {percentile}; where there are only embeddings, remove {token}");
        found.error(&section.path_of(percentile), section.place_of(percentile), message, hint);
    }
    let (ttft, tpot) = (token(found, &section, "ttft"), token(found, &section, "tpot"));
    if openai && whole.is_none() {
        return Some(Objectives::Tokens { ttft: ttft?, tpot: tpot? });
    }
    percentile(found, &section).map(Objectives::Whole)
}

fn token(found: &mut Findings, slo: &Section<'_>, name: &str) -> Option<Percentile> {
    let section = found.section(slo, name);
    percentile(found, &section)
}

/// The one percentile of a section, or its default where it names none.
fn percentile(found: &mut Findings, section: &Section<'_>) -> Option<Percentile> {
    let mut given = PERCENTILES.into_iter().filter(|(name, _)| section.has(name));
    let default = || PERCENTILES.into_iter().find(|(name, _)| *name == section.first_with_default());
    let (name, quantile) = given.next().or_else(default)?;
    for (other, _) in given {
        let earlier = section.mention(name);
        let message = format!("only one percentile can be the objective, and there is {earlier} already");
        found.error(&section.path_of(other), section.place_of(other), message, "remove one of them");
        positive(found, section, other);
    }
    Some((quantile, positive(found, section, name)?))
}
