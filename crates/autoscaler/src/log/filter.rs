//! Which of the decisions that are kept are asked for.

use std::time::Duration;

use super::Entry;
use crate::{
    decide::{Decision, LimitKind, Reason},
    demand::{Why, binding},
};

/// What an entry must be like; what is `None` or `false` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Decided at this time or later.
    pub since: Option<Duration>,
    /// Decided before this time.
    pub until: Option<Duration>,
    /// Calls for another number than before.
    pub changes: bool,
    pub reason: Option<Reason>,
    /// Name of the term that calls for most.
    pub term: Option<&'static str>,
    pub limited: Option<Limited>,
}

/// By what a wish was kept from being the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// By anything.
    Any,
    /// By something that forbids every step down.
    Vetoed,
    /// By the limit of this name, perhaps among others.
    By(&'static str),
}

/// There is no such reason, term or limit; there are these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no {kind} \"{name}\"; there are: {known}")]
pub struct NoSuch {
    kind: &'static str,
    name: String,
    known: String,
}

impl Filter {
    /// The reason of this name.
    ///
    /// # Errors
    /// [`NoSuch`].
    pub fn reason(name: &str) -> Result<Reason, NoSuch> {
        let missing = || NoSuch::of("reason", name, Reason::ALL.iter().map(|reason| reason.as_str()));
        Reason::named(name).ok_or_else(missing)
    }

    /// The name of a term.
    ///
    /// # Errors
    /// [`NoSuch`].
    pub fn term(name: &str) -> Result<&'static str, NoSuch> {
        let known = || Why::NAMES.into_iter();
        known().find(|known| *known == name).ok_or_else(|| NoSuch::of("term", name, known()))
    }

    /// `any`, `veto`, or the name of a limit.
    ///
    /// # Errors
    /// [`NoSuch`].
    pub fn limited(name: &str) -> Result<Limited, NoSuch> {
        let known = || LimitKind::NAMES.into_iter();
        match name {
            "any" => Ok(Limited::Any),
            "veto" => Ok(Limited::Vetoed),
            _ => known()
                .find(|known| *known == name)
                .map(Limited::By)
                .ok_or_else(|| NoSuch::of("limit", name, ["any", "veto"].into_iter().chain(known()))),
        }
    }

    pub(super) fn passes(&self, entry: &Entry) -> bool {
        let decision = entry.told();
        self.since.is_none_or(|since| decision.at >= since)
            && self.until.is_none_or(|until| decision.at < until)
            && (!self.changes || decision.from != decision.to)
            && self.reason.is_none_or(|reason| decision.reason == reason)
            && self
                .term
                .is_none_or(|name| binding(&decision.terms).is_some_and(|term| term.why.name() == name))
            && self.limited.is_none_or(|limited| limited.fits(decision))
    }
}

impl Limited {
    fn fits(self, decision: &Decision) -> bool {
        decision.limits.iter().any(|limit| match self {
            Self::Any => true,
            Self::Vetoed => limit.kind.is_veto(),
            Self::By(name) => limit.kind.as_str() == name,
        })
    }
}

impl NoSuch {
    fn of(kind: &'static str, name: &str, known: impl Iterator<Item = &'static str>) -> Self {
        // It comes from outside, and is shown.
        let name = name.chars().filter(|c| !c.is_control()).take(64).collect();
        Self { kind, name, known: known.collect::<Vec<_>>().join(", ") }
    }
}
