//! The signals of one model, as its reconcile loop reads them.

use std::{pin::pin, sync::Arc, time::Duration};

use autoscaler::{
    decide::Decision,
    explain,
    fleet::ReplicaId,
    reconcile::{Outlook, Source},
    snapshot::GatewayView,
};
use tokio::{sync::Notify, time::timeout};

use super::{
    Collector, Told,
    handshake::{Handshake, Verdict, Wanted},
};

/// How long a gateway that is heard may take to agree to a withdrawal. Less than the reconcile loop
/// waits: it should learn which gateway it was.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Signals of one model, from all gateways. The model is forgotten when this is dropped.
#[derive(Debug)]
pub struct ModelSource {
    collector: Collector,
    model: Arc<str>,
    id: u64,
    heard: Arc<Notify>,
}

impl ModelSource {
    pub(super) fn new(collector: Collector, model: Arc<str>, id: u64, heard: Arc<Notify>) -> Self {
        Self { collector, model, id, heard }
    }

    /// A decision as short as tests need it.
    #[cfg(test)]
    pub(crate) fn decide(&self, desired: u32, outlook: Outlook, why: &str) {
        self.say(Told { desired, outlook, why: why.into() });
    }

    fn say(&self, told: Told) {
        self.collector.tell(&self.model, self.id, told);
    }
}

impl Source for ModelSource {
    async fn wake(&self) {
        loop {
            let mut heard = pin!(self.heard.notified());
            heard.as_mut().enable();
            if self.collector.take_wake(&self.model) {
                return;
            }
            heard.await;
        }
    }

    fn gateways(&self, now: Duration) -> Vec<GatewayView> {
        self.collector.views(&self.model, now)
    }

    async fn withdraw(&self, replicas: &[ReplicaId], quiet: bool) -> Result<(), Arc<str>> {
        let wanted = if quiet { Wanted::Quiet } else { Wanted::Withdrawn };
        let mut handshake = Handshake::begin((&self.collector, &self.model, self.id), replicas, wanted)?;
        let mut silent = None;
        let agreed = timeout(PATIENCE, self.agreement(&mut handshake, &mut silent)).await;
        match (agreed, silent) {
            (Ok(Ok(())), _) => {
                handshake.agree();
                Ok(())
            }
            (Ok(Err(words)), _) => Err(words),
            (Err(_), name) => {
                let name = name.as_deref().unwrap_or("a gateway");
                Err(format!("{name} did not agree within {PATIENCE:?}").into())
            }
        }
    }

    fn restore(&self) {
        self.collector.take_back(&self.model, self.id);
    }

    fn tell(&self, decision: &Decision, outlook: &Outlook) {
        let why = explain::sentence(decision).into();
        self.say(Told { desired: decision.to, outlook: outlook.clone(), why });
    }
}

impl ModelSource {
    /// Resolves once all agree or one refuses; until then `silent` is one that has not answered.
    async fn agreement(
        &self,
        handshake: &mut Handshake<'_>,
        silent: &mut Option<Arc<str>>,
    ) -> Result<(), Arc<str>> {
        let mut listed = self.collector.inner.listed.clone();
        loop {
            let mut heard = pin!(self.heard.notified());
            heard.as_mut().enable();
            listed.mark_unchanged();
            match handshake.verdict() {
                Verdict::Agreed => return Ok(()),
                Verdict::Refused(words) => return Err(words),
                Verdict::Waiting(name) => *silent = Some(name),
            }
            tokio::select! {
                () = heard => {}
                Ok(()) = listed.changed() => {}
            }
        }
    }
}

impl Drop for ModelSource {
    fn drop(&mut self) {
        self.collector.drop_source(&self.model, self.id);
    }
}
