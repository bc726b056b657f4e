//! What a model's schedules do in the next week.

use std::time::Duration;

use anyhow::Context as _;
use autoscaler::schedule::{Edge, Transition, transitions};
use serde_json::{Value, json};

use super::super::{output::Output, terminal};
use crate::{config::Model, serve::policy::policy};

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Prints every change of the bounds in the week after `now`, which is since the Unix epoch.
pub(super) fn print(model: &Model, now: Duration, output: Output) -> anyhow::Result<()> {
    let rules = policy(model).with_context(|| format!("the replicas of model {} are fixed", model.name))?;
    let changes = transitions(&rules.schedules, rules.bounds, now, WEEK);
    let text = match output {
        Output::Json => format!("{:#}\n", json!({ "model": &*model.name, "transitions": rows(&changes) })),
        Output::Text if changes.is_empty() => format!(
            "model {}: {} to {} replicas all week, no schedule changes that; --trace, --office or --steps simulate\n",
            model.name, rules.bounds.min, rules.bounds.max
        ),
        Output::Text => {
            let lines: String = changes.iter().map(line).collect();
            format!(
                "model {}: {} to {} replicas, but\n{lines}",
                model.name, rules.bounds.min, rules.bounds.max
            )
        }
    };
    Ok(terminal::print(&text)?)
}

fn rows(changes: &[Transition]) -> Value {
    let row = |change: &Transition| {
        json!({
            "at": change.by.clock(change.at).to_string(),
            "timezone": change.by.timezone.iana_name(),
            "unix_seconds": change.at.as_secs(),
            "schedule": &*change.by.name,
            "begins": change.edge == Edge::Begins,
            "min": change.after.min,
            "max": change.after.max,
        })
    };
    changes.iter().map(row).collect()
}

fn line(change: &Transition) -> String {
    let Transition { at, before, after, by, edge } = change;
    let edge = match edge {
        Edge::Begins => "begins",
        Edge::Ends => "ends",
    };
    let zone = by.timezone.iana_name().unwrap_or_default();
    format!(
        "  {} {zone}  {} to {} → {} to {}: \"{}\" {edge}\n",
        by.clock(*at).strftime("%a %Y-%m-%d %H:%M"),
        before.min,
        before.max,
        after.min,
        after.max,
        by.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, parse};

    #[test]
    fn a_night_is_two_lines_a_day_in_its_own_time() {
        let text = r#"
models:
  - name: m
    fleet: {process: {command: [m, "{port}"]}}
    slo: {p99: 100ms}
    scaling:
      max: 4
      schedules: [{name: day, timezone: Europe/Prague, days: [mon, tue], from: "07:00", to: "19:00", min: 2}]
"#;
        let loaded = parse(Source { name: "test".into(), text: text.into() }).unwrap();
        let rules = policy(&loaded.config.models[0]).unwrap();
        // A Monday, 00:00 UTC.
        let changes = transitions(&rules.schedules, rules.bounds, Duration::from_secs(1_767_571_200), WEEK);
        let lines: Vec<String> = changes.iter().map(line).collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0], "  Mon 2026-01-05 07:00 Europe/Prague  0 to 4 → 2 to 4: \"day\" begins\n");
        assert_eq!(lines[1], "  Mon 2026-01-05 19:00 Europe/Prague  2 to 4 → 0 to 4: \"day\" ends\n");
    }
}
