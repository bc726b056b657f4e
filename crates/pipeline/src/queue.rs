//! The order in which requests wait: class (with ageing) → tenant by deficit round robin in rows → earliest
//! deadline. Pure; only the dispatch task owns one.

use std::{
    collections::{BTreeMap, HashMap, VecDeque, btree_map},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::request::Class;

/// A request that waited this long may go before higher classes and whoever else is first, once in so many
/// batches: what is low gets on, and what is high is hardly delayed, however much waits.
const AGEING: Duration = Duration::from_secs(2);
const AGED_BATCHES: u32 = 4;
/// Rows a tenant may take per turn where rows are merged.
pub(crate) const QUANTUM: u32 = 32;
/// Entries of other keys that are stepped over while a batch is gathered, per row asked for.
const LOOK_PAST: usize = 8;
/// Deadlines less than this apart count as the same where only a sum of rows is wanted.
const DEADLINE_STEP: Duration = Duration::from_millis(16);

/// What makes two requests mergeable: equal keys. `None` is never merged.
pub type Key = Option<Arc<[u8]>>;

/// One waiting request.
#[derive(Debug)]
pub struct Entry<T> {
    pub id: u64,
    pub key: Key,
    pub class: Class,
    pub tenant: Arc<str>,
    pub deadline: Instant,
    pub enqueued: Instant,
    pub rows: u32,
    pub bytes: usize,
    pub item: T,
}

/// Requests of one model that wait for a replica.
#[derive(Debug)]
pub struct Queue<T> {
    classes: [ClassQueue<T>; 3],
    rows: u64,
    bytes: usize,
    /// Batches taken so far, for the turn of what aged.
    batches: u32,
    /// Rows a tenant may take per turn.
    quantum: u32,
    epoch: Instant,
}

/// Where a request waits.
#[derive(Clone, Debug)]
struct Place {
    tenant: Arc<str>,
    deadline: Instant,
    enqueued: Instant,
}

#[derive(Debug)]
struct ClassQueue<T> {
    tenants: HashMap<Arc<str>, Tenant<T>>,
    turn: VecDeque<Arc<str>>,
    /// By id, which is the order of arrival.
    places: BTreeMap<u64, Place>,
    /// Rows by deadline, in steps since the queue's epoch.
    rows_due: BTreeMap<u64, u64>,
    rows: u64,
    quantum: u32,
}

#[derive(Debug)]
struct Tenant<T> {
    deficit: i64,
    rows: u64,
    entries: BTreeMap<(Instant, u64), Entry<T>>,
}

impl<T> Queue<T> {
    /// An empty queue in which tenants take turns of `quantum` rows.
    #[must_use]
    pub fn new(quantum: u32) -> Self {
        let classes = std::array::from_fn(|_| ClassQueue::new(quantum));
        Self { classes, rows: 0, bytes: 0, batches: 0, quantum, epoch: Instant::now() }
    }

    pub fn push(&mut self, entry: Entry<T>) {
        self.rows += u64::from(entry.rows);
        self.bytes += entry.bytes;
        let due = self.step_of(entry.deadline);
        self.class_mut(entry.class).push(entry, due);
    }

    /// Takes out one request, wherever it waits.
    pub fn remove(&mut self, id: u64) -> Option<Entry<T>> {
        let epoch = self.epoch;
        let entry = self.classes.iter_mut().find_map(|class| class.remove(id, epoch))?;
        self.rows -= u64::from(entry.rows);
        self.bytes -= entry.bytes;
        Some(entry)
    }

    /// The request that should be served next, then those that should be if it cannot: the first one of each tenant.
    pub fn heads(&self, now: Instant) -> impl Iterator<Item = &Entry<T>> {
        self.aged(now).into_iter().chain(self.classes.iter().flat_map(ClassQueue::heads))
    }

    /// [`Queue::take_from`] the first of the heads.
    pub fn take(&mut self, now: Instant, max_rows: u32, max_requests: usize) -> Vec<Entry<T>> {
        let head = self.heads(now).next().map(|head| head.id);
        head.map_or_else(Vec::new, |head| self.take_from(head, max_rows, max_requests))
    }

    /// Takes the request of this id, which is one of the heads, and then what may be merged with it, in order, up to
    /// `max_rows` rows (the head always) and `max_requests` requests.
    pub fn take_from(&mut self, head: u64, max_rows: u32, max_requests: usize) -> Vec<Entry<T>> {
        let Some(head) = self.remove(head) else { return Vec::new() };
        self.batches = self.batches.wrapping_add(1);
        let left = max_rows.saturating_sub(head.rows);
        self.class_mut(head.class).spend(&head.tenant, head.rows);
        let key = head.key.clone();
        let mut batch = vec![head];
        if key.is_none() {
            return batch;
        }
        for id in self.mergeable(&key, left, max_requests.saturating_sub(1)) {
            let Some(entry) = self.remove(id) else { continue };
            self.class_mut(entry.class).spend(&entry.tenant, entry.rows);
            batch.push(entry);
        }
        batch
    }

    /// Removes every request for which `doomed` holds, looking at each tenant's earliest deadlines first and
    /// stopping at the first one that is not.
    pub fn take_doomed(&mut self, mut doomed: impl FnMut(&Entry<T>) -> bool) -> Vec<Entry<T>> {
        let mut ids = Vec::new();
        for tenant in self.classes.iter().flat_map(|class| class.tenants.values()) {
            ids.extend(tenant.entries.values().take_while(|e| doomed(e)).map(|e| e.id));
        }
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Empties the queue.
    pub fn take_all(&mut self) -> Vec<Entry<T>> {
        let ids: Vec<u64> = self.classes.iter().flat_map(|class| class.places.keys().copied()).collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Takes the newest request of the lowest class below `class`, to make room for it.
    pub fn evict_below(&mut self, class: Class) -> Option<Entry<T>> {
        let below = self.classes.iter().skip(class as usize + 1);
        let newest = below.rev().find_map(|class| class.places.last_key_value()).map(|(id, _)| *id)?;
        self.remove(newest)
    }

    /// Takes the newest request of the tenant of this class that has most waiting, to make room for one of `tenant`,
    /// which has less.
    pub fn evict_loudest(&mut self, class: Class, tenant: &str) -> Option<Entry<T>> {
        let same = self.classes.get(class as usize)?;
        let own = same.tenants.get(tenant).map_or(0, |tenant| tenant.rows);
        let loudest =
            same.tenants.values().max_by_key(|tenant| tenant.rows).filter(|loud| loud.rows > own + 1)?;
        let newest = loudest.entries.values().map(|entry| entry.id).max()?;
        self.remove(newest)
    }

    /// Rows that would be served before a request of this class, tenant and deadline, ageing left aside: at most those
    /// of its own tenant and as many of each other.
    #[must_use]
    pub fn rows_before(&self, class: Class, tenant: &str, deadline: Instant) -> u64 {
        let above: u64 = self.classes.iter().take(class as usize).map(|class| class.rows).sum();
        let due = self.step_of(deadline);
        let Some(same) = self.classes.get(class as usize) else { return above };
        let earlier: u64 = same.rows_due.range(..=due).map(|(_, rows)| rows).sum();
        let own = same.tenants.get(tenant).map_or(0, |tenant| tenant.rows);
        let fair = (own + u64::from(self.quantum)) * same.tenants.len() as u64;
        above + earlier.min(fair)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Entry<T>> {
        self.classes.iter().flat_map(|c| c.tenants.values()).flat_map(|t| t.entries.values())
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.classes.iter().map(|class| class.places.len()).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.classes.iter().all(|class| class.places.is_empty())
    }

    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the request that waits longest came.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        self.oldest_place().map(|(_, place)| place.enqueued)
    }

    /// The first deadline of all.
    #[must_use]
    pub fn earliest_deadline(&self) -> Option<Instant> {
        self.classes
            .iter()
            .flat_map(|c| c.tenants.values())
            .filter_map(|t| t.entries.keys().next().map(|(deadline, _)| *deadline))
            .min()
    }

    /// The oldest request of all, if it waited so long that it may go first, and this batch is one of those.
    fn aged(&self, now: Instant) -> Option<&Entry<T>> {
        if !self.batches.is_multiple_of(AGED_BATCHES) {
            return None;
        }
        let (id, place) = self.oldest_place()?;
        if now.saturating_duration_since(place.enqueued) < AGEING {
            return None;
        }
        let at = (place.deadline, id);
        self.classes.iter().find_map(|class| class.tenants.get(&place.tenant)?.entries.get(&at))
    }

    fn oldest_place(&self) -> Option<(u64, &Place)> {
        let oldest = self.classes.iter().filter_map(|class| class.places.first_key_value());
        oldest.min_by_key(|(id, _)| **id).map(|(id, place)| (*id, place))
    }

    /// Requests of this key in order, as many as fit, without looking much further than that.
    fn mergeable(&self, key: &Key, mut rows: u32, requests: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        let looked_at = self.classes.iter().flat_map(ClassQueue::in_order).take(LOOK_PAST * rows as usize);
        for entry in looked_at {
            if rows == 0 || ids.len() == requests {
                break;
            }
            if entry.key == *key && entry.rows <= rows {
                rows -= entry.rows;
                ids.push(entry.id);
            }
        }
        ids
    }

    fn step_of(&self, deadline: Instant) -> u64 {
        step(self.epoch, deadline)
    }

    fn class_mut(&mut self, class: Class) -> &mut ClassQueue<T> {
        let [high, normal, low] = &mut self.classes;
        match class {
            Class::High => high,
            Class::Normal => normal,
            Class::Low => low,
        }
    }
}

/// Whole [`DEADLINE_STEP`]s from `epoch` to `deadline`.
fn step(epoch: Instant, deadline: Instant) -> u64 {
    (deadline.saturating_duration_since(epoch).as_millis() / DEADLINE_STEP.as_millis()) as u64
}

impl<T> ClassQueue<T> {
    fn new(quantum: u32) -> Self {
        Self {
            tenants: HashMap::new(),
            turn: VecDeque::new(),
            places: BTreeMap::new(),
            rows_due: BTreeMap::new(),
            rows: 0,
            quantum,
        }
    }

    fn push(&mut self, entry: Entry<T>, due: u64) {
        let tenant = Arc::clone(&entry.tenant);
        let (deadline, enqueued) = (entry.deadline, entry.enqueued);
        self.places.insert(entry.id, Place { tenant: Arc::clone(&tenant), deadline, enqueued });
        self.rows += u64::from(entry.rows);
        *self.rows_due.entry(due).or_default() += u64::from(entry.rows);
        let queue = self.tenants.entry(Arc::clone(&tenant)).or_insert_with(|| {
            self.turn.push_back(tenant);
            Tenant { deficit: i64::from(self.quantum), rows: 0, entries: BTreeMap::new() }
        });
        queue.rows += u64::from(entry.rows);
        queue.entries.insert((entry.deadline, entry.id), entry);
    }

    /// A tenant with nothing waiting is forgotten, and with it what it owed: the map stays as small as the queue.
    fn remove(&mut self, id: u64, epoch: Instant) -> Option<Entry<T>> {
        let place = self.places.remove(&id)?;
        let queue = self.tenants.get_mut(&place.tenant)?;
        let entry = queue.entries.remove(&(place.deadline, id))?;
        queue.rows -= u64::from(entry.rows);
        if queue.entries.is_empty() {
            self.tenants.remove(&place.tenant);
            self.turn.retain(|tenant| *tenant != place.tenant);
        }
        self.rows -= u64::from(entry.rows);
        if let btree_map::Entry::Occupied(mut due) = self.rows_due.entry(step(epoch, entry.deadline)) {
            *due.get_mut() -= u64::from(entry.rows);
            if *due.get() == 0 {
                due.remove();
            }
        }
        Some(entry)
    }

    /// The first one of each tenant, in turn.
    fn heads(&self) -> impl Iterator<Item = &Entry<T>> {
        self.turn.iter().filter_map(|tenant| self.tenants.get(tenant)?.entries.values().next())
    }

    /// Tenants in turn, each by deadline and no further than its deficit; then what is left of each.
    fn in_order(&self) -> impl Iterator<Item = &Entry<T>> {
        let tenants = || self.turn.iter().filter_map(|t| self.tenants.get(t));
        let within = tenants().flat_map(Tenant::within_deficit);
        within.chain(tenants().flat_map(Tenant::beyond_deficit))
    }

    /// Charges a tenant for rows it was given; the turn passes on once its deficit is used up.
    fn spend(&mut self, tenant: &Arc<str>, rows: u32) {
        let Some(queue) = self.tenants.get_mut(tenant) else { return };
        queue.deficit -= i64::from(rows);
        if queue.deficit <= 0 {
            // A request larger than the quantum leaves a debt of several turns; it is forgiven beyond one, so
            // that the sum of the turns stays bounded.
            queue.deficit = (queue.deficit + i64::from(self.quantum)).max(1);
            self.turn.retain(|t| t != tenant);
            self.turn.push_back(Arc::clone(tenant));
        }
    }
}

impl<T> Tenant<T> {
    fn count_within_deficit(&self) -> usize {
        let mut left = self.deficit;
        self.entries
            .values()
            .take_while(|e| {
                let fits = left > 0;
                left -= i64::from(e.rows);
                fits
            })
            .count()
    }

    fn within_deficit(&self) -> impl Iterator<Item = &Entry<T>> {
        self.entries.values().take(self.count_within_deficit())
    }

    fn beyond_deficit(&self) -> impl Iterator<Item = &Entry<T>> {
        self.entries.values().skip(self.count_within_deficit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Some(name.as_bytes().into())
    }

    struct Bench {
        queue: Queue<()>,
        start: Instant,
        next: u64,
    }

    impl Bench {
        fn new() -> Self {
            Self { queue: Queue::new(QUANTUM), start: Instant::now(), next: 0 }
        }

        fn push(&mut self, class: Class, tenant: &str, deadline_ms: u64, rows: u32, key_name: &str) -> u64 {
            let id = self.next;
            self.next += 1;
            self.queue.push(Entry {
                id,
                key: key(key_name),
                class,
                tenant: tenant.into(),
                deadline: self.start + Duration::from_millis(deadline_ms),
                enqueued: self.start,
                rows,
                bytes: 10,
                item: (),
            });
            id
        }

        fn take(&mut self, rows: u32) -> Vec<u64> {
            self.queue.take(self.start, rows, usize::MAX).into_iter().map(|e| e.id).collect()
        }
    }

    #[test]
    fn the_earliest_deadline_goes_first() {
        let mut b = Bench::new();
        let late = b.push(Class::Normal, "", 300, 1, "k");
        let soon = b.push(Class::Normal, "", 100, 1, "k");
        let middle = b.push(Class::Normal, "", 200, 1, "k");
        assert_eq!(b.take(2), [soon, middle]);
        assert_eq!(b.take(2), [late]);
        assert!(b.queue.is_empty() && b.queue.rows() == 0 && b.queue.bytes() == 0);
    }

    #[test]
    fn a_higher_class_goes_before_an_earlier_deadline() {
        let mut b = Bench::new();
        let low = b.push(Class::Low, "", 100, 1, "k");
        let high = b.push(Class::High, "", 900, 1, "k");
        assert_eq!(b.take(1), [high]);
        assert_eq!(b.take(1), [low]);
    }

    #[test]
    fn what_waited_two_seconds_goes_before_higher_classes() {
        let mut b = Bench::new();
        let low = b.push(Class::Low, "", 60_000, 1, "k");
        b.push(Class::High, "", 50_000, 1, "k");
        let later = b.start + AGEING;
        assert_eq!(b.queue.take(later, 1, 1).first().map(|e| e.id), Some(low));
    }

    #[test]
    fn what_waited_long_does_not_hold_up_what_is_urgent() {
        let mut b = Bench::new();
        let low: Vec<u64> = (0..100).map(|_| b.push(Class::Low, "", 60_000, 1, "low")).collect();
        let high: Vec<u64> = (0..30).map(|_| b.push(Class::High, "", 50_000, 1, "high")).collect();
        let later = b.start + AGEING;
        let served: Vec<u64> = (0..40).flat_map(|_| b.queue.take(later, 1, 1)).map(|e| e.id).collect();
        assert_eq!(served.iter().filter(|id| high.contains(id)).count(), 30);
        assert_eq!(served.iter().filter(|id| low.contains(id)).count(), 10);
    }

    #[test]
    fn no_more_requests_are_taken_than_asked_for() {
        let mut b = Bench::new();
        for _ in 0..8 {
            b.push(Class::Normal, "", 100, 2, "k");
        }
        assert_eq!(b.queue.take(b.start, 64, 3).len(), 3);
        assert_eq!(b.queue.take(b.start, 64, 1).len(), 1);
        assert_eq!(b.queue.take(b.start, 64, usize::MAX).len(), 4);
    }

    #[test]
    fn what_another_tenant_has_waiting_hardly_counts() {
        let mut queue = Queue::new(1);
        let start = Instant::now();
        let entry = |id: u64, tenant: &str| Entry {
            id,
            key: None,
            class: Class::Normal,
            tenant: tenant.into(),
            deadline: start + Duration::from_secs(1),
            enqueued: start,
            rows: 1,
            bytes: 1,
            item: (),
        };
        (0..100).for_each(|id| queue.push(entry(id, "flood")));
        queue.push(entry(100, "other"));
        let late = start + Duration::from_secs(9);
        assert_eq!(queue.rows_before(Class::Normal, "flood", late), 101);
        assert_eq!(queue.rows_before(Class::Normal, "other", late), 4);
        let order: Vec<u64> = (0..3).flat_map(|_| queue.take(start, 1, 1)).map(|entry| entry.id).collect();
        assert_eq!(order, [0, 100, 1], "they take turns");
    }

    #[test]
    fn rows_before_a_request_are_those_of_higher_classes_and_earlier_deadlines() {
        let mut b = Bench::new();
        b.push(Class::High, "", 900, 1, "k");
        let normal = b.push(Class::Normal, "a", 100, 2, "k");
        b.push(Class::Normal, "b", 500, 4, "k");
        b.push(Class::Low, "", 1, 8, "k");
        let at = |ms: u64| b.start + Duration::from_millis(ms);
        assert_eq!(b.queue.rows_before(Class::High, "", at(1)), 0);
        assert_eq!(b.queue.rows_before(Class::Normal, "", at(200)), 3);
        assert_eq!(b.queue.rows_before(Class::Normal, "", at(600)), 7);
        assert_eq!(b.queue.rows_before(Class::Low, "", at(5)), 15);
        b.queue.remove(normal);
        assert_eq!(b.queue.rows_before(Class::Normal, "", at(600)), 5);
        b.queue.take_all();
        assert!(b.queue.classes.iter().all(|class| class.rows_due.is_empty() && class.rows == 0));
    }

    #[test]
    fn different_keys_are_never_taken_together() {
        let mut b = Bench::new();
        let a1 = b.push(Class::Normal, "", 100, 1, "a");
        let b1 = b.push(Class::Normal, "", 200, 1, "b");
        let a2 = b.push(Class::Normal, "", 300, 1, "a");
        assert_eq!(b.take(8), [a1, a2]);
        assert_eq!(b.take(8), [b1]);
    }

    #[test]
    fn a_batch_never_exceeds_its_rows_but_for_a_large_head() {
        let mut b = Bench::new();
        let large = b.push(Class::Normal, "", 100, 9, "k");
        let three = b.push(Class::Normal, "", 200, 3, "k");
        let four = b.push(Class::Normal, "", 300, 4, "k");
        let one = b.push(Class::Normal, "", 400, 1, "k");
        assert_eq!(b.take(4), [large]);
        assert_eq!(b.take(4), [three, one]);
        assert_eq!(b.take(4), [four]);
    }

    #[test]
    fn a_flooding_tenant_gets_its_share_of_rows_and_no_more() {
        let mut b = Bench::new();
        for i in 0..300 {
            b.push(Class::Normal, "flood", i, 1, "k");
        }
        for i in 0..60 {
            b.push(Class::Normal, "calm", 1_000 + i, 1, "k");
        }
        let mut calm = 0;
        for _ in 0..8 {
            calm += b.queue.take(b.start, 16, 16).iter().filter(|e| &*e.tenant == "calm").count();
        }
        assert!((40..=60).contains(&calm), "{calm} of 128 rows");
    }

    #[test]
    fn only_doomed_requests_are_dropped() {
        let mut b = Bench::new();
        let dead = b.push(Class::Normal, "", 5, 1, "k");
        b.push(Class::Normal, "", 500, 1, "k");
        let limit = b.start + Duration::from_millis(10);
        let dropped: Vec<u64> = b.queue.take_doomed(|e| e.deadline < limit).iter().map(|e| e.id).collect();
        assert_eq!(dropped, [dead]);
        assert_eq!(b.queue.len(), 1);
    }

    #[test]
    fn room_is_made_by_the_newest_of_the_lowest_class() {
        let mut b = Bench::new();
        b.push(Class::Normal, "", 1, 1, "k");
        b.push(Class::Low, "", 1, 1, "k");
        let newest_low = b.push(Class::Low, "", 1, 1, "k");
        assert_eq!(b.queue.evict_below(Class::High).map(|e| e.id), Some(newest_low));
        assert!(b.queue.evict_below(Class::Low).is_none());
    }

    #[test]
    fn room_is_made_for_a_tenant_by_the_newest_of_the_one_that_has_most() {
        let mut b = Bench::new();
        b.push(Class::Normal, "loud", 1, 1, "k");
        b.push(Class::Normal, "loud", 9, 1, "k");
        let newest = b.push(Class::Normal, "loud", 5, 1, "k");
        b.push(Class::Normal, "quiet", 1, 1, "k");
        assert!(b.queue.evict_loudest(Class::Normal, "loud").is_none(), "not for itself");
        assert!(b.queue.evict_loudest(Class::Low, "quiet").is_none(), "of its own class");
        assert_eq!(b.queue.evict_loudest(Class::Normal, "quiet").map(|e| e.id), Some(newest));
        assert!(b.queue.evict_loudest(Class::Normal, "quiet").is_none(), "one more would not be less");
        assert_eq!(b.queue.evict_loudest(Class::Normal, "new").map(|e| &*e.tenant == "loud"), Some(true));
    }

    #[test]
    fn a_cancelled_request_leaves_no_trace() {
        let mut b = Bench::new();
        let id = b.push(Class::Normal, "t", 1, 4, "k");
        assert!(b.queue.remove(id).is_some());
        assert!(b.queue.remove(id).is_none());
        assert!(b.queue.is_empty() && b.queue.rows() == 0);
        assert!(b.queue.classes.iter().all(|c| c.tenants.is_empty() && c.turn.is_empty()));
    }
}
