//! One candidate's part in the election as a pure state machine: time, what was read and what became of each write
//! come in; what to do next goes out. All waiting is by the local monotonic clock since the record last changed, so
//! wall clocks may differ or jump. Writes only ever replace exactly what was read.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use rand::{Rng as _, rngs::SmallRng};
use tokio::time::Instant;

use super::{
    Leader, Standing, Timing,
    record::{self, Began, Record, Term},
};

/// What the Lease API can hold; an epoch beyond stays there.
pub(in crate::kubernetes) const EPOCH_MAX: u64 = i32::MAX as u64;

#[derive(Debug)]
pub(super) enum Step {
    /// Nothing is to be done before then.
    Rest(Instant),
    Read,
    Create(Box<Lease>),
    /// Only if it still has the resource version it carries.
    Replace(Box<Lease>),
}

/// Time in office. Others wait longer than until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reign {
    pub epoch: u64,
    pub until: Instant,
}

#[derive(Debug)]
pub(super) struct Candidate {
    name: Name,
    timing: Timing,
    /// The highest epoch met so far; the next reign is above it.
    known: u64,
    seen: Option<Seen>,
    /// A write may have changed what was seen: read before the next one.
    stale: bool,
    reign: Option<Reign>,
    rest_until: Instant,
    /// Writes refused in a row.
    refusals: u32,
    dice: SmallRng,
}

/// Who stands.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub namespace: Box<str>,
    pub lease: Box<str>,
    pub identity: Arc<str>,
    /// Unique to this process.
    pub process: Box<str>,
    pub address: Option<Arc<str>>,
}

#[derive(Debug)]
struct Seen {
    lease: Option<Lease>,
    record: Record,
    /// Until then somebody else may believe, with reason, to be in office.
    others_until: Instant,
}

impl Seen {
    fn uid(&self) -> Option<&str> {
        self.lease.as_ref()?.metadata.uid.as_deref()
    }
}

impl Candidate {
    pub(super) fn new(name: Name, timing: Timing, now: Instant, dice: SmallRng) -> Self {
        Self {
            name,
            timing,
            known: 0,
            seen: None,
            stale: true,
            reign: None,
            rest_until: now,
            refusals: 0,
            dice,
        }
    }

    /// The next thing to do. What came of it is to be told before asking again.
    pub(super) fn next(&mut self, now: Instant, wall: Timestamp) -> Step {
        self.reign = self.reign.filter(|reign| now < reign.until);
        if now < self.rest_until {
            return Step::Rest(self.reign.map_or(self.rest_until, |reign| reign.until.min(self.rest_until)));
        }
        let Some(seen) = self.seen.as_ref().filter(|_| !self.stale) else { return Step::Read };
        let (epoch, began) = match self.reign {
            Some(reign) if reign.epoch == self.known => (reign.epoch, Began::Before),
            None if seen.others_until > now => return Step::Read,
            Some(_) | None => ((self.known + 1).min(EPOCH_MAX), Began::Now),
        };
        let term = Term {
            identity: &self.name.identity,
            process: Some(&self.name.process),
            address: self.name.address.as_deref(),
            duration: self.timing.duration(),
            epoch,
        };
        match seen.lease.clone() {
            Some(lease) => Step::Replace(Box::new(record::hold(lease, &term, began, wall))),
            None => {
                // Not marked as ours: the store may carry out a creation whose answer was lost at any later time
                // when there is no Lease again, while somebody else is in office.
                let term = Term { process: None, ..term };
                Step::Create(Box::new(record::hold(self.blank(), &term, Began::Now, wall)))
            }
        }
    }

    /// A read brought this; `None`: there is no Lease.
    pub(super) fn saw(&mut self, lease: Option<Lease>, now: Instant) {
        let record = lease.as_ref().map(Record::read).unwrap_or_default();
        self.known = self.known.max(record.epoch);
        // A Lease that vanished ends no reign: whoever misses it waits as if it were held.
        let in_office = lease.is_none() || self.wrote_it(&record);
        self.reign = self.reign.filter(|reign| in_office && now < reign.until);
        if let Some(reign) = &mut self.reign {
            reign.epoch = reign.epoch.max(record.epoch);
        }
        let others_until = self.others_until(lease.as_ref(), &record, now);
        self.seen = Some(Seen { lease, record, others_until });
        self.stale = false;
        self.rest_until = match self.reign {
            Some(_) => now,
            None => others_until.min(now + self.poll()).max(now),
        };
    }

    /// A write that was begun then is done, and this is its result.
    pub(super) fn wrote(&mut self, lease: Lease, started: Instant, now: Instant) {
        let record = Record::read(&lease);
        if *record.holder != *self.name.identity {
            // Something on the way to the store changed what we wrote: then it counts as anybody's.
            return self.saw(Some(lease), now);
        }
        let marked = self.wrote_it(&record);
        self.known = self.known.max(record.epoch);
        self.reign = Some(Reign { epoch: record.epoch, until: started + self.timing.renew_deadline() });
        self.seen = Some(Seen { lease: Some(lease), record, others_until: now });
        self.stale = false;
        self.refusals = 0;
        // A creation is marked as ours at once, by the first renewal.
        let pause = if marked { self.poll() } else { Duration::ZERO };
        self.rest_until = (started + pause).max(now);
    }

    /// The Lease was not as it was seen: there is another version, none, or one already.
    pub(super) fn refused(&mut self, now: Instant) {
        self.stale = true;
        self.refusals += 1;
        // Once is the usual race; more than once is somebody who writes all the time.
        self.rest_until = if self.refusals > 1 { now + self.pause() } else { now };
    }

    /// A read or write failed, or its answer was lost: it may have happened or not, or happen later.
    pub(super) fn failed(&mut self, now: Instant) {
        self.stale = true;
        self.rest_until = now + self.pause();
    }

    /// What was under way is given up: as far as it was a write, it may have happened.
    pub(super) fn interrupted(&mut self) {
        self.stale = true;
    }

    /// A record of that epoch was met elsewhere: a reign that goes on gets a greater one.
    pub(super) fn outrank(&mut self, epoch: u64, now: Instant) {
        self.known = self.known.max(epoch.min(EPOCH_MAX));
        if self.reign.is_some_and(|reign| reign.epoch < self.known) {
            self.rest_until = now;
        }
    }

    /// Leaves office. The epoch of the reign that ends so.
    pub(super) fn leave(&mut self) -> Option<u64> {
        self.reign.take().map(|reign| reign.epoch)
    }

    /// The Lease as it is to be written by who has left office, in that epoch if any, where it still says that this
    /// process holds it. A creation is not marked as ours: there the epoch of the reign that began with it tells.
    pub(super) fn release(&self, left: Option<u64>, wall: Timestamp) -> Option<Lease> {
        let created = |record: &Record| *record.holder == *self.name.identity && left == Some(record.epoch);
        let ours = |record: &Record| self.wrote_it(record) || created(record);
        let seen = self.seen.as_ref().filter(|seen| ours(&seen.record))?;
        Some(record::release(seen.lease.clone()?, wall))
    }

    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    pub(super) fn reign(&self) -> Option<Reign> {
        self.reign
    }

    pub(super) fn standing(&self) -> Standing {
        if let Some(Reign { epoch, .. }) = self.reign {
            return Standing::Leading { epoch };
        }
        let others = self.seen.as_ref().map(|seen| &seen.record).filter(|record| !self.wrote_it(record));
        Standing::Following { leader: others.and_then(Leader::of) }
    }

    fn wrote_it(&self, record: &Record) -> bool {
        *record.holder == *self.name.identity && record.process.as_ref() == Some(&self.name.process)
    }

    /// Until when others may be in office, judged by how long what is seen has been so.
    fn others_until(&self, lease: Option<&Lease>, record: &Record, now: Instant) -> Instant {
        if self.wrote_it(record) {
            // It replaced a record that bound nobody any more, and nobody has replaced it since.
            return now;
        }
        let uid = lease.and_then(|lease| lease.metadata.uid.as_deref());
        let same_lease = |before: &Seen| before.lease.is_some() == lease.is_some() && before.uid() == uid;
        match &self.seen {
            Some(before) if same_lease(before) && before.record == *record => before.others_until,
            // A Lease that was deleted and made anew tells nothing about who holds the old one.
            before if lease.is_some() && record.is_free() && before.as_ref().is_none_or(same_lease) => now,
            _ if record.is_free() => now + self.timing.duration(),
            _ => now + record.duration.unwrap_or(self.timing.duration()),
        }
    }

    fn blank(&self) -> Lease {
        let metadata = ObjectMeta {
            namespace: Some(self.name.namespace.to_string()),
            name: Some(self.name.lease.to_string()),
            ..ObjectMeta::default()
        };
        Lease { metadata, spec: None }
    }

    /// Between two looks, or renewals: below the retry period, so that a change is seen within it.
    fn poll(&mut self) -> Duration {
        self.timing.retry().mul_f64(self.dice.random_range(0.75..0.95))
    }

    /// After a failure: short, so that several tries fit into the renew deadline.
    fn pause(&mut self) -> Duration {
        self.timing.retry().mul_f64(self.dice.random_range(0.3..0.6))
    }
}

#[cfg(test)]
mod tests;
