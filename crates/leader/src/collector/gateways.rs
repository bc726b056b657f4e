//! Every gateway that has called or that discovery lists, with the newest report of each model.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use autoscaler::snapshot::{GatewayView, Report};
use proto::signals;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Listed, Model};
use crate::{metrics::Hearing, wire};

/// Gateways that are taken in besides those that discovery lists.
const UNLISTED_MAX: usize = 256;
/// Replicas with calls on them, over all models of one gateway.
const LOADS_MAX: usize = 16_384;
/// A report counts as heard up to this age.
const FRESH: Duration = Duration::from_secs(3);
/// A gateway that neither calls nor is listed is remembered for this long: it may only have lost its connection.
const REMEMBERED: Duration = Duration::from_secs(15);
/// Discovery is late: a gateway that calls counts as listed for this long without being so.
const ARRIVING: Duration = Duration::from_secs(30);
/// Bytes of a version that are logged.
const VERSION_MAX: usize = 64;

/// Why a gateway is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("a gateway is called by the name of its pod")]
    Name,
    #[error("more gateways have called than discovery and {UNLISTED_MAX} others")]
    TooMany,
}

#[derive(Debug, Default)]
pub(super) struct Gateways {
    known: BTreeMap<Arc<str>, Gateway>,
    /// Reports heard so far, over all gateways and models.
    hearings: u64,
    measured: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Gateway {
    call: Option<Open>,
    joined: Instant,
    heard: Instant,
    round: Round,
    reports: BTreeMap<Arc<str>, Heard>,
    /// Replicas in those reports.
    loads: usize,
}

#[derive(Debug)]
struct Open {
    id: u64,
    replaced: CancellationToken,
}

/// The report of all models that is coming in, and the last that was complete.
#[derive(Debug)]
struct Round {
    number: u64,
    began: Instant,
    complete: Option<Complete>,
}

#[derive(Clone, Copy, Debug)]
struct Complete {
    began: Instant,
    ended: Instant,
}

/// One report of one model.
#[derive(Debug)]
pub(super) struct Heard {
    report: Report,
    received: Instant,
    round: u64,
    pub(super) standing: wire::Standing,
    /// How many reports, of whatever, had been heard with this one.
    pub(super) hearing: u64,
}

/// What a gateway has said of one model.
pub(super) enum Word<'a> {
    Report(&'a Heard),
    /// It does not serve it, as of then.
    NotServed(Instant),
    Nothing,
}

impl Gateways {
    /// Takes a gateway in; its earlier call is over.
    pub(super) fn join(
        &mut self,
        hello: &signals::Hello,
        id: u64,
        listed: &Listed,
    ) -> Result<(Arc<str>, CancellationToken), Refusal> {
        if !wire::is_pod_name(&hello.gateway) {
            return Err(Refusal::Name);
        }
        self.forget(listed);
        let name: Arc<str> = hello.gateway.as_str().into();
        let unlisted = || self.known.keys().filter(|known| !listed.contains(*known)).count();
        if !self.known.contains_key(&name) && !listed.contains(&name) && unlisted() >= UNLISTED_MAX {
            return Err(Refusal::TooMany);
        }
        let replaced = CancellationToken::new();
        let gateway = self.known.entry(Arc::clone(&name)).or_insert_with(Gateway::new);
        gateway.begin(Open { id, replaced: replaced.clone() });
        let version: String = hello.version.chars().take(VERSION_MAX).collect();
        tracing::info!(gateway = %name, ?version, "a gateway reports");
        Ok((name, replaced))
    }

    /// Ends call `id`. Whether it was still the one of its gateway.
    pub(super) fn leave(&mut self, name: &str, id: u64) -> bool {
        let Some(gateway) = self.known.get_mut(name).filter(|gateway| gateway.is_in(id)) else {
            return false;
        };
        gateway.call = None;
        tracing::info!(gateway = name, "a gateway reports no longer");
        true
    }

    /// Takes in what the call `id` of a gateway says of `models`; of others nothing is kept.
    pub(super) fn hear(
        &mut self,
        (name, id): (&str, u64),
        reports: signals::Reports,
        models: &mut BTreeMap<Arc<str>, Model>,
    ) {
        let Some(gateway) = self.known.get_mut(name).filter(|gateway| gateway.is_in(id)) else { return };
        let received = Instant::now();
        gateway.heard = received;
        for message in reports.models.into_iter().take(wire::MODELS_MAX) {
            let Some((model, _)) = models.get_key_value(&*message.model) else { continue };
            let model = Arc::clone(model);
            self.hearings += 1;
            let standing = wire::Standing { wake: message.wake, withdrawal: message.withdrawal };
            gateway.take(
                &model,
                message,
                Heard {
                    report: Report::default(),
                    received,
                    round: gateway.round.number,
                    standing,
                    hearing: self.hearings,
                },
            );
            let Some(known) = models.get_mut(&model) else { continue };
            if standing.wake {
                known.woken = Some(received);
            }
            known.heard.notify_waiters();
        }
        if reports.complete {
            gateway.complete(received);
            models.values().for_each(|model| model.heard.notify_waiters());
        }
    }

    /// Forgets gateways that are gone.
    pub(super) fn forget(&mut self, listed: &Listed) {
        self.known.retain(|name, gateway| {
            gateway.call.is_some() || listed.contains(name) || gateway.heard.elapsed() <= REMEMBERED
        });
    }

    pub(super) fn forget_model(&mut self, model: &str) {
        self.known.values_mut().for_each(|gateway| gateway.drop_report(model));
    }

    /// Every gateway known, as `now` in the caller's time.
    pub(super) fn views(
        &self,
        model: &str,
        since: Instant,
        listed: &Listed,
        now: Duration,
    ) -> Vec<GatewayView> {
        let heard = self.known.iter().map(|(name, gateway)| GatewayView {
            name: Arc::clone(name),
            listed: listed.contains(name) || gateway.arrives(),
            report: gateway.word(model, since).report(now),
        });
        let never = listed.iter().filter(|name| !self.known.contains_key(*name)).map(|name| GatewayView {
            name: Arc::clone(name),
            listed: true,
            report: None,
        });
        heard.chain(never).collect()
    }

    /// Every gateway known and, where it calls, what it has said of `model`.
    pub(super) fn words<'a>(
        &'a self,
        model: &'a str,
        since: Instant,
        listed: &'a Listed,
    ) -> impl Iterator<Item = (&'a Arc<str>, Option<Word<'a>>)> {
        let called = self
            .known
            .iter()
            .map(move |(name, gateway)| (name, gateway.call.as_ref().map(|_| gateway.word(model, since))));
        called.chain(listed.iter().filter(|name| !self.known.contains_key(*name)).map(|name| (name, None)))
    }

    pub(super) fn hearings(&self) -> u64 {
        self.hearings
    }

    /// Whether a request for `model` waits anywhere.
    pub(super) fn waits(&self, model: &str) -> bool {
        let heard = self.known.values().filter_map(|gateway| gateway.reports.get(model));
        heard.filter(|heard| heard.received.elapsed() <= FRESH).any(Heard::waits)
    }

    pub(super) fn measured_before(&self, age: Duration) -> bool {
        self.measured.is_none_or(|at| at.elapsed() >= age)
    }

    /// How well the gateways are heard now.
    pub(super) fn hearing(&mut self, listed: &Listed) -> Hearing {
        self.measured = Some(Instant::now());
        let never = listed.iter().filter(|name| !self.known.contains_key(*name)).count();
        let ages = || self.known.values().map(|gateway| gateway.heard.elapsed());
        let heard = ages().filter(|age| *age <= FRESH).count();
        let oldest = ages().max().unwrap_or_default();
        Hearing { heard, silent: self.known.len() - heard + never, oldest }
    }
}

impl Gateway {
    fn new() -> Self {
        let now = Instant::now();
        let round = Round { number: 0, began: now, complete: None };
        Self { call: None, joined: now, heard: now, round, reports: BTreeMap::new(), loads: 0 }
    }

    /// A call begins, perhaps of another process than before: what was carried out by that one is not by this one.
    fn begin(&mut self, call: Open) {
        if let Some(before) = self.call.replace(call) {
            before.replaced.cancel();
        }
        self.round = Round { number: self.round.number + 1, began: Instant::now(), complete: None };
        self.reports.values_mut().for_each(|heard| heard.standing = wire::Standing::default());
    }

    fn is_in(&self, call: u64) -> bool {
        self.call.as_ref().is_some_and(|open| open.id == call)
    }

    fn arrives(&self) -> bool {
        self.call.is_some() && self.joined.elapsed() < ARRIVING
    }

    fn take(&mut self, model: &Arc<str>, message: signals::ModelReport, heard: Heard) {
        self.drop_report(model);
        let report = wire::report(message, LOADS_MAX.saturating_sub(self.loads));
        self.loads += report.replicas.len();
        self.reports.insert(Arc::clone(model), Heard { report, ..heard });
    }

    fn drop_report(&mut self, model: &str) {
        if let Some(heard) = self.reports.remove(model) {
            self.loads -= heard.report.replicas.len();
        }
    }

    /// Models that were left out of a complete report are not served.
    fn complete(&mut self, ended: Instant) {
        let Round { number, began, .. } = self.round;
        self.reports.retain(|_, heard| heard.round == number);
        self.loads = self.reports.values().map(|heard| heard.report.replicas.len()).sum();
        self.round = Round { number: number + 1, began: ended, complete: Some(Complete { began, ended }) };
    }

    /// What this gateway says of a model that is decided for `since` then.
    fn word(&self, model: &str, since: Instant) -> Word<'_> {
        match (self.reports.get(model), self.round.complete) {
            (Some(heard), _) => Word::Report(heard),
            (None, Some(complete)) if complete.began >= since => Word::NotServed(complete.ended),
            (None, _) => Word::Nothing,
        }
    }
}

impl Heard {
    pub(super) fn arrivals(&self) -> u64 {
        self.report.counters.arrivals
    }

    /// Whether a request waits.
    fn waits(&self) -> bool {
        self.standing.wake || self.report.gauges.queued_requests > 0
    }

    /// Whether a request waits or runs.
    pub(super) fn is_busy(&self) -> bool {
        self.waits() || self.report.gauges.in_flight_requests > 0
    }
}

impl Word<'_> {
    fn report(&self, now: Duration) -> Option<Report> {
        let at = |received: &Instant| now.saturating_sub(received.elapsed());
        match self {
            Word::Report(heard) => Some(Report { at: at(&heard.received), ..heard.report.clone() }),
            // It counts nothing because nothing comes to it: that is known.
            Word::NotServed(ended) => Some(Report { at: at(ended), ..Report::default() }),
            Word::Nothing => None,
        }
    }
}
