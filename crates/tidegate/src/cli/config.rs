//! `tidegate config`: check a file, print one to start from, explain its keys.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};

use super::{
    output::Output,
    terminal::{Style, print},
};
use crate::config::{self, Known, Loaded, Report, explain};

/// EX_CONFIG of sysexits.h.
pub(super) const BAD_CONFIG: u8 = 78;
const USAGE: u8 = 2;
/// Bytes of a file of what was learned: far above five kilobytes for each of thousands of models.
const STATE_MAX: u64 = 64 << 20;

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check a configuration file: every error with its place, exit code 78 if there is one
    Check(CheckArgs),
    /// Print the JSON Schema of the file, for editors
    Schema,
    /// Print the definition of the custom resource Model, for a Kubernetes cluster
    Crd,
    /// Say what a key means; without KEY, list all keys
    Explain(ExplainArgs),
    /// Print a file with every key at its default
    Default,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The file; "-" reads standard input
    #[arg(default_value = "tidegate.yaml")]
    file: PathBuf,
    /// Also try to listen on the addresses it names
    #[arg(long)]
    bind: bool,
    /// Judge it also by what a running autoscaler has learned of its models: a file with the answer of /api/learned
    /// of its admin port, or with a leader's ConfigMap as JSON
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Judge it also by this peak of a model, in requests (or merged rows) per second; may be repeated
    #[arg(long, value_name = "MODEL=RATE", value_parser = peak)]
    peak: Vec<(String, f64)>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// Path of the key, like models.slo.p99, or its end
    key: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Carries out a `config` verb.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn run(args: ConfigArgs) -> io::Result<ExitCode> {
    match args.verb {
        Verb::Check(args) => match known(&args) {
            Ok(known) => check(&args, &known),
            Err(sentence) => {
                super::terminal::complain(&sentence)?;
                Ok(ExitCode::from(USAGE))
            }
        },
        Verb::Schema => {
            print(&format!("{:#}\n", config::schema::schema()))?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Crd => {
            print(&config::crd::crd())?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Explain(args) => explain(&args),
        Verb::Default => {
            print(&config::sample::sample())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `MODEL=RATE`.
fn peak(text: &str) -> Result<(String, f64), String> {
    let form = || "write MODEL=RATE, like digits=250".to_owned();
    let (model, rate) = text.rsplit_once('=').ok_or_else(form)?;
    let rate: f64 = rate.parse().map_err(|_| form())?;
    let sane = !model.is_empty() && rate.is_finite() && (0.0..=1e9).contains(&rate);
    if sane { Ok((model.to_owned(), rate)) } else { Err(form()) }
}

/// What is known besides the configuration; or why that cannot be read, in words.
fn known(args: &CheckArgs) -> Result<Known, String> {
    let mut known = match &args.state {
        None => Known::default(),
        Some(path) => {
            let refuse = |error: &dyn std::fmt::Display| format!("--state {}: {error}", path.display());
            let text = read(path).map_err(|error| refuse(&error))?;
            Known::parse(&text).map_err(|error| refuse(&format!("{error:#}")))?
        }
    };
    for (model, rate) in &args.peak {
        known.expect(model.clone(), *rate);
    }
    Ok(known)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(STATE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > STATE_MAX {
        return Err(io::Error::other("it is larger than 64 MiB"));
    }
    Ok(text)
}

fn check(args: &CheckArgs, known: &Known) -> io::Result<ExitCode> {
    let checked = config::load(&args.file).and_then(|mut loaded| {
        if args.bind {
            loaded.try_binding()?;
        }
        loaded.warnings = loaded.doubts(known);
        Ok(loaded)
    });
    if let Ok(loaded) = &checked
        && let Some(stranger) = known.expected().find(|name| !loaded.has_model(name))
    {
        super::terminal::complain(&format!(
            "--peak: there is no model {stranger} in {}",
            args.file.display()
        ))?;
        return Ok(ExitCode::from(USAGE));
    }
    let style = Style::of(&io::stdout());
    let text = match (&checked, args.output) {
        (Ok(loaded), Output::Text) => approved(loaded, style),
        (Ok(loaded), Output::Json) => format!("{:#}\n", loaded.warnings.to_json()),
        (Err(report), Output::Text) => refused(report, style),
        (Err(report), Output::Json) => format!("{:#}\n", report.to_json()),
    };
    print(&text)?;
    Ok(if checked.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(BAD_CONFIG) })
}

fn approved(loaded: &Loaded, style: Style) -> String {
    let models = counted(loaded.config.models.len(), "model");
    let warnings = counted(loaded.warnings.warnings(), "warning");
    format!("{} {models}, {warnings}\n{}", style.green("✓"), loaded.warnings.render(style))
}

fn refused(report: &Report, style: Style) -> String {
    let errors = counted(report.errors(), "error");
    let warnings = counted(report.warnings(), "warning");
    format!("{}{errors}, {warnings}\n", report.render(style))
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

fn explain(args: &ExplainArgs) -> io::Result<ExitCode> {
    let style = Style::of(&io::stdout());
    let found = match &args.key {
        None => explain::all(),
        Some(key) => match explain::find(key) {
            Ok(found) => found,
            Err(sentence) => {
                super::terminal::complain(&sentence)?;
                return Ok(ExitCode::from(USAGE));
            }
        },
    };
    let text = match (args.output, &args.key) {
        (Output::Json, _) => {
            format!("{:#}\n", serde_json::Value::from_iter(found.iter().map(explain::Explained::to_json)))
        }
        (Output::Text, None) => found.iter().map(|key| key.line(style)).collect(),
        (Output::Text, Some(_)) => {
            let paragraphs: Vec<String> = found.iter().map(|key| key.paragraph(style)).collect();
            paragraphs.join("\n")
        }
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
