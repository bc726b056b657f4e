//! The command line: `loadtest URL` sends, `loadtest upstream` answers.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use arrivals::{
    profile::{Bursts, Ramp, Steps},
    spacing::Spacing,
};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use pipeline::tensor::TensorSpec;

use crate::{message::Protocol, source};

/// Open-loop load for predict endpoints, with latency from the intended send time.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
    /// Where to send, e.g. http://127.0.0.1:8080; with `--protocol raw` the whole URL
    #[arg(required = true)]
    pub(crate) url: Option<Uri>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Serve fixed answers fast, to stand behind the proxies that are compared
    Upstream(UpstreamArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) call: CallArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadArgs {
    /// Requests per second; the peak with --bursts and --day
    #[arg(long, default_value_t = 100.0)]
    pub(crate) rate: f64,
    /// How long to send; a trace and --steps have a length of their own [default: 10s]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) duration: Option<Duration>,
    /// Gaps between requests: constant, poisson, gamma:CV or weibull:SHAPE
    #[arg(long, default_value = "poisson")]
    pub(crate) spacing: Spacing,
    /// on=DURATION,off=DURATION[,idle=RATE], over and over
    #[arg(long, group = "shape")]
    pub(crate) bursts: Option<Bursts>,
    /// RATExDURATION,RATExDURATION,…
    #[arg(long, group = "shape")]
    pub(crate) steps: Option<Steps>,
    /// RATE..RATE, from the start to the end
    #[arg(long, group = "shape")]
    pub(crate) ramp: Option<Ramp>,
    /// An office day, squeezed into the duration
    #[arg(long, group = "shape")]
    pub(crate) day: bool,
    /// Arrivals from a file: CSV with a timestamp column, JSON lines with t in seconds, times one a line, or ServeGen bins
    #[arg(long, group = "shape")]
    pub(crate) trace: Option<PathBuf>,
    /// So many requests, all at the start
    #[arg(long, group = "shape")]
    pub(crate) burst: Option<usize>,
    /// Closed loop instead: so many clients, each with one request at a time on a connection of its own
    #[arg(long, group = "shape")]
    pub(crate) clients: Option<usize>,
    /// Play the trace so many times faster
    #[arg(long, requires = "trace", default_value_t = 1.0)]
    pub(crate) trace_speed: f64,
    /// Requests per arrival of the trace, e.g. 0.1 or 3
    #[arg(long, requires = "trace", default_value_t = 1.0)]
    pub(crate) trace_scale: f64,
    /// Skip the beginning of the trace
    #[arg(long, requires = "trace", value_parser = humantime::parse_duration)]
    pub(crate) trace_from: Option<Duration>,
    /// For arrivals and random inputs; the same seed gives the same load
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Leave the beginning out of the results
    #[arg(long, value_parser = humantime::parse_duration, default_value = "0s")]
    pub(crate) warmup: Duration,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Requests")]
pub(crate) struct CallArgs {
    #[arg(long, value_enum, default_value_t)]
    pub(crate) protocol: Protocol,
    /// HTTP/2 with prior knowledge instead of HTTP/1.1 (gRPC always has it)
    #[arg(long)]
    pub(crate) http2: bool,
    /// The model to call, unless requests are raw; its inputs are read from its metadata
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Inputs instead of the model's metadata: NAME:DATATYPE:DIM,DIM of one row
    #[arg(long, value_parser = source::input)]
    pub(crate) input: Vec<TensorSpec>,
    /// Rows per request
    #[arg(long, default_value_t = 1)]
    pub(crate) rows: usize,
    /// Samples to send: a JSON list (or {"samples": […]}) of objects with one key per input
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// Compare every answer with this key of its samples
    #[arg(long, requires = "data", num_args = 0..=1, default_missing_value = "predicted", require_equals = true, value_name = "KEY")]
    pub(crate) check: Option<String>,
    /// The body of raw requests
    #[arg(long)]
    pub(crate) body_file: Option<PathBuf>,
    /// The method of raw requests [default: POST with a body, else GET]
    #[arg(long)]
    pub(crate) method: Option<Method>,
    /// "Name: value", sent with every request
    #[arg(long, short = 'H', value_parser = header)]
    pub(crate) header: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Open connections to the addresses in this file, one a line and in turn, read anew for each connection; the
    /// URL then only names the host
    #[arg(long, value_name = "FILE")]
    pub(crate) addresses: Option<PathBuf>,
    /// Connections in all [default: 256 with HTTP/1.1, 4 with HTTP/2, one per client or request of a burst]
    #[arg(long)]
    pub(crate) connections: Option<usize>,
    /// Threads that send [default: half of the processors]
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// The client gives up after
    #[arg(long, value_parser = humantime::parse_duration, default_value = "30s")]
    pub(crate) timeout: Duration,
    /// Tell the server when the answer is due: x-request-timeout-ms or grpc-timeout
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) deadline: Option<Duration>,
    /// Answers later than this are no goodput [default: the deadline]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) slo: Option<Duration>,
    /// Void the run when requests were started later than this at p99
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10ms")]
    pub(crate) max_lag: Duration,
    /// Requests under way at most; more void the run
    #[arg(long, default_value_t = 50_000)]
    pub(crate) outstanding: usize,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Format,
    /// Write the report to a file as JSON as well
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// No progress on stderr
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Report the CPU time and peak memory of these processes and their descendants
    #[arg(long, value_delimiter = ',', action = ArgAction::Append, value_name = "PID")]
    pub(crate) cpu_of: Vec<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct UpstreamArgs {
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: usize,
    /// Time per call
    #[arg(long, value_parser = humantime::parse_duration, default_value = "0ms")]
    pub(crate) latency: Duration,
    /// Time per row, on top
    #[arg(long, value_parser = humantime::parse_duration, default_value = "0ms")]
    pub(crate) latency_per_row: Duration,
    /// Calls worked on at once; others wait in order [default: no limit]
    #[arg(long)]
    pub(crate) concurrency: Option<usize>,
    /// Send request bodies back instead of fixed answers (HTTP only)
    #[arg(long)]
    pub(crate) echo: bool,
}

fn header(text: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':').ok_or_else(|| anyhow::anyhow!("use \"Name: value\""))?;
    Ok((name.trim().parse()?, value.trim().parse()?))
}

impl CallArgs {
    pub(crate) fn headers(&self) -> HeaderMap {
        self.header.iter().cloned().collect()
    }
}
