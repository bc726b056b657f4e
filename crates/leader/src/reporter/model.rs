//! One model at one gateway: what is reported of it, what the leader has said, and whether a wake was answered.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use autoscaler::{reconcile::Outlook, snapshot::Report};
use proto::signals;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{Directive, Shared, TakeReport, Withdrawal};
use crate::wire;

/// How long replicas stay withdrawn without a word of the leader.
const WITHDRAWN_UNHEARD: Duration = Duration::from_secs(15);
/// A wake stands for at least this long, even if no request is seen to wait.
const WAKE_STANDS: Duration = Duration::from_secs(1);
/// A wake that stands is said again at once if another request comes after this long.
const WAKE_REPEATED: Duration = Duration::from_millis(100);
/// The same moment, sent twice, arrives as two that are no further apart than this.
const SAME_MOMENT: Duration = Duration::from_millis(250);

/// One model that this gateway reports, until dropped.
pub struct ModelHandle {
    shared: Arc<Shared>,
    name: Arc<str>,
    id: u64,
    model: Arc<Model>,
}

impl ModelHandle {
    pub(super) fn register(shared: Arc<Shared>, name: Arc<str>, report: TakeReport) -> Self {
        let mut book = shared.book();
        book.id += 1;
        let id = book.id;
        let new = || Arc::new(Model::new(shared.connected.subscribe()));
        let model = Arc::clone(book.models.entry(Arc::clone(&name)).or_insert_with(new));
        drop(book);
        model.inner().registration = Some(Registration { id, name: Arc::clone(&name), report });
        shared.news(&name);
        Self { shared, name, id, model }
    }

    /// Reports the model at once.
    pub fn news(&self) {
        self.shared.news(&self.name);
    }

    /// Says at once that a request waits and no replica is there. That stands, and need not be said again, for as
    /// long as requests are queued and the report lists no replica.
    pub fn wake(&self) {
        if self.model.wake() {
            self.shared.news(&self.name);
        }
    }

    /// What the leader said last; `None`: it has said nothing.
    #[must_use]
    pub fn directive(&self) -> watch::Receiver<Option<Arc<Directive>>> {
        self.model.directive.subscribe()
    }

    /// Nothing more is sent to the replicas of withdrawal `number`, and the leader may know.
    pub fn carried_out(&self, number: u64) {
        let before = std::mem::replace(&mut self.model.inner().carried_out, number);
        if before != number {
            self.shared.news(&self.name);
        }
    }

    /// Resolves when a wake has stood for `after` without an answer: the leader, if there is one, has neither seen
    /// to a replica nor said that there will be none. Then the gateway has to see to it itself. While the wake
    /// still stands this resolves again after as long. May be dropped at any time.
    ///
    /// Asks for a replica also where the leader only watches: whoever must not write must not act upon this.
    pub async fn wake_unanswered(&self, after: Duration) {
        let mut unanswered = self.model.unanswered.subscribe();
        loop {
            let since = *unanswered.borrow_and_update();
            let Some(since) = since else {
                // The sender is held by the model.
                let _ = unanswered.changed().await;
                continue;
            };
            tokio::select! {
                () = sleep_until(since + after) => {
                    self.model.report();
                    if self.model.hand_over(since) {
                        return;
                    }
                }
                _ = unanswered.changed() => {}
            }
        }
    }
}

impl Drop for ModelHandle {
    fn drop(&mut self) {
        let mut book = self.shared.book();
        let mut inner = self.model.inner();
        if inner.registration.as_ref().is_none_or(|registration| registration.id != self.id) {
            return;
        }
        inner.registration = None;
        inner.wake = None;
        drop(inner);
        self.model.reconsider();
        if self.model.directive.borrow().is_none() {
            book.models.remove(&self.name);
        }
    }
}

impl fmt::Debug for ModelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelHandle").field("model", &self.name).finish_non_exhaustive()
    }
}

/// A model that is reported, or that the leader has spoken of.
pub(super) struct Model {
    inner: Mutex<Inner>,
    directive: watch::Sender<Option<Arc<Directive>>>,
    /// Since when a wake stands that was not answered.
    unanswered: watch::Sender<Option<Instant>>,
    connected: watch::Receiver<bool>,
}

#[derive(Default)]
struct Inner {
    registration: Option<Registration>,
    /// The newest withdrawal that is carried out.
    carried_out: u64,
    wake: Option<Wake>,
    /// Since when the leader who withdrew replicas is not heard.
    lost: Option<Instant>,
}

struct Registration {
    id: u64,
    name: Arc<str>,
    report: TakeReport,
}

#[derive(Clone, Copy)]
struct Wake {
    since: Instant,
    /// When it was last said at once.
    said: Instant,
}

impl Model {
    pub(super) fn new(connected: watch::Receiver<bool>) -> Self {
        let (directive, _) = watch::channel(None);
        let (unanswered, _) = watch::channel(None);
        Self { inner: Mutex::default(), directive, unanswered, connected }
    }

    pub(super) fn is_registered(&self) -> bool {
        self.inner().registration.is_some()
    }

    /// What is to be reported now.
    pub(super) fn report(&self) -> Option<signals::ModelReport> {
        let (name, take) = {
            let inner = self.inner();
            let registration = inner.registration.as_ref()?;
            (Arc::clone(&registration.name), Arc::clone(&registration.report))
        };
        // Not under the lock: whoever counts may hold locks of its own.
        let report = take();
        let standing = {
            let mut inner = self.inner();
            inner.wake = inner.wake.filter(|wake| wake.stands(&report));
            wire::Standing { wake: inner.wake.is_some(), withdrawal: inner.carried_out }
        };
        self.reconsider();
        Some(wire::model_report(&name, &report, standing))
    }

    /// Takes in what the leader says.
    pub(super) fn hear(&self, message: signals::Directive, leader: &Arc<str>, epoch: u64) {
        let now = Instant::now();
        self.inner().lost = None;
        self.directive.send_if_modified(|directive| {
            let before = directive.as_deref();
            let (number, replicas) = wire::withdrawal(message.withdrawal);
            let outlook = wire::outlook(message.outlook, now);
            let said = Directive {
                desired: message.desired,
                outlook: before.map_or(outlook.clone(), |before| settled(&before.outlook, outlook)),
                withdrawal: Withdrawal { number, replicas },
                why: wire::words(&message.why).into(),
                leader: Arc::clone(leader),
                epoch,
            };
            let news = before != Some(&said);
            if news {
                *directive = Some(Arc::new(said));
            }
            news
        });
        self.reconsider();
    }

    /// The leader decides for the model no longer.
    pub(super) fn forget(&self) {
        self.inner().lost = None;
        self.directive.send_replace(None);
        self.reconsider();
    }

    /// The leader was heard at `last`, and is not any more.
    pub(super) fn lose(&self, last: Instant) {
        self.inner().lost.get_or_insert(last);
        self.reconsider();
    }

    /// Gives replicas free that were withdrawn by a leader who has not been heard for long.
    pub(super) fn age(&self) {
        let lost = self.inner().lost;
        if lost.is_some_and(|since| since.elapsed() >= WITHDRAWN_UNHEARD) {
            self.directive.send_if_modified(|directive| {
                let withdrawn = directive.as_deref().filter(|said| said.withdrawal.number != 0);
                let Some(said) = withdrawn else { return false };
                let free = Directive { withdrawal: Withdrawal::default(), ..said.clone() };
                *directive = Some(Arc::new(free));
                true
            });
        }
        self.reconsider();
    }

    /// A request waits. Whether that is to be said at once.
    fn wake(&self) -> bool {
        let now = Instant::now();
        let say = {
            let mut inner = self.inner();
            match &mut inner.wake {
                Some(wake) if wake.said.elapsed() < WAKE_REPEATED => false,
                Some(wake) => {
                    wake.said = now;
                    true
                }
                none => {
                    *none = Some(Wake { since: now, said: now });
                    true
                }
            }
        };
        self.reconsider();
        say
    }

    /// Whether the wake that has stood since `since` still does; from now on it stands anew.
    fn hand_over(&self, since: Instant) -> bool {
        self.unanswered.send_if_modified(|unanswered| {
            let stands = *unanswered == Some(since);
            if stands {
                *unanswered = Some(Instant::now());
            }
            stands
        })
    }

    /// Brings `unanswered` up to date.
    fn reconsider(&self) {
        let waits = self.inner().wake.is_some();
        let unanswered = waits && !self.is_answered();
        self.unanswered.send_if_modified(|since| {
            let news = since.is_some() != unanswered;
            if news {
                *since = unanswered.then(Instant::now);
            }
            news
        });
    }

    /// Whether somebody sees to a replica, or has said that there will be none.
    fn is_answered(&self) -> bool {
        let connected = *self.connected.borrow();
        let directive = self.directive.borrow();
        let Some(said) = directive.as_deref() else { return false };
        match said.outlook {
            // True of a schedule whether or not the leader is heard.
            Outlook::Off { until } => until.is_none_or(|until| until > Instant::now()),
            Outlook::Failed { .. } => connected,
            Outlook::Starting { .. } | Outlook::Ready => connected && said.desired > 0,
            // With a number above zero: it is wanted and could not be written.
            Outlook::Asleep => false,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake {
    /// Whether, as `report` shows it, requests wait and no replica is there.
    fn stands(&self, report: &Report) -> bool {
        let waits = report.gauges.queued_requests > 0 || self.since.elapsed() < WAKE_STANDS;
        waits && report.replicas.is_empty()
    }
}

/// The outlook that was sent, unless it is the one before: a moment does not move because it was said again.
fn settled(before: &Outlook, sent: Outlook) -> Outlook {
    let same = |before: &Instant, sent: &Instant| {
        sent.saturating_duration_since(*before).max(before.saturating_duration_since(*sent)) <= SAME_MOMENT
    };
    match (before, &sent) {
        (Outlook::Starting { eta: Some(a) }, Outlook::Starting { eta: Some(b) })
        | (Outlook::Off { until: Some(a) }, Outlook::Off { until: Some(b) })
            if same(a, b) =>
        {
            before.clone()
        }
        _ => sent,
    }
}
