//! The command line: `loadtest URL` sends, `loadtest upstream` answers.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use arrivals::{
    profile::{Bursts, Ramp, Steps},
    spacing::Spacing,
};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use pipeline::tensor::TensorSpec;

use crate::{chat::length::Length, message::Protocol, source};

/// Open-loop load for predict and chat endpoints, with latency from the intended send time.
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
    pub(crate) chat: ChatArgs,
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
    /// End after so many arrivals: with chat, sessions
    #[arg(long, value_name = "N", conflicts_with_all = ["clients", "burst"])]
    pub(crate) sessions: Option<usize>,
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
#[command(next_help_heading = "Chat completions")]
pub(crate) struct ChatArgs {
    /// Ask for answers as a stream of tokens
    #[arg(long)]
    pub(crate) stream: bool,
    /// Tokens of each message of the user: N, N..M or, from the trace's ContextTokens, trace
    #[arg(long, default_value = "200", value_name = "TOKENS")]
    pub(crate) prompt_tokens: Length,
    /// Tokens of each answer: N, N..M or, from the trace's GeneratedTokens, trace
    #[arg(long, default_value = "100", value_name = "TOKENS")]
    pub(crate) output_tokens: Length,
    /// Requests of each session: every one carries all that was said before
    #[arg(long, default_value_t = 1)]
    pub(crate) turns: u32,
    /// Time from an answer to the session's next turn, half to one and a half times as long
    #[arg(long, value_parser = humantime::parse_duration, default_value = "1s")]
    pub(crate) think: Duration,
    /// Tokens of the system prompt that the sessions of a group begin with
    #[arg(long, default_value_t = 0, value_name = "TOKENS")]
    pub(crate) shared_prefix: u32,
    /// Different system prompts
    #[arg(long, default_value_t = 1)]
    pub(crate) prefix_groups: u32,
    /// A header for the name of the session, e.g. x-session-id
    #[arg(long, value_name = "HEADER")]
    pub(crate) session_header: Option<HeaderName>,
    /// The tenant, sent as the field `user`
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// The priority class, sent as it is: flex, default, priority
    #[arg(long)]
    pub(crate) service_tier: Option<String>,
    /// Open so many streams before the run and stop reading them after their first text; they are not measured
    #[arg(long, default_value_t = 0, value_name = "N", requires = "stream")]
    pub(crate) stalled: usize,
    /// Tokens of the answers that nobody reads
    #[arg(long, default_value_t = 100_000, value_name = "TOKENS")]
    pub(crate) stalled_tokens: u32,
    /// Answers whose first text is later than this are no goodput
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) slo_ttft: Option<Duration>,
    /// Answers that take longer per token after the first are no goodput
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) slo_tpot: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Open connections to the addresses in this file, one a line and in turn, read anew for each connection; the
    /// URL then only names the host
    #[arg(long, value_name = "FILE")]
    pub(crate) addresses: Option<PathBuf>,
    /// Connections in all [default: 256 with HTTP/1.1 (10,000 for chat), 4 with HTTP/2, one per client or request of a
    /// burst]
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
    /// Requests, or sessions, under way at most; more void the run
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
