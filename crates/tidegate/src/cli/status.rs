//! `tidegate status`: a line for each model, once or live.

use std::{io, io::IsTerminal as _, process::ExitCode, time::Duration};

use clap::Args;
use serde_json::Value;

use super::{
    client::{AdminSource, block_on},
    output::Output,
    terminal::{Style, print},
};

const REFRESH: Duration = Duration::from_secs(1);
const TITLES: [&str; 11] =
    ["MODEL", "STATE", "READY", "WANT", "QUEUE", "INFLIGHT", "REQ/S", "BATCH", "P50", "P99", "SLO"];

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Go on, once a second
    #[arg(short, long)]
    watch: bool,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    admin: AdminSource,
}

pub(crate) fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    block_on(async move {
        let port = args.admin.open().await?;
        let redraw = args.watch && io::stdout().is_terminal() && args.output == Output::Text;
        loop {
            let answer = port.ask("/api/models").await?;
            let text = match args.output {
                Output::Json => format!("{answer:#}\n"),
                Output::Text => table(&answer, Style::of(&io::stdout())),
            };
            // Home, the table, and whatever was below it before.
            print(&if redraw { format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")) } else { text })?;
            if !args.watch {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::time::sleep(REFRESH).await;
        }
    })
}

/// The models as aligned columns, and the reason of each below.
fn table(answer: &Value, style: Style) -> String {
    let models: Vec<&Value> = answer.get("models").and_then(Value::as_array).into_iter().flatten().collect();
    let rows: Vec<Vec<String>> = models.iter().map(|model| row(model)).collect();
    let width = |column: usize, title: &str| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([title.len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = TITLES.iter().enumerate().map(|(column, title)| width(column, title)).collect();
    let line = |cells: &[String]| -> String {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut text = style.dim(&line(&TITLES.map(str::to_owned))) + "\n";
    for (model, row) in models.iter().zip(&rows) {
        text += &line(row);
        text += "\n";
        if let Some(why) = model.get("why").and_then(Value::as_str) {
            text += &style.dim(&format!("  {why}"));
            text += "\n";
        }
    }
    text
}

fn row(model: &Value) -> Vec<String> {
    let at = |path: &str| model.pointer(path).unwrap_or(&Value::Null);
    let text = |path: &str| at(path).as_str().unwrap_or("–").to_owned();
    let number =
        |path: &str, digits: usize| at(path).as_f64().map_or("–".to_owned(), |n| format!("{n:.digits$}"));
    let seconds = |path: &str| at(path).as_f64().map_or("–".to_owned(), duration);
    vec![
        text("/name"),
        text("/state"),
        number("/replicas/ready", 0),
        number("/replicas/desired", 0),
        number("/queue/requests", 0),
        number("/in_flight", 0),
        number("/arrivals_per_second", 0),
        number("/batch_rows", 1),
        seconds("/p50_seconds"),
        seconds("/p99_seconds"),
        seconds("/slo/seconds"),
    ]
}

fn duration(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{:.3}", seconds * 1e3).trim_end_matches('0').trim_end_matches('.').to_owned() + "ms"
    } else {
        format!("{seconds:.2}s")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned_and_what_is_unknown_is_a_dash() {
        let answer = json!({ "models": [
            { "name": "a", "state": "zero", "replicas": { "ready": 0, "desired": 0 }, "queue": { "requests": 0 },
              "in_flight": 0, "p99_seconds": null, "slo": { "seconds": 0.1 }, "why": "0: idle" },
            { "name": "longer", "state": "ready", "replicas": { "ready": 2, "desired": 2 },
              "queue": { "requests": 31 }, "in_flight": 4, "arrivals_per_second": 57.4, "batch_rows": 3.92,
              "p50_seconds": 0.0185, "p99_seconds": 1.5, "slo": { "seconds": 0.1 } },
        ]});
        insta::assert_snapshot!(table(&answer, Style::Plain), @r"
        MODEL   STATE  READY  WANT  QUEUE  INFLIGHT  REQ/S  BATCH  P50     P99    SLO
        a       zero   0      0     0      0         –      –      –       –      100ms
          0: idle
        longer  ready  2      2     31     4         57     3.9    18.5ms  1.50s  100ms
        ");
    }
}
