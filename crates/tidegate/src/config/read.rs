//! From the tree to a [`Config`]: each section is read whole, whatever else is wrong, so that all errors are told
//! at once. `None` anywhere means that an error was reported.

mod cluster;
mod fleet;
mod model;
mod schedule;

pub(super) use model::{Placed, resource};
pub(super) use schedule::{TimeOfDay, Window};

use std::{net::SocketAddr, time::Duration};

use super::{
    Config, HeaderLimits, Limits, Record, Shutdown, Timeouts, check,
    scalar::{Bytes, formed},
    section::{Findings, Section, Setting},
    yaml::Node,
};

/// Bytes of a record that hold any memory and policy, which must be in one of its two files.
const RECORD_LEAST: usize = 4 << 20;

/// A configuration, and the places of what can only be judged where it runs.
pub(super) struct Read {
    pub(super) config: Config,
    pub(super) sockets: Vec<Setting<SocketAddr>>,
    /// Where the fleet of each model stands.
    pub(super) sites: Vec<Setting<()>>,
}

pub(super) fn file(found: &mut Findings, tree: &Node) -> Option<Read> {
    let root = found.root(tree);
    if root.is_broken() {
        return None;
    }
    let listen = found.list::<SocketAddr>(&root, "listen");
    tls(found, &root);
    let admin = found.get::<SocketAddr>(&root, "admin");
    let insecure = found.get::<bool>(&root, "allowInsecureAdmin");
    check::admin(found, admin.as_ref(), insecure.is_some_and(|setting| setting.value));
    let (cluster, signals) = cluster::cluster(found, &root);
    let sockets = || listen.iter().chain(&admin).chain(&signals);
    // Port 0 is another port each time.
    check::distinct(found, sockets().filter(|setting| setting.value.port() != 0));
    let memory_section = found.section(&root, "limits");
    let (limits, memory) = limits(found, &memory_section);
    let shutdown = shutdown(found, &root);
    let record = record(found, &root);
    let resources = cluster.as_ref().map(|cluster| &cluster.resources);
    let models = model::all(found, &root, memory.as_ref(), resources);
    let sockets = sockets().cloned().collect();
    let (models, sites) = models?.into_iter().map(|placed| (placed.model, placed.site)).unzip();
    let listen = listen.into_iter().map(|setting| setting.value).collect();
    let admin = admin?.value;
    let (limits, shutdown, record, cluster) = (limits?, shutdown?, record?, cluster?);
    let config = Config { listen, admin, limits, shutdown, record, cluster, models };
    Some(Read { config, sockets, sites })
}

fn tls(found: &mut Findings, root: &Section<'_>) {
    if root.has("tls") {
        let section = found.section(root, "tls");
        found.get::<String>(&section, "cert");
        found.get::<String>(&section, "key");
        let hint = "remove it and end TLS in front of the gateway";
        found.unsupported("tls", root.place_of("tls"), "TLS is", hint);
    }
}

/// The limits, and the setting of the memory budget that others are compared with.
fn limits(found: &mut Findings, section: &Section<'_>) -> (Option<Limits>, Option<Setting<Bytes>>) {
    let memory = found.get::<Bytes>(section, "memory");
    let max_body = found.get::<Bytes>(section, "maxBody");
    check::at_most(found, max_body.as_ref(), memory.as_ref());
    let max_headers = header_limits(found, section);
    let max_connections = found.get::<u32>(section, "maxConnections");
    let http2 = found.section(section, "http2");
    let max_streams = found.get::<u32>(&http2, "maxStreams");
    let timeouts = timeouts(found, section);
    let limits = || {
        Some(Limits {
            memory: memory.as_ref()?.value.0,
            max_body: max_body?.value.0,
            max_headers: max_headers?,
            max_connections: max_connections?.value,
            http2_max_streams: max_streams?.value,
            timeouts: timeouts?,
        })
    };
    (limits(), memory.clone())
}

fn header_limits(found: &mut Findings, limits: &Section<'_>) -> Option<HeaderLimits> {
    let section = found.section(limits, "maxHeaders");
    let bytes = found.get::<Bytes>(&section, "bytes");
    let count = found.get::<u32>(&section, "count");
    Some(HeaderLimits { bytes: bytes?.value.0, count: count?.value })
}

fn timeouts(found: &mut Findings, limits: &Section<'_>) -> Option<Timeouts> {
    let section = found.section(limits, "timeouts");
    let first_byte = positive(found, &section, "firstByte");
    let header = positive(found, &section, "header");
    let body_idle = positive(found, &section, "bodyIdle");
    let idle = positive(found, &section, "idle");
    Some(Timeouts {
        first_byte: first_byte?.value,
        header: header?.value,
        body_idle: body_idle?.value,
        idle: idle?.value,
    })
}

fn shutdown(found: &mut Findings, root: &Section<'_>) -> Option<Shutdown> {
    let section = found.section(root, "shutdown");
    let accept_for = found.get::<Duration>(&section, "acceptFor");
    let drain = found.get::<Duration>(&section, "drain");
    Some(Shutdown { accept_for: accept_for?.value, drain: drain?.value })
}

/// `Some(None)` where nothing is to be recorded.
fn record(found: &mut Findings, root: &Section<'_>) -> Option<Option<Record>> {
    let section = found.section(root, "record");
    let file = found.get_with(&section, "file", |scalar, kind| formed(scalar, kind, |path| !path.is_empty()));
    let max_bytes = found.get::<Bytes>(&section, "maxBytes")?;
    if max_bytes.value.0 < RECORD_LEAST {
        let message = format!("{} is too little for what has to be together in one file", max_bytes.text);
        found.error(&max_bytes.path, max_bytes.span, message, "write at least 4MiB");
        return None;
    }
    if section.has("file") && file.is_none() {
        return None;
    }
    let record =
        |file: Setting<String>| Record { file: file.value.into(), max_bytes: max_bytes.value.0 as u64 };
    Some(file.map(record))
}

/// A duration that must not be zero: nothing can be done in no time.
fn positive(found: &mut Findings, section: &Section<'_>, name: &str) -> Option<Setting<Duration>> {
    let setting = found.get::<Duration>(section, name)?;
    above_zero(found, setting)
}

fn above_zero(found: &mut Findings, setting: Setting<Duration>) -> Option<Setting<Duration>> {
    if setting.value.is_zero() {
        found.error(&setting.path, setting.span, "must be longer than 0".to_owned(), "");
        return None;
    }
    Some(setting)
}
