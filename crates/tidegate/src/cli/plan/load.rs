//! The load of a plan, from the command line.

use std::{fs, ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use arrivals::{
    office::Office,
    profile::{Profile, Steps},
    spacing::Spacing,
    trace::{Replay, Trace},
};
use clap::Args;
use jiff::Timestamp;
use plan::{load::Load, replay::Signals};

use super::{moment::Moment, record};

#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadArgs {
    /// Requests from a file: CSV with a timestamp column and optional tokens (the Azure LLM traces as they are), JSON
    /// lines with t in seconds and optional tokens, times one a line, ServeGen bins, or a record, whose requests then
    /// are those that its model of the same name had
    #[arg(long, groups = ["load", "file"], value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Make the decisions of a record again (see the key record): exit code 1 if one of them comes out otherwise
    #[arg(long, groups = ["load", "file"], value_name = "FILE", conflicts_with_all = ["config", "html"])]
    pub(super) record: Option<PathBuf>,
    /// Another setting for a model of the record, like models.chat.slo.p99=1s: what it would have called for, and what
    /// would have come of it
    #[arg(long, requires = "record", value_name = "PATH=VALUE")]
    pub(super) set: Vec<String>,
    /// Office days with a night at zero and flash crowds: peak=60,days=1,crowds=3,height=1
    #[arg(long, group = "load")]
    office: Option<Office>,
    /// RATExDURATION,RATExDURATION,… at random moments
    #[arg(long, group = "load")]
    steps: Option<Steps>,
    /// Requests per request of the trace, e.g. 0.1 or 3
    #[arg(long, requires = "trace", default_value_t = 1.0)]
    scale: f64,
    /// Play the trace so many times faster
    #[arg(long, requires = "trace", default_value_t = 1.0)]
    speed: f64,
    /// Play the trace so many times
    #[arg(long, requires = "trace", default_value_t = 1)]
    repeat: u32,
    /// Skip the beginning of the trace or record, up to 10m after it begins, or up to a time of the record like
    /// 2026-01-05T08:00:00Z
    #[arg(long, requires = "file")]
    from: Option<Moment>,
    /// Play the record no further than this, written as --from is
    #[arg(long, requires = "file", conflicts_with = "span")]
    to: Option<Moment>,
    /// Play no more of the trace or record than this
    #[arg(long, requires = "file", value_parser = humantime::parse_duration)]
    span: Option<Duration>,
    /// Seeds move each request of a list by up to this; those of a record are anywhere in their second
    #[arg(long, requires = "trace", value_parser = humantime::parse_duration, default_value = "1s")]
    jitter: Duration,
    /// When it begins, which schedules go by [default: 2026-01-05T00:00:00Z; of a record: when it did]
    #[arg(long)]
    begins: Option<Timestamp>,
}

/// A Monday.
const BEGINS: Duration = Duration::from_secs(1_767_571_200);

impl LoadArgs {
    pub(super) fn is_given(&self) -> bool {
        self.trace.is_some() || self.office.is_some() || self.steps.is_some()
    }

    /// Since the Unix epoch.
    pub(super) fn begins(&self) -> anyhow::Result<Duration> {
        let Some(begins) = self.begins else { return Ok(BEGINS) };
        let since = begins.duration_since(Timestamp::UNIX_EPOCH);
        Duration::try_from(since).context("--begins: a time before 1970")
    }

    /// The part of a record that is asked for, of one that begins at `begins`.
    pub(super) fn window(&self, begins: Duration) -> anyhow::Result<RangeInclusive<Duration>> {
        let from = self.from.map_or(begins, |from| from.in_record(begins));
        let end = self.span.map(|span| from.saturating_add(span));
        let to = end.or(self.to.map(|to| to.in_record(begins))).unwrap_or(Duration::MAX);
        ensure!(from <= to, "--to lies before --from");
        Ok(from..=to)
    }

    /// What `model` had by the record that is given as a trace; `None` where the trace is none.
    pub(super) fn recorded(&self, model: &str) -> anyhow::Result<Option<Signals>> {
        let Some(path) = self.trace.as_ref().filter(|path| record::is_record(path)) else { return Ok(None) };
        record::signals(path, model, self).map(Some)
    }

    /// The load of a record, and when it begins.
    pub(super) fn of_record(&self, signals: &Signals) -> anyhow::Result<(Load, Duration)> {
        // The part was cut out when the record was read.
        let replay = Replay { from: 0.0, span: f64::INFINITY, ..self.replay(Duration::ZERO) };
        let begins = match self.begins {
            Some(_) => self.begins()?,
            None => signals.begins.unwrap_or(BEGINS),
        };
        Ok((Load::Trace(signals.trace()?, replay), begins))
    }

    pub(super) fn load(&self) -> anyhow::Result<Load> {
        if let Some(path) = &self.trace {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let trace = Trace::read(&text).with_context(|| format!("{}", path.display()))?;
            return Ok(Load::Trace(trace, self.replay(self.skipped()?)));
        }
        if let Some(steps) = &self.steps {
            return Ok(Load::Profile(Arc::new(Profile::steps(steps, Spacing::Poisson)?)));
        }
        Ok(Load::Office(self.office.context("no load")?))
    }

    pub(super) fn describe(&self) -> String {
        if let Some(path) = &self.trace {
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
            let scale = if self.scale == 1.0 { String::new() } else { format!(" ×{}", self.scale) };
            let speed = if self.speed == 1.0 { String::new() } else { format!(", {}× as fast", self.speed) };
            return format!("{name}{scale}{speed}");
        }
        match &self.office {
            Some(Office { peak, days, crowds, .. }) => {
                format!("{days} office day(s), {peak} requests/s at the peak, {crowds} crowds a day")
            }
            None => "steps".to_owned(),
        }
    }

    /// What a trace that knows no clock is to skip.
    fn skipped(&self) -> anyhow::Result<Duration> {
        ensure!(self.to.is_none(), "--to is for records: use --span");
        match self.from {
            None => Ok(Duration::ZERO),
            Some(Moment::After(after)) => Ok(after),
            Some(Moment::At(_)) => {
                bail!("--from: times by the clock are for records; write a duration like 10m")
            }
        }
    }

    fn replay(&self, from: Duration) -> Replay {
        Replay {
            speed: self.speed,
            scale: self.scale,
            from: from.as_secs_f64(),
            span: self.span.map_or(f64::INFINITY, |span| span.as_secs_f64()),
            jitter: self.jitter.as_secs_f64(),
            repeat: self.repeat,
            seed: 0,
        }
    }
}
