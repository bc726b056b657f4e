//! `tidegate config`: check a file, print one to start from, explain its keys.

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::{
    output::Output,
    terminal::{Style, print},
};
use crate::config::{self, Loaded, Report, explain};

/// EX_CONFIG of sysexits.h.
pub(super) const BAD_CONFIG: u8 = 78;
const USAGE: u8 = 2;

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
        Verb::Check(args) => check(&args),
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

fn check(args: &CheckArgs) -> io::Result<ExitCode> {
    let checked = config::load(&args.file).and_then(|loaded| {
        if args.bind {
            loaded.try_binding()?;
        }
        Ok(loaded)
    });
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
