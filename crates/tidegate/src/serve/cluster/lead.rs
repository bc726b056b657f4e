//! The loop that scales one model of the cluster, while this process leads.

use std::{sync::Arc, time::Duration};

use autoscaler::{fleet::Fleet as _, policy::Policy, reconcile::Reconciler, state::State};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{Leading, term::Term};
use crate::serve::{
    record::recorder,
    view::{Deciding, View},
};

/// Pause before another loop where the fleet found that this process did not lead for a moment.
const DEPOSED_PAUSE: Duration = Duration::from_secs(1);

/// Runs until `stop`, over any number of terms. `state` is what an earlier configuration of this term remembers.
pub(super) async fn lead(
    leading: &Leading,
    view: &View,
    policy: Arc<Policy>,
    mut state: Option<State>,
    stop: CancellationToken,
) {
    let mut terms = leading.term.subscribe();
    loop {
        let term = match stop.run_until_cancelled(terms.wait_for(Option::is_some)).await {
            Some(Ok(term)) => term.clone(),
            // Told to stop, or there will be no more terms.
            Some(Err(_)) | None => return,
        };
        let Some(term) = term else { continue };
        let state = state.take().unwrap_or_else(|| remembered(&term, view));
        let ended = stop.child_token();
        let over = async {
            let over = terms.wait_for(|now| now.as_ref().is_none_or(|now| now.epoch != term.epoch));
            // A closed channel is the end of all terms.
            let _ = ended.run_until_cancelled(over).await;
            ended.cancel();
        };
        tokio::join!(serve_term((leading, term.epoch), view, policy.clone(), state, ended.clone()), over);
        view.deciding.store(None);
    }
}

/// Scales the model until `ended`.
async fn serve_term(
    (leading, epoch): (&Leading, u64),
    view: &View,
    policy: Arc<Policy>,
    mut state: State,
    ended: CancellationToken,
) {
    loop {
        let Some(fleet) = leading.fleet(&view.config, epoch) else { return };
        let source = leading.collector.source(Arc::clone(&view.config.name));
        // Another configuration gets another loop: this policy stays.
        let (_, policy) = watch::channel(Arc::clone(&policy));
        let replicas = fleet.replicas();
        let name = Arc::clone(&view.config.name);
        let (reconciler, handle) = Reconciler::new(name, fleet, source, policy, view.clock, state);
        view.deciding.store(Some(Arc::new(Deciding { handle: handle.clone(), replicas })));
        let recorder = recorder(&leading.record, &view.config, Some(epoch));
        reconciler.recorded(recorder).run(ended.clone()).await;
        if ended.run_until_cancelled(sleep(DEPOSED_PAUSE)).await.is_none() {
            return;
        }
        state = State::from_json(&handle.saved(), view.clock.now()).unwrap_or_default();
    }
}

/// What earlier leaders learned of the model.
fn remembered(term: &Term, view: &View) -> State {
    let Some(json) = term.memories.get(&*view.config.name) else { return State::default() };
    State::from_digest(json, view.clock.now()).unwrap_or_else(|error| {
        tracing::warn!(model = %view.config.name, %error, "what earlier leaders learned is not used");
        State::default()
    })
}
