//! `--record`: the decisions on record made again, and with `--set` what other settings would have come to.

mod lines;
mod simulated;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use autoscaler::record::{Line, PolicyLine};
use plan::replay::{Replay, Replayed, Signals};
use serde_json::{Value, json};

pub(super) use self::{lines::is_record, simulated::measured};
use self::{
    lines::{Found, Survey},
    simulated::Simulated,
};
use super::{
    super::{
        output::Output,
        terminal::{Style, complain, print, print_error},
    },
    PlanArgs, USAGE,
    load::LoadArgs,
};
use crate::{
    config::{self, Assignment, Report},
    serve::policy::policy,
};

/// One model of a record, replayed.
struct Told {
    model: Arc<str>,
    replayed: Replayed,
    /// `None` without other settings.
    simulated: Option<Simulated>,
}

/// Replays, prints what came of it, and says whether every decision came out as it was recorded. With other settings
/// that is asked of nobody.
pub(super) fn run(path: &Path, args: &PlanArgs) -> anyhow::Result<ExitCode> {
    let survey = Survey::of(path)?;
    let names: Vec<&str> = survey.models.keys().map(|name| &**name).collect();
    let changes = match config::assignments(&args.load.set, &names) {
        Ok(changes) => changes,
        Err(report) => return refused(&report),
    };
    let wanted = match wanted(&names, args.model.as_deref(), &changes) {
        Ok(wanted) => wanted,
        Err(error) => {
            complain(&error.to_string())?;
            return Ok(ExitCode::from(USAGE));
        }
    };
    let window = args.load.window(survey.begins)?;
    let (replays, torn) = match replayed(path, &wanted, &window, &changes)? {
        Ok(replays) => replays,
        Err(report) => return refused(&report),
    };
    let mut told = Vec::new();
    for (model, replay) in replays {
        let replayed = replay.finish();
        let simulated = match changes.is_empty() {
            true => None,
            false => Some(simulated::simulate(&replayed, &changes, args)?),
        };
        told.push(Told { model, replayed, simulated });
    }
    let all = told.iter().all(|told| told.replayed.is_identical());
    let text = match args.output {
        Output::Json => format!("{:#}\n", as_json(path, &survey, torn, &told, &args.load.set)),
        Output::Text => words::text(path, &survey, torn, &told, &args.load.set, Style::of(&io::stdout())),
    };
    print(&text)?;
    let good = if changes.is_empty() { all } else { told.iter().all(|told| told.replayed.ticks > 0) };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a record tells of the world around a model's decisions, as a load.
pub(super) fn signals(path: &Path, model: &str, args: &LoadArgs) -> anyhow::Result<Signals> {
    let survey = Survey::of(path)?;
    let names: Vec<&str> = survey.models.keys().map(|name| &**name).collect();
    if !names.contains(&model) {
        bail!("{} has no model {model:?}; there are: {}", path.display(), names.join(", "));
    }
    let mut replay = Replay::new(args.window(survey.begins)?);
    lines::read(path, |found| {
        match found {
            Found::Line(Line::Tick(tick)) if &*tick.run.model == model => replay.tick(&tick),
            Found::Line(Line::Header(_)) => replay.began(),
            _ => {}
        }
        Ok(())
    })?;
    Ok(replay.finish().take_signals())
}

fn refused(report: &Report) -> anyhow::Result<ExitCode> {
    print_error(&report.render(Style::of(&io::stderr())))?;
    Ok(ExitCode::from(USAGE))
}

/// The models to replay: the one that is named, else those whose settings change, else all.
fn wanted(names: &[&str], named: Option<&str>, changes: &[Assignment]) -> anyhow::Result<BTreeSet<Arc<str>>> {
    if let Some(named) = named {
        let found = names.contains(&named).then(|| BTreeSet::from([Arc::from(named)]));
        return found
            .with_context(|| format!("no model {named:?} in the record; there are: {}", names.join(", ")));
    }
    let changed = |name: &&&str| changes.is_empty() || changes.iter().any(|change| change.model() == **name);
    Ok(names.iter().filter(changed).map(|name| Arc::from(*name)).collect())
}

type Replays = BTreeMap<Arc<str>, Replay>;

/// Replays every model that is wanted, and counts the lines that cannot be read.
fn replayed(
    path: &Path,
    wanted: &BTreeSet<Arc<str>>,
    window: &std::ops::RangeInclusive<Duration>,
    changes: &[Assignment],
) -> anyhow::Result<Result<(Replays, u64), Report>> {
    let mut replays: Replays =
        wanted.iter().map(|model| (Arc::clone(model), Replay::new(window.clone()))).collect();
    let mut torn = 0;
    let mut wrong = None;
    lines::read(path, |found| {
        let line = match found {
            Found::Line(line) => line,
            Found::Torn => {
                torn += 1;
                replays.values_mut().for_each(Replay::tore);
                return Ok(());
            }
            Found::Lost => {
                replays.values_mut().for_each(Replay::tore);
                return Ok(());
            }
        };
        if matches!(line, Line::Header(_)) {
            replays.values_mut().for_each(Replay::began);
        }
        let Some(replay) = line.run().and_then(|run| replays.get_mut(&run.model)) else { return Ok(()) };
        match line {
            Line::Policy(line) => match other(&line, changes) {
                Ok(other) => replay.ruled(*line, other),
                Err(report) => {
                    wrong = Some(report);
                    bail!("the settings cannot be changed like this");
                }
            },
            Line::State(line) => replay.stated(*line),
            Line::Tick(tick) => replay.tick(&tick),
            Line::Gap(gap) => replay.missed(&gap),
            Line::Header(_) => {}
        }
        Ok(())
    })
    .map(|()| Ok((replays, torn)))
    .or_else(|error| wrong.map(Err).ok_or(error))
}

/// The policy that follows from the recorded settings with the changes; `None` where there are none.
fn other(line: &PolicyLine, changes: &[Assignment]) -> Result<Option<autoscaler::policy::Policy>, Report> {
    if changes.is_empty() {
        return Ok(None);
    }
    Ok(policy(&config::recorded(&line.settings, changes)?))
}

fn as_json(path: &Path, survey: &Survey, torn: u64, told: &[Told], set: &[String]) -> Value {
    let model = |told: &Told| {
        json!({
            "model": &*told.model,
            "replay": told.replayed,
            "identical": told.replayed.is_identical(),
            "closed_loop": told.simulated.as_ref().map(Simulated::to_json),
        })
    };
    json!({
        "record": path.display().to_string(),
        "programs": survey.programs,
        "unreadable_lines": torn,
        "set": set,
        "models": told.iter().map(model).collect::<Vec<_>>(),
    })
}
