//! Every call that reached the server: a bounded ring of calls, and counts that never forget.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::{sync::watch, time::Instant};

use crate::route::Verb;

/// One call. Health, version and discovery pages are calls with verb `Get` and the path as resource.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it arrived.
    pub at: Instant,
    /// Whose rights it used.
    pub account: String,
    /// The process it came from: as named by the service it came through, else the agent up to its slash.
    pub caller: String,
    /// The whole `User-Agent`.
    pub agent: String,
    pub verb: Verb,
    /// `deployments.apps`, `pods`; the path for pages.
    pub resource: String,
    /// `scale`, `status`, or empty.
    pub subresource: String,
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    pub query: String,
    pub body: Bytes,
    /// The status code, once answered; none for calls that got no answer.
    pub code: Option<u16>,
}

/// Which calls are meant: by a fault, or by a question to the log. What is not said fits every call.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    verbs: Vec<Verb>,
    resource: Option<(String, String)>,
    namespace: Option<String>,
    name: Option<String>,
    caller: Option<String>,
    account: Option<String>,
}

impl Calls {
    /// Every call.
    #[must_use]
    pub fn any() -> Self {
        Self::default()
    }

    /// Calls that change something.
    #[must_use]
    pub fn writes() -> Self {
        Self::any().verb(Verb::Create).verb(Verb::Update).verb(Verb::Patch).verb(Verb::Delete)
    }

    /// Of this verb, or of one of those said before.
    #[must_use]
    pub fn verb(mut self, verb: Verb) -> Self {
        self.verbs.push(verb);
        self
    }

    /// To `deployments`, `deployments.apps` or `deployments/scale`: a resource alone does not mean its subresources,
    /// `deployments/*` means all of them and itself.
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        self.resource = Some((resource.to_owned(), subresource.to_owned()));
        self
    }

    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// To one object. A list or watch that selects one name counts as naming it.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    #[must_use]
    pub fn caller(mut self, caller: &str) -> Self {
        self.caller = Some(caller.to_owned());
        self
    }

    #[must_use]
    pub fn account(mut self, account: &str) -> Self {
        self.account = Some(account.to_owned());
        self
    }

    /// Whether a call is meant.
    #[must_use]
    pub fn fit(&self, call: &Call) -> bool {
        let says =
            |wanted: &Option<String>, actual: &str| wanted.as_ref().is_none_or(|wanted| wanted == actual);
        let resource = self.resource.as_ref().is_none_or(|(resource, subresource)| {
            let plural = call.resource.split('.').next().unwrap_or_default();
            (resource == &call.resource || resource == plural)
                && (subresource == "*" || *subresource == call.subresource)
        });
        resource
            && (self.verbs.is_empty() || self.verbs.contains(&call.verb))
            && says(&self.namespace, &call.namespace)
            && says(&self.name, &call.name)
            && says(&self.caller, &call.caller)
            && says(&self.account, &call.account)
    }
}

/// By what calls are counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    pub account: String,
    pub caller: String,
    pub verb: Verb,
    pub resource: String,
    pub subresource: String,
}

#[derive(Debug, Default)]
struct Ring {
    calls: VecDeque<Call>,
    /// The number of the first call still here.
    first: u64,
    counts: BTreeMap<Counted, u64>,
}

/// The number of a call, to tell its outcome later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket(u64);

/// All calls to a cluster.
#[derive(Debug)]
pub struct Log {
    ring: Mutex<Ring>,
    calls_max: usize,
    grown: watch::Sender<u64>,
}

/// Kinds of calls that are counted apart; callers beyond this are counted together.
const COUNTS_MAX: usize = 10_000;

impl Log {
    pub(crate) fn new(calls_max: usize) -> Self {
        Self { ring: Mutex::default(), calls_max, grown: watch::Sender::new(0) }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn record(&self, call: Call) -> Ticket {
        let mut ring = self.ring();
        let mut counted = Counted {
            account: call.account.clone(),
            caller: call.caller.clone(),
            verb: call.verb,
            resource: call.resource.clone(),
            subresource: call.subresource.clone(),
        };
        if ring.counts.len() >= COUNTS_MAX && !ring.counts.contains_key(&counted) {
            counted = Counted { caller: "others".into(), resource: "others".into(), ..counted };
            counted.account.clear();
            counted.subresource.clear();
        }
        *ring.counts.entry(counted).or_default() += 1;
        if ring.calls.len() >= self.calls_max {
            ring.calls.pop_front();
            ring.first += 1;
        }
        let ticket = Ticket(ring.first + ring.calls.len() as u64);
        ring.calls.push_back(call);
        drop(ring);
        self.grown.send_modify(|count| *count += 1);
        ticket
    }

    pub(crate) fn answered(&self, ticket: Ticket, code: u16) {
        let mut ring = self.ring();
        let index = ticket.0.checked_sub(ring.first).and_then(|index| usize::try_from(index).ok());
        if let Some(call) = index.and_then(|index| ring.calls.get_mut(index)) {
            call.code = Some(code);
        }
        drop(ring);
        self.grown.send_modify(|count| *count += 1);
    }

    /// The calls meant that are still in the ring, oldest first.
    #[must_use]
    pub fn calls(&self, meant: &Calls) -> Vec<Call> {
        self.ring().calls.iter().filter(|call| meant.fit(call)).cloned().collect()
    }

    /// How many calls meant arrived at or after `start`, of those still in the ring.
    #[must_use]
    pub fn count_since(&self, start: Instant, meant: &Calls) -> usize {
        self.ring().calls.iter().filter(|call| call.at >= start && meant.fit(call)).count()
    }

    /// Counts since the beginning.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Counted, u64> {
        self.ring().counts.clone()
    }

    /// All calls since the beginning.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.ring().counts.values().sum()
    }

    /// Waits for the first call meant that arrives at or after `start`; one in the ring already will do.
    pub async fn first_since(&self, start: Instant, meant: &Calls) -> Call {
        let mut grown = self.grown.subscribe();
        loop {
            grown.borrow_and_update();
            let found = self.ring().calls.iter().find(|call| call.at >= start && meant.fit(call)).cloned();
            if let Some(call) = found {
                return call;
            }
            grown.changed().await.expect("the sender is ours");
        }
    }
}
