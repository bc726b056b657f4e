//! One entry of `models`.

use std::{borrow::Cow, sync::Arc, time::Duration};

use pipeline::{Batching, Concurrency, QueueLimits};

use super::{fleet::fleet, positive};
use crate::config::{
    Deadline, Fleet, Model, Protocol, Resources, Slo, check,
    report::quoted,
    scalar::{Auto, Bytes, Choice, formed},
    section::{Findings, Section, Setting, WordOrSection},
    yaml::Node,
};

/// The percentiles an SLO may name.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)];

/// A model, and where its fleet stands.
pub(in crate::config) struct Placed {
    pub(in crate::config) model: Model,
    pub(in crate::config) site: Setting<()>,
}

/// Those of a file: none only where resources declare some. `resources` is `None` if that setting was refused.
pub(super) fn all(
    found: &mut Findings,
    root: &Section<'_>,
    memory: Option<&Setting<Bytes>>,
    resources: Option<&Resources>,
) -> Option<Vec<Placed>> {
    if resources != Some(&Resources::Off) && !root.has_items("models") {
        return Some(Vec::new());
    }
    if !root.has("models") {
        found.missing(root, "models");
    }
    let mut names = Vec::new();
    let mut models = Vec::new();
    let mut complete = true;
    for section in found.sections(root, "models") {
        let name = found.get_with(&section, "name", |scalar, kind| formed(scalar, kind, is_model_name));
        match one(found, &section, memory, name.as_ref()) {
            Some(model) => models.push(model),
            None => complete = false,
        }
        names.extend(name);
    }
    check::distinct(found, names.iter());
    check::distinct(found, models.iter().filter_map(Placed::object).collect::<Vec<_>>().iter());
    complete.then_some(models)
}

/// The one that a resource of this name declares.
pub(in crate::config) fn resource(
    found: &mut Findings,
    tree: &Node,
    name: &str,
    memory: &Setting<Bytes>,
) -> Option<Placed> {
    let section = found.spec(tree);
    let name = Setting {
        value: name.to_owned(),
        text: name.to_owned(),
        path: "metadata.name".to_owned(),
        span: section.span,
    };
    if !is_model_name(&name.value) {
        let message = format!("{} is no name for a model", quoted(&name.value));
        found.error(&name.path, name.span, message, "write at most 128 characters");
    }
    one(found, &section, Some(memory), Some(&name))
}

impl Placed {
    /// The object that is scaled, if there is one: its namespace and its name in one spelling.
    fn object(&self) -> Option<Setting<(Option<&str>, Cow<'_, str>)>> {
        let Fleet::Kubernetes(kubernetes) = &self.model.fleet else { return None };
        Some(self.site.with((kubernetes.namespace.as_deref(), kubernetes.object())))
    }
}

fn one(
    found: &mut Findings,
    section: &Section<'_>,
    memory: Option<&Setting<Bytes>>,
    name: Option<&Setting<String>>,
) -> Option<Placed> {
    let protocol = protocol(found, section);
    let slo = slo(found, section);
    let deadline = deadline(found, section);
    let batching = batching(found, section, slo.as_ref());
    let queue = queue(found, section, memory);
    let concurrency = found.get::<Auto<u32>>(section, "concurrency");
    let idempotent = found.get::<bool>(section, "idempotent");
    let scaling = found.section(section, "scaling");
    let cold_start_timeout = positive(found, &scaling, "coldStartTimeout");
    let fleet = fleet(found, section, &scaling);
    tenants(found, section);
    let latency = slo.as_ref().map(|(_, latency)| latency);
    check::slo_within_deadline(found, latency, deadline.as_ref().map(|(default, _)| default));
    if fleet.as_ref().is_some_and(|fleet| fleet.value.scaling().is_some()) {
        let longest = deadline.as_ref().map(|(_, max)| max);
        check::cold_start_within_deadline(found, cold_start_timeout.as_ref(), longest);
    }
    let (default, max) = deadline?;
    let (quantile, latency) = slo?;
    let fleet = fleet?;
    let site = fleet.with(());
    let model = Model {
        name: Arc::from(name?.value.as_str()),
        fleet: fleet.value,
        protocol: protocol?,
        slo: Slo { quantile, latency: latency.value },
        deadline: Deadline { default: default.value, max: max.value },
        batching: batching?,
        queue: queue?,
        concurrency: match concurrency?.value {
            Auto::Auto => Concurrency::Auto,
            Auto::Fixed(calls) => Concurrency::Fixed(calls),
        },
        idempotent: idempotent?.value,
        cold_start_timeout: cold_start_timeout?.value,
    };
    Some(Placed { model, site })
}

/// Letters and digits first, so that a name is never taken for an option or a hidden file.
fn is_model_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// A protocol that the file may name.
#[derive(Clone, Copy)]
enum Named {
    Known(Protocol),
    OpenAi,
}

impl Choice for Named {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("v2-grpc", Self::Known(Protocol::V2Grpc)),
        ("v2-http", Self::Known(Protocol::V2Http)),
        ("v1", Self::Known(Protocol::V1)),
        ("openai", Self::OpenAi),
    ];
}

fn protocol(found: &mut Findings, section: &Section<'_>) -> Option<Protocol> {
    let setting = found.get::<Named>(section, "protocol")?;
    match setting.value {
        Named::Known(protocol) => Some(protocol),
        Named::OpenAi => {
            found.unsupported(&setting.path, setting.span, "openai model servers are", "");
            None
        }
    }
}

/// A quantile and the latency that it is to keep.
type Objective = (f64, Setting<Duration>);
type Deadlines = (Setting<Duration>, Setting<Duration>);

fn slo(found: &mut Findings, model: &Section<'_>) -> Option<Objective> {
    let section = found.section(model, "slo");
    for name in ["ttft", "tpot"].into_iter().filter(|name| section.has(name)) {
        let tokens = found.section(&section, name);
        percentile(found, &tokens);
        found.unsupported(
            &tokens.path,
            section.place_of(name),
            "objectives per token are",
            "write p99: 100ms",
        );
    }
    percentile(found, &section)
}

/// The one percentile of a section, or its default where it names none.
fn percentile(found: &mut Findings, section: &Section<'_>) -> Option<Objective> {
    let mut given = PERCENTILES.into_iter().filter(|(name, _)| section.has(name));
    let (name, quantile) = given.next().unwrap_or(("p99", 0.99));
    for (other, _) in given {
        let earlier = section.mention(name);
        let message = format!("only one percentile can be the objective, and there is {earlier} already");
        found.error(&section.path_of(other), section.place_of(other), message, "remove one of them");
        positive(found, section, other);
    }
    Some((quantile, positive(found, section, name)?))
}

fn deadline(found: &mut Findings, model: &Section<'_>) -> Option<Deadlines> {
    let section = found.section(model, "deadline");
    let default = positive(found, &section, "default");
    let max = positive(found, &section, "max");
    check::at_most(found, default.as_ref(), max.as_ref());
    Some((default?, max?))
}

#[derive(Clone, Copy)]
enum BatchingWord {
    Auto,
    Off,
}

impl Choice for BatchingWord {
    const WORDS: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("off", Self::Off)];
}

fn batching(found: &mut Findings, model: &Section<'_>, slo: Option<&Objective>) -> Option<Batching> {
    let section = match found.word_or_section::<BatchingWord>(model, "batching") {
        WordOrSection::Section(section) => section,
        WordOrSection::Word(word) => {
            return Some(match word?.value {
                BatchingWord::Auto => Batching::Auto,
                BatchingWord::Off => Batching::Off,
            });
        }
    };
    let max_rows = found.get::<u32>(&section, "maxRows");
    let max_hold = found.get::<Duration>(&section, "maxHold");
    check::hold_within_slo(found, max_hold.as_ref(), slo.map(|(_, latency)| latency));
    Some(Batching::Merge { max_rows: max_rows?.value, max_hold: max_hold?.value })
}

fn queue(found: &mut Findings, model: &Section<'_>, memory: Option<&Setting<Bytes>>) -> Option<QueueLimits> {
    let section = found.section(model, "queue");
    let requests = found.get::<u32>(&section, "maxRequests");
    let bytes = found.get::<Bytes>(&section, "maxBytes");
    check::at_most(found, bytes.as_ref(), memory);
    Some(QueueLimits { requests: requests?.value, bytes: bytes?.value.0 })
}

/// Quotas are not there yet, and nothing must look as if they were.
fn tenants(found: &mut Findings, model: &Section<'_>) {
    if !found.texts(model, "tenants").is_empty() {
        found.unsupported(&model.path_of("tenants"), model.place_of("tenants"), "tenants are", "remove them");
    }
}
