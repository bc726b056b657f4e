//! The load of a plan, from the command line.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use arrivals::{
    office::Office,
    profile::{Profile, Steps},
    spacing::Spacing,
    trace::{Replay, Trace},
};
use clap::Args;
use jiff::Timestamp;
use plan::load::Load;

#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadArgs {
    /// Requests from a file: CSV with a timestamp column and optional tokens (the Azure LLM traces as they are), JSON
    /// lines with t in seconds and optional tokens, times one a line, or ServeGen bins
    #[arg(long, group = "load", value_name = "FILE")]
    trace: Option<PathBuf>,
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
    /// Skip the beginning of the trace
    #[arg(long, requires = "trace", value_parser = humantime::parse_duration)]
    from: Option<Duration>,
    /// Play no more of the trace than this
    #[arg(long, requires = "trace", value_parser = humantime::parse_duration)]
    span: Option<Duration>,
    /// Seeds move each request of a list by up to this
    #[arg(long, requires = "trace", value_parser = humantime::parse_duration, default_value = "1s")]
    jitter: Duration,
    /// When it begins, which schedules go by
    #[arg(long, default_value = "2026-01-05T00:00:00Z")]
    begins: Timestamp,
}

impl LoadArgs {
    pub(super) fn is_given(&self) -> bool {
        self.trace.is_some() || self.office.is_some() || self.steps.is_some()
    }

    /// Since the Unix epoch.
    pub(super) fn begins(&self) -> anyhow::Result<Duration> {
        let since = self.begins.duration_since(Timestamp::UNIX_EPOCH);
        Duration::try_from(since).context("--begins: a time before 1970")
    }

    pub(super) fn load(&self) -> anyhow::Result<Load> {
        if let Some(path) = &self.trace {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let trace = Trace::read(&text).with_context(|| format!("{}", path.display()))?;
            return Ok(Load::Trace(trace, self.replay()));
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

    fn replay(&self) -> Replay {
        Replay {
            speed: self.speed,
            scale: self.scale,
            from: self.from.unwrap_or_default().as_secs_f64(),
            span: self.span.map_or(f64::INFINITY, |span| span.as_secs_f64()),
            jitter: self.jitter.as_secs_f64(),
            repeat: self.repeat,
            seed: 0,
        }
    }
}
