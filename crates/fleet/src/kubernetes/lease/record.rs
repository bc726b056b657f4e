//! What a Lease says, read with tolerance (anybody may have edited it) and written with everything that we own.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::MicroTime};

/// Where the leader hears gateways: `HOST:PORT`.
pub(super) const SIGNALS: &str = "tidegate.dev/signals";
/// Which process wrote the record: a pod keeps its name, and so its identity, when its container is restarted.
pub(super) const PROCESS: &str = "tidegate.dev/process";

/// The part of a Lease that elections are about. As long as two reads compare equal, nobody renewed in between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// Empty: nobody.
    pub holder: Box<str>,
    pub process: Option<Box<str>>,
    pub address: Option<Arc<str>>,
    pub epoch: u64,
    /// How long the holder wants to be waited for; `None` where that is absent or nonsense.
    pub duration: Option<Duration>,
    acquired: Option<MicroTime>,
    renewed: Option<MicroTime>,
}

impl Record {
    pub(super) fn read(lease: &Lease) -> Self {
        /// Longer than anybody configures; a typing error must not end elections for a day.
        const DURATION_MAX: Duration = Duration::from_secs(300);
        let spec = lease.spec.clone().unwrap_or_default();
        let annotation = |key| lease.metadata.annotations.as_ref().and_then(|all| all.get(key));
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Self {
            holder: spec.holder_identity.unwrap_or_default().into(),
            process: annotation(PROCESS).map(|process| process.as_str().into()),
            address: annotation(SIGNALS).filter(|address| is_address(address)).map(|it| it.as_str().into()),
            epoch: spec.lease_transitions.and_then(|epoch| u64::try_from(epoch).ok()).unwrap_or(0),
            duration: seconds.map(Duration::from_secs).filter(|it| !it.is_zero() && *it <= DURATION_MAX),
            acquired: spec.acquire_time,
            renewed: spec.renew_time,
        }
    }

    /// Nobody leads by this record, and nobody did so a moment ago: it was never held, or its holder released it.
    /// A holder that somebody else erased may not know yet, so that case does not count.
    pub(super) fn is_free(&self) -> bool {
        self.holder.is_empty() && (self.renewed.is_none() || self.duration == Some(RELEASED_DURATION))
    }
}

/// What a released Lease says, so that it can be told from one whose holder was erased.
const RELEASED_DURATION: Duration = Duration::from_secs(1);

/// A host and a port, nothing else. Reachable or not is for whoever calls it.
fn is_address(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && address.len() <= 300
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'))
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// One holder's time in office, as it is written down.
#[derive(Clone, Debug)]
pub(super) struct Term<'a> {
    pub identity: &'a str,
    pub process: Option<&'a str>,
    pub address: Option<&'a str>,
    pub duration: Duration,
    pub epoch: u64,
}

/// The Lease with this term in it. Everything that is not ours stays.
pub(super) fn hold(mut lease: Lease, term: &Term<'_>, began: Began, wall: Timestamp) -> Lease {
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(term.identity.to_owned());
    spec.lease_duration_seconds = Some(i32::try_from(term.duration.as_secs()).unwrap_or(i32::MAX).max(1));
    spec.lease_transitions = Some(i32::try_from(term.epoch).unwrap_or(i32::MAX));
    spec.renew_time = Some(MicroTime(match (&spec.renew_time, began) {
        (Some(before), Began::Before) => later(before.0, wall),
        _ => wall,
    }));
    if began == Began::Now {
        spec.acquire_time = Some(MicroTime(wall));
    }
    let annotations = lease.metadata.annotations.get_or_insert_default();
    for (key, value) in [(PROCESS, term.process), (SIGNALS, term.address)] {
        match value {
            Some(value) => annotations.insert(key.to_owned(), value.to_owned()),
            None => annotations.remove(key),
        };
    }
    lease
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Began {
    Now,
    Before,
}

/// The Lease without a holder. Its epoch stays.
pub(super) fn release(mut lease: Lease, wall: Timestamp) -> Lease {
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = None;
    spec.lease_duration_seconds = i32::try_from(RELEASED_DURATION.as_secs()).ok();
    spec.renew_time = Some(MicroTime(wall));
    if let Some(annotations) = &mut lease.metadata.annotations {
        annotations.remove(PROCESS);
        annotations.remove(SIGNALS);
    }
    lease
}

/// Others see that we live by a time that changes. A wall clock that stands still, or is set back, must not look
/// like death: no renewal says what an earlier one said.
fn later(before: Timestamp, wall: Timestamp) -> Timestamp {
    let next = before.as_microsecond().saturating_add(1);
    if wall.as_microsecond() >= next { wall } else { Timestamp::from_microsecond(next).unwrap_or(wall) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::coordination::v1::LeaseSpec;

    use super::*;

    fn lease(spec: LeaseSpec) -> Lease {
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[test]
    fn garbage_is_read_as_if_it_were_absent() {
        let read = |lease: &Lease| Record::read(lease);
        assert_eq!(read(&Lease::default()), Record::default());
        let record = read(&lease(LeaseSpec {
            lease_duration_seconds: Some(i32::MAX),
            lease_transitions: Some(-3),
            ..LeaseSpec::default()
        }));
        assert_eq!((record.duration, record.epoch), (None, 0));
        for address in
            ["", ":80", "host", "host:", "host:0", "host:65536", "a b:80", "http://host:80", "h/x:80"]
        {
            let mut lease = Lease::default();
            lease.metadata.annotations = Some(BTreeMap::from([(SIGNALS.to_owned(), address.to_owned())]));
            assert_eq!(read(&lease).address, None, "{address}");
        }
    }

    #[test]
    fn a_lease_is_free_when_never_held_or_released_but_not_when_its_holder_was_erased() {
        let term = Term {
            identity: "a",
            process: Some("p"),
            address: None,
            duration: Duration::from_secs(15),
            epoch: 7,
        };
        assert!(Record::read(&Lease::default()).is_free());
        let mut held = hold(Lease::default(), &term, Began::Now, Timestamp::UNIX_EPOCH);
        assert!(!Record::read(&held).is_free());
        let released = Record::read(&release(held.clone(), Timestamp::UNIX_EPOCH));
        assert!(released.is_free());
        assert_eq!(released.epoch, 7);
        held.spec.as_mut().unwrap().holder_identity = Some(String::new());
        assert!(!Record::read(&held).is_free());
    }

    #[test]
    fn each_renewal_differs_from_all_before_also_when_the_wall_clock_stands_still() {
        let term = Term {
            identity: "a",
            process: Some("p"),
            address: Some("10.0.0.7:9091"),
            duration: Duration::from_secs(15),
            epoch: 1,
        };
        let first = hold(Lease::default(), &term, Began::Now, Timestamp::UNIX_EPOCH);
        let second = hold(first.clone(), &term, Began::Before, Timestamp::UNIX_EPOCH);
        let third = hold(second.clone(), &term, Began::Before, Timestamp::UNIX_EPOCH);
        let read = [&first, &second, &third].map(Record::read);
        assert!(read[0] != read[1] && read[1] != read[2] && read[2] != read[0]);
        assert_eq!(Record::read(&second).address.as_deref(), Some("10.0.0.7:9091"));
    }

    #[test]
    fn labels_and_annotations_of_others_stay() {
        let mut lease = Lease::default();
        lease.metadata.annotations = Some(BTreeMap::from([("team".to_owned(), "ml".to_owned())]));
        lease.metadata.labels = Some(BTreeMap::from([("app".to_owned(), "tidegate".to_owned())]));
        let term = Term {
            identity: "a",
            process: Some("p"),
            address: None,
            duration: Duration::from_secs(15),
            epoch: 1,
        };
        let lease = hold(lease, &term, Began::Now, Timestamp::UNIX_EPOCH);
        let lease = release(lease, Timestamp::UNIX_EPOCH).metadata;
        assert_eq!(lease.annotations.unwrap(), BTreeMap::from([("team".to_owned(), "ml".to_owned())]));
        assert!(lease.labels.unwrap().contains_key("app"));
    }
}
