//! A model's configuration in the simulator's words.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use autoscaler::policy::Policy as Rules;
use pipeline::Batching;
use plan::{
    report::About,
    service::{Service, TOKENS},
    start::ColdStart,
    study::{Comparison, Study},
    world::Settings,
};
use serde_json::{Value, json};

use super::{ReplicaArgs, slo};
use crate::{config::Model, serve::policy::policy};

const HOLD: Duration = Duration::from_millis(2);
/// Coefficient of variation of what a call takes, where nothing is said.
const VARIATION: f64 = 0.3;

pub(super) fn settings(
    model: &Model,
    args: &ReplicaArgs,
    begins: Duration,
) -> anyhow::Result<(Settings, Rules)> {
    let rules = policy(model).with_context(|| {
        format!("the replicas of model {} are fixed: there is nothing to plan", model.name)
    })?;
    let slo::Asked { slo, tokens, service, slots } = slo::asked(model, &rules, args)?;
    let variation = args.variation.unwrap_or(VARIATION);
    ensure!((0.0..=10.0).contains(&variation), "--variation: use 0 to 10");
    let settings = Settings {
        service,
        variation,
        prompt: args.prompt_tokens,
        answer: args.output_tokens.unwrap_or(TOKENS),
        slots,
        slo,
        tokens,
        deadline: model.deadline.default,
        cold_start: args.cold_start.clone().unwrap_or(ColdStart::Constant(rules.assumed.cold_start)),
        cold_start_timeout: model.cold_start_timeout,
        queue: model.queue.requests,
        max_hold: match model.batching {
            Batching::Merge { max_hold, .. } => max_hold,
            Batching::Auto | Batching::Off => HOLD,
        },
        bounds: rules.bounds,
        initial: args.initial,
        begins,
    };
    Ok((settings, rules))
}

/// What was simulated, for whoever reads the results.
pub(super) fn about(model: &Model, study: &Study, load: &str) -> About {
    let Settings { slots, cold_start, bounds, deadline, .. } = &study.settings;
    let duration = |duration: Duration| humantime::format_duration(duration).to_string();
    let start = match cold_start {
        ColdStart::Constant(start) => duration(*start),
        ColdStart::Between(least, most) => format!("{} to {}", duration(*least), duration(*most)),
        ColdStart::Measured(starts) => {
            let mean =
                Duration::from_millis(u64::try_from(cold_start.mean().as_millis()).unwrap_or(u64::MAX));
            format!("{} measured, mean {}", starts.len(), duration(mean))
        }
    };
    let service = match study.settings.service {
        Service::Single { time } => format!("{} a call, {slots} at a time", duration(time)),
        Service::Batch { fixed, per_row, rows } => {
            format!("{} + {} a row, up to {rows} rows", duration(fixed), duration(per_row))
        }
        Service::Chat { first, prompt, token, per_stream } => format!(
            "{}{} + {} a token + {} for each stream, {}",
            slo::duration(first),
            if prompt.is_zero() {
                String::new()
            } else {
                format!(" + {} a prompt's token", slo::duration(prompt))
            },
            slo::duration(token),
            slo::duration(per_stream),
            slo::streams(&study.settings)
        ),
    };
    About {
        model: model.name.to_string(),
        load: load.to_owned(),
        slo: slo::words(&study.settings),
        service,
        cold_start: start,
        bounds: format!("{} to {} replicas, deadline {}", bounds.min, bounds.max, duration(*deadline)),
        seeds: study.seeds.len(),
    }
}

pub(super) fn json(model: &Model, study: &Study, load: &str, comparison: &Comparison) -> Value {
    let about = about(model, study, load);
    json!({
        "model": about.model,
        "load": about.load,
        "slo": slo::json(&study.settings),
        "service": about.service,
        "cold_start": about.cold_start,
        "bounds": { "min": study.settings.bounds.min, "max": study.settings.bounds.max },
        "seeds": study.seeds,
        "results": comparison,
    })
}
