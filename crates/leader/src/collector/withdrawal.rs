//! Which replicas of one model are to get nothing more, and for how long.
//!
//! A replica whose end was asked for stays withdrawn for a while, because it is listed until the platform has got
//! round to ending it. Not for ever: the platform may have ended another one instead, and where replicas are
//! numbered the next one has the same name.

use std::time::Duration;

use autoscaler::fleet::ReplicaId;
use tokio::time::Instant;

/// How long a replica is remembered after every gateway has agreed to leave it alone.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How long at most if replicas are started meanwhile, one of which may have its name.
const REMEMBERED_RISING: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
pub(super) struct Withdrawal {
    /// Another one for each change.
    number: u64,
    /// The number of the last step, which can be taken back.
    step: u64,
    withdrawn: Vec<Withdrawn>,
}

#[derive(Debug)]
struct Withdrawn {
    replica: ReplicaId,
    step: u64,
    /// When every gateway had agreed; `None`: not yet.
    agreed: Option<Instant>,
    remembered: Duration,
}

impl Withdrawal {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn replicas(&self) -> impl Iterator<Item = &ReplicaId> {
        self.withdrawn.iter().map(|withdrawn| &withdrawn.replica)
    }

    /// Withdraws `replicas` besides those that are still remembered, and returns the number of this step.
    pub(super) fn add(&mut self, replicas: &[ReplicaId], numbers: &mut u64) -> u64 {
        self.number = next(numbers);
        self.step = self.number;
        for replica in replicas {
            if self.replicas().all(|withdrawn| withdrawn != replica) {
                let (replica, step) = (ReplicaId::clone(replica), self.step);
                self.withdrawn.push(Withdrawn { replica, step, agreed: None, remembered: REMEMBERED });
            }
        }
        self.step
    }

    /// Every gateway has agreed to step `step`.
    pub(super) fn agree(&mut self, step: u64) {
        let now = Instant::now();
        for withdrawn in self.withdrawn.iter_mut().filter(|withdrawn| withdrawn.step == step) {
            withdrawn.agreed = Some(now);
        }
    }

    /// Takes the last step back. Whether there was something to take back.
    pub(super) fn take_back(&mut self, numbers: &mut u64) -> bool {
        let step = self.step;
        self.keep(|withdrawn| withdrawn.step != step, numbers)
    }

    /// More replicas are asked for.
    pub(super) fn hasten(&mut self) {
        self.withdrawn.iter_mut().for_each(|withdrawn| withdrawn.remembered = REMEMBERED_RISING);
    }

    /// Forgets those that were withdrawn long ago. Whether there were any.
    pub(super) fn expire(&mut self, numbers: &mut u64) -> bool {
        self.keep(|withdrawn| withdrawn.agreed.is_none_or(|at| at.elapsed() < withdrawn.remembered), numbers)
    }

    fn keep(&mut self, stays: impl FnMut(&Withdrawn) -> bool, numbers: &mut u64) -> bool {
        let before = self.withdrawn.len();
        self.withdrawn.retain(stays);
        let changed = self.withdrawn.len() != before;
        if changed {
            self.number = next(numbers);
        }
        changed
    }
}

/// Numbers are told apart, not compared; 0 is none.
fn next(numbers: &mut u64) -> u64 {
    *numbers = numbers.wrapping_add(1).max(1);
    *numbers
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn ids(names: &[&str]) -> Vec<ReplicaId> {
        names.iter().map(|name| ReplicaId::from(*name)).collect()
    }

    fn names(withdrawal: &Withdrawal) -> Vec<&str> {
        withdrawal.replicas().map(|replica| &**replica).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_withdrawn_before_stays_so_and_only_the_last_step_is_taken_back() {
        let (mut it, mut numbers) = (Withdrawal::default(), u64::MAX);
        let first = it.add(&ids(&["a"]), &mut numbers);
        assert_eq!(first, 1, "0 is no number");
        it.agree(first);
        it.add(&ids(&["a", "b"]), &mut numbers);
        assert_eq!(names(&it), ["a", "b"]);
        assert!(it.take_back(&mut numbers));
        assert_eq!(names(&it), ["a"]);
        assert_eq!(it.number(), 3);
        assert!(!it.take_back(&mut numbers), "once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_was_not_ended_comes_back_after_a_minute() {
        let (mut it, mut numbers) = (Withdrawal::default(), 0);
        let step = it.add(&ids(&["a"]), &mut numbers);
        advance(REMEMBERED * 2).await;
        assert!(!it.expire(&mut numbers), "not every gateway has agreed yet");
        it.agree(step);
        advance(REMEMBERED - Duration::from_secs(1)).await;
        assert!(!it.expire(&mut numbers));
        advance(Duration::from_secs(1)).await;
        assert!(it.expire(&mut numbers));
        assert!(names(&it).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_may_come_back_sooner_when_replicas_are_started() {
        let (mut it, mut numbers) = (Withdrawal::default(), 0);
        let step = it.add(&ids(&["digits-0"]), &mut numbers);
        it.agree(step);
        it.hasten();
        advance(REMEMBERED_RISING).await;
        assert!(it.expire(&mut numbers));
    }
}
