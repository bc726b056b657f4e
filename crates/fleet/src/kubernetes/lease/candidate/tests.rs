use std::collections::BTreeMap;

use rand::SeedableRng as _;

use super::*;

mod world;

fn candidate(identity: &str, timing: Timing, now: Instant) -> Candidate {
    let name = Name {
        namespace: "ns".into(),
        lease: "tidegate".into(),
        identity: identity.into(),
        process: format!("process of {identity}").into(),
        address: Some("10.0.0.7:9091".into()),
    };
    Candidate::new(name, timing, now, SmallRng::seed_from_u64(7))
}

/// A store of one Lease that answers at once.
#[derive(Debug, Default)]
struct Store {
    lease: Option<Lease>,
    writes: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Refused;

impl Store {
    fn write(&mut self, step: &Step) -> Result<Lease, Refused> {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        let uid = |lease: &Lease| lease.metadata.uid.clone();
        let (mut lease, uid) = match (step, &self.lease) {
            (Step::Create(lease), None) => ((**lease).clone(), Some(format!("uid {}", self.writes))),
            (Step::Replace(lease), Some(stored))
                if version(lease) == version(stored) && uid(lease) == uid(stored) =>
            {
                ((**lease).clone(), uid(stored))
            }
            _ => return Err(Refused),
        };
        self.writes += 1;
        lease.metadata.uid = uid;
        lease.metadata.resource_version = Some(self.writes.to_string());
        self.lease = Some(lease.clone());
        Ok(lease)
    }

    fn edit(&mut self, change: impl FnOnce(&mut Lease)) {
        self.writes += 1;
        let lease = self.lease.as_mut().unwrap();
        change(lease);
        lease.metadata.resource_version = Some(self.writes.to_string());
    }

    fn record(&self) -> Record {
        self.lease.as_ref().map(Record::read).unwrap()
    }
}

/// Lets the candidate do what it wants at that moment, until it rests.
fn act(candidate: &mut Candidate, store: &mut Store, now: Instant) -> Instant {
    for _ in 0..20 {
        match candidate.next(now, wall(now)) {
            Step::Rest(until) => return until,
            Step::Read => candidate.saw(store.lease.clone(), now),
            step @ (Step::Create(_) | Step::Replace(_)) => match store.write(&step) {
                Ok(lease) => candidate.wrote(lease, now, now),
                Err(Refused) => candidate.refused(now),
            },
        }
    }
    panic!("it never rests: {candidate:?}");
}

/// Runs it alone until then; returns when it first led.
fn run(candidate: &mut Candidate, store: &mut Store, mut now: Instant, end: Instant) -> Option<Instant> {
    let mut led = None;
    while now < end {
        let next = act(candidate, store, now);
        if led.is_none() && candidate.reign().is_some() {
            led = Some(now);
        }
        now = next;
    }
    led
}

/// Any wall clock will do.
fn wall(_now: Instant) -> Timestamp {
    Timestamp::UNIX_EPOCH
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn empty_lease() -> Store {
    let mut lease = Lease::default();
    lease.metadata.uid = Some("uid of the manifest".to_owned());
    lease.metadata.resource_version = Some("1".to_owned());
    Store { lease: Some(lease), writes: 1 }
}

#[test]
fn a_lease_that_was_never_held_is_taken_at_once() {
    let now = Instant::now();
    let (mut a, mut store) = (candidate("a", Timing::default(), now), empty_lease());
    act(&mut a, &mut store, now);
    assert_eq!(a.standing(), Standing::Leading { epoch: 1 });
    assert_eq!(a.reign().unwrap().until, now + seconds(10));
    assert_eq!(store.record().address.as_deref(), Some("10.0.0.7:9091"));
}

#[test]
fn a_missing_lease_is_made_once_a_holder_of_a_deleted_one_would_be_out_of_office() {
    let now = Instant::now();
    let (mut a, mut store) = (candidate("a", Timing::default(), now), Store::default());
    let led = run(&mut a, &mut store, now, now + seconds(60)).unwrap();
    assert_eq!(led - now, seconds(15));
    assert_eq!(a.standing(), Standing::Leading { epoch: 1 });
}

#[test]
fn a_lost_leader_is_followed_within_duration_and_retry() {
    for timing in [Timing::default(), Timing::fast()] {
        let now = Instant::now();
        let mut store = empty_lease();
        let mut a = candidate("a", timing, now);
        let mut b = candidate("b", timing, now);
        act(&mut a, &mut store, now);
        let killed = now + seconds(30);
        let (mut next_a, mut next_b) = (now, now);
        while next_a.min(next_b) < killed {
            if next_a <= next_b {
                next_a = act(&mut a, &mut store, next_a);
            } else {
                next_b = act(&mut b, &mut store, next_b);
            }
        }
        assert_eq!(a.standing(), Standing::Leading { epoch: 1 });
        let Standing::Following { leader: Some(leader) } = b.standing() else { panic!("{b:?}") };
        assert_eq!((&*leader.identity, leader.epoch), ("a", 1));

        let led = run(&mut b, &mut store, next_b, killed + seconds(60)).unwrap();
        assert!(led - killed <= timing.duration() + timing.retry(), "{:?}", led - killed);
        assert!(a.reign().unwrap().until <= led);
        assert_eq!(b.standing(), Standing::Leading { epoch: 2 });
    }
}

#[test]
fn a_released_lease_is_taken_at_the_next_look() {
    let now = Instant::now();
    let mut store = empty_lease();
    let (mut a, mut b) = (candidate("a", Timing::default(), now), candidate("b", Timing::default(), now));
    act(&mut a, &mut store, now);
    let looked = act(&mut b, &mut store, now);
    let left = a.leave();
    let release = a.release(left, wall(now)).unwrap();
    assert_eq!(a.reign(), None);
    store.write(&Step::Replace(Box::new(release))).unwrap();
    let led = run(&mut b, &mut store, looked, now + seconds(60)).unwrap();
    assert!(led - now <= seconds(2), "{:?}", led - now);
    assert_eq!(b.standing(), Standing::Leading { epoch: 2 });
}

#[test]
fn a_lease_is_released_also_right_after_it_was_made() {
    let now = Instant::now();
    let (mut a, mut store) = (candidate("a", Timing::default(), now), Store::default());
    a.saw(None, now);
    let made = now + seconds(15);
    let lease = store.write(&a.next(made, wall(made))).unwrap();
    a.wrote(lease, made, made);
    assert_eq!(a.standing(), Standing::Leading { epoch: 1 });
    a.interrupted();
    let left = a.leave();
    a.saw(store.lease.clone(), made);
    let release = a.release(left, wall(made)).unwrap();
    store.write(&Step::Replace(Box::new(release))).unwrap();
    assert!(store.record().is_free());
}

#[test]
fn what_another_process_holds_is_not_released() {
    let now = Instant::now();
    let mut store = empty_lease();
    let (mut a, mut b) = (candidate("a", Timing::default(), now), candidate("b", Timing::default(), now));
    act(&mut a, &mut store, now);
    act(&mut b, &mut store, now);
    assert_eq!(b.leave(), None);
    assert!(b.release(None, wall(now)).is_none());
    let mut again = candidate("a", Timing::default(), now);
    again.name.process = "another life".into();
    act(&mut again, &mut store, now);
    assert!(again.release(None, wall(now)).is_none());
}

#[test]
fn a_holder_that_was_erased_by_hand_is_waited_out() {
    let now = Instant::now();
    let mut store = empty_lease();
    let (mut a, mut b) = (candidate("a", Timing::default(), now), candidate("b", Timing::default(), now));
    act(&mut a, &mut store, now);
    act(&mut b, &mut store, now);
    store.edit(|lease| lease.spec.as_mut().unwrap().holder_identity = None);
    let looked = now + seconds(1);
    let led = run(&mut b, &mut store, looked, now + seconds(60)).unwrap();
    assert!(led > a.reign().unwrap().until);
}

#[test]
fn who_is_in_office_writes_a_deleted_lease_again_and_stays() {
    let now = Instant::now();
    let mut store = empty_lease();
    let (mut a, mut b) = (candidate("a", Timing::default(), now), candidate("b", Timing::default(), now));
    let renewal = act(&mut a, &mut store, now);
    let looked = act(&mut b, &mut store, now);
    store.lease = None;
    act(&mut b, &mut store, looked);
    assert_eq!(b.reign(), None);
    assert!(store.lease.is_none());
    act(&mut a, &mut store, renewal);
    assert_eq!(a.standing(), Standing::Leading { epoch: 1 });
    assert_eq!(store.record().epoch, 1);
}

#[test]
fn a_new_lease_in_place_of_a_held_one_is_no_reason_to_hurry() {
    let now = Instant::now();
    let mut store = empty_lease();
    let (mut a, mut b) = (candidate("a", Timing::default(), now), candidate("b", Timing::default(), now));
    act(&mut a, &mut store, now);
    let looked = act(&mut b, &mut store, now);
    store = empty_lease();
    store.edit(|lease| lease.metadata.uid = Some("another".to_owned()));
    let led = run(&mut b, &mut store, looked, now + seconds(60)).unwrap();
    assert!(led > a.reign().unwrap().until);
    assert_eq!(b.standing(), Standing::Leading { epoch: 2 });
}

#[test]
fn the_epoch_grows_also_over_a_lease_that_was_deleted() {
    let now = Instant::now();
    let mut store = empty_lease();
    let mut a = candidate("a", Timing::default(), now);
    store.edit(|lease| lease.spec.get_or_insert_default().lease_transitions = Some(40));
    a.saw(store.lease.clone(), now);
    store.lease = None;
    run(&mut a, &mut store, now + seconds(1), now + seconds(60)).unwrap();
    assert_eq!(a.standing(), Standing::Leading { epoch: 41 });
}

#[test]
fn a_greater_epoch_met_elsewhere_is_outranked_without_leaving_office() {
    let now = Instant::now();
    let (mut a, mut store) = (candidate("a", Timing::default(), now), empty_lease());
    act(&mut a, &mut store, now);
    a.outrank(812, now);
    assert!(a.reign().is_some());
    act(&mut a, &mut store, now);
    assert_eq!(a.standing(), Standing::Leading { epoch: 813 });
    a.outrank(813, now);
    act(&mut a, &mut store, now);
    assert_eq!(a.standing(), Standing::Leading { epoch: 813 });
}

#[test]
fn an_epoch_that_cannot_grow_any_more_does_not_end_elections() {
    let now = Instant::now();
    let (mut a, mut store) = (candidate("a", Timing::default(), now), empty_lease());
    store.edit(|lease| lease.spec.get_or_insert_default().lease_transitions = Some(i32::MAX));
    let rest = act(&mut a, &mut store, now);
    assert_eq!(a.standing(), Standing::Leading { epoch: EPOCH_MAX });
    act(&mut a, &mut store, rest);
    assert_eq!(a.standing(), Standing::Leading { epoch: EPOCH_MAX });
}

#[test]
fn a_renewal_whose_answer_was_lost_ends_no_reign_and_lengthens_none() {
    let now = Instant::now();
    let (mut a, mut store) = (candidate("a", Timing::default(), now), empty_lease());
    let renewal = act(&mut a, &mut store, now);
    let step = a.next(renewal, wall(renewal));
    store.write(&step).unwrap();
    let now = renewal + seconds(2);
    a.failed(now);
    let until = a.reign().unwrap().until;
    let later = now + seconds(2);
    let step = a.next(later, wall(later));
    assert!(matches!(step, Step::Read));
    a.saw(store.lease.clone(), later);
    assert_eq!(a.reign(), Some(Reign { epoch: 1, until }));
    act(&mut a, &mut store, later);
    assert_eq!(a.reign(), Some(Reign { epoch: 1, until: later + seconds(10) }));
}

#[test]
fn an_office_taken_by_a_write_whose_answer_was_lost_is_taken_up_after_the_next_read() {
    let now = Instant::now();
    let (mut a, mut store) = (candidate("a", Timing::default(), now), empty_lease());
    a.saw(store.lease.clone(), now);
    let step = a.next(now, wall(now));
    store.write(&step).unwrap();
    a.failed(now);
    assert_eq!(a.reign(), None);
    let led = run(&mut a, &mut store, now + seconds(2), now + seconds(60)).unwrap();
    assert!(led - now <= seconds(4));
}

#[test]
fn without_answers_a_leader_leaves_office_at_the_renew_deadline() {
    let now = Instant::now();
    let (mut a, mut store) = (candidate("a", Timing::default(), now), empty_lease());
    let mut at = act(&mut a, &mut store, now);
    let mut held_at = now;
    while a.reign().is_some() {
        held_at = at;
        match a.next(at, wall(at)) {
            Step::Rest(until) => at = until,
            _ => a.failed(at),
        }
    }
    assert_eq!(held_at, now + seconds(10));
    assert_eq!(a.standing(), Standing::Following { leader: None });
}

#[test]
fn a_process_that_was_stopped_finds_itself_deposed_and_its_next_write_refused() {
    let now = Instant::now();
    let mut store = empty_lease();
    let (mut a, mut b) = (candidate("a", Timing::default(), now), candidate("b", Timing::default(), now));
    let renewal = act(&mut a, &mut store, now);
    let step = a.next(renewal, wall(renewal));
    run(&mut b, &mut store, now, now + seconds(30)).unwrap();
    assert_eq!(store.write(&step), Err(Refused));
    let woken = now + seconds(30);
    a.refused(woken);
    act(&mut a, &mut store, woken);
    let Standing::Following { leader: Some(leader) } = a.standing() else { panic!("{a:?}") };
    assert_eq!((&*leader.identity, leader.epoch), ("b", 2));
}

#[test]
fn a_restarted_process_of_the_same_name_waits_for_its_former_life() {
    let now = Instant::now();
    let mut store = empty_lease();
    let mut a = candidate("a", Timing::default(), now);
    act(&mut a, &mut store, now);
    let mut again = candidate("a", Timing::default(), now);
    again.name.process = "another life".into();
    let led = run(&mut again, &mut store, now + seconds(1), now + seconds(60)).unwrap();
    assert_eq!(led - now, seconds(16));
    assert_eq!(again.standing(), Standing::Leading { epoch: 2 });
}

#[test]
fn garbage_in_the_lease_is_waited_out_and_replaced() {
    let now = Instant::now();
    let mut store = empty_lease();
    store.edit(|lease| {
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some("\u{202e}garbage".to_owned());
        spec.lease_duration_seconds = Some(i32::MAX);
        spec.lease_transitions = Some(-1);
        lease.metadata.annotations =
            Some(BTreeMap::from([(record::SIGNALS.to_owned(), "not an address".to_owned())]));
    });
    let mut a = candidate("a", Timing::default(), now);
    let led = run(&mut a, &mut store, now, now + seconds(60)).unwrap();
    assert_eq!(led - now, seconds(15));
    assert_eq!(a.standing(), Standing::Leading { epoch: 1 });
}

#[test]
fn somebody_who_writes_all_the_time_costs_no_storm_of_calls() {
    let now = Instant::now();
    let (mut a, mut store) = (candidate("a", Timing::default(), now), empty_lease());
    let mut at = act(&mut a, &mut store, now);
    let mut calls = 0;
    while at < now + seconds(60) {
        match a.next(at, wall(at)) {
            Step::Rest(until) => at = until,
            Step::Read => {
                calls += 1;
                a.saw(store.lease.clone(), at);
            }
            Step::Create(_) | Step::Replace(_) => {
                calls += 1;
                a.refused(at);
            }
        }
    }
    assert!(calls <= 60 * 4, "{calls}");
}
