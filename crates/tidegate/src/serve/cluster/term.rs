//! A term of office: from when this process leads until it does not, with what earlier leaders remembered.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fleet::kubernetes::{
    lease::Standing,
    state::{Entry, Memory},
};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::Leading;
use crate::serve::{Registry, View};

/// How often what was learned is saved.
const SAVING: Duration = Duration::from_secs(60);
/// How long a new leader tries to read what it should know: it must not be idle for want of it.
const LOADING: Duration = Duration::from_secs(3);
const LOAD_PAUSE: Duration = Duration::from_millis(500);

/// One term of office.
#[derive(Debug)]
pub(super) struct Term {
    pub(super) epoch: u64,
    /// What earlier leaders learned, by model.
    pub(super) memories: BTreeMap<String, String>,
}

/// Publishes the term that this process is in, if any.
pub(super) async fn publish(leading: &Leading) {
    let mut known = leading.listed.clone();
    let mut standing = leading.election.standing();
    loop {
        let now = standing.borrow_and_update().clone();
        match now {
            Standing::Leading { epoch } => {
                // A gateway that discovery has not shown yet would not be asked before replicas go.
                let gateways = async { known.wait_for(Option::is_some).await.is_ok() };
                let know = async { tokio::join!(load(leading), gateways).0 };
                let memory = timeout(LOADING, know).await.unwrap_or_default();
                if memory.epoch >= epoch {
                    leading.election.outrank(memory.epoch).await;
                }
                // Office may have been lost in between; the next turn of the loop then says so.
                tracing::info!(epoch, remembered = memory.models.len(), "decides from now on");
                leading.term.send_replace(Some(Arc::new(Term { epoch, memories: memory.models })));
            }
            Standing::Following { .. } => {
                leading.term.send_replace(None);
            }
        }
        if standing.changed().await.is_err() {
            leading.term.send_replace(None);
            return;
        }
    }
}

/// What earlier leaders learned. Nothing is lost if that cannot be read: a fuller memory is never overwritten by an
/// emptier one.
async fn load(leading: &Leading) -> Memory {
    loop {
        match leading.store.load().await {
            Ok(memory) => return memory,
            Err(error) => tracing::warn!(%error, "what earlier leaders learned cannot be read"),
        }
        sleep(LOAD_PAUSE).await;
    }
}

/// Saves what the loops have learned, each minute while this process leads.
pub(super) async fn save(leading: &Leading, registry: &Registry) {
    let mut tick = interval(SAVING);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    loop {
        tick.tick().await;
        save_once(leading, registry).await;
    }
}

/// Saves what the loops have learned, if this process leads.
pub(super) async fn save_once(leading: &Leading, registry: &Registry) {
    let Some(epoch) = leading.epoch() else { return };
    let entries: BTreeMap<String, Entry> = registry.views().iter().filter_map(|view| learned(view)).collect();
    if entries.is_empty() {
        return;
    }
    match leading.store.save(&entries, epoch).await {
        Ok(saved) => {
            if !saved.left_out.is_empty() {
                tracing::warn!(models = ?saved.left_out, "there is no room to save what was learned of these");
            }
            if !saved.outweighed.is_empty() {
                tracing::debug!(models = ?saved.outweighed, "more is kept of these than was learned since");
            }
        }
        Err(error) => tracing::warn!(%error, "what was learned cannot be saved; the next minute tries again"),
    }
}

fn learned(view: &View) -> Option<(String, Entry)> {
    let digest = view.scaling()?.handle.digest();
    Some((view.config.name.to_string(), Entry { json: digest.to_json(), weight: digest.weight() }))
}
