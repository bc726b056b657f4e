//! What differs between two configurations, in words for the log of a reload.

use std::{fmt, sync::Arc};

use super::{Config, Model};

/// The difference from one configuration to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) added: Vec<Arc<str>>,
    pub(crate) removed: Vec<Arc<str>>,
    /// Models that stay, and the keys of theirs that differ.
    pub(crate) changed: Vec<(Arc<str>, Vec<&'static str>)>,
    /// Keys at the top of the file that differ.
    pub(crate) process: Vec<&'static str>,
}

/// Compares `old` with `new`. The order of models means nothing.
pub(crate) fn changes(old: &Config, new: &Config) -> Changes {
    let missing_in = |there: &Config, here: &Config| -> Vec<Arc<str>> {
        let names = here.models.iter().map(|model| &model.name);
        names.filter(|name| there.models.iter().all(|model| model.name != **name)).cloned().collect()
    };
    let changed = new.models.iter().filter_map(|model| {
        let before = old.models.iter().find(|before| before.name == model.name)?;
        let keys = model_keys(before, model);
        (!keys.is_empty()).then(|| (Arc::clone(&model.name), keys))
    });
    Changes {
        added: missing_in(old, new),
        removed: missing_in(new, old),
        changed: changed.collect(),
        process: process_keys(old, new),
    }
}

fn process_keys(old: &Config, new: &Config) -> Vec<&'static str> {
    // Destructured, so that a new field cannot be forgotten here.
    let Config { listen, admin, limits, shutdown, record, cluster, models: _ } = new;
    differing([
        ("listen", old.listen != *listen),
        ("admin", old.admin != *admin),
        ("limits", old.limits != *limits),
        ("shutdown", old.shutdown != *shutdown),
        ("record", old.record != *record),
        ("cluster", old.cluster != *cluster),
    ])
}

fn model_keys(old: &Model, new: &Model) -> Vec<&'static str> {
    let Model {
        name: _,
        fleet,
        protocol,
        slo,
        deadline,
        routing,
        batching,
        queue,
        concurrency,
        idempotent,
        cold_start_timeout,
    } = new;
    differing([
        ("fleet", !old.fleet.has_same_replicas(fleet)),
        ("protocol", old.protocol != *protocol),
        ("slo", old.slo != *slo),
        ("deadline", old.deadline != *deadline),
        ("routing", old.routing != *routing),
        ("batching", old.batching != *batching),
        ("queue", old.queue != *queue),
        ("concurrency", old.concurrency != *concurrency),
        ("idempotent", old.idempotent != *idempotent),
        ("scaling", old.fleet.scaling() != fleet.scaling() || old.cold_start_timeout != *cold_start_timeout),
    ])
}

fn differing<const N: usize>(keys: [(&'static str, bool); N]) -> Vec<&'static str> {
    keys.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changed");
        }
        let mut parts = Vec::new();
        parts.extend(self.added.iter().map(|name| format!("added {name}")));
        parts.extend(self.removed.iter().map(|name| format!("removed {name}")));
        parts.extend(self.changed.iter().map(|(name, keys)| format!("changed {name} ({})", keys.join(", "))));
        if !self.process.is_empty() {
            parts.push(format!("changed {}", self.process.join(", ")));
        }
        f.write_str(&parts.join("; "))
    }
}
