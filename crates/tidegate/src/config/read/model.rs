//! One entry of `models`.

mod objective;

use std::{borrow::Cow, sync::Arc, time::Duration};

use pipeline::{Batching, Concurrency, QueueLimits};

use self::objective::{Objectives, slo};
use super::{above_zero, fleet::fleet, positive};
use crate::config::{
    Deadline, Fleet, Model, Protocol, Resources, Routing, TokenDeadlines, check,
    report::quoted,
    scalar::{Auto, Bytes, Choice, formed},
    section::{Findings, Section, Setting, WordOrSection},
    yaml::Node,
};

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
    let protocol = found.get::<Protocol>(section, "protocol");
    let slo = slo(found, section, protocol.as_ref());
    let deadline = deadline(found, section, protocol.as_ref());
    let routing = routing(found, section, protocol.as_ref());
    let batching = batching(found, section, slo.as_ref());
    let queue = queue(found, section, memory);
    let concurrency = found.get::<Auto<u32>>(section, "concurrency");
    let idempotent = found.get::<bool>(section, "idempotent");
    let scaling = found.section(section, "scaling");
    let cold_start_timeout = positive(found, &scaling, "coldStartTimeout");
    let fleet = fleet(found, section, &scaling);
    tenants(found, section);
    if let (Some(slo), Some(deadline)) = (&slo, &deadline) {
        slo.within(found, deadline);
    }
    if fleet.as_ref().is_some_and(|fleet| fleet.value.scaling().is_some()) {
        let longest = deadline.as_ref().map(|deadline| &deadline.max);
        check::cold_start_within_deadline(found, cold_start_timeout.as_ref(), longest);
    }
    let fleet = fleet?;
    let site = fleet.with(());
    let model = Model {
        name: Arc::from(name?.value.as_str()),
        fleet: fleet.value,
        protocol: protocol?.value,
        slo: slo?.value(),
        deadline: deadline?.value(),
        routing: routing?,
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

impl Choice for Protocol {
    const WORDS: &'static [(&'static str, Self)] =
        &[("v2-grpc", Self::V2Grpc), ("v2-http", Self::V2Http), ("v1", Self::V1), ("openai", Self::OpenAi)];
}

/// Whether a key that only openai models have may stand here; if not, that is reported. Where the protocol itself was
/// refused, nothing is said of what depends on it.
fn openai_only(
    found: &mut Findings,
    section: &Section<'_>,
    name: &str,
    protocol: Option<&Setting<Protocol>>,
    hint: &str,
) -> bool {
    let Some(other) = protocol.filter(|protocol| protocol.value != Protocol::OpenAi) else { return true };
    if section.has(name) {
        let path = section.path_of(name);
        let message = format!("is for protocol openai, and there is {}", other.mention(&path));
        found.error(&path, section.place_of(name), message, hint);
    }
    false
}

/// The deadlines as they stand in the file.
struct Deadlines {
    default: Setting<Duration>,
    max: Setting<Duration>,
    tokens: Option<(Setting<Duration>, Setting<Duration>)>,
}

impl Deadlines {
    fn value(&self) -> Deadline {
        let tokens = self
            .tokens
            .as_ref()
            .map(|(first, between)| TokenDeadlines { first: first.value, between: between.value });
        Deadline { default: self.default.value, max: self.max.value, tokens }
    }
}

fn deadline(
    found: &mut Findings,
    model: &Section<'_>,
    protocol: Option<&Setting<Protocol>>,
) -> Option<Deadlines> {
    let section = found.section(model, "deadline");
    let openai = protocol.is_some_and(|protocol| protocol.value == Protocol::OpenAi);
    let default = match openai {
        true => positive_openai(found, &section, "default"),
        false => positive(found, &section, "default"),
    };
    let max = positive(found, &section, "max");
    check::at_most(found, default.as_ref(), max.as_ref());
    let mut token = |name| {
        openai_only(found, &section, name, protocol, "remove it");
        let setting = positive_openai(found, &section, name);
        check::at_most(found, setting.as_ref().filter(|_| openai), max.as_ref());
        setting
    };
    let (first, between) = (token("firstToken"), token("betweenTokens"));
    let tokens = if openai { Some((first?, between?)) } else { None };
    Some(Deadlines { default: default?, max: max?, tokens })
}

/// As [`positive`], with the default that holds where `protocol` is openai.
fn positive_openai(found: &mut Findings, section: &Section<'_>, name: &str) -> Option<Setting<Duration>> {
    let setting = found.get_openai::<Duration>(section, name);
    above_zero(found, setting?)
}

/// `Some(None)` where there is nothing to choose by.
fn routing(
    found: &mut Findings,
    model: &Section<'_>,
    protocol: Option<&Setting<Protocol>>,
) -> Option<Option<Routing>> {
    let allowed = openai_only(found, model, "routing", protocol, "remove it");
    let section = found.section(model, "routing");
    let prefix_affinity = found.get::<bool>(&section, "prefixAffinity");
    let load_factor = found.get::<f64>(&section, "loadFactor");
    let session_header =
        found.get_with(&section, "sessionHeader", |scalar, kind| formed(scalar, kind, is_header_name));
    let routing = Routing {
        prefix_affinity: prefix_affinity?.value,
        load_factor: load_factor?.value,
        session_header: session_header?.value.to_ascii_lowercase(),
    };
    Some(allowed.then_some(routing))
}

fn is_header_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

#[derive(Clone, Copy)]
enum BatchingWord {
    Auto,
    Off,
}

impl Choice for BatchingWord {
    const WORDS: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("off", Self::Off)];
}

fn batching(found: &mut Findings, model: &Section<'_>, slo: Option<&Objectives>) -> Option<Batching> {
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
    check::hold_within_slo(found, max_hold.as_ref(), slo.and_then(Objectives::whole));
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
