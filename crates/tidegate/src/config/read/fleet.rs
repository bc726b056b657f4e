//! Where a model's replicas run, and how many of them.

use std::{net::IpAddr, time::Duration};

use autoscaler::policy::Assumed;

use super::schedule::{self, Own};
use crate::config::{
    Fleet, Kubernetes, Mode, Port, Process, Scaling, check,
    keys::Kind,
    report::quoted,
    scalar::{Auto, Choice, Complaint, FromScalar, formed},
    section::{Findings, Section, Setting},
    yaml::Scalar,
};

/// The fleet, and where it stands: of a kubernetes fleet its target, for that is what another may want too.
pub(super) fn fleet(
    found: &mut Findings,
    model: &Section<'_>,
    scaling: &Section<'_>,
) -> Option<Setting<Fleet>> {
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
    let at = |name: &str, value: Fleet| {
        let (path, span) = (fleet.path_of(name), fleet.place_of(name));
        Setting { value, text: name.to_owned(), path, span }
    };
    match chosen {
        Some("process") => Some(at("process", process(found, &fleet, model, scaling)?)),
        Some("static") => Some(at("static", fixed(found, &fleet, scaling))),
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
) -> Option<Fleet> {
    let section = found.section(fleet, "process");
    let command = found.list::<String>(&section, "command");
    let env = found.texts(&section, "env");
    check::port(found, &command, &env, section.place_of("command"));
    check::environment(found, &env);
    let scaling = self::scaling(found, model, scaling, None)?;
    Some(Fleet::Process(Process {
        command: command.into_iter().map(|setting| setting.value).collect(),
        env: env.into_iter().map(|(name, text)| (name.value, text)).collect(),
        scaling,
    }))
}

fn fixed(found: &mut Findings, fleet: &Section<'_>, scaling: &Section<'_>) -> Fleet {
    let section = found.section(fleet, "static");
    let addresses =
        found.list_with(&section, "addresses", |scalar, kind| formed(scalar, kind, is_host_and_port));
    check::distinct(found, addresses.iter());
    for (name, span) in scaling.names().filter(|(name, _)| *name != "coldStartTimeout") {
        let message = "has no effect: a static fleet is not scaled".to_owned();
        found.warning(&scaling.path_of(name), Some(span), message, "remove it");
    }
    Fleet::Static { addresses: addresses.into_iter().map(|setting| setting.value).collect() }
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
) -> Option<Setting<Fleet>> {
    let section = found.section(fleet, "kubernetes");
    let namespace = found.get_with(&section, "namespace", |scalar, kind| formed(scalar, kind, is_label));
    let target = found.get_with(&section, "target", |scalar, kind| formed(scalar, kind, is_target));
    let service = service(found, &section, target.as_ref());
    let port = found.get::<Port>(&section, "port");
    let scaling = self::scaling(found, model, scaling, Some(Assumed::default().cold_start));
    let target = target?;
    let fleet = Fleet::Kubernetes(Kubernetes {
        namespace: namespace.map(|setting| setting.value),
        target: target.value.clone(),
        service: service?,
        port: port?.value,
        scaling: scaling?,
    });
    Some(target.with(fleet))
}

/// The Service's name: the target's, unless another is given.
fn service(
    found: &mut Findings,
    kubernetes: &Section<'_>,
    target: Option<&Setting<String>>,
) -> Option<String> {
    if kubernetes.has("service") {
        let given = found.get_with(kubernetes, "service", |scalar, kind| formed(scalar, kind, is_label));
        return given.map(|setting| setting.value);
    }
    let target = target?;
    let (_, name) = target.value.split_once('/')?;
    if !is_label(name) {
        let message = format!("{} cannot be the name of its Service too", quoted(name));
        found.error(&target.path, target.span, message, "add service: NAME");
        return None;
    }
    Some(name.to_owned())
}

/// What Kubernetes allows as a name of one part.
pub(super) fn is_label(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty()
        && text.len() <= 63
        && text.chars().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// `Kind/name` or `Kind.group/name`.
fn is_target(text: &str) -> bool {
    text.split_once('/').is_some_and(|(kind, name)| {
        let mut parts = kind.split('.');
        parts.next().is_some_and(is_kind)
            && parts.all(is_label)
            && name.len() <= 253
            && name.split('.').all(is_label)
    })
}

fn is_kind(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.chars().all(|c| c.is_ascii_alphanumeric())
}

impl FromScalar for Port {
    fn from_scalar(scalar: &Scalar, kind: &Kind) -> Result<Self, Complaint> {
        // What begins like a number is meant as one; a name of digits only would be taken for it anywhere else.
        if scalar.text.bytes().all(|b| b.is_ascii_digit()) {
            let number = u32::from_scalar(scalar, kind)?;
            return Ok(Self::Number(u16::try_from(number).expect("the table's bounds are a port's")));
        }
        formed(scalar, kind, is_label).map(Self::Name)
    }
}

#[derive(Clone, Copy)]
struct ModeWord(Mode);

impl Choice for ModeWord {
    const WORDS: &'static [(&'static str, Self)] =
        &[("enforce", Self(Mode::Enforce)), ("observe", Self(Mode::Observe))];
}

/// `start`: how long a start is assumed to take, where that is long.
fn scaling(
    found: &mut Findings,
    model: &Section<'_>,
    section: &Section<'_>,
    start: Option<Duration>,
) -> Option<Scaling> {
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
    let own = Own { min: min.as_ref(), max: max.as_ref(), start };
    let schedules = schedule::all(found, section, &own);
    Some(Scaling {
        min: min?.value,
        max: max?.value,
        idle_after: idle_after?.value.fixed(),
        mode: mode?.value.0,
        schedules: schedules?,
    })
}
