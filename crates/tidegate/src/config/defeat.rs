//! Configurations that are valid and defeat themselves: judged by what was learned of a model where that is known,
//! and else by what is assumed, which the finding then says.

use std::time::Duration;

use autoscaler::{
    capacity::{Basis, Capacity, Unit},
    policy::Policy,
    snapshot::LatencyModel,
    state::{Learned, Needed, RecordedPeak},
};
use pipeline::Batching;

use super::{
    Bounds, Known, Loaded, Model, Report, Scaling, Schedule, Slo,
    section::{self, Findings},
    yaml::{Node, Span, Value},
};
use crate::serve::policy::policy;

/// Part of the SLO that a call is taken to need where nothing is known of it: as `tidegate plan` takes it.
const SHARE: f64 = 0.2;
const DAY: u16 = 24 * 60;

impl Loaded {
    /// What is doubtful about the file, with what defeats itself by what is `known`.
    #[must_use]
    pub(crate) fn doubts(&self, known: &Known) -> Report {
        let mut found = Findings::default();
        let tree = section::tree(&self.source.text).ok();
        for (index, model) in self.config.models.iter().enumerate() {
            let (Some(policy), Some(scaling)) = (policy(model), model.fleet.scaling()) else { continue };
            let learned = known.learned.get(&*model.name).cloned().unwrap_or_default();
            let peak = known.peaks.get(&*model.name).copied();
            let path = format!("models[{index}]");
            let judged =
                Judged { model, policy: &policy, scaling, learned: &learned, path, tree: tree.as_ref() };
            judged.judge(&mut found, peak);
        }
        // What the reader says of windows goes by an assumed start, where it is not measured.
        let measured = |path: &str| {
            let window = |index: usize| format!("models[{index}].scaling.schedules[");
            let models = self.config.models.iter().enumerate();
            let known = models.filter(|(_, model)| known.start_of(&model.name).is_some());
            known.map(|(index, _)| window(index)).any(|window| path.starts_with(&window))
        };
        let by_start = |path: &str| path.ends_with("].to") || path.ends_with("].prewarm");
        let kept =
            self.warnings.findings.iter().filter(|found| !(by_start(&found.path) && measured(&found.path)));
        let findings = kept.cloned().chain(found.into_inner()).collect();
        Report::new(self.source.clone(), findings)
    }
}

/// A model, and what is known of it.
struct Judged<'c> {
    model: &'c Model,
    policy: &'c Policy,
    scaling: &'c Scaling,
    learned: &'c Learned,
    path: String,
    tree: Option<&'c Node>,
}

/// How long a start takes, and how that is known.
struct Start {
    takes: Duration,
    words: String,
}

impl Judged<'_> {
    fn judge(&self, found: &mut Findings, peak: Option<f64>) {
        self.peak(found, peak);
        self.call(found);
        self.start_from_zero(found);
        self.cold_start_timeout(found);
        for (index, schedule) in self.scaling.schedules.iter().enumerate() {
            self.schedule(found, index, schedule);
        }
    }

    /// Fewer replicas than the SLO needs at the peak: the highest of the last week, or one that is given.
    fn peak(&self, found: &mut Findings, expected: Option<f64>) {
        let (peak, word) = match (expected, self.learned.peak) {
            (Some(rate), recorded) => {
                let unit = recorded.map_or(Unit::Requests, |peak| peak.unit);
                (RecordedPeak { amount: rate, unit, in_flight: false }, "given")
            }
            (None, Some(recorded)) => (recorded, "recorded"),
            (None, None) => return,
        };
        let path = self.at("scaling.max");
        let span = self.place("scaling.max");
        let Some((needed, assumed)) = self.needed(&peak) else {
            let message = format!(
                "nothing is known of how long the streams of {} take, so its peak cannot be judged",
                self.model.name
            );
            found.warning(&path, span, message, "add --state with what a running autoscaler has learned");
            return;
        };
        let most = self.scaling.max;
        if needed.replicas <= most {
            return;
        }
        let amount = in_words(peak.amount, &peak);
        let message = format!(
            "{most} is less than the {} that {} needs at the {word} peak of {amount}: {}, so that {most} bear \
             {}{assumed}",
            needed.replicas,
            slo(self.model.slo),
            one_replica(&needed.capacity),
            in_words(needed.borne, &peak),
        );
        found.warning(&path, span, message, format!("write at least {}, or relax the SLO", needed.replicas));
    }

    /// What the peak needs, and what was assumed for it, in words.
    fn needed(&self, peak: &RecordedPeak) -> Option<(Needed, String)> {
        if let Some(needed) = self.learned.needed(self.policy, peak) {
            return Some((needed, String::new()));
        }
        let Slo::Latency(slo) = self.model.slo else { return None };
        let (call, calls) = (slo.latency.mul_f64(SHARE), self.policy.assumed.concurrency);
        let latency = LatencyModel {
            fixed: call,
            tail_permille: 1000,
            samples: 0,
            max_batch_rows: 1,
            concurrency: calls,
            per_row: Duration::ZERO,
        };
        let assumed = Learned { latency: Some(latency), ..self.learned.clone() };
        let words = format!(
            "; assumed, as nothing was measured: a call takes {}, a fifth of the SLO, and {calls} run at a time",
            shown(call)
        );
        Some((assumed.needed(self.policy, peak)?, words))
    }

    /// A call that takes longer than its SLO, by itself or with its hold.
    fn call(&self, found: &mut Findings) {
        let (Slo::Latency(whole), Some(latency)) = (self.model.slo, self.learned.latency) else { return };
        // Of what is asked of most calls the slow ones tell, of what is asked of half of them the mean.
        let (tail, which) = match whole.quantile {
            quantile if quantile < 0.95 => (1.0, "mean"),
            _ => (f64::from(latency.tail_permille.max(1000)) / 1000.0, "p95"),
        };
        let takes = (latency.fixed + latency.per_row).mul_f64(tail);
        let measured =
            format!("a call of one row takes {} ({which} of {} measured)", shown(takes), latency.samples);
        if takes >= whole.latency {
            let message = format!("{measured}: no number of replicas keeps {}", slo(self.model.slo));
            let hint = format!("write at least {}", shown(takes * 2));
            found.warning(&self.at("slo"), self.place("slo"), message, hint);
            return;
        }
        let Batching::Merge { max_hold, .. } = self.model.batching else { return };
        if takes + max_hold >= whole.latency {
            let left = whole.latency - takes;
            let message = format!(
                "{measured}: with a hold of {} that is {}, and {} allows {}",
                shown(max_hold),
                shown(takes + max_hold),
                slo(self.model.slo),
                shown(whole.latency)
            );
            let hint = format!("try at most {}, or batching: auto", shown(left / 4));
            found.warning(&self.at("batching.maxHold"), self.place("batching.maxHold"), message, hint);
        }
    }

    /// Calls that end before the replica that they start can be ready.
    fn start_from_zero(&self, found: &mut Findings) {
        let Some(zero) = self.goes_to_zero() else { return };
        let (start, deadline) = (self.start(), self.model.deadline.default);
        if deadline >= start.takes {
            return;
        }
        let given = self.has("deadline.default");
        let from = if given { "" } else { " (the default)" };
        let message = format!(
            "a call that brings no deadline has {}{from}, and {}; {zero}, and whoever calls at zero is refused or \
             times out",
            shown(deadline),
            start.words
        );
        let hint =
            format!("write deadline.default: {} or more, or keep one replica", shown(start.takes * 5 / 4));
        let key = if given { "deadline.default" } else { "scaling" };
        found.warning(&self.at("deadline.default"), self.place(key), message, hint);
    }

    /// Why the model may be at zero and yet be called, if it may.
    fn goes_to_zero(&self) -> Option<String> {
        if self.scaling.min == 0 {
            return Some("min is 0".to_owned());
        }
        let off = |schedule: &&Schedule| {
            let none = matches!(schedule.bounds, Bounds::Exactly(0) | Bounds::Between { cap: Some(0), .. });
            none && schedule.on_request == super::OnRequest::Wake
        };
        let schedule = self.scaling.schedules.iter().find(off)?;
        Some(format!("schedule {} allows none", super::report::quoted(&schedule.name)))
    }

    /// A wait that is given up before a start is over.
    fn cold_start_timeout(&self, found: &mut Findings) {
        let timeout = self.model.cold_start_timeout;
        let Some((takes, _)) = self.learned.cold_start.filter(|(takes, _)| timeout < *takes) else { return };
        if self.goes_to_zero().is_none() {
            return;
        }
        let message = format!("calls wait {} for a replica, and {}", shown(timeout), self.start().words);
        let hint = format!("write {} or more", shown(takes * 5 / 4));
        found.warning(
            &self.at("scaling.coldStartTimeout"),
            self.place("scaling.coldStartTimeout"),
            message,
            hint,
        );
    }

    /// Windows that are over, or begin, before what they ask for is there. Where nothing was measured the reader has
    /// judged by what is assumed.
    fn schedule(&self, found: &mut Findings, index: usize, schedule: &Schedule) {
        let Some((takes, _)) = self.learned.cold_start else { return };
        let asks = match schedule.bounds {
            Bounds::Exactly(replicas) => replicas > 0,
            Bounds::Between { floor, .. } => floor.is_some_and(|floor| floor > 0),
        };
        let (path, words) = (format!("scaling.schedules[{index}]"), self.start().words);
        let minutes = (schedule.to + DAY - schedule.from) % DAY;
        let length = Duration::from_secs(60 * u64::from(minutes));
        if asks && !length.is_zero() && length < takes {
            let message = format!("the window lasts {}, and {words}", shown(length));
            let key = format!("{path}.to");
            found.warning(
                &self.at(&key),
                self.place(&key),
                message,
                "let it last longer: one late replica is none",
            );
        }
        if let Some(ahead) = schedule.prewarm.filter(|ahead| asks && *ahead < takes) {
            let key = format!("{path}.prewarm");
            let message = format!(
                "replicas are asked for {} ahead, and {words}: the window would begin without them",
                shown(ahead)
            );
            found.warning(&self.at(&key), self.place(&key), message, "write auto: starts are measured");
        }
    }

    /// As measured, else as the file says how long a call may wait for one, else as assumed.
    fn start(&self) -> Start {
        if let Some((takes, starts)) = self.learned.cold_start {
            let words = format!("a start takes {} (p90 of {starts} measured)", shown(takes));
            return Start { takes, words };
        }
        if self.has("scaling.coldStartTimeout") {
            let takes = self.model.cold_start_timeout;
            return Start { takes, words: format!("a start may take {} (coldStartTimeout)", shown(takes)) };
        }
        let takes = self.policy.assumed.cold_start;
        Start { takes, words: format!("a start is assumed to take {}", shown(takes)) }
    }

    fn at(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    fn has(&self, key: &str) -> bool {
        self.tree.is_some_and(|tree| find(tree, &self.at(key)).1)
    }

    /// Where the key stands, or else the nearest section around it.
    fn place(&self, key: &str) -> Option<Span> {
        self.tree.map(|tree| find(tree, &self.at(key)).0)
    }
}

/// The place of the value at `path`, like `models[0].scaling.max`, or of what is nearest around it; and whether it is
/// there itself.
fn find(tree: &Node, path: &str) -> (Span, bool) {
    let (mut node, mut span) = (tree, tree.span);
    for step in path.split(['.', '[']) {
        let next = match (&node.value, step.strip_suffix(']')) {
            (Value::List(items), Some(index)) => {
                index.parse::<usize>().ok().and_then(|index| items.get(index)).map(|item| (item, item.span))
            }
            (Value::Map(entries), None) => {
                let entry = entries.iter().find(|entry| entry.key == step);
                entry.map(|entry| match entry.value.value {
                    Value::Scalar(_) => (&entry.value, entry.value.span),
                    Value::List(_) | Value::Map(_) => (&entry.value, entry.key_span),
                })
            }
            _ => None,
        };
        let Some((inner, at)) = next else { return (span, false) };
        (node, span) = (inner, at);
    }
    (span, true)
}

fn slo(slo: Slo) -> String {
    let percentile = |quantile: f64| format!("p{}", (quantile * 1000.0).round() / 10.0);
    match slo {
        Slo::Latency(whole) => format!("slo.{} {}", percentile(whole.quantile), shown(whole.latency)),
        Slo::Chat { ttft, tpot } => format!(
            "slo.ttft.{} {} with slo.tpot.{} {}",
            percentile(ttft.quantile),
            shown(ttft.latency),
            percentile(tpot.quantile),
            shown(tpot.latency)
        ),
    }
}

fn one_replica(capacity: &Capacity) -> String {
    let unit = unit(capacity.unit);
    match &capacity.basis {
        Basis::Learned(learned) if learned.patience.is_zero() => {
            format!(
                "1 replica ≈ {} {unit}/s, and a single call takes longer than the SLO",
                three(learned.rate)
            )
        }
        Basis::Learned(learned) if capacity.unit == Unit::Streams => format!(
            "1 replica ≈ {} streams at a time, {} requests/s when always full",
            three(capacity.slots),
            three(learned.rate)
        ),
        Basis::Learned(learned) => format!("1 replica ≈ {} {unit}/s when always full", three(learned.rate)),
        Basis::Assumed => format!("1 replica ≈ {} {unit} at a time", three(capacity.slots)),
    }
}

fn in_words(amount: f64, peak: &RecordedPeak) -> String {
    let unit = if peak.unit == Unit::Streams && !peak.in_flight { "requests" } else { unit(peak.unit) };
    let per = if peak.in_flight { " in flight" } else { "/s" };
    format!("{} {unit}{per}", three(amount))
}

fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Requests => "requests",
        Unit::Rows => "rows",
        Unit::Streams => "streams",
    }
}

/// To three digits or so.
fn three(number: f64) -> String {
    match number {
        n if n >= 100.0 => format!("{n:.0}"),
        n => format!("{}", (n * 10.0).round() / 10.0),
    }
}

/// In whole seconds from ten on, and in whole milliseconds below.
fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds >= 10.0 {
        format!("{}s", seconds.ceil())
    } else if seconds >= 1.0 {
        format!("{}s", (seconds * 10.0).ceil() / 10.0)
    } else {
        format!("{}ms", (seconds * 1e4).ceil() / 10.0)
    }
}
