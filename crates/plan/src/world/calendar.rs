//! What is going to happen, soonest first; of what happens at once, what was known first.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{replica::Job, time::Time};

#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// A second is over.
    Tick,
    /// A request came when no replica was ready.
    Wake,
    Ready {
        replica: u32,
    },
    /// A batch was held for company until `at`.
    Flush {
        at: Time,
    },
    /// A call ends, or is broken off before it would at `ends`.
    Done {
        replica: u32,
        job: Job,
        ends: Time,
    },
    BatchDone {
        replica: u32,
    },
    /// The first of the streams of a replica ends, unless others came or went since `version`.
    Stream {
        replica: u32,
        version: u32,
    },
}

#[derive(Debug, Default)]
pub(super) struct Calendar {
    events: BinaryHeap<Reverse<Entry>>,
    count: u64,
}

#[derive(Debug)]
struct Entry {
    at: Time,
    number: u64,
    event: Event,
}

impl Calendar {
    pub(super) fn push(&mut self, at: Time, event: Event) {
        self.count += 1;
        self.events.push(Reverse(Entry { at, number: self.count, event }));
    }

    pub(super) fn next(&self) -> Option<Time> {
        self.events.peek().map(|Reverse(entry)| entry.at)
    }

    pub(super) fn pop(&mut self) -> Option<(Time, Event)> {
        self.events.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn events_come_by_time_and_of_one_time_in_the_order_they_were_known() {
        let mut calendar = Calendar::default();
        let at = |seconds| Time::from(Duration::from_secs(seconds));
        calendar.push(at(2), Event::Tick);
        calendar.push(at(1), Event::Ready { replica: 1 });
        calendar.push(at(1), Event::Ready { replica: 2 });
        let order: Vec<_> = std::iter::from_fn(|| calendar.pop()).collect();
        assert!(matches!(
            order[..],
            [(_, Event::Ready { replica: 1 }), (_, Event::Ready { replica: 2 }), (_, Event::Tick)]
        ));
    }
}
