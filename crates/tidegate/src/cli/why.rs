//! `tidegate why`: the decision that stands, with its arithmetic, in words.

use std::{io, process::ExitCode};

use clap::Args;

use super::{
    client::{AdminSource, block_on},
    output::Output,
    terminal::{Style, print},
};

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    model: String,
    /// The decision that stood then: 15:04, an RFC 3339 time, or 10m for ten minutes ago
    #[arg(long)]
    at: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    admin: AdminSource,
}

pub(crate) fn run(args: &WhyArgs) -> anyhow::Result<ExitCode> {
    block_on(async {
        let at = args.at.as_ref().map(|at| format!("?at={}", at.replace('+', "%2B").replace(' ', "T")));
        let path = format!("/api/models/{}/why{}", args.model, at.unwrap_or_default());
        let answer = args.admin.open().await?.ask(&path).await?;
        let text = match args.output {
            Output::Json => format!("{answer:#}\n"),
            Output::Text => {
                let text = answer.get("text").and_then(serde_json::Value::as_str).unwrap_or_default();
                let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
                format!(
                    "{}\n{rest}{}",
                    Style::of(&io::stdout()).bold(first),
                    if rest.is_empty() { "" } else { "\n" }
                )
            }
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    })
}
