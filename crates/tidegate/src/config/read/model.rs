//! One entry of `models`.

use std::{net::IpAddr, sync::Arc, time::Duration};

use pipeline::{Batching, Concurrency, QueueLimits};

use super::{positive, schedule};
use crate::config::{
    Deadline, Fleet, Mode, Model, Process, Protocol, Scaling, Slo, check,
    scalar::{Auto, Bytes, Choice, formed},
    section::{Findings, Section, Setting, WordOrSection},
};

/// The percentiles an SLO may name.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)];

pub(super) fn all(
    found: &mut Findings,
    root: &Section<'_>,
    memory: Option<&Setting<Bytes>>,
) -> Option<Vec<Model>> {
    let mut names = Vec::new();
    let mut models = Vec::new();
    for section in found.sections(root, "models") {
        let name = found.get_with(&section, "name", |scalar, kind| formed(scalar, kind, is_model_name));
        let model = one(found, &section, memory, name.as_ref());
        names.extend(name);
        models.push(model);
    }
    check::distinct(found, names.iter());
    models.into_iter().collect()
}

fn one(
    found: &mut Findings,
    section: &Section<'_>,
    memory: Option<&Setting<Bytes>>,
    name: Option<&Setting<String>>,
) -> Option<Model> {
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
    if matches!(fleet, Some(Fleet::Process(_))) {
        let longest = deadline.as_ref().map(|(_, max)| max);
        check::cold_start_within_deadline(found, cold_start_timeout.as_ref(), longest);
    }
    let (default, max) = deadline?;
    let (quantile, latency) = slo?;
    Some(Model {
        name: Arc::from(name?.value.as_str()),
        fleet: fleet?,
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
    })
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

fn fleet(found: &mut Findings, model: &Section<'_>, scaling: &Section<'_>) -> Option<Fleet> {
    if !model.has("fleet") {
        found.missing(model, "fleet");
        return None;
    }
    let fleet = found.section(model, "fleet");
    let mut given = ["process", "kubernetes", "static"].into_iter().filter(|name| fleet.has(name));
    let chosen = given.next();
    for (first, second) in chosen.into_iter().cycle().zip(given) {
        let first = fleet.mention(first);
        let message =
            format!("a fleet is one of process, kubernetes and static, and there is {first} already");
        found.error(&fleet.path_of(second), fleet.place_of(second), message, "remove one of them");
    }
    match chosen {
        Some("process") => process(found, &fleet, model, scaling).map(Fleet::Process),
        Some("static") => fixed(found, &fleet, scaling),
        Some(_) => kubernetes(found, &fleet, model, scaling),
        None if fleet.is_broken() => None,
        None => {
            let message = "names none of process, kubernetes and static".to_owned();
            found.error(&fleet.path, fleet.span, message, "add process: {command: […]}");
            None
        }
    }
}

fn process(
    found: &mut Findings,
    fleet: &Section<'_>,
    model: &Section<'_>,
    scaling: &Section<'_>,
) -> Option<Process> {
    let section = found.section(fleet, "process");
    let command = found.list::<String>(&section, "command");
    let env = found.texts(&section, "env");
    check::port(found, &command, &env, section.place_of("command"));
    check::environment(found, &env);
    let scaling = self::scaling(found, model, scaling)?;
    Some(Process {
        command: command.into_iter().map(|setting| setting.value).collect(),
        env: env.into_iter().map(|(name, text)| (name.value, text)).collect(),
        scaling,
    })
}

fn fixed(found: &mut Findings, fleet: &Section<'_>, scaling: &Section<'_>) -> Option<Fleet> {
    let section = found.section(fleet, "static");
    let addresses =
        found.list_with(&section, "addresses", |scalar, kind| formed(scalar, kind, is_host_and_port));
    check::distinct(found, addresses.iter());
    for (name, span) in scaling.names().filter(|(name, _)| *name != "coldStartTimeout") {
        let message = "has no effect: a static fleet is not scaled".to_owned();
        found.warning(&scaling.path_of(name), Some(span), message, "remove it");
    }
    Some(Fleet::Static { addresses: addresses.into_iter().map(|setting| setting.value).collect() })
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let is_port =
            port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0);
        is_port && is_host(host)
    })
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()),
        None => {
            let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            !host.is_empty() && host.len() <= 253 && host.chars().all(inside)
        }
    }
}

fn kubernetes(
    found: &mut Findings,
    fleet: &Section<'_>,
    model: &Section<'_>,
    scaling: &Section<'_>,
) -> Option<Fleet> {
    let section = found.section(fleet, "kubernetes");
    found.get_with(&section, "namespace", |scalar, kind| formed(scalar, kind, is_dns_label));
    found.get_with(&section, "target", |scalar, kind| formed(scalar, kind, is_target));
    found.get::<u32>(&section, "port");
    self::scaling(found, model, scaling);
    let hint = "use process or static";
    found.unsupported(&section.path, fleet.place_of("kubernetes"), "kubernetes fleets are", hint);
    None
}

fn is_dns_label(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty()
        && text.len() <= 63
        && text.chars().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_target(text: &str) -> bool {
    text.split_once('/').is_some_and(|(kind, name)| {
        kind.starts_with(|c: char| c.is_ascii_uppercase())
            && kind.chars().all(|c| c.is_ascii_alphanumeric())
            && name.len() <= 253
            && name.split('.').all(is_dns_label)
    })
}

#[derive(Clone, Copy)]
struct ModeWord(Mode);

impl Choice for ModeWord {
    const WORDS: &'static [(&'static str, Self)] =
        &[("enforce", Self(Mode::Enforce)), ("observe", Self(Mode::Observe))];
}

fn scaling(found: &mut Findings, model: &Section<'_>, section: &Section<'_>) -> Option<Scaling> {
    if !model.has("scaling") {
        let message = "scaling.max is missing".to_owned();
        found.error(&model.path, model.span, message, "add scaling: {max: 4}");
        return None;
    }
    if !section.has("max") {
        found.missing(section, "max");
    }
    let min = found.get::<u32>(section, "min");
    let max = found.get::<u32>(section, "max");
    check::at_most(found, min.as_ref(), max.as_ref());
    let idle_after = found.get::<Auto<Duration>>(section, "idleAfter");
    let mode = found.get::<ModeWord>(section, "mode");
    let schedules = schedule::all(found, section, max.as_ref());
    Some(Scaling {
        min: min?.value,
        max: max?.value,
        idle_after: idle_after?.value.fixed(),
        mode: mode?.value.0,
        schedules: schedules?,
    })
}

/// Quotas are not there yet, and nothing must look as if they were.
fn tenants(found: &mut Findings, model: &Section<'_>) {
    if !found.texts(model, "tenants").is_empty() {
        found.unsupported(&model.path_of("tenants"), model.place_of("tenants"), "tenants are", "remove them");
    }
}
