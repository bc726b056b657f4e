//! Arrivals from a file: timestamps in CSV or JSON lines, or bins of rate and burstiness.
//!
//! Read as they are published: the Azure LLM inference traces (`TIMESTAMP,ContextTokens,GeneratedTokens`) and
//! ServeGen's bins (`second, requests/s, inter-arrival CV, family, shape, scale`).

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, bail, ensure};
use jiff::{Timestamp, civil::DateTime, tz::Offset};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde::Deserialize;

use super::{
    Schedule,
    profile::{Profile, Segment},
    spacing::Spacing,
};
use crate::chat::length::Tokens;

/// Arrivals one trace may hold: 8 bytes each.
const ARRIVALS_MAX: usize = 50_000_000;

/// How a trace is changed before it is replayed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replay {
    /// Time runs so much faster.
    pub(crate) speed: f64,
    /// So many requests for each one in the trace: 0.1 keeps every tenth by chance, 3 sends each three times.
    pub(crate) scale: f64,
    /// Seconds of the trace to skip.
    pub(crate) from: f64,
    /// Seconds of the trace to replay.
    pub(crate) span: f64,
    pub(crate) seed: u64,
}

/// A trace, ready to be replayed.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    pub(crate) schedule: Schedule,
    /// Tokens of each call, in the order of the arrivals, where the file has them.
    pub(crate) tokens: Option<Arc<[Tokens]>>,
}

/// One line of a trace that lists its calls.
#[derive(Clone, Copy, Debug)]
struct Listed {
    second: f64,
    tokens: Option<Tokens>,
}

/// Reads the trace file at `path`.
pub(crate) fn read(path: &Path, replay: Replay) -> anyhow::Result<Trace> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text, replay).with_context(|| format!("{}", path.display()))
}

fn parse(text: &str, replay: Replay) -> anyhow::Result<Trace> {
    ensure!(replay.speed > 0.0 && replay.speed.is_finite(), "the speed of a trace must be above zero");
    ensure!(replay.scale > 0.0 && replay.scale.is_finite(), "the scale of a trace must be above zero");
    let first = text.lines().find(|line| !line.trim().is_empty()).context("the trace is empty")?;
    if first.trim_start().starts_with('{') {
        return listed(json_lines(text)?, replay);
    }
    if Bin::parse(first).is_ok() {
        return Ok(Trace { schedule: binned(text, replay)?, tokens: None });
    }
    listed(csv(text)?, replay)
}

/// Seconds of every `{"t": …}` line.
fn json_lines(text: &str) -> anyhow::Result<Vec<Listed>> {
    #[derive(Deserialize)]
    struct Line {
        t: f64,
    }
    let second = |(number, line): (usize, &str)| {
        let line: Line = serde_json::from_str(line).with_context(|| format!("line {}", number + 1))?;
        Ok(Listed { second: line.t, tokens: None })
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(second).collect()
}

/// Seconds of the timestamp column, and tokens where there are columns of both kinds; the header names them.
fn csv(text: &str) -> anyhow::Result<Vec<Listed>> {
    const NAMES: [&str; 4] = ["timestamp", "time", "t", "seconds"];
    const TOKENS: [&str; 2] = ["ContextTokens", "GeneratedTokens"];
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let (_, header) = lines.next().context("no header")?;
    let is_named = |name: &str, known: &str| unquoted(name).eq_ignore_ascii_case(known);
    let column = header
        .split(',')
        .position(|name| NAMES.iter().any(|known| is_named(name, known)))
        .with_context(|| format!("no column of {NAMES:?} in {header:?}"))?;
    let [prompt, output] = TOKENS.map(|known| header.split(',').position(|name| is_named(name, known)));
    let listed = |(number, line): (usize, &str)| {
        let field = |column| line.split(',').nth(column).unwrap_or_default();
        let second = timestamp(field(column))
            .with_context(|| format!("line {}: no time in {:?}", number + 1, field(column)))?;
        let tokens = prompt.zip(output).map(|(prompt, output)| {
            let number_of = |column| tokens(field(column)).with_context(|| format!("line {}", number + 1));
            anyhow::Ok(Tokens { prompt: number_of(prompt)?, output: number_of(output)? })
        });
        Ok(Listed { second, tokens: tokens.transpose()? })
    };
    lines.map(listed).collect()
}

fn unquoted(field: &str) -> &str {
    field.trim().trim_matches('"')
}

/// A number of tokens, which some tools write as a fraction.
fn tokens(field: &str) -> anyhow::Result<u32> {
    let number =
        unquoted(field).parse::<f64>().ok().filter(|number| (0.0..=f64::from(u32::MAX)).contains(number));
    let number = number.with_context(|| format!("no number of tokens in {field:?}"))?;
    Ok(number as u32)
}

/// Seconds: a bare number, or a date and time with or without an offset.
fn timestamp(field: &str) -> anyhow::Result<f64> {
    let field = unquoted(field);
    if let Ok(seconds) = field.parse::<f64>() {
        return Ok(seconds);
    }
    let instant = match field.parse::<Timestamp>() {
        Ok(instant) => instant,
        Err(_) => Offset::UTC.to_timestamp(field.parse::<DateTime>()?)?,
    };
    Ok(instant.as_nanosecond() as f64 / 1e9)
}

fn listed(mut calls: Vec<Listed>, replay: Replay) -> anyhow::Result<Trace> {
    ensure!(calls.iter().all(|call| call.second.is_finite()), "a time is not a finite number");
    calls.sort_by(|one, other| one.second.total_cmp(&other.second));
    let first = calls.first().context("no arrival in the trace")?.second;
    let window = replay.from..replay.from + replay.span;
    let mut rng = StdRng::seed_from_u64(replay.seed);
    let (mut times, mut tokens) = (Vec::new(), Vec::new());
    for call in calls {
        let second = call.second - first;
        if !window.contains(&second) {
            continue;
        }
        let copies = replay.scale.floor() + f64::from(u8::from(rng.random::<f64>() < replay.scale.fract()));
        ensure!(times.len() as f64 + copies <= ARRIVALS_MAX as f64, "more than {ARRIVALS_MAX} arrivals");
        times.extend(std::iter::repeat_n((second - replay.from) / replay.speed, copies as usize));
        tokens
            .extend(call.tokens.into_iter().flat_map(|tokens| std::iter::repeat_n(tokens, copies as usize)));
    }
    ensure!(!times.is_empty(), "no arrival is left in that part of the trace");
    let tokens = (tokens.len() == times.len()).then(|| Arc::from(tokens));
    Ok(Trace { schedule: Schedule::Times(Arc::from(times)), tokens })
}

/// A line of ServeGen: the rate and the burstiness from one second until the next line's.
#[derive(Debug)]
struct Bin {
    second: f64,
    rate: f64,
    spacing: Spacing,
}

impl Bin {
    fn parse(line: &str) -> anyhow::Result<Self> {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [second, rate, cv, family, shape @ ..] = fields.as_slice() else {
            bail!("a bin has at least four fields, not {}", fields.len());
        };
        let cv: f64 = cv.parse()?;
        let shape = || shape.first().and_then(|shape| shape.parse::<f64>().ok()).filter(|shape| *shape > 0.0);
        let spacing = match *family {
            "Gamma" => Spacing::Gamma { shape: shape().context("no shape")? },
            "Weibull" => Spacing::Weibull { shape: shape().context("no shape")? },
            "Exponential" | "Poisson" => Spacing::Poisson,
            "" if cv > 0.0 => Spacing::Gamma { shape: (cv * cv).recip() },
            "" => Spacing::Poisson,
            other => bail!("unknown family {other:?}"),
        };
        Ok(Self { second: second.parse()?, rate: rate.parse()?, spacing })
    }
}

fn binned(text: &str, replay: Replay) -> anyhow::Result<Schedule> {
    let bin =
        |(number, line): (usize, &str)| Bin::parse(line).with_context(|| format!("line {}", number + 1));
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let bins = lines.map(bin).collect::<anyhow::Result<Vec<_>>>()?;
    let first = bins.first().map_or(0.0, |bin| bin.second);
    let widths: Vec<f64> =
        bins.windows(2).filter_map(|pair| Some(pair.get(1)?.second - pair.first()?.second)).collect();
    ensure!(widths.iter().all(|width| *width > 0.0), "the seconds of the bins do not ascend");
    let last_width = *widths.last().context("a single bin has no width")?;
    let until = replay.from + replay.span;
    let segments = bins.iter().zip(widths.iter().chain([&last_width])).map(|(bin, width)| {
        let start = bin.second - first;
        let length = (start + width).min(until) - start.max(replay.from);
        Segment::flat(length.max(0.0) / replay.speed, bin.rate * replay.scale * replay.speed, bin.spacing)
    });
    Ok(Schedule::Profile(Arc::new(Profile::new(segments.collect())?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AS_IT_IS: Replay = Replay { speed: 1.0, scale: 1.0, from: 0.0, span: f64::INFINITY, seed: 1 };

    fn times(text: &str, replay: Replay) -> Vec<f64> {
        parse(text, replay).unwrap().schedule.arrivals(1).map(|t| t.as_secs_f64()).collect()
    }

    const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
        2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:47.6805900,396,109\n2023-11-16 18:15:50.6805900,879,55\n";

    #[test]
    fn an_azure_trace_starts_with_its_first_call() {
        assert_eq!(times(AZURE, AS_IT_IS), [0.0, 1.0, 4.0]);
    }

    #[test]
    fn offsets_and_bare_seconds_are_timestamps_too() {
        let with_offset = "TIMESTAMP,x\n2024-05-10 00:00:00.5+00:00,1\n2024-05-10 00:00:02.5+00:00,1\n";
        assert_eq!(times(with_offset, AS_IT_IS), [0.0, 2.0]);
        assert_eq!(times("t\n10\n10.25\n", AS_IT_IS), [0.0, 0.25]);
    }

    #[test]
    fn speed_squeezes_time_and_scale_multiplies_calls() {
        assert_eq!(times(AZURE, Replay { speed: 2.0, ..AS_IT_IS }), [0.0, 0.5, 2.0]);
        assert_eq!(times(AZURE, Replay { scale: 2.0, ..AS_IT_IS }), [0.0, 0.0, 1.0, 1.0, 4.0, 4.0]);
        let many: String = std::iter::once("t".to_owned())
            .chain((0..10_000).map(|i| i.to_string()))
            .collect::<Vec<_>>()
            .join("\n");
        let kept = times(&many, Replay { scale: 0.1, ..AS_IT_IS }).len();
        assert!((900..1100).contains(&kept), "{kept}");
    }

    #[test]
    fn tokens_stay_with_their_calls_however_those_are_changed() {
        let tokens = |text: &str, replay| {
            let trace = parse(text, replay).unwrap();
            trace.tokens.map(|tokens| tokens.iter().map(|t| (t.prompt, t.output)).collect::<Vec<_>>())
        };
        assert_eq!(tokens(AZURE, AS_IT_IS).unwrap(), [(374, 44), (396, 109), (879, 55)]);
        let later = Replay { from: 0.5, scale: 2.0, ..AS_IT_IS };
        assert_eq!(tokens(AZURE, later).unwrap(), [(396, 109), (396, 109), (879, 55), (879, 55)]);
        let unsorted = "generatedtokens,t,contexttokens\n7,5,70\n3.0,1,30\n";
        assert_eq!(tokens(unsorted, AS_IT_IS).unwrap(), [(30, 3), (70, 7)]);
        assert_eq!(tokens("t,ContextTokens\n1,2\n", AS_IT_IS), None, "one column of two is none");
    }

    #[test]
    fn a_part_of_a_trace_starts_at_its_own_zero() {
        assert_eq!(times(AZURE, Replay { from: 0.5, span: 1.0, ..AS_IT_IS }), [0.5]);
    }

    #[test]
    fn json_lines_give_seconds_in_any_order() {
        assert_eq!(times("{\"t\": 3.5, \"tokens\": 12}\n\n{\"t\": 1.5}\n", AS_IT_IS), [0.0, 2.0]);
    }

    #[test]
    fn servegen_bins_keep_rate_and_silence() {
        let bins = "0,20,1.06,Gamma,0.88,0.68\n600,0,0,,0,0\n1200,10,2.2,Weibull,0.5,0.1\n";
        let times = times(bins, AS_IT_IS);
        let first = times.iter().filter(|t| **t < 600.0).count() as f64 / 600.0;
        assert!((first / 20.0 - 1.0).abs() < 0.05, "{first}");
        assert!(!times.iter().any(|t| (600.0..1200.0).contains(t)));
        assert!(times.iter().any(|t| *t > 1200.0));
    }

    #[test]
    fn faster_bins_are_shorter_and_busier() {
        let bins = "0,20,1,Gamma,1,0.05\n600,20,1,Gamma,1,0.05\n";
        let times = times(bins, Replay { speed: 100.0, scale: 0.5, ..AS_IT_IS });
        assert!(times.iter().all(|t| *t <= 12.0));
        assert!((times.len() as f64 / 12_000.0 - 1.0).abs() < 0.05, "{}", times.len());
    }

    #[test]
    fn a_trace_that_cannot_be_read_says_where() {
        for (text, part) in [
            ("", "empty"),
            ("a,b\n1,2\n", "no column"),
            ("t\n1\nlate\n", "line 3"),
            ("{\"t\": 1}\n{\"x\": 2}\n", "line 2"),
            ("t,ContextTokens,GeneratedTokens\n1,2,3\n2,many,3\n", "line 3"),
            ("0,1,1,Gamma,1,1\n600,1,1,Cauchy,1,1\n", "line 2"),
            ("0,1,1,Gamma,1,1\n0,1,1,Gamma,1,1\n", "ascend"),
        ] {
            let error = format!("{:#}", parse(text, AS_IT_IS).unwrap_err());
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
