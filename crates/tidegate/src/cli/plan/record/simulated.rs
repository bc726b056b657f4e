//! The closed loop: the requests on record through the simulator, with the settings as they were and as they would be.

use std::time::Duration;

use anyhow::Context as _;
use arrivals::trace::Replay;
use autoscaler::policy::Policy;
use plan::{
    load::Load,
    replay::{Replayed, Signals},
    study::{Study, Summary},
    world::Settings,
};
use serde_json::{Value, json};

use super::super::{PlanArgs, ReplicaArgs, model, progress, seeds, threads};
use crate::config::{self, Assignment, Model};

/// What came of it, or why there is nothing.
pub(super) enum Simulated {
    Rows(Box<Rows>),
    Refused(String),
}

pub(super) struct Rows {
    /// How the replicas were taken to be.
    pub(super) replica: String,
    pub(super) cold_start: String,
    pub(super) seeds: usize,
    pub(super) rows: Vec<Row>,
}

pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) slo: String,
    pub(super) summary: Summary,
}

impl Simulated {
    pub(super) fn to_json(&self) -> Value {
        let Self::Rows(found) = self else {
            let Self::Refused(why) = self else { return Value::Null };
            return json!({ "refused": why });
        };
        let row = |row: &Row| json!({ "name": row.name, "slo": row.slo, "result": row.summary });
        json!({
            "service": found.replica,
            "cold_start": found.cold_start,
            "seeds": found.seeds,
            "rows": found.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// A study of the recorded arrivals, with settings of one kind or the other.
struct Trial {
    model: Model,
    settings: Settings,
    rules: Policy,
}

pub(super) fn simulate(
    replayed: &Replayed,
    changes: &[Assignment],
    args: &PlanArgs,
) -> anyhow::Result<Simulated> {
    let signals = &replayed.signals;
    let (_, words) = replayed.last.as_ref().context("no policy is on record")?;
    let [before, after] = [&[][..], changes].map(|changes| config::recorded(words, changes));
    let (before, after) = (before?, after?);
    if let Some(why) = refusal(signals, &args.replicas) {
        return Ok(Simulated::Refused(why));
    }
    let replicas = measured(signals, &args.replicas);
    let (before, after) = (trial(before, &replicas, signals)?, trial(after, &replicas, signals)?);
    let load = Load::Trace(signals.trace()?, Replay::AS_IT_IS);
    let mut trials = vec![("recorded settings", before.settings.clone(), before.rules.clone())];
    let judges = |settings: &Settings| (settings.slo, settings.tokens.map(|tokens| tokens.tpot));
    if judges(&before.settings) != judges(&after.settings) {
        let Settings { slo, tokens, .. } = after.settings;
        let held = Settings { slo, tokens, ..before.settings.clone() };
        trials.push(("recorded settings, by the changed SLO", held, before.rules.clone()));
    }
    trials.push(("changed settings", after.settings.clone(), after.rules.clone()));
    let studies: Vec<(&str, Study)> = trials
        .into_iter()
        .map(|(name, settings, rules)| {
            let load = load.clone();
            let (seeds, threads) = (seeds(args), threads(args));
            (name, Study { settings, load, rules, seeds, against: Vec::new(), threads })
        })
        .collect();
    let about = match studies.first() {
        Some((_, study)) => model::about(&before.model, study, ""),
        None => return Ok(Simulated::Refused("there is nothing to simulate".to_owned())),
    };
    let mut rows = Vec::new();
    for (name, study) in &studies {
        let slo = model::about(&after.model, study, "").slo;
        rows.push(Row { name, slo, summary: study.alone(&progress(args.study.quiet))? });
    }
    let (replica, cold_start, seeds) = (about.service, about.cold_start, about.seeds);
    Ok(Simulated::Rows(Box::new(Rows { replica, cold_start, seeds, rows })))
}

/// Why there is nothing to simulate, in words.
fn refusal(signals: &Signals, args: &ReplicaArgs) -> Option<String> {
    if signals.requests == 0 {
        return Some("no request is on record".to_owned());
    }
    if args.service.is_none() && signals.measured().is_none() {
        let samples = signals.latency.map_or(0, |latency| latency.samples);
        return Some(format!(
            "what a call takes was learned from {samples} calls, which are too few to go by: say it with --service"
        ));
    }
    None
}

/// What the command line says of the replicas, and what was measured where it says nothing.
pub(in super::super) fn measured(signals: &Signals, given: &ReplicaArgs) -> ReplicaArgs {
    let found = signals.measured();
    ReplicaArgs {
        service: given.service.or(found.map(|found| found.service)),
        variation: given.variation.or(found.map(|found| found.variation)),
        prompt_tokens: given.prompt_tokens,
        output_tokens: given.output_tokens.or(found.and_then(|found| found.answer)),
        slots: given.slots.or(found.and_then(|found| found.slots)),
        cold_start: given.cold_start.clone().or_else(|| signals.cold_start()),
        initial: given.initial.or(Some(signals.initial)),
    }
}

fn trial(model: Model, replicas: &ReplicaArgs, signals: &Signals) -> anyhow::Result<Trial> {
    let begins = signals.begins.unwrap_or(Duration::ZERO);
    let (settings, rules) = model::settings(&model, replicas, begins)?;
    Ok(Trial { model, settings, rules })
}
