//! Tidegate's own rules: observe, decide, commit, as `autoscaler::reconcile` does.

use std::time::Duration;

use autoscaler::{
    decide::{Decision, decide},
    explain::sentence,
    policy::{Mode, Policy as Rules},
    state::State,
};

use super::{Policy, Seen};

#[derive(Debug)]
pub struct Ours {
    rules: Rules,
    state: State,
    last: Option<Decision>,
}

impl Ours {
    /// By `rules`, carried out also where they are only to be observed, and with nothing learned yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self { rules: Rules { mode: Mode::Enforce, ..rules }, state: State::default(), last: None }
    }
}

impl Policy for Ours {
    fn decide(&mut self, seen: &Seen<'_>, now: Duration) -> Option<u32> {
        self.state.observe(&self.rules, seen.snapshot, now);
        let decision = decide(&self.rules, &self.state, seen.snapshot, now);
        self.state.commit(&decision);
        let to = decision.to;
        self.last = Some(decision);
        Some(to)
    }

    fn words(&self) -> String {
        self.last.as_ref().map(sentence).unwrap_or_default()
    }
}
