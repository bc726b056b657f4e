//! The section `cluster`.

use std::net::SocketAddr;

use super::fleet::is_label;
use crate::config::{
    Cluster, LeaseTiming, Resources, check,
    scalar::{Choice, formed},
    section::{Findings, Section, Setting, WordOrSection},
};

#[derive(Clone, Copy)]
struct Timing(LeaseTiming);

impl Choice for Timing {
    const WORDS: &'static [(&'static str, Self)] =
        &[("default", Self(LeaseTiming::Default)), ("fast", Self(LeaseTiming::Fast))];
}

#[derive(Clone, Copy)]
enum ResourcesWord {
    Off,
    On,
}

impl Choice for ResourcesWord {
    const WORDS: &'static [(&'static str, Self)] = &[("off", Self::Off), ("on", Self::On)];
}

/// The section, and the address that it adds to those that are listened on: only a file that speaks of a cluster
/// has it.
pub(super) fn cluster(
    found: &mut Findings,
    root: &Section<'_>,
) -> (Option<Cluster>, Option<Setting<SocketAddr>>) {
    let section = found.section(root, "cluster");
    let lease = found.get_with(&section, "lease", |scalar, kind| formed(scalar, kind, is_subdomain));
    let timing = found.get::<Timing>(&section, "leaseTiming");
    let signals = found.get::<SocketAddr>(&section, "signals");
    let gateways = found.get_with(&section, "gateways", |scalar, kind| formed(scalar, kind, is_label));
    let resources = resources(found, &section);
    let cluster = || {
        Some(Cluster {
            lease: lease?.value,
            lease_timing: timing?.value.0,
            signals: signals.as_ref()?.value,
            gateways: gateways?.value,
            resources: resources?,
        })
    };
    (cluster(), signals.clone().filter(|_| root.has("cluster")))
}

fn resources(found: &mut Findings, cluster: &Section<'_>) -> Option<Resources> {
    let section = match found.word_or_section::<ResourcesWord>(cluster, "models") {
        WordOrSection::Section(section) => section,
        WordOrSection::Word(word) => {
            return Some(match word?.value {
                ResourcesWord::Off => Resources::Off,
                ResourcesWord::On => Resources::OwnNamespace,
            });
        }
    };
    let namespaces = found.list_with(&section, "namespaces", |scalar, kind| formed(scalar, kind, is_label));
    check::distinct(found, namespaces.iter());
    Some(Resources::Namespaces(namespaces.into_iter().map(|setting| setting.value).collect()))
}

/// Names of one part or several, with dots between them.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}
