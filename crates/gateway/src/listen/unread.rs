//! Which answers of a connection their clients do not read. HTTP/2 lets a client keep any one of its streams
//! from moving, and an answer that cannot be written is not asked for its next piece: only the connection's
//! watch can tell.
//!
//! Answers are counted by the look at which they last moved, so that one that moves never hides one that does not.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

/// Looks that are told apart.
pub(super) const LOOKS: usize = 16;

/// The answers of one connection that wait for their client.
#[derive(Debug, Default)]
pub(super) struct Unread {
    looks: AtomicUsize,
    /// Answers by the look, modulo [`LOOKS`], after which they last moved.
    waiting: [AtomicU32; LOOKS],
}

/// The place of one waiting answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(usize);

impl Unread {
    /// An answer waits from now on.
    pub(super) fn wait(&self) -> Place {
        let place = Place(self.looks.load(Relaxed) % LOOKS);
        self.count(place).fetch_add(1, Relaxed);
        place
    }

    /// It waits no longer.
    pub(super) fn leave(&self, place: Place) {
        self.count(place).fetch_sub(1, Relaxed);
    }

    /// Looks once more: during how many looks, this one included, the slowest answer has not moved. At most
    /// [`LOOKS`]: what is as old shares its place with what is new.
    pub(super) fn look(&self) -> usize {
        let look = self.looks.load(Relaxed);
        let waits = |age: &usize| self.count(Place((look + LOOKS - (age - 1)) % LOOKS)).load(Relaxed) > 0;
        let oldest = (1..=LOOKS).rev().find(waits).unwrap_or(0);
        self.looks.store(look + 1, Relaxed);
        oldest
    }

    fn count(&self, Place(place): Place) -> &AtomicU32 {
        self.waiting.get(place).expect("places are below the number of counts")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_answer_is_found_behind_those_that_move() {
        let unread = Unread::default();
        assert_eq!(unread.look(), 0);
        let stuck = unread.wait();
        for age in 1..LOOKS {
            let moving = unread.wait();
            assert_eq!(unread.look(), age);
            unread.leave(moving);
        }
        unread.leave(stuck);
        assert_eq!(unread.look(), 0);
    }

    #[test]
    fn an_answer_that_moves_is_as_new() {
        let unread = Unread::default();
        for _ in 0..3 * LOOKS {
            let place = unread.wait();
            assert_eq!(unread.look(), 1);
            unread.leave(place);
        }
    }
}
