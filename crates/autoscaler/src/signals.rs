//! Counters per gateway → windows of what arrived, and how much of it can be believed. Unknown is not zero: a
//! gateway that is silent keeps its last gauges for a while and then keeps the fleet from shrinking.

mod window;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

pub(crate) use self::window::{Amount, Flow, Window};
use crate::snapshot::{ChatModel, Counters, GatewayView, Gauges, LatencyModel, Report, SAMPLES_NEEDED};

/// A report is fresh up to this age.
const FRESH: Duration = Duration::from_secs(3);
/// Gauges are held up to this age; a gateway that is gone from discovery is then forgotten.
const HELD: Duration = Duration::from_secs(15);
/// After this long a majority of fresh gateways may overrule a silent one.
const OVERRULED: Duration = Duration::from_secs(600);

/// What is remembered of the gateways.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Signals {
    gateways: BTreeMap<Arc<str>, Track>,
    pub(crate) window: Window,
    /// The last latency model with enough samples: a restarted gateway does not make us forget.
    learned: Option<LatencyModel>,
    /// The same of streams, of all gateways together.
    #[serde(default)]
    chat: Option<ChatModel>,
    /// Whether a request arrived since the observation before this one.
    pub(crate) arrived: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Track {
    first_seen: Duration,
    listed: bool,
    report: Option<Report>,
}

/// How well the gateways are heard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Gateways with a report of at most three seconds ago.
    pub fresh: u32,
    /// Age of the newest report.
    pub newest: Option<Duration>,
    /// Gateways that keep the fleet from shrinking because they are not heard, with the age of their last word.
    pub stale: Vec<(Arc<str>, Duration)>,
}

impl Signals {
    pub(crate) fn observe(&mut self, views: &[GatewayView], now: Duration, keep: Duration) {
        self.window.advance(now, keep);
        self.arrived = false;
        for track in self.gateways.values_mut() {
            track.listed = false;
        }
        for view in views {
            self.take(view, now);
        }
        self.gateways.retain(|_, track| track.listed || track.age(now) <= HELD);
        self.learn();
        let gauges = self.gauges(now);
        self.window.set_in_flight(Amount {
            requests: gauges.in_flight_requests as f64,
            rows: gauges.in_flight_rows as f64,
        });
    }

    /// Makes the next word of every gateway its first one.
    pub(crate) fn forget_gateways(&mut self) {
        self.gateways.clear();
    }

    /// Sums over the gateways whose word is not too old.
    pub(crate) fn gauges(&self, now: Duration) -> Gauges {
        let heard = self.gateways.values().filter(|track| track.age(now) <= HELD);
        let mut sum = Gauges::default();
        for gauges in heard.filter_map(|track| track.report.as_ref()).map(|report| report.gauges) {
            sum.queued_requests += gauges.queued_requests;
            sum.queued_rows += gauges.queued_rows;
            sum.in_flight_requests += gauges.in_flight_requests;
            sum.in_flight_rows += gauges.in_flight_rows;
            sum.oldest = sum.oldest.max(gauges.oldest);
        }
        sum
    }

    pub(crate) fn health(&self, now: Duration) -> Health {
        let ages = || self.gateways.iter().map(|(name, track)| (name, track.age(now)));
        let fresh = ages().filter(|(_, age)| *age <= FRESH).count();
        let majority = fresh * 2 > self.gateways.len();
        let stale = ages().filter(|(_, age)| *age > FRESH && !(*age > OVERRULED && majority));
        Health {
            fresh: fresh as u32,
            newest: self.gateways.values().filter(|t| t.report.is_some()).map(|t| t.age(now)).min(),
            stale: stale.map(|(name, age)| (Arc::clone(name), age)).collect(),
        }
    }

    /// The latency model, once enough calls were measured by some gateway.
    pub(crate) fn latency(&self) -> Option<LatencyModel> {
        self.learned
    }

    /// How streams go, once enough were measured by the gateways together.
    pub(crate) fn chat(&self) -> Option<ChatModel> {
        self.chat
    }

    /// Calls or streams that one replica may have at a time, if that is known.
    pub(crate) fn concurrency(&self) -> Option<u32> {
        let models = self.reports().map(|report| report.latency).chain(self.learned);
        models.map(|model| model.concurrency).max().filter(|calls| *calls > 0)
    }

    /// What another process has learned.
    pub(crate) fn restored(learned: Option<LatencyModel>, chat: Option<ChatModel>) -> Self {
        let learned = learned.filter(|model| model.samples >= SAMPLES_NEEDED);
        let chat = chat.filter(|model| model.samples >= SAMPLES_NEEDED);
        Self { learned, chat, ..Self::default() }
    }

    /// Whether calls are merged, and how many a replica may have, as far as any gateway knows.
    pub(crate) fn merges(&self) -> bool {
        self.best().or(self.learned).is_some_and(|model| model.max_batch_rows > 1)
    }

    fn take(&mut self, view: &GatewayView, now: Duration) {
        let track = self.gateways.entry(Arc::clone(&view.name)).or_insert_with(|| Track {
            first_seen: now,
            listed: true,
            report: None,
        });
        track.listed = view.listed;
        let Some(report) = &view.report else { return };
        if track.report.as_ref().is_some_and(|before| before.at > report.at) {
            return;
        }
        // The first word of a gateway tells where its counters stand, not what came since.
        if let Some(before) = &track.report {
            let flow = flow(&before.counters, &report.counters);
            self.arrived |= flow.arrivals.requests > 0.0;
            self.window.spread(before.at, report.at.min(now), &flow);
        }
        track.report = Some(report.clone());
    }

    fn learn(&mut self) {
        let streams: Vec<ChatModel> = self.reports().filter_map(|report| report.chat).collect();
        let merged = ChatModel::merged(&streams).filter(|model| model.samples >= SAMPLES_NEEDED);
        self.chat = merged.or(self.chat);
        let Some(best) = self.best() else { return };
        if best.samples >= SAMPLES_NEEDED {
            self.learned = Some(best);
        } else if let Some(learned) = &mut self.learned
            && best.max_batch_rows > 0
        {
            learned.max_batch_rows = best.max_batch_rows;
            learned.concurrency = best.concurrency;
        }
    }

    fn best(&self) -> Option<LatencyModel> {
        self.reports().map(|report| report.latency).max_by_key(|model| model.samples)
    }

    fn reports(&self) -> impl Iterator<Item = &Report> {
        self.gateways.values().filter_map(|track| track.report.as_ref())
    }
}

impl Track {
    fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.report.as_ref().map_or(self.first_seen, |report| report.at))
    }
}

/// What came between two reports.
fn flow(before: &Counters, after: &Counters) -> Flow {
    let came = after.since(before);
    Flow {
        arrivals: Amount { requests: came.arrivals as f64, rows: came.arrival_rows as f64 },
        work: came.arrival_work.as_secs_f64(),
        misses: came.slo_misses as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::Unit;

    const KEEP: Duration = Duration::from_secs(600);

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn view(name: &str, at: u64, arrivals: u64) -> GatewayView {
        let counters = Counters { arrivals, arrival_rows: arrivals, ..Counters::default() };
        let gauges = Gauges { queued_requests: 2, ..Gauges::default() };
        let report = Some(Report { at: secs(at), counters, gauges, ..Report::default() });
        GatewayView { name: name.into(), listed: true, report }
    }

    #[test]
    fn rates_come_from_the_deltas_of_each_gateway() {
        let mut signals = Signals::default();
        for t in 0..=20 {
            signals.observe(&[view("a", t, 1000 + 3 * t), view("b", t, 5 * t)], secs(t), KEEP);
        }
        assert!((signals.window.rate(Unit::Requests, secs(20)) - 8.0).abs() < 1e-9);
        assert_eq!(signals.gauges(secs(20)).queued_requests, 4);
    }

    #[test]
    fn a_counter_that_was_reset_counts_from_nothing() {
        let mut signals = Signals::default();
        for (t, n) in [(0, 500), (1, 600), (2, 7), (3, 17)] {
            signals.observe(&[view("a", t, n)], secs(t), KEEP);
        }
        assert_eq!(signals.window.total(secs(3), 3).arrivals.requests, 117.0);
    }

    #[test]
    fn a_silent_gateway_is_held_then_forgotten_if_gone_and_a_veto_if_listed() {
        let mut signals = Signals::default();
        signals.observe(&[view("a", 0, 0)], secs(0), KEEP);
        assert!(signals.health(secs(3)).stale.is_empty());
        assert_eq!(signals.health(secs(4)).stale, [("a".into(), secs(4))]);
        assert_eq!(signals.gauges(secs(15)).queued_requests, 2, "held");
        assert_eq!(signals.gauges(secs(16)).queued_requests, 0);
        signals.observe(&[view("a", 0, 0)], secs(20), KEEP);
        assert_eq!(signals.health(secs(20)).stale.len(), 1, "still listed");
        signals.observe(&[], secs(21), KEEP);
        assert_eq!(signals.health(secs(21)), Health::default(), "gone");
    }

    #[test]
    fn after_ten_minutes_only_a_majority_of_fresh_gateways_overrules_a_silent_one() {
        let mut signals = Signals::default();
        let now = secs(700);
        signals.observe(&[view("dead", 0, 0), view("a", 700, 0)], now, KEEP);
        assert_eq!(signals.health(now).stale.len(), 1, "one of two is no majority");
        signals.observe(&[view("dead", 0, 0), view("a", 700, 0), view("b", 700, 0)], now, KEEP);
        assert!(signals.health(now).stale.is_empty());
        assert_eq!(signals.health(now).fresh, 2);
    }

    #[test]
    fn a_listed_gateway_that_never_spoke_goes_stale() {
        let mut signals = Signals::default();
        let mute = GatewayView { name: "mute".into(), listed: true, report: None };
        for t in 0..10 {
            signals.observe(std::slice::from_ref(&mute), secs(t), KEEP);
        }
        let health = signals.health(secs(9));
        assert_eq!((health.fresh, health.newest, health.stale.len()), (0, None, 1));
    }

    #[test]
    fn a_restarted_gateway_does_not_unlearn_the_latency() {
        let mut signals = Signals::default();
        let report = |at, samples| {
            let mut view = view("a", at, 0);
            let latency = LatencyModel { samples, max_batch_rows: 8, fixed: secs(1), ..Default::default() };
            view.report.as_mut().expect("made with one").latency = latency;
            view
        };
        signals.observe(&[report(0, 199)], secs(0), KEEP);
        assert_eq!(signals.latency(), None);
        signals.observe(&[report(1, 200)], secs(1), KEEP);
        signals.observe(&[report(2, 3)], secs(2), KEEP);
        assert_eq!(signals.latency().map(|l| l.samples), Some(200));
    }
}
