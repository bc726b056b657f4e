//! Faults on demand: a bounded list of rules, of which the first that means a call decides about it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    log::{Call, Calls},
    refusal::Refusal,
};

/// What befalls a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is answered by an error, and has no effect.
    Refuse(Refusal),
    /// It is carried out after this time.
    Delay(Duration),
    /// It is never answered and has no effect; the caller gets an I/O error when the server goes down.
    Hang,
    /// The connection breaks before the call has any effect.
    Drop,
    /// It is carried out, then the connection breaks.
    LoseReply,
    /// It is carried out and never answered.
    LoseReplyAndHang,
    /// The watch stays open and shows nothing, not even its end.
    StallWatch,
}

#[derive(Debug)]
struct Rule {
    id: u64,
    meant: Calls,
    fault: Fault,
    left: Option<u32>,
    hits: Arc<AtomicU64>,
}

const RULES_MAX: usize = 256;

#[derive(Debug, Default)]
struct Rules {
    list: Vec<Rule>,
    next_id: u64,
}

/// The faults of a cluster.
#[derive(Clone, Debug)]
pub struct Faults {
    rules: Arc<Mutex<Rules>>,
    changed: Arc<watch::Sender<u64>>,
}

/// A fault that was put in place; it stays when this is dropped.
#[derive(Debug)]
pub struct Switch {
    id: u64,
    hits: Arc<AtomicU64>,
    faults: Faults,
}

impl Default for Faults {
    fn default() -> Self {
        Self { rules: Arc::default(), changed: Arc::new(watch::Sender::new(0)) }
    }
}

impl Faults {
    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `fault` befalls every call meant, until it is switched off.
    ///
    /// # Panics
    /// With more than 256 rules in place.
    pub fn always(&self, meant: Calls, fault: Fault) -> Switch {
        self.add(meant, fault, None)
    }

    /// `fault` befalls the next `times` calls meant. A stalled watch is stalled for good all the same.
    ///
    /// # Panics
    /// With more than 256 rules in place.
    pub fn times(&self, times: u32, meant: Calls, fault: Fault) -> Switch {
        self.add(meant, fault, Some(times))
    }

    /// `fault` befalls the next call meant.
    ///
    /// # Panics
    /// With more than 256 rules in place.
    pub fn once(&self, meant: Calls, fault: Fault) -> Switch {
        self.add(meant, fault, Some(1))
    }

    /// Takes all faults away.
    pub fn clear(&self) {
        self.rules().list.clear();
        self.tell();
    }

    fn add(&self, meant: Calls, fault: Fault, left: Option<u32>) -> Switch {
        let hits = Arc::new(AtomicU64::new(0));
        let mut rules = self.rules();
        assert!(rules.list.len() < RULES_MAX, "at most {RULES_MAX} faults at a time");
        rules.next_id += 1;
        let id = rules.next_id;
        rules.list.push(Rule { id, meant, fault, left, hits: hits.clone() });
        drop(rules);
        self.tell();
        Switch { id, hits, faults: self.clone() }
    }

    fn tell(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    /// The fault that befalls `call`, which counts as hit. Stalled watches are judged by [`Faults::stalls`].
    pub(crate) fn strike(&self, call: &Call) -> Option<Fault> {
        let mut rules = self.rules();
        let meant = |rule: &Rule| !matches!(rule.fault, Fault::StallWatch) && rule.meant.fit(call);
        let index = rules.list.iter().position(meant)?;
        let rule = rules.list.get_mut(index)?;
        rule.hits.fetch_add(1, Ordering::Relaxed);
        let fault = rule.fault.clone();
        if let Some(left) = &mut rule.left {
            *left -= 1;
            if *left == 0 {
                rules.list.remove(index);
            }
        }
        Some(fault)
    }

    /// Whether an open watch shows nothing at the moment.
    pub(crate) fn stalls(&self, watch: &Call) -> bool {
        let rules = self.rules();
        rules.list.iter().any(|rule| matches!(rule.fault, Fault::StallWatch) && rule.meant.fit(watch))
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

impl Switch {
    /// Takes the fault away.
    pub fn off(&self) {
        self.faults.rules().list.retain(|rule| rule.id != self.id);
        self.faults.tell();
    }

    /// How many calls it befell.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }
}
