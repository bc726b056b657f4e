//! The configuration file: from text to a [`Config`] that can be carried out, or a [`Report`] of everything that
//! is wrong with it.
//!
//! [`source`] reads the text, [`yaml`] makes it a located tree, [`section`] walks that by the table of [`keys`],
//! [`read`] takes the values out and [`check`] compares them with each other. What this version cannot do is
//! refused here, so a [`Config`] never asks for it. `Model` resources come the same way by [`mod@resource`], after what
//! [`crd`] lets an API server accept.

mod changes;
mod check;
pub(crate) mod crd;
mod defeat;
pub(crate) mod explain;
mod guess;
mod keys;
mod known;
mod read;
mod report;
mod resource;
pub(crate) mod sample;
mod scalar;
pub(crate) mod schema;
mod section;
mod set;
mod source;
#[cfg(test)]
mod tests;
mod words;
mod yaml;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use pipeline::{Batching, Concurrency, QueueLimits};

pub(crate) use autoscaler::schedule::{Bounds, OnRequest, Schedule};
pub(crate) use changes::{Changes, changes};
pub(crate) use known::Known;
pub(crate) use report::Report;
pub(crate) use resource::resource;
pub(crate) use set::{Assignment, assignments, recorded};
pub(crate) use source::Source;
pub(crate) use words::words;

use crate::serve::Role;

/// A valid configuration. Every default is filled in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// At least one.
    pub(crate) listen: Vec<SocketAddr>,
    /// Loopback, unless the file permits otherwise.
    pub(crate) admin: SocketAddr,
    pub(crate) limits: Limits,
    pub(crate) shutdown: Shutdown,
    /// `None`: nothing is recorded.
    pub(crate) record: Option<Record>,
    pub(crate) cluster: Cluster,
    /// At least one, unless the cluster's resources are served too; names are distinct.
    pub(crate) models: Vec<Model>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of requests that are read, wait or run, in the whole process.
    pub(crate) memory: usize,
    /// Bytes of one request body or gRPC message; at most `memory`.
    pub(crate) max_body: usize,
    pub(crate) max_headers: HeaderLimits,
    pub(crate) max_connections: u32,
    /// Concurrent streams of one HTTP/2 connection.
    pub(crate) http2_max_streams: u32,
    pub(crate) timeouts: Timeouts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeaderLimits {
    pub(crate) bytes: usize,
    pub(crate) count: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    pub(crate) first_byte: Duration,
    pub(crate) header: Duration,
    pub(crate) body_idle: Duration,
    pub(crate) idle: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shutdown {
    pub(crate) accept_for: Duration,
    pub(crate) drain: Duration,
}

/// Where what the autoscaler sees and decides is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) file: PathBuf,
    /// Of this file and the one before it together.
    pub(crate) max_bytes: u64,
}

/// How the processes of an installation in Kubernetes find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cluster {
    /// Name of the Lease that settles who decides.
    pub(crate) lease: String,
    pub(crate) lease_timing: LeaseTiming,
    /// Where an autoscaler listens to the gateways.
    pub(crate) signals: SocketAddr,
    /// Name of the Service whose endpoints are the gateways.
    pub(crate) gateways: String,
    pub(crate) resources: Resources,
}

/// How soon a leader that is lost is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseTiming {
    /// Lasts 15 s, given up after 10 s without renewal, tried every 2 s.
    Default,
    /// The same with 6, 4 and 1 s.
    Fast,
}

/// Whose `Model` resources are served besides the models of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resources {
    Off,
    /// Of the namespace where this process runs.
    OwnNamespace,
    /// Of these: at least one, distinct.
    Namespaces(Vec<String>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Model {
    pub(crate) name: Arc<str>,
    pub(crate) fleet: Fleet,
    pub(crate) protocol: Protocol,
    pub(crate) slo: Slo,
    pub(crate) deadline: Deadline,
    /// There exactly where the protocol is [`Protocol::OpenAi`].
    pub(crate) routing: Option<Routing>,
    pub(crate) batching: Batching,
    pub(crate) queue: QueueLimits,
    pub(crate) concurrency: Concurrency,
    /// A call may be repeated after it may have run.
    pub(crate) idempotent: bool,
    /// Longest that a call waits for a replica to become ready.
    pub(crate) cold_start_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fleet {
    Process(Process),
    Kubernetes(Kubernetes),
    /// `HOST:PORT` each, at least one, distinct.
    Static {
        addresses: Vec<String>,
    },
}

/// Replicas that are child processes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Process {
    /// Program and arguments; at least one argument contains `{port}`.
    pub(crate) command: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) scaling: Scaling,
}

/// Replicas that are pods of an object with a scale subresource.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kubernetes {
    /// `None`: where this process runs.
    pub(crate) namespace: Option<String>,
    /// `Kind/name` or `Kind.group/name`, as written.
    pub(crate) target: String,
    /// Name of the Service whose EndpointSlices list the pods.
    pub(crate) service: String,
    pub(crate) port: Port,
    pub(crate) scaling: Scaling,
}

/// A port of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Number(u16),
    /// As the Service calls it.
    Name(String),
}

impl Kubernetes {
    /// The target in the one spelling that names its group, so that two can be compared.
    pub(crate) fn object(&self) -> Cow<'_, str> {
        match self.target.split_once('/') {
            Some((kind @ ("Deployment" | "StatefulSet" | "ReplicaSet"), name)) => {
                Cow::Owned(format!("{kind}.apps/{name}"))
            }
            _ => Cow::Borrowed(&self.target),
        }
    }

    fn has_same_pods(&self, other: &Self) -> bool {
        // Destructured, so that a new field cannot be forgotten here.
        let Self { namespace, target, service, port, scaling: _ } = self;
        *namespace == other.namespace
            && *target == other.target
            && *service == other.service
            && *port == other.port
    }
}

impl Fleet {
    /// Whether replicas of one could stand for replicas of the other: all but how many there may be.
    pub(crate) fn has_same_replicas(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Process(a), Self::Process(b)) => a.command == b.command && a.env == b.env,
            (Self::Kubernetes(a), Self::Kubernetes(b)) => a.has_same_pods(b),
            (Self::Static { addresses: a }, Self::Static { addresses: b }) => a == b,
            _ => false,
        }
    }

    /// `None`: the fleet is not scaled.
    pub(crate) fn scaling(&self) -> Option<&Scaling> {
        match self {
            Self::Process(process) => Some(&process.scaling),
            Self::Kubernetes(kubernetes) => Some(&kubernetes.scaling),
            Self::Static { .. } => None,
        }
    }
}

/// What the model servers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    V2Grpc,
    V2Http,
    V1,
    OpenAi,
}

/// What a model's answers are to keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Slo {
    /// Of whole answers: any protocol.
    Latency(Objective),
    /// Of streams of tokens: [`Protocol::OpenAi`] only.
    Chat {
        /// Time to the first token.
        ttft: Objective,
        /// Time per further token, as the mean of a stream.
        tpot: Objective,
    },
}

/// `quantile` of the answers or streams take at most `latency`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Objective {
    /// Between 0 and 1, like 0.99.
    pub(crate) quantile: f64,
    pub(crate) latency: Duration,
}

impl Slo {
    /// The one that waiting counts towards: of whole answers, or of the first token.
    pub(crate) fn response(&self) -> Objective {
        match self {
            Self::Latency(whole) => *whole,
            Self::Chat { ttft, .. } => *ttft,
        }
    }

    /// Every time in it.
    pub(crate) fn times(&self) -> impl Iterator<Item = Duration> + use<> {
        let further = match self {
            Self::Latency(_) => None,
            Self::Chat { tpot, .. } => Some(tpot.latency),
        };
        std::iter::once(self.response().latency).chain(further)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    /// For calls that bring none; at most `max`.
    pub(crate) default: Duration,
    pub(crate) max: Duration,
    /// There exactly where the protocol is [`Protocol::OpenAi`].
    pub(crate) tokens: Option<TokenDeadlines>,
}

/// How long a model server may be silent; each at most [`Deadline::max`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenDeadlines {
    /// Before the first token of a stream.
    pub(crate) first: Duration,
    /// Between two pieces of a stream.
    pub(crate) between: Duration,
}

/// Which replica a call goes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Routing {
    /// Calls that begin alike go to the same replica.
    pub(crate) prefix_affinity: bool,
    /// Multiple of the average load beyond which they go to another; 1 to 10.
    pub(crate) load_factor: f64,
    /// In lower case.
    pub(crate) session_header: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scaling {
    pub(crate) min: u32,
    /// At least 1 and at least `min`.
    pub(crate) max: u32,
    /// `None`: learned from the gaps between calls.
    pub(crate) idle_after: Option<Duration>,
    pub(crate) mode: Mode,
    /// Weekly windows with other bounds.
    pub(crate) schedules: Vec<Schedule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Enforce,
    /// Decide and explain, change nothing.
    Observe,
}

/// A valid configuration and what is doubtful about it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) warnings: Report,
    source: Source,
    sockets: Vec<section::Setting<SocketAddr>>,
    /// Where the fleet of each model stands.
    sites: Vec<section::Setting<()>>,
}

/// Reads and validates a file; `-` is standard input.
///
/// # Errors
/// Everything that is wrong with it, not only the first.
pub(crate) fn load(path: &Path) -> Result<Loaded, Report> {
    parse(Source::read(path)?)
}

/// Validates a text.
///
/// # Errors
/// As [`load`].
pub(crate) fn parse(source: Source) -> Result<Loaded, Report> {
    let tree = match section::tree(&source.text) {
        Ok(tree) => tree,
        Err(finding) => return Err(Report::new(source, vec![finding])),
    };
    let mut findings = section::Findings::default();
    let read = read::file(&mut findings, &tree);
    let report = Report::new(source.clone(), findings.into_inner());
    match read {
        Some(read) if report.errors() == 0 => {
            let read::Read { config, sockets, sites } = read;
            Ok(Loaded { config, warnings: report, source, sockets, sites })
        }
        _ => Err(report),
    }
}

impl Loaded {
    pub(crate) fn has_model(&self, name: &str) -> bool {
        self.config.models.iter().any(|model| &*model.name == name)
    }

    /// Checks that this machine lets the process listen where the file says.
    ///
    /// # Errors
    /// A report of the addresses that are taken, not this machine's, or not permitted.
    pub(crate) fn try_binding(&self) -> Result<(), Report> {
        let mut findings = section::Findings::default();
        let mut held = Vec::new();
        for socket in &self.sockets {
            match std::net::TcpListener::bind(socket.value) {
                Ok(listener) => held.push(listener),
                Err(error) => {
                    let message = format!("cannot listen on {}: {error}", socket.value);
                    findings.error(&socket.path, socket.span, message, "");
                }
            }
        }
        self.reported(findings)
    }

    /// Checks that a process of this role can do its part for every model.
    ///
    /// # Errors
    /// A report of the models whose replicas several processes cannot share.
    pub(crate) fn for_role(&self, role: Role) -> Result<(), Report> {
        let mut findings = section::Findings::default();
        let apart = !(role.serves() && role.decides());
        for (model, site) in self.config.models.iter().zip(&self.sites).filter(|_| apart) {
            if matches!(model.fleet, Fleet::Process(_)) {
                let message = format!(
                    "replicas of model {} are child processes, which one process starts, scales and serves: not \
                     --role {}",
                    model.name,
                    role.as_str()
                );
                findings.error(&site.path, site.span, message, "use kubernetes, or --role all");
            }
        }
        self.reported(findings)
    }

    fn reported(&self, findings: section::Findings) -> Result<(), Report> {
        let findings = findings.into_inner();
        if findings.is_empty() { Ok(()) } else { Err(Report::new(self.source.clone(), findings)) }
    }
}
