//! `tidegate plan`: what a model's scaling would come to under a trace, before it is trusted; without a trace, what
//! its schedules do in the next week; with a record, whether its decisions come out again, and what others would have.

mod load;
mod model;
mod moment;
mod record;
mod slo;
mod table;
mod week;

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use plan::{
    report::Picture,
    service::{PROMPT, Service},
    start::ColdStart,
    study::{Comparison, Family, Study},
};

use super::{
    config::BAD_CONFIG,
    output::Output,
    terminal::{Style, print, print_error},
};
use crate::config::{self, Model};

/// Pieces that pictures over time have at most.
const PIECES: usize = 720;
const USAGE: u8 = 2;

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The configuration
    #[arg(long, default_value = "tidegate.yaml")]
    config: PathBuf,
    /// One of its models; may be left out where there is only one
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    load: load::LoadArgs,
    #[command(flatten)]
    replicas: ReplicaArgs,
    #[command(flatten)]
    study: StudyArgs,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Replicas")]
pub(super) struct ReplicaArgs {
    /// What a call takes: 250ms; 8ms+1ms/row for merged ones (8ms+1ms/row*64: 64 rows at most);
    /// 300ms+20ms/token+0.5ms/stream for chat: to the first token, for each further one, and that much longer for each
    /// stream of the replica; 100ms+0.2ms/prompt+20ms/token where a first token takes longer for each token of its prompt
    /// [of a record: as measured]
    #[arg(long)]
    service: Option<Service>,
    /// Coefficient of variation of what a call takes [default: 0.3; of a record: as measured]
    #[arg(long)]
    variation: Option<f64>,
    /// Tokens of a prompt of chat, where the trace does not tell
    #[arg(long, default_value_t = PROMPT, help_heading = "Load")]
    prompt_tokens: u32,
    /// Tokens of an answer of chat, on average, where the trace does not tell [default: 200; of a record: as measured]
    #[arg(long, help_heading = "Load")]
    output_tokens: Option<u32>,
    /// Calls or streams one replica has at a time, where they are not merged [default: the model's concurrency, or 8; of
    /// streams whose SLO is one of tokens as many as keep the TPOT, as the gateway finds out; of a record: as measured]
    #[arg(long)]
    slots: Option<u32>,
    /// From the wish for a replica until it is ready: 103s, 60s..180s, or measured ones like 41s,97s,103s [of a
    /// record: as measured]
    #[arg(long)]
    cold_start: Option<ColdStart>,
    /// Replicas that are ready at the beginning [default: what the first five minutes need; of a record: as many as
    /// were]
    #[arg(long)]
    initial: Option<u32>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Comparison")]
struct StudyArgs {
    /// Simulations of each policy and tuning, which differ by chance only
    #[arg(long, default_value_t = 10)]
    seeds: u32,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What to compare with
    #[arg(long, value_enum, value_delimiter = ',', default_value = "hpa,keda,kpa,static,optimum")]
    against: Vec<Against>,
    /// Print every tuning, not only the one that compares
    #[arg(long)]
    all: bool,
    /// Simulations at a time [default: one per processor]
    #[arg(long)]
    threads: Option<usize>,
    /// Write a report with pictures: one file that needs no other
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// No progress on stderr
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Against {
    /// Kubernetes' HorizontalPodAutoscaler on requests per replica
    Hpa,
    /// The same with activation at zero
    Keda,
    /// Knative's, without and with a scale-down delay of 300 s
    Kpa,
    /// Every fixed number of replicas
    Static,
    /// Somebody who knows the future
    Optimum,
    /// Nobody
    None,
}

impl Against {
    fn families(self) -> &'static [Family] {
        match self {
            Self::Hpa => &[Family::Hpa],
            Self::Keda => &[Family::Keda],
            Self::Kpa => &[Family::Kpa, Family::KpaDelayed],
            Self::Static => &[Family::Static],
            Self::Optimum => &[Family::Optimum],
            Self::None => &[],
        }
    }
}

pub(crate) fn run(args: PlanArgs) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.load.record {
        return record::run(path, &args);
    }
    let loaded = match config::load(&args.config) {
        Ok(loaded) => loaded,
        Err(report) => {
            print_error(&report.render(Style::of(&io::stderr())))?;
            return Ok(ExitCode::from(BAD_CONFIG));
        }
    };
    let model = match chosen(&loaded.config.models, args.model.as_deref()) {
        Ok(model) => model,
        Err(error) => {
            super::terminal::complain(&error.to_string())?;
            return Ok(ExitCode::from(USAGE));
        }
    };
    if !args.load.is_given() {
        let now = Duration::try_from(Timestamp::now().duration_since(Timestamp::UNIX_EPOCH))
            .context("the clock stands before 1970")?;
        return week::print(model, now, args.output).map(|()| ExitCode::SUCCESS);
    }
    let study = study(model, &args)?;
    let comparison = compare(&study, args.study.quiet)?;
    if let Some(path) = &args.study.html {
        let pictures = pictures(&study, &comparison)?;
        let about = model::about(model, &study, &args.load.describe());
        fs::write(path, plan::report::html(&about, &study, &comparison, &pictures))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let text = match args.output {
        Output::Json => format!("{:#}\n", model::json(model, &study, &args.load.describe(), &comparison)),
        Output::Text => {
            let about = model::about(model, &study, &args.load.describe());
            table::text(&about, &comparison, args.study.all, Style::of(&io::stdout()))
        }
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn chosen<'a>(models: &'a [Model], name: Option<&str>) -> anyhow::Result<&'a Model> {
    let names = || models.iter().map(|model| &*model.name).collect::<Vec<_>>().join(", ");
    match (name, models) {
        (Some(name), _) => {
            let found = models.iter().find(|model| &*model.name == name);
            found.with_context(|| format!("no model {name:?}; there are: {}", names()))
        }
        (None, [model]) => Ok(model),
        (None, _) => bail!("which model? --model with one of: {}", names()),
    }
}

fn study(model: &Model, args: &PlanArgs) -> anyhow::Result<Study> {
    let (load, begins, replicas) = match args.load.recorded(&model.name)? {
        Some(signals) => {
            let (load, begins) = args.load.of_record(&signals)?;
            (load, begins, record::measured(&signals, &args.replicas))
        }
        None => (args.load.load()?, args.load.begins()?, args.replicas.clone()),
    };
    let (settings, rules) = model::settings(model, &replicas, begins)?;
    let against = args.study.against.iter().flat_map(|against| against.families()).copied().collect();
    Ok(Study { settings, load, rules, seeds: seeds(args), against, threads: threads(args) })
}

fn seeds(args: &PlanArgs) -> Vec<u64> {
    (0..u64::from(args.study.seeds)).map(|n| args.study.seed.wrapping_add(n)).collect()
}

fn threads(args: &PlanArgs) -> usize {
    let available = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    args.study.threads.unwrap_or_else(available)
}

fn compare(study: &Study, quiet: bool) -> anyhow::Result<Comparison> {
    Ok(study.run(&progress(quiet))?)
}

/// Tells on standard error how far simulations are.
fn progress(quiet: bool) -> impl Fn(usize, usize) + Sync {
    let live = !quiet && io::stderr().is_terminal();
    let before = Mutex::new(None);
    move |done: usize, total: usize| {
        let percent = done * 100 / total.max(1);
        let mut before = before.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A log is told each tenth.
        let step = if live { percent } else { percent / 10 };
        if !quiet && before.is_none_or(|before| before < step) {
            *before = Some(step);
            let end = if !live {
                "\n"
            } else if done == total {
                "\r\x1b[K"
            } else {
                "\r"
            };
            // Who has closed standard error does not want to know.
            let _ = print_error(&format!("simulated {done} of {total}, {percent} %{end}"));
        }
    }
}

/// Tidegate and the tuning of each other family that compares, over time.
fn pictures(study: &Study, comparison: &Comparison) -> anyhow::Result<Vec<Picture>> {
    let others = comparison.at_equal_slo.iter().map(|equal| equal.contestant);
    let mut pictures = Vec::new();
    for contestant in std::iter::once(comparison.ours).chain(others) {
        if let Some(timeline) = study.record(contestant, PIECES)? {
            pictures.push(Picture { contestant, timeline });
        }
    }
    Ok(pictures)
}
