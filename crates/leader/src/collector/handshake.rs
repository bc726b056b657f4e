//! All gateways agree before replicas go: nothing more is sent to those replicas and, if they are the last ones,
//! no request has come meanwhile.

use std::{collections::BTreeMap, sync::Arc};

use autoscaler::fleet::ReplicaId;

use super::{Collector, gateways::Word};

/// What must be true of every gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// It sends nothing more to the replicas.
    Withdrawn,
    /// Besides, nothing waits or runs there, and nothing has come.
    Quiet,
}

/// How far the gateways have come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Agreed,
    /// This gateway, and perhaps others, has not answered yet.
    Waiting(Arc<str>),
    /// Why the replicas should stay, in words.
    Refused(Arc<str>),
}

/// A withdrawal that not every gateway has agreed to; dropped like this, it is taken back.
#[derive(Debug)]
pub(super) struct Handshake<'a> {
    collector: &'a Collector,
    model: &'a str,
    source: u64,
    step: u64,
    wanted: Wanted,
    /// What was heard up to here was said before the gateways were asked.
    asked: u64,
    /// Where the counters of the gateways stood.
    arrivals: BTreeMap<Arc<str>, u64>,
    agreed: bool,
}

impl<'a> Handshake<'a> {
    /// Asks every gateway. An error if it is known now that they will not agree: then nobody was asked.
    pub(super) fn begin(
        (collector, model, source): (&'a Collector, &'a str, u64),
        replicas: &[ReplicaId],
        wanted: Wanted,
    ) -> Result<Self, Arc<str>> {
        let listed = collector.listed();
        let mut state = collector.lock();
        let state = &mut *state;
        state.gateways.forget(&listed);
        let decides = |known: &&mut super::Model| known.source == source && known.told.is_some();
        let Some(known) = state.models.get_mut(model).filter(decides) else {
            return Err("the gateways have not been told of a decision yet".into());
        };
        let mut arrivals = BTreeMap::new();
        let mut gateways = 0;
        for (name, word) in state.gateways.words(model, known.since, &listed) {
            gateways += 1;
            match word {
                None => return Err(not_connected(name)),
                Some(Word::Report(heard)) => drop(arrivals.insert(Arc::clone(name), heard.arrivals())),
                Some(Word::NotServed(_) | Word::Nothing) => {}
            }
        }
        if gateways == 0 {
            return Err("no gateway is known".into());
        }
        let step = known.withdrawal.add(replicas, &mut state.number);
        let asked = state.gateways.hearings();
        collector.publish(state, model);
        Ok(Self { collector, model, source, step, wanted, asked, arrivals, agreed: false })
    }

    pub(super) fn verdict(&mut self) -> Verdict {
        let listed = self.collector.listed();
        let state = self.collector.lock();
        let Some(known) = state.models.get(self.model) else {
            return Verdict::Refused("nobody decides for the model any more".into());
        };
        let mut waiting = None;
        for (name, word) in state.gateways.words(self.model, known.since, &listed) {
            let heard = match word {
                None => return Verdict::Refused(not_connected(name)),
                Some(Word::NotServed(_)) => continue,
                Some(Word::Report(heard)) if heard.hearing > self.asked => heard,
                Some(Word::Report(_) | Word::Nothing) => {
                    waiting.get_or_insert(name);
                    continue;
                }
            };
            let stood = *self.arrivals.entry(Arc::clone(name)).or_insert(heard.arrivals());
            if self.wanted == Wanted::Quiet && (heard.is_busy() || has_come(stood, heard.arrivals())) {
                return Verdict::Refused(format!("a request came at {name}").into());
            }
            if heard.standing.withdrawal != known.withdrawal.number() {
                waiting.get_or_insert(name);
            }
        }
        waiting.map_or(Verdict::Agreed, |name| Verdict::Waiting(Arc::clone(name)))
    }

    /// Every gateway has agreed: the replicas stay withdrawn until they are gone, or are restored.
    pub(super) fn agree(mut self) {
        self.agreed = true;
        let mut state = self.collector.lock();
        if let Some(known) = state.models.get_mut(self.model) {
            known.withdrawal.agree(self.step);
        }
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        if !self.agreed {
            self.collector.take_back(self.model, self.source);
        }
    }
}

impl Collector {
    /// Takes the last withdrawal of `model` back.
    pub(super) fn take_back(&self, model: &str, source: u64) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(known) = state.models.get_mut(model).filter(|known| known.source == source) else { return };
        if known.withdrawal.take_back(&mut state.number) {
            self.publish(state, model);
        }
    }
}

/// Counters that fell are those of a gateway that was started anew.
fn has_come(stood: u64, stands: u64) -> bool {
    if stands < stood { stands > 0 } else { stands > stood }
}

fn not_connected(gateway: &str) -> Arc<str> {
    format!("{gateway} is not heard").into()
}
