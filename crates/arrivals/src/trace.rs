//! Arrivals from a file: timestamps in CSV, in JSON lines or one a line, or bins of rate and burstiness.
//!
//! Read as they are published: the Azure LLM inference traces (`TIMESTAMP,ContextTokens,GeneratedTokens`) and
//! ServeGen's bins (`second, requests/s, inter-arrival CV, family, shape, scale`).

use std::sync::Arc;

use jiff::{Timestamp, civil::DateTime, tz::Offset};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde::Deserialize;

use crate::{
    Error, LineError, Listed, Schedule, TraceError,
    counted::{Count, recount},
    profile::{Profile, Segment},
    spacing::Spacing,
};

/// Arrivals one trace may hold: 16 bytes each.
pub(crate) const ARRIVALS_MAX: usize = 50_000_000;
/// Names of the column with the time, and of those with the tokens of the prompt and of the answer.
const TIMES: &[&str] = &["timestamp", "time", "t", "seconds"];
const PROMPTS: &[&str] = &["contexttokens", "context_tokens", "prompt_tokens", "input_tokens"];
const OUTPUTS: &[&str] = &["generatedtokens", "generated_tokens", "output_tokens", "tokens"];

/// How a trace is changed before it is replayed.
#[derive(Clone, Copy, Debug)]
pub struct Replay {
    /// Time runs so much faster.
    pub speed: f64,
    /// So many requests for each one in the trace: 0.1 keeps every tenth by chance, 3 sends each three times.
    pub scale: f64,
    /// Seconds of the trace to skip.
    pub from: f64,
    /// Seconds of the trace to replay.
    pub span: f64,
    /// Seconds of the replay by which each listed request is moved at most, at random; copies each on their own.
    pub jitter: f64,
    /// So many times, one after the other.
    pub repeat: u32,
    pub seed: u64,
}

impl Replay {
    /// The trace as it is.
    pub const AS_IT_IS: Self =
        Self { speed: 1.0, scale: 1.0, from: 0.0, span: f64::INFINITY, jitter: 0.0, repeat: 1, seed: 1 };
}

/// A trace as it was read: replays of it differ by seed, scale and speed.
#[derive(Clone, Debug)]
pub struct Trace {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// By time, ascending from 0.
    Listed(Arc<[Listed]>),
    Binned(Arc<[(Bin, f64)]>),
    Counted(Arc<[Count]>),
}

/// Reads a trace of any form and makes a schedule of it.
///
/// # Errors
/// The first thing that is wrong with it, and where.
pub fn parse(text: &str, replay: Replay) -> Result<Schedule, Error> {
    Trace::read(text)?.replay(replay)
}

impl Trace {
    /// Reads a trace of any form.
    ///
    /// # Errors
    /// The first thing that is wrong with it, and where.
    pub fn read(text: &str) -> Result<Self, Error> {
        let first = text.lines().find(|line| !line.trim().is_empty()).ok_or(TraceError::Empty)?;
        let kind = if first.trim_start().starts_with('{') {
            Kind::Listed(sorted(json_lines(text)?)?)
        } else if Bin::parse(first).is_ok() {
            Kind::Binned(binned(text)?)
        } else if timestamp(first).is_some() {
            Kind::Listed(sorted(plain(text)?)?)
        } else {
            Kind::Listed(sorted(csv(text)?)?)
        };
        Ok(Self { kind })
    }

    /// Spans of time with the number of requests in each, one after the other.
    ///
    /// # Errors
    /// There are none, or one has a length that is no length.
    pub fn counted(counts: Vec<Count>) -> Result<Self, TraceError> {
        if counts.is_empty() {
            return Err(TraceError::Empty);
        }
        if !counts.iter().all(|count| count.length.is_finite() && count.length >= 0.0) {
            return Err(TraceError::NotFinite);
        }
        Ok(Self { kind: Kind::Counted(counts.into()) })
    }

    /// Seconds from its first request, or bin, to its last one's end.
    #[must_use]
    pub fn length(&self) -> f64 {
        match &self.kind {
            Kind::Listed(listed) => listed.last().map_or(0.0, |last| last.at),
            Kind::Binned(bins) => bins.iter().map(|(_, width)| width).sum(),
            Kind::Counted(counts) => counts.iter().map(|count| count.length).sum(),
        }
    }

    /// Whether each request stands in it, and not only how many there were.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        matches!(self.kind, Kind::Listed(_))
    }

    /// The schedule of one replay.
    ///
    /// # Errors
    /// Numbers that make no sense, or a part of the trace without a request.
    pub fn replay(&self, replay: Replay) -> Result<Schedule, Error> {
        for (name, value) in [("speed", replay.speed), ("scale", replay.scale)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(TraceError::NotPositive(name).into());
            }
        }
        match &self.kind {
            Kind::Listed(listed) => relist(listed, replay).map(Schedule::Listed).map_err(Into::into),
            Kind::Binned(bins) => rebin(bins, replay).map(|profile| Schedule::Profile(Arc::new(profile))),
            Kind::Counted(counts) => recount(counts, replay).map(Schedule::Counted).map_err(Into::into),
        }
    }
}

/// The lines that are not empty, by the number an editor shows.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim().is_empty())
}

fn at_line(line: usize) -> impl Fn(LineError) -> TraceError {
    move |problem| TraceError::Line { line, problem }
}

/// Seconds of every `{"t": …}` line.
fn json_lines(text: &str) -> Result<Vec<Listed>, TraceError> {
    #[derive(Deserialize)]
    struct Line {
        t: f64,
        #[serde(default)]
        tokens: u32,
    }
    let request = |(number, line): (usize, &str)| {
        let line: Line =
            serde_json::from_str(line).map_err(|error| at_line(number)(LineError::Json(error)))?;
        Ok(Listed { output: line.tokens, ..Listed::untold(line.t) })
    };
    lines(text).map(request).collect()
}

/// One time a line, and nothing else.
fn plain(text: &str) -> Result<Vec<Listed>, TraceError> {
    let request = |(number, line): (usize, &str)| {
        let at = timestamp(line).ok_or_else(|| at_line(number)(LineError::NoTime(line.to_owned())))?;
        Ok(Listed::untold(at))
    };
    lines(text).map(request).collect()
}

/// The columns of time and, where there are some, of tokens, which the header names.
fn csv(text: &str) -> Result<Vec<Listed>, TraceError> {
    let mut lines = lines(text);
    let (_, header) = lines.next().ok_or(TraceError::Empty)?;
    let column = |names: &[&str]| {
        let is = |field: &str| names.iter().any(|name| bare(field).eq_ignore_ascii_case(name));
        header.split(',').position(is)
    };
    let none = || TraceError::NoTimeColumn { known: TIMES, header: header.to_owned() };
    let (time, prompt, output) = (column(TIMES).ok_or_else(none)?, column(PROMPTS), column(OUTPUTS));
    let request = |(number, line): (usize, &str)| {
        let field = |column: usize| line.split(',').nth(column).unwrap_or_default();
        let at = timestamp(field(time))
            .ok_or_else(|| at_line(number)(LineError::NoTime(field(time).to_owned())))?;
        let number = |column: Option<usize>| {
            column.map_or(Ok(0), |column| tokens(field(column)).map_err(at_line(number)))
        };
        Ok(Listed { at, prompt: number(prompt)?, output: number(output)? })
    };
    lines.map(request).collect()
}

fn bare(field: &str) -> &str {
    field.trim().trim_matches('"')
}

/// A number of tokens, which some tools write as a fraction.
fn tokens(field: &str) -> Result<u32, LineError> {
    let number = bare(field).parse::<f64>().ok();
    let number = number.filter(|number| (0.0..=f64::from(u32::MAX)).contains(number));
    number.map(|number| number as u32).ok_or_else(|| LineError::NoTokens(field.to_owned()))
}

/// Seconds: a bare number, or a date and time with or without an offset.
fn timestamp(field: &str) -> Option<f64> {
    let field = bare(field);
    if let Ok(seconds) = field.parse::<f64>() {
        return Some(seconds);
    }
    let instant = match field.parse::<Timestamp>() {
        Ok(instant) => instant,
        Err(_) => Offset::UTC.to_timestamp(field.parse::<DateTime>().ok()?).ok()?,
    };
    Some(instant.as_nanosecond() as f64 / 1e9)
}

/// By time, from 0.
fn sorted(mut requests: Vec<Listed>) -> Result<Arc<[Listed]>, TraceError> {
    if !requests.iter().all(|request| request.at.is_finite()) {
        return Err(TraceError::NotFinite);
    }
    requests.sort_by(|a, b| a.at.total_cmp(&b.at));
    let first = requests.first().ok_or(TraceError::Empty)?.at;
    Ok(requests.into_iter().map(|request| Listed { at: request.at - first, ..request }).collect())
}

fn relist(listed: &[Listed], replay: Replay) -> Result<Arc<[Listed]>, TraceError> {
    let window = replay.from..replay.from + replay.span;
    let part: Vec<&Listed> = listed.iter().filter(|request| window.contains(&request.at)).collect();
    // From the first request of one time to the first of the next: a mean gap after the last.
    let span = part.last().map_or(0.0, |last| last.at - replay.from);
    let period = span + span / part.len().max(1) as f64;
    let times = (0..replay.repeat).map(|time| f64::from(time) * period);
    let mut rng = StdRng::seed_from_u64(replay.seed);
    let mut scaled = Vec::new();
    for (offset, request) in times.flat_map(|offset| part.iter().map(move |request| (offset, *request))) {
        let copies = replay.scale.floor() + f64::from(u8::from(rng.random::<f64>() < replay.scale.fract()));
        if scaled.len() as f64 + copies > ARRIVALS_MAX as f64 {
            return Err(TraceError::TooMany(ARRIVALS_MAX));
        }
        let at = (offset + request.at - replay.from) / replay.speed;
        for _ in 0..copies as usize {
            let moved = if replay.jitter > 0.0 { rng.random_range(-1.0..1.0) * replay.jitter } else { 0.0 };
            scaled.push(Listed { at: (at + moved).max(0.0), ..*request });
        }
    }
    if scaled.is_empty() {
        return Err(TraceError::NothingLeft);
    }
    if replay.jitter > 0.0 {
        scaled.sort_by(|a, b| a.at.total_cmp(&b.at));
    }
    Ok(Arc::from(scaled))
}

/// A line of ServeGen: the rate and the burstiness from one second until the next line's.
#[derive(Clone, Copy, Debug)]
struct Bin {
    second: f64,
    rate: f64,
    spacing: Spacing,
}

impl Bin {
    fn parse(line: &str) -> Result<Self, LineError> {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [second, rate, cv, family, shape @ ..] = fields.as_slice() else {
            return Err(LineError::Fields(fields.len()));
        };
        let number = |field: &str| field.parse::<f64>().map_err(|_| LineError::NoNumber(field.to_owned()));
        let cv = number(cv)?;
        let shape = || {
            let shape = shape.first().and_then(|shape| shape.parse::<f64>().ok());
            shape.filter(|shape| *shape > 0.0).ok_or(LineError::NoShape)
        };
        let spacing = match *family {
            "Gamma" => Spacing::Gamma { shape: shape()? },
            "Weibull" => Spacing::Weibull { shape: shape()? },
            "Exponential" | "Poisson" => Spacing::Poisson,
            "" if cv > 0.0 => Spacing::Gamma { shape: (cv * cv).recip() },
            "" => Spacing::Poisson,
            other => return Err(LineError::Family(other.to_owned())),
        };
        Ok(Self { second: number(second)?, rate: number(rate)?, spacing })
    }
}

/// The bins, each with its width in seconds; the last is as wide as the one before it.
fn binned(text: &str) -> Result<Arc<[(Bin, f64)]>, TraceError> {
    let bin = |(number, line)| Bin::parse(line).map_err(at_line(number));
    let bins = lines(text).map(bin).collect::<Result<Vec<_>, _>>()?;
    let seconds = bins.iter().zip(bins.iter().skip(1));
    let mut widths: Vec<f64> = seconds.map(|(bin, next)| next.second - bin.second).collect();
    if !widths.iter().all(|width| *width > 0.0) {
        return Err(TraceError::NotAscending);
    }
    widths.push(*widths.last().ok_or(TraceError::OneBin)?);
    let first = bins.first().map_or(0.0, |bin| bin.second);
    Ok(bins.into_iter().map(|bin| Bin { second: bin.second - first, ..bin }).zip(widths).collect())
}

fn rebin(bins: &[(Bin, f64)], replay: Replay) -> Result<Profile, Error> {
    let until = replay.from + replay.span;
    let segments = bins.iter().map(|(bin, width)| {
        let length = (bin.second + width).min(until) - bin.second.max(replay.from);
        Segment::flat(length.max(0.0) / replay.speed, bin.rate * replay.scale * replay.speed, bin.spacing)
    });
    let segments: Vec<Segment> = segments.collect();
    let times = segments.len().saturating_mul(replay.repeat as usize);
    Profile::new(segments.into_iter().cycle().take(times).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const AS_IT_IS: Replay = Replay::AS_IT_IS;

    fn times(text: &str, replay: Replay) -> Vec<f64> {
        parse(text, replay).unwrap().arrivals(1).map(|t| t.at.as_secs_f64()).collect()
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
    fn a_part_of_a_trace_starts_at_its_own_zero() {
        assert_eq!(times(AZURE, Replay { from: 0.5, span: 1.0, ..AS_IT_IS }), [0.5]);
    }

    #[test]
    fn json_lines_give_seconds_in_any_order() {
        assert_eq!(times("{\"t\": 3.5, \"tokens\": 12}\n\n{\"t\": 1.5}\n", AS_IT_IS), [0.0, 2.0]);
    }

    #[test]
    fn plain_times_need_no_header() {
        assert_eq!(times("10.5\n\n9\n12\n", AS_IT_IS), [0.0, 1.5, 3.0]);
        assert_eq!(times("2024-05-10 00:00:00\n2024-05-10 00:00:02\n", AS_IT_IS), [0.0, 2.0]);
    }

    #[test]
    fn a_trace_may_come_again_a_mean_gap_after_its_end() {
        let twice = Replay { repeat: 2, ..AS_IT_IS };
        assert_eq!(times("t\n0\n1\n2\n3\n", twice), [0.0, 1.0, 2.0, 3.0, 3.75, 4.75, 5.75, 6.75]);
        let bins = times("0,20,1,Gamma,1,0.05\n600,0,1,Gamma,1,0.05\n", twice);
        assert!(bins.iter().any(|t| (1200.0..1800.0).contains(t)) && !bins.iter().any(|t| *t > 1801.0));
    }

    #[test]
    fn tokens_of_answers_are_read_where_there_are_some() {
        let tokens = |text| -> Vec<_> {
            parse(text, AS_IT_IS).unwrap().arrivals(1).map(|arrival| arrival.tokens).collect()
        };
        assert_eq!(tokens(AZURE), [Some(44), Some(109), Some(55)]);
        assert_eq!(tokens("{\"t\": 1, \"tokens\": 12}\n{\"t\": 2}\n"), [Some(12), None]);
    }

    #[test]
    fn tokens_stay_with_their_calls_however_those_are_changed() {
        let tokens = |text: &str, replay| match parse(text, replay).unwrap() {
            Schedule::Listed(listed) => listed.iter().map(|call| (call.prompt, call.output)).collect(),
            other => panic!("not a list: {other:?}"),
        };
        let told: Vec<_> = tokens(AZURE, AS_IT_IS);
        assert_eq!(told, [(374, 44), (396, 109), (879, 55)]);
        let later = Replay { from: 0.5, scale: 2.0, ..AS_IT_IS };
        assert_eq!(tokens(AZURE, later), [(396, 109), (396, 109), (879, 55), (879, 55)]);
        let unsorted = "generatedtokens,t,contexttokens\n7,5,70\n3.0,1,30\n";
        assert_eq!(tokens(unsorted, AS_IT_IS), [(30, 3), (70, 7)]);
        assert_eq!(tokens("t,ContextTokens\n1,2\n", AS_IT_IS), [(2, 0)]);
    }

    #[test]
    fn jitter_moves_each_copy_by_itself_and_keeps_the_order() {
        let jittered = Replay { scale: 2.0, jitter: 0.4, ..AS_IT_IS };
        let moved = times(AZURE, jittered);
        assert!(moved.is_sorted() && moved.windows(2).all(|pair| pair[0] < pair[1]), "{moved:?}");
        for (at, expected) in moved.iter().zip([0.0, 0.0, 1.0, 1.0, 4.0, 4.0]) {
            assert!((at - expected).abs() <= 0.4, "{moved:?}");
        }
        assert_ne!(moved, times(AZURE, Replay { seed: 2, ..jittered }));
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
            let error = parse(text, AS_IT_IS).unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
