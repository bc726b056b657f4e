//! How traces are exported, from the variables that OpenTelemetry has for it. A wrong value of one is an error.

mod form;

use std::{collections::BTreeMap, ffi::OsString, fs, time::Duration};

use gateway::trace::Sampling;
use opentelemetry::KeyValue;
use opentelemetry_sdk::{Resource, resource::TelemetryResourceDetector, trace::Sampler};

use self::form::{Form, endpoint, flag, headers, integer, pairs, ratio};
pub(super) use self::form::{certificates, key};
use super::{
    export::Limits,
    wire::{Pem, Protocol, Tls, Wire},
};

/// Most spans that may be waiting, however many are asked for.
const QUEUE_MAX: u64 = 1 << 20;
/// Without either of these nothing is exported. The latter is a base, to which a path is added over HTTP.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// How traces are exported.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(super) wire: Wire,
    pub(super) sampling: Sampling,
    pub(super) limits: Limits,
    pub(super) resource: Resource,
}

/// A variable of the environment that cannot be followed. Values may be secret and are not shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable {variable}: {problem}")]
pub(crate) struct Wrong {
    pub(super) variable: String,
    pub(super) problem: String,
}

impl Settings {
    /// Reads an environment; `None` where it asks for no traces.
    ///
    /// # Errors
    /// A value that makes no sense, or that asks for what there is not.
    pub(crate) fn read(
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Option<Self>, Wrong> {
        Environment::of(environment).settings()
    }
}

/// The variables of OpenTelemetry that are set; an empty one is as good as none. `None` is of one that is not Unicode,
/// which is wrong only where somebody reads it.
struct Environment(BTreeMap<String, Option<String>>);

impl Environment {
    fn of(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut variables = BTreeMap::new();
        for (name, value) in environment {
            let Some(variable) = name.to_str().filter(|name| name.starts_with("OTEL_")).map(str::to_owned)
            else {
                continue;
            };
            let value = value.to_str().map(|value| value.trim().to_owned());
            if value.as_ref().is_none_or(|value| !value.is_empty()) {
                variables.insert(variable, value);
            }
        }
        Self(variables)
    }

    fn settings(&self) -> Result<Option<Settings>, Wrong> {
        if !ENDPOINTS.iter().any(|variable| self.0.contains_key(*variable)) {
            return Ok(None);
        }
        if self.read("OTEL_SDK_DISABLED", flag)?.unwrap_or(false) {
            return Ok(None);
        }
        if self.choice("OTEL_TRACES_EXPORTER", &["otlp", "none"])? == Some("none") {
            return Ok(None);
        }
        self.check_what_the_exporter_reads()?;
        let (wire, sampling) = (self.wire()?, self.sampling()?);
        let (limits, resource) = (self.limits()?, self.resource()?);
        Ok(Some(Settings { wire, sampling, limits, resource }))
    }

    fn wire(&self) -> Result<Wire, Wrong> {
        let [of_traces, of_all] = ENDPOINTS;
        let (endpoint, is_base) = match self.read(of_traces, endpoint)? {
            Some(endpoint) => (endpoint, false),
            None => (self.read(of_all, endpoint)?.ok_or_else(|| wrong(of_all, "it is not set"))?, true),
        };
        let protocols = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
        let protocol = self.first(&protocols, |value| match value {
            "grpc" => Ok(Protocol::Grpc),
            "http/protobuf" => Ok(Protocol::Http),
            _ => Err("grpc and http/protobuf are spoken here".to_owned()),
        })?;
        // The specification's default; nobody speaks it at the port that is gRPC's.
        let protocol =
            protocol.unwrap_or(if endpoint.port == Some(4317) { Protocol::Grpc } else { Protocol::Http });
        let timeouts = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
        let timeout = self.first(&timeouts, integer(1..=u64::from(u32::MAX)))?.unwrap_or(10_000);
        Ok(Wire {
            protocol,
            tls: if endpoint.is_https { Some(self.tls()?) } else { None },
            endpoint: match (protocol, is_base) {
                (Protocol::Http, true) => format!("{}/v1/traces", endpoint.whole.trim_end_matches('/')),
                _ => endpoint.whole,
            },
            host: endpoint.shown,
            timeout: Duration::from_millis(timeout),
        })
    }

    /// What the exporter reads by itself, and passes over where it is wrong.
    fn check_what_the_exporter_reads(&self) -> Result<(), Wrong> {
        for variable in ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"] {
            self.choice(variable, &["gzip", "none"])?;
        }
        for variable in ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"] {
            self.read(variable, headers)?;
        }
        let propagators = "OTEL_PROPAGATORS";
        self.read(propagators, |value| {
            let ours = value.split(',').all(|name| matches!(name.trim(), "tracecontext" | "baggage"));
            let traces = value.split(',').any(|name| name.trim() == "tracecontext");
            (ours && traces)
                .then_some(())
                .ok_or_else(|| "only tracecontext is followed, and baggage passed over".to_owned())
        })?;
        Ok(())
    }

    fn tls(&self) -> Result<Tls, Wrong> {
        let trusted = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
        let ours = ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"];
        let keys = ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"];
        let trusted = self.file(&trusted, |pem| certificates(pem).map(drop))?;
        let certificate = self.file(&ours, |pem| certificates(pem).map(drop))?;
        let identity = match (certificate, self.file(&keys, |pem| key(pem).map(drop))?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err(wrong(keys[1], "a client's certificate needs its key")),
            (None, Some(_)) => return Err(wrong(ours[1], "a client's key needs its certificate")),
        };
        Ok(Tls { trusted, identity })
    }

    /// The content of the file that the first of these names.
    fn file(
        &self,
        variables: &[&str],
        check: impl Fn(&[u8]) -> Result<(), String>,
    ) -> Result<Option<Pem>, Wrong> {
        self.first(variables, |path| {
            let pem = fs::read(path).map_err(|error| format!("reading {path}: {error}"))?;
            check(&pem)?;
            Ok(Pem(pem))
        })
    }

    fn sampling(&self) -> Result<Sampling, Wrong> {
        const SAMPLERS: [&str; 6] = [
            "always_on",
            "always_off",
            "traceidratio",
            "parentbased_always_on",
            "parentbased_always_off",
            "parentbased_traceidratio",
        ];
        let name = self.choice("OTEL_TRACES_SAMPLER", &SAMPLERS)?.unwrap_or("parentbased_always_on");
        let (follows_caller, name) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name),
        };
        let root = match name {
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => {
                Sampler::TraceIdRatioBased(self.read("OTEL_TRACES_SAMPLER_ARG", ratio)?.unwrap_or(1.0))
            }
            _ => Sampler::AlwaysOn,
        };
        Ok(Sampling { root, follows_caller })
    }

    fn limits(&self) -> Result<Limits, Wrong> {
        const BATCH: &str = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE";
        let millis = integer(1..=u64::from(u32::MAX));
        let queue = self.read("OTEL_BSP_MAX_QUEUE_SIZE", integer(1..=QUEUE_MAX))?.unwrap_or(2048);
        let batch = self.read(BATCH, integer(1..=QUEUE_MAX))?;
        if batch.is_some_and(|batch| batch > queue) {
            return Err(wrong(BATCH, &format!("no more than OTEL_BSP_MAX_QUEUE_SIZE, which is {queue}")));
        }
        let delay = self.read("OTEL_BSP_SCHEDULE_DELAY", integer(0..=u64::from(u32::MAX)))?.unwrap_or(5_000);
        let timeout = self.read("OTEL_BSP_EXPORT_TIMEOUT", millis)?.unwrap_or(30_000);
        Ok(Limits {
            queue: queue as usize,
            batch: batch.unwrap_or(512).min(queue) as usize,
            delay: Duration::from_millis(delay),
            timeout: Duration::from_millis(timeout),
        })
    }

    /// What the spans are of.
    fn resource(&self) -> Result<Resource, Wrong> {
        let attributes = self.read("OTEL_RESOURCE_ATTRIBUTES", pairs)?.unwrap_or_default();
        let ours = [("service.name", "tidegate"), ("service.version", env!("CARGO_PKG_VERSION"))];
        let ours = ours.map(|(key, value)| KeyValue::new(key, value));
        let named =
            self.read("OTEL_SERVICE_NAME", |name| Ok(KeyValue::new("service.name", name.to_owned())))?;
        let given = attributes.into_iter().map(|(key, value)| KeyValue::new(key, value));
        // The later ones win.
        Ok(Resource::builder_empty()
            .with_detector(Box::new(TelemetryResourceDetector))
            .with_attributes(ours)
            .with_attributes(given)
            .with_attributes(named)
            .build())
    }

    fn read<T>(&self, variable: &str, form: impl Form<T>) -> Result<Option<T>, Wrong> {
        let Some(value) = self.0.get(variable) else { return Ok(None) };
        let value = value.as_ref().ok_or_else(|| wrong(variable, "it is not Unicode"))?;
        form(value).map(Some).map_err(|problem| wrong(variable, &problem))
    }

    /// The value of the first of these that is set.
    fn first<T>(&self, variables: &[&str], form: impl Form<T>) -> Result<Option<T>, Wrong> {
        let set = variables.iter().find(|variable| self.0.contains_key(**variable));
        set.map_or(Ok(None), |variable| self.read(variable, form))
    }

    fn choice<'a>(&self, variable: &str, choices: &[&'a str]) -> Result<Option<&'a str>, Wrong> {
        self.read(variable, |value| {
            let chosen = choices.iter().find(|choice| **choice == value);
            chosen.copied().ok_or_else(|| format!("it must be one of {}", choices.join(", ")))
        })
    }
}

fn wrong(variable: &str, problem: &str) -> Wrong {
    Wrong { variable: variable.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests;
