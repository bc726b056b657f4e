//! Wire messages ⇄ the autoscaler's words. Every function is total: a number that no gateway can mean becomes the
//! largest that one can, so that nothing behind here can overflow.

use std::{sync::Arc, time::Duration};

use autoscaler::{
    fleet::ReplicaId,
    reconcile::Outlook,
    snapshot::{ChatModel, Counters, Gauges, LatencyModel, ReplicaLoad, Report},
};
use proto::signals::{self, outlook::State};
use tokio::time::Instant;

/// Models that one gateway or one leader can speak of.
pub(crate) const MODELS_MAX: usize = 10_000;
/// Replicas of one model that a gateway can have calls on.
pub(crate) const LOADS_MAX: usize = 2048;
/// Replicas that can be withdrawn at a time.
const WITHDRAWN_MAX: usize = 10_000;
/// A name in Kubernetes is not longer.
pub(crate) const NAME_MAX: usize = 253;
/// Bytes of a sentence.
const WORDS_MAX: usize = 1000;

/// What a gauge can show: sums over many gateways stay far from overflow.
const GAUGE_MAX: u64 = 1 << 40;
/// The slowest call, the oldest request and the latest start that mean something.
const SPAN_MAX: Duration = Duration::from_secs(24 * 3600);
/// Rows of a call, and calls at a time.
const WIDTH_MAX: u32 = 1 << 16;
const TAIL_PERMILLE_MAX: u32 = 1_000_000;
/// Thousandths of a token of one answer: a million tokens.
const TOKENS_MILLI_MAX: u64 = 1_000_000_000;

/// What a gateway says of a model besides what it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// A request waits and no replica is there.
    pub(crate) wake: bool,
    /// The newest withdrawal that is carried out; 0: none.
    pub(crate) withdrawal: u64,
}

pub(crate) fn model_report(model: &str, report: &Report, standing: Standing) -> signals::ModelReport {
    let Report { counters, gauges, latency, chat, replicas, at: _ } = report;
    let busy = replicas.iter().filter(|load| load.in_flight > 0).take(LOADS_MAX);
    signals::ModelReport {
        model: model.to_owned(),
        counters: Some(signals::Counters {
            arrivals: counters.arrivals,
            arrival_rows: counters.arrival_rows,
            arrival_work_nanos: nanos(counters.arrival_work),
            completions: counters.completions,
            slo_misses: counters.slo_misses,
            shed: counters.shed,
            held_cold: counters.held_cold,
        }),
        gauges: Some(signals::Gauges {
            queued_requests: gauges.queued_requests,
            queued_rows: gauges.queued_rows,
            oldest_nanos: gauges.oldest.map(nanos),
            in_flight_requests: gauges.in_flight_requests,
            in_flight_rows: gauges.in_flight_rows,
        }),
        latency: Some(signals::LatencyModel {
            fixed_nanos: nanos(latency.fixed),
            per_row_nanos: nanos(latency.per_row),
            tail_permille: latency.tail_permille,
            samples: latency.samples,
            max_batch_rows: latency.max_batch_rows,
            concurrency: latency.concurrency,
        }),
        replicas: busy
            .map(|load| signals::ReplicaLoad { replica: load.id.to_string(), in_flight: load.in_flight })
            .collect(),
        wake: standing.wake,
        withdrawal: standing.withdrawal,
        chat: chat.map(|chat| signals::ChatModel {
            ttft_nanos: nanos(chat.ttft),
            tpot_fixed_nanos: nanos(chat.tpot_fixed),
            tpot_per_stream_nanos: nanos(chat.tpot_per_stream),
            tpot_tail_permille: chat.tpot_tail_permille,
            output_tokens_milli: chat.output_tokens_milli,
            samples: chat.samples,
        }),
    }
}

/// The report without its time: whoever received it knows that. At most `loads_max` replicas are kept.
pub(crate) fn report(message: signals::ModelReport, loads_max: usize) -> Report {
    let loads = message.replicas.into_iter().filter(|load| is_name(&load.replica));
    Report {
        at: Duration::ZERO,
        counters: counters(message.counters.unwrap_or_default()),
        gauges: gauges(message.gauges.unwrap_or_default()),
        latency: latency(message.latency.unwrap_or_default()),
        chat: message.chat.map(chat),
        replicas: loads
            .take(loads_max.min(LOADS_MAX))
            .map(|load| ReplicaLoad { id: load.replica.into(), in_flight: load.in_flight })
            .collect(),
    }
}

fn counters(message: signals::Counters) -> Counters {
    Counters {
        arrivals: message.arrivals,
        arrival_rows: message.arrival_rows,
        arrival_work: Duration::from_nanos(message.arrival_work_nanos),
        completions: message.completions,
        slo_misses: message.slo_misses,
        shed: message.shed,
        held_cold: message.held_cold,
    }
}

fn gauges(message: signals::Gauges) -> Gauges {
    Gauges {
        queued_requests: message.queued_requests.min(GAUGE_MAX),
        queued_rows: message.queued_rows.min(GAUGE_MAX),
        oldest: message.oldest_nanos.map(span),
        in_flight_requests: message.in_flight_requests.min(GAUGE_MAX),
        in_flight_rows: message.in_flight_rows.min(GAUGE_MAX),
    }
}

fn latency(message: signals::LatencyModel) -> LatencyModel {
    LatencyModel {
        fixed: span(message.fixed_nanos),
        per_row: span(message.per_row_nanos),
        tail_permille: message.tail_permille.min(TAIL_PERMILLE_MAX),
        samples: message.samples,
        max_batch_rows: message.max_batch_rows.min(WIDTH_MAX),
        concurrency: message.concurrency.min(WIDTH_MAX),
    }
}

fn chat(message: signals::ChatModel) -> ChatModel {
    ChatModel {
        ttft: span(message.ttft_nanos),
        tpot_fixed: span(message.tpot_fixed_nanos),
        tpot_per_stream: span(message.tpot_per_stream_nanos),
        tpot_tail_permille: message.tpot_tail_permille.min(TAIL_PERMILLE_MAX),
        output_tokens_milli: message.output_tokens_milli.min(TOKENS_MILLI_MAX),
        samples: message.samples,
    }
}

/// Instants do not travel: what is sent is how long it is until then.
pub(crate) fn outlook_message(outlook: &Outlook, now: Instant) -> signals::Outlook {
    let until = |at: &Instant| nanos(at.saturating_duration_since(now));
    let state = match outlook {
        Outlook::Asleep => State::Asleep(signals::Nothing {}),
        Outlook::Starting { eta } => {
            State::Starting(signals::Starting { eta_nanos: eta.as_ref().map(until) })
        }
        Outlook::Ready => State::Ready(signals::Nothing {}),
        Outlook::Failed { trouble } => {
            State::Failed(signals::Failed { trouble: trouble.as_deref().map(words).unwrap_or_default() })
        }
        Outlook::Off { until: end } => State::Off(signals::Off { until_nanos: end.as_ref().map(until) }),
    };
    signals::Outlook { state: Some(state) }
}

/// What a leader of another version means by a state we do not know is as good as nothing: asleep.
pub(crate) fn outlook(message: Option<signals::Outlook>, now: Instant) -> Outlook {
    match message.and_then(|outlook| outlook.state) {
        None | Some(State::Asleep(_)) => Outlook::Asleep,
        Some(State::Starting(starting)) => {
            Outlook::Starting { eta: starting.eta_nanos.map(|eta| now + span(eta)) }
        }
        Some(State::Ready(_)) => Outlook::Ready,
        Some(State::Failed(failed)) => {
            let trouble = (!failed.trouble.is_empty()).then(|| words(&failed.trouble).into());
            Outlook::Failed { trouble }
        }
        Some(State::Off(off)) => Outlook::Off { until: off.until_nanos.map(|until| now + far_span(until)) },
    }
}

pub(crate) fn withdrawal_message<'a>(
    number: u64,
    replicas: impl Iterator<Item = &'a ReplicaId>,
) -> Option<signals::Withdrawal> {
    let replicas: Vec<_> = replicas.take(WITHDRAWN_MAX).map(ToString::to_string).collect();
    (!replicas.is_empty()).then_some(signals::Withdrawal { number, replicas })
}

/// Number and replicas; 0 and none where nothing is withdrawn.
pub(crate) fn withdrawal(message: Option<signals::Withdrawal>) -> (u64, Arc<[ReplicaId]>) {
    let Some(signals::Withdrawal { number, replicas }) = message else { return (0, Arc::default()) };
    let named = replicas.into_iter().filter(|replica| is_name(replica));
    (number, named.take(WITHDRAWN_MAX).map(ReplicaId::from).collect())
}

/// A sentence, cut where it is longer than one.
pub(crate) fn words(text: &str) -> String {
    let end = (0..=WORDS_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_MAX
}

/// Whether Kubernetes could have given this name to a pod.
pub(crate) fn is_pod_name(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends =
        |part: &str| part.bytes().next().is_some_and(inner) && part.bytes().next_back().is_some_and(inner);
    is_name(name) && name.split('.').all(|part| ends(part) && part.bytes().all(|c| inner(c) || c == b'-'))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn span(nanos: u64) -> Duration {
    Duration::from_nanos(nanos).min(SPAN_MAX)
}

/// A schedule may allow nothing for weeks.
fn far_span(nanos: u64) -> Duration {
    Duration::from_nanos(nanos).min(SPAN_MAX * 366)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use signals::{GatewayMessage, LeaderMessage};

    use super::*;

    fn a_report() -> impl Strategy<Value = Report> {
        let spans = || (0..SPAN_MAX.as_nanos() as u64).prop_map(Duration::from_nanos);
        let counters = (any::<[u64; 6]>(), any::<u64>()).prop_map(|(n, work)| Counters {
            arrivals: n[0],
            arrival_rows: n[1],
            arrival_work: Duration::from_nanos(work),
            completions: n[2],
            slo_misses: n[3],
            shed: n[4],
            held_cold: n[5],
        });
        let gauges =
            (prop::array::uniform4(0..GAUGE_MAX), prop::option::of(spans())).prop_map(|(n, oldest)| Gauges {
                queued_requests: n[0],
                queued_rows: n[1],
                oldest,
                in_flight_requests: n[2],
                in_flight_rows: n[3],
            });
        let latency = (spans(), spans(), 0..TAIL_PERMILLE_MAX, any::<u64>(), 0..WIDTH_MAX, 0..WIDTH_MAX)
            .prop_map(|(fixed, per_row, tail_permille, samples, max_batch_rows, concurrency)| LatencyModel {
                fixed,
                per_row,
                tail_permille,
                samples,
                max_batch_rows,
                concurrency,
            });
        let chat = ((spans(), spans(), spans()), 0..TAIL_PERMILLE_MAX, 0..TOKENS_MILLI_MAX, any::<u64>())
            .prop_map(
                |((ttft, tpot_fixed, tpot_per_stream), tpot_tail_permille, output_tokens_milli, samples)| {
                    ChatModel {
                        ttft,
                        tpot_fixed,
                        tpot_per_stream,
                        tpot_tail_permille,
                        output_tokens_milli,
                        samples,
                    }
                },
            );
        let load =
            ("[a-z]{1,9}", 1..u32::MAX).prop_map(|(id, in_flight)| ReplicaLoad { id: id.into(), in_flight });
        (counters, gauges, latency, prop::option::of(chat), prop::collection::vec(load, 0..5)).prop_map(
            |(counters, gauges, latency, chat, replicas)| Report {
                at: Duration::ZERO,
                counters,
                gauges,
                latency,
                chat,
                replicas,
            },
        )
    }

    proptest! {
        #[test]
        fn a_report_arrives_as_it_was_sent(sent in a_report()) {
            let message = model_report("digits", &sent, Standing::default());
            let bytes = message.encode_to_vec();
            let read = signals::ModelReport::decode(&*bytes).expect("was just encoded");
            prop_assert_eq!(report(read, LOADS_MAX), sent);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(message) = GatewayMessage::decode(&*bytes)
                && let Some(signals::gateway_message::Message::Reports(reports)) = message.message
            {
                for model in reports.models {
                    report(model, LOADS_MAX);
                }
            }
            if let Ok(message) = LeaderMessage::decode(&*bytes)
                && let Some(signals::leader_message::Message::Directives(directives)) = message.message
            {
                for model in directives.models {
                    outlook(model.outlook, Instant::now());
                    withdrawal(model.withdrawal);
                }
            }
        }

        #[test]
        fn a_span_of_any_length_is_an_instant(nanos in any::<u64>()) {
            let starting = State::Starting(signals::Starting { eta_nanos: Some(nanos) });
            let off = State::Off(signals::Off { until_nanos: Some(nanos) });
            for state in [starting, off] {
                outlook(Some(signals::Outlook { state: Some(state) }), Instant::now());
            }
        }

        #[test]
        fn a_sentence_is_cut_between_characters(text in "\\PC{0,600}") {
            let cut = words(&text);
            prop_assert!(text.starts_with(&cut) && cut.len() <= WORDS_MAX);
            prop_assert!(text.len() > WORDS_MAX || cut == text);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outlook_arrives_as_it_was_sent() {
        let now = Instant::now();
        let soon = Some(now + Duration::from_secs(7));
        let next_week = Some(now + Duration::from_secs(7 * 24 * 3600));
        for sent in [
            Outlook::Asleep,
            Outlook::Starting { eta: soon },
            Outlook::Starting { eta: None },
            Outlook::Ready,
            Outlook::Failed { trouble: Some("no place for it".into()) },
            Outlook::Failed { trouble: None },
            Outlook::Off { until: next_week },
            Outlook::Off { until: None },
        ] {
            assert_eq!(outlook(Some(outlook_message(&sent, now)), now), sent);
        }
    }

    #[test]
    fn idle_replicas_are_not_worth_a_word() {
        let load = |id: &str, in_flight| ReplicaLoad { id: id.into(), in_flight };
        let sent = Report { replicas: vec![load("idle", 0), load("busy", 2)], ..Report::default() };
        let message = model_report("digits", &sent, Standing::default());
        assert_eq!(report(message, LOADS_MAX).replicas, [load("busy", 2)]);
    }

    #[test]
    fn numbers_no_gateway_can_mean_are_cut_down() {
        let message = signals::ModelReport {
            gauges: Some(signals::Gauges {
                queued_requests: u64::MAX,
                queued_rows: u64::MAX,
                oldest_nanos: Some(u64::MAX),
                in_flight_requests: u64::MAX,
                in_flight_rows: u64::MAX,
            }),
            latency: Some(signals::LatencyModel {
                fixed_nanos: u64::MAX,
                max_batch_rows: u32::MAX,
                concurrency: u32::MAX,
                ..Default::default()
            }),
            chat: Some(signals::ChatModel {
                ttft_nanos: u64::MAX,
                output_tokens_milli: u64::MAX,
                ..Default::default()
            }),
            ..Default::default()
        };
        let report = report(message, LOADS_MAX);
        let chat = report.chat.expect("was sent");
        assert_eq!((chat.ttft, chat.output_tokens_milli), (SPAN_MAX, TOKENS_MILLI_MAX));
        assert!(report.gauges.queued_requests.checked_mul(256).is_some());
        assert_eq!(report.latency.fixed, SPAN_MAX);
        assert_eq!(report.latency.concurrency, WIDTH_MAX);
    }

    #[test]
    fn a_gateway_is_named_like_a_pod() {
        for name in ["gateway-7d9f-x2x", "a", "0", "gw.example", &"a".repeat(NAME_MAX)] {
            assert!(is_pod_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a_b", "a..b", "a b", "ä", "a\n", &"a".repeat(NAME_MAX + 1)] {
            assert!(!is_pod_name(name), "{name}");
        }
    }
}
