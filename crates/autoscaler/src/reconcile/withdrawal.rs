//! Before replicas go, the gateways agree to send them nothing more. What was agreed is taken back, also by a task
//! that is cancelled, unless the replicas went.

use std::{future, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::Source;
use crate::{decide::Decision, fleet::ReplicaId};

/// Longest the gateways may take to agree. Before zero they hold what comes meanwhile.
const AGREED_WITHIN: Duration = Duration::from_secs(5);
const QUIET_WITHIN: Duration = Duration::from_secs(2);

/// Replicas that get nothing more.
#[derive(Debug)]
pub(super) struct Withdrawal<'a, S: Source> {
    source: &'a S,
    /// The replicas went, or were never withdrawn.
    over: bool,
}

/// What is left when the replicas are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Terms {
    /// Other replicas are left.
    Some,
    /// None is left: a request that waits or comes keeps the last ones.
    None,
    /// None is left, and who comes is refused: that keeps no replica.
    Refusing,
}

impl Terms {
    pub(super) fn of(decision: &Decision) -> Self {
        let refuses = decision.schedule.as_ref().is_some_and(|schedule| schedule.refuses().is_some());
        match decision.to {
            0 if refuses => Self::Refusing,
            0 => Self::None,
            _ => Self::Some,
        }
    }
}

impl<'a, S: Source> Withdrawal<'a, S> {
    /// Has the gateways send nothing more to `leaving`. An error says why they stay.
    pub(super) async fn agree(source: &'a S, leaving: &[ReplicaId], terms: Terms) -> Result<Self, Arc<str>> {
        let quiet = terms == Terms::None;
        let limit = if quiet { QUIET_WITHIN } else { AGREED_WITHIN };
        let mut this = Self { source, over: false };
        let mut agreed = std::pin::pin!(timeout(limit, source.withdraw(leaving, quiet)));
        let agreed = tokio::select! {
            biased;
            // Where nobody has to be asked, an old call for a wake is none.
            agreed = &mut agreed => agreed,
            () = future::ready(()) => tokio::select! {
                biased;
                () = source.wake(), if terms != Terms::Refusing => return Err("a request came".into()),
                agreed = &mut agreed => agreed,
            },
        };
        match agreed {
            Ok(Ok(())) => Ok(this),
            Ok(Err(words)) => {
                // They go on as before already: what would be taken back is the withdrawal before this one.
                this.over = true;
                Err(words)
            }
            Err(_) => Err(format!("not every gateway has agreed within {} s", limit.as_secs()).into()),
        }
    }

    /// The replicas went.
    pub(super) fn fulfilled(mut self) {
        self.over = true;
    }
}

impl<S: Source> Drop for Withdrawal<'_, S> {
    fn drop(&mut self) {
        if !self.over {
            self.source.restore();
        }
    }
}
