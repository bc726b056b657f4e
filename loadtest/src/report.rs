//! The result of a run: numbers for programs, and the same in words for people.

pub(crate) mod chat;

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use serde::Serialize;

use self::chat::ChatReport;
use crate::{
    message::Protocol,
    outcome::Outcome,
    process::Usage,
    progress::Second,
    record::{Durations, Record},
};

/// Everything that was measured. Durations are in milliseconds, rates per second.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) setup: Setup,
    /// Why the numbers are not to be used, if they are not.
    pub(crate) void: Option<String>,
    pub(crate) measured_seconds: f64,
    pub(crate) requests: u64,
    pub(crate) offered_per_second: f64,
    pub(crate) ok: u64,
    pub(crate) ok_per_second: f64,
    /// Good answers within the objective.
    pub(crate) within_slo: u64,
    pub(crate) goodput_per_second: f64,
    /// From the intended time to the end of the answer; good answers only.
    pub(crate) latency: Quantiles,
    /// From when the generator got to it: without its lag, but with any wait for a free connection.
    pub(crate) service: Quantiles,
    /// How late requests were started.
    pub(crate) lag: Quantiles,
    /// Of chat completions.
    pub(crate) chat: Option<ChatReport>,
    pub(crate) outcomes: Vec<OutcomeRow>,
    pub(crate) outcomes_other: u64,
    pub(crate) wrong_answers: u64,
    pub(crate) response_bytes: u64,
    /// Mean rows of the batches in which requests were answered, where the server says so.
    pub(crate) batch_rows_mean: Option<f64>,
    pub(crate) cold_starts: u64,
    pub(crate) connections_opened: u64,
    pub(crate) processes: Vec<ProcessRow>,
    pub(crate) seconds: Vec<Second>,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Setup {
    pub(crate) url: String,
    pub(crate) protocol: Protocol,
    pub(crate) load: String,
    pub(crate) seed: u64,
    pub(crate) threads: usize,
    pub(crate) connections: usize,
    pub(crate) request_bytes: usize,
    pub(crate) checked: bool,
    pub(crate) slo_ms: Option<f64>,
    pub(crate) slo_ttft_ms: Option<f64>,
    pub(crate) slo_tpot_ms: Option<f64>,
    /// Streams held open that nobody reads.
    pub(crate) stalled: usize,
}

impl Setup {
    /// What goodput has to meet, in words; `None` where nothing was asked for.
    fn objective(&self) -> Option<String> {
        let limits = [("", self.slo_ms), ("TTFT ", self.slo_ttft_ms), ("TPOT ", self.slo_tpot_ms)];
        let words = limits.into_iter().filter_map(|(of, limit)| Some(format!("{of}{} ms", limit?)));
        Some(words.collect::<Vec<_>>().join(", ")).filter(|words| !words.is_empty())
    }
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) record: Record,
    /// From the end of the warm-up to the last answer.
    pub(crate) measured: Duration,
    /// From the end of the warm-up to the last arrival.
    pub(crate) offered: Duration,
    pub(crate) connections_opened: u64,
    pub(crate) usage: Vec<Usage>,
    pub(crate) seconds: Vec<Second>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
}

impl From<&Durations> for Quantiles {
    fn from(durations: &Durations) -> Self {
        let at = |quantile| millis(durations.quantile(quantile));
        Self {
            mean: millis(durations.mean()),
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p99_9: at(0.999),
            max: millis(durations.max()),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct OutcomeRow {
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
    pub(crate) requests: u64,
    pub(crate) share: f64,
    pub(crate) latency: Quantiles,
}

#[derive(Debug, Serialize)]
pub(crate) struct ProcessRow {
    #[serde(flatten)]
    pub(crate) usage: Usage,
    /// CPU seconds per 10,000 requests that ended, whatever their outcome.
    pub(crate) cpu_seconds_per_10k: f64,
}

impl Report {
    /// `lag_max` is the 99th percentile of lag above which the run says more of the generator than of the server.
    pub(crate) fn new(setup: Setup, results: Results, lag_max: Option<Duration>) -> Self {
        let Results { record, measured, offered, connections_opened, usage, seconds } = results;
        let requests = record.count();
        let per_second = |count: u64, span: Duration| {
            if span.is_zero() { 0.0 } else { count as f64 / span.as_secs_f64() }
        };
        let row = |(outcome, durations): (&Outcome, &Durations)| OutcomeRow {
            outcome: outcome.clone(),
            requests: durations.count(),
            share: durations.count() as f64 / requests as f64,
            latency: durations.into(),
        };
        let process = |usage: Usage| ProcessRow {
            cpu_seconds_per_10k: if requests == 0 { 0.0 } else { usage.cpu_seconds * 1e4 / requests as f64 },
            usage,
        };
        Self {
            void: void(&record, lag_max),
            measured_seconds: measured.as_secs_f64(),
            requests,
            offered_per_second: per_second(requests, offered),
            ok: record.ok(),
            ok_per_second: per_second(record.ok(), measured),
            within_slo: record.within_slo,
            goodput_per_second: per_second(record.within_slo, measured),
            latency: (&record.latency).into(),
            service: (&record.service).into(),
            lag: (&record.lag).into(),
            chat: (setup.protocol == Protocol::Chat).then(|| ChatReport::new(&record.chat, measured)),
            outcomes: record.outcomes.iter().map(row).collect(),
            outcomes_other: record.outcomes_other,
            wrong_answers: record.outcomes.get(&Outcome::WrongAnswer).map_or(0, Durations::count),
            response_bytes: record.response_bytes,
            batch_rows_mean: (record.batches > 0).then(|| record.batch_rows as f64 / record.batches as f64),
            cold_starts: record.cold_starts,
            connections_opened,
            processes: usage.into_iter().map(process).collect(),
            seconds,
            setup,
        }
    }

    /// Whether the run may be used and every answer was right.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        if let Some(why) = &self.void {
            return Err(format!("void: {why}"));
        }
        if self.wrong_answers > 0 {
            return Err(format!("{} answers were wrong", self.wrong_answers));
        }
        if self.ok == 0 {
            return Err(format!("none of {} requests was answered", self.requests));
        }
        Ok(())
    }
}

/// Why the numbers would mislead, if they would.
fn void(record: &Record, lag_max: Option<Duration>) -> Option<String> {
    let overruns = record.outcomes.get(&Outcome::Overrun).map_or(0, Durations::count);
    if overruns > 0 {
        return Some(format!("{overruns} requests were not sent: raise --outstanding or lower the rate"));
    }
    let lag = record.lag.quantile(0.99);
    let lag_max = lag_max.filter(|lag_max| lag > *lag_max)?;
    Some(format!(
        "the generator lagged {} behind its schedule at p99, more than {}: use more threads, a lower rate or a quieter machine",
        humantime::format_duration(lag),
        humantime::format_duration(lag_max),
    ))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setup { url, load, seed, threads, connections, request_bytes, .. } = &self.setup;
        writeln!(
            f,
            "{url}  {load}, seed {seed}, {threads} threads, {connections} connections, {request_bytes} B bodies"
        )?;
        writeln!(
            f,
            "requests   {} in {:.1} s, offered {:.1}/s",
            self.requests, self.measured_seconds, self.offered_per_second
        )?;
        writeln!(f, "answered   {} ({:.1}/s)", self.ok, self.ok_per_second)?;
        if let Some(objective) = self.setup.objective() {
            let share = 100.0 * self.within_slo as f64 / self.requests.max(1) as f64;
            writeln!(
                f,
                "goodput    {:.1}/s within {objective}, {share:.2} % of all requests",
                self.goodput_per_second
            )?;
        }
        if let Some(chat) = &self.chat {
            writeln!(f, "tokens     {chat}")?;
        }
        if self.setup.checked {
            writeln!(f, "checked    {} wrong of {}", self.wrong_answers, self.ok + self.wrong_answers)?;
        }
        writeln!(f)?;
        self.write_quantiles(f)?;
        self.write_outcomes(f)?;
        self.write_server(f)?;
        if let Some(why) = &self.void {
            writeln!(f, "\nVOID: {why}")?;
        }
        Ok(())
    }
}

impl Report {
    fn write_quantiles(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "ms", "mean", "p50", "p90", "p99", "p99.9", "max"
        )?;
        let all = [("latency", &self.latency), ("service", &self.service), ("lag", &self.lag)];
        let chat = self.chat.iter().flat_map(ChatReport::quantiles);
        for (name, q) in chat.chain(all) {
            let Quantiles { mean, p50, p90, p99, p99_9, max, .. } = q;
            writeln!(f, "{name:<10} {mean:>9.3} {p50:>9.3} {p90:>9.3} {p99:>9.3} {p99_9:>9.3} {max:>9.3}")?;
        }
        Ok(())
    }

    fn write_outcomes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<34} {:>9} {:>8} {:>9} {:>9}", "outcome", "requests", "share", "p50 ms", "p99 ms")?;
        for row in &self.outcomes {
            let (name, share) = (row.outcome.to_string(), 100.0 * row.share);
            let Quantiles { p50, p99, .. } = row.latency;
            writeln!(f, "{name:<34} {:>9} {share:>7.2}% {p50:>9.3} {p99:>9.3}", row.requests)?;
        }
        if self.outcomes_other > 0 {
            writeln!(f, "{:<34} {:>9}", "others", self.outcomes_other)?;
        }
        Ok(())
    }

    fn write_server(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut facts = String::new();
        if let Some(rows) = self.batch_rows_mean {
            write!(facts, "  batch rows {rows:.2} on average")?;
        }
        if self.cold_starts > 0 {
            write!(facts, "  {} waited for a cold start", self.cold_starts)?;
        }
        writeln!(f, "\nserver     {} connections opened{facts}", self.connections_opened)?;
        for row in &self.processes {
            let Usage { pid, cpu_seconds, peak_rss_bytes } = row.usage;
            writeln!(
                f,
                "process    {pid}: {cpu_seconds:.2} s CPU, {:.3} s per 10,000 requests, peak {:.1} MiB",
                row.cpu_seconds_per_10k,
                peak_rss_bytes as f64 / f64::from(1 << 20),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::{call::Finished, chat::record::Objective, record::Moments};

    fn setup() -> Setup {
        Setup {
            url: "http://127.0.0.1:8080".into(),
            protocol: Protocol::V2,
            load: "100/s".into(),
            seed: 1,
            threads: 1,
            connections: 1,
            request_bytes: 100,
            checked: true,
            slo_ms: Some(100.0),
            slo_ttft_ms: None,
            slo_tpot_ms: None,
            stalled: 0,
        }
    }

    /// `outcomes` of requests that were started `lag` late and took 10 ms.
    fn report(outcomes: &[Outcome], lag: Duration, lag_max: Duration) -> Report {
        let latency = Some(Duration::from_millis(100));
        let mut record = Record::new(Objective { latency, ..Objective::default() });
        for outcome in outcomes {
            let intended = Instant::now();
            let started = intended + lag;
            let moments = Moments { intended, started, ended: started + Duration::from_millis(10) };
            record.add(Finished::without_answer(outcome.clone()), moments);
        }
        let usage = vec![Usage { pid: 7, cpu_seconds: 0.5, peak_rss_bytes: 3 << 20 }];
        let span = Duration::from_secs(2);
        let results = Results {
            record,
            measured: span,
            offered: span,
            connections_opened: 1,
            usage,
            seconds: Vec::new(),
        };
        Report::new(setup(), results, Some(lag_max))
    }

    #[test]
    fn rates_shares_and_cpu_are_of_the_measured_requests() {
        let refused = Outcome::Http { status: 429, reason: Some("queue_full".into()) };
        let report =
            report(&[Outcome::Ok, Outcome::Ok, Outcome::Ok, refused], Duration::ZERO, Duration::from_secs(1));
        assert_eq!((report.requests, report.ok, report.within_slo), (4, 3, 3));
        assert_eq!((report.offered_per_second, report.ok_per_second), (2.0, 1.5));
        assert_eq!(report.processes[0].cpu_seconds_per_10k, 1250.0);
        assert_eq!(report.outcomes[1].share, 0.25);
        assert_eq!(report.verdict(), Ok(()));
        assert!(report.to_string().contains("HTTP 429 queue_full"), "{report}");
    }

    #[test]
    fn a_generator_that_lags_voids_the_run() {
        let lagging = report(&[Outcome::Ok], Duration::from_millis(30), Duration::from_millis(20));
        assert!(lagging.verdict().unwrap_err().starts_with("void: the generator lagged"));
        assert!(lagging.to_string().contains("VOID"));
        let punctual = report(&[Outcome::Ok], Duration::from_millis(10), Duration::from_millis(20));
        assert_eq!(punctual.verdict(), Ok(()));
    }

    #[test]
    fn requests_that_were_not_sent_void_the_run() {
        let report = report(&[Outcome::Ok, Outcome::Overrun], Duration::ZERO, Duration::from_secs(1));
        assert!(report.verdict().unwrap_err().contains("--outstanding"));
    }

    #[test]
    fn a_wrong_answer_or_no_answer_fails_the_run() {
        let wrong = report(&[Outcome::Ok, Outcome::WrongAnswer], Duration::ZERO, Duration::from_secs(1));
        assert_eq!(wrong.verdict().unwrap_err(), "1 answers were wrong");
        let silent = report(&[Outcome::ConnectFailed], Duration::ZERO, Duration::from_secs(1));
        assert!(silent.verdict().unwrap_err().contains("none of 1"));
    }
}
