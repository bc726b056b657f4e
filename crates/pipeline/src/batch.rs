//! When to flush and how many rows, and how requests become one call. Pure.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::{
    latency::Latency,
    queue::Key,
    request::{Inference, RequestedOutput},
    tensor::{Parameter, Parameters, Tensor},
};

/// Predictions are stretched by this before work is refused or dropped on their strength.
pub const MARGIN: f64 = 1.2;
/// Timers tick once a millisecond: to hold a batch for less would hold it for longer than meant.
const SHORTEST_HOLD: Duration = Duration::from_millis(1);

/// What the decision to flush depends on.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    pub now: Instant,
    /// Rows and oldest arrival among the waiting, and their first deadline.
    pub queued_rows: u64,
    pub oldest: Instant,
    pub earliest_deadline: Instant,
    /// Arriving rows per second.
    pub arrival_rate: f64,
    pub replicas: u32,
    pub max_rows: u32,
    pub max_hold: Duration,
    /// Latency the model is meant to keep.
    pub slo: Duration,
    pub latency: &'a Latency,
}

/// What to do while a replica is free and requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Another row is likely before this time and none is late yet.
    Wait(Instant),
    /// Send up to so many rows now.
    Flush(u32),
}

/// Work-conserving: a lone request is sent at once. A batch is held only while another row is likely to come
/// within a quarter of a call's fixed cost, and never past the first deadline.
#[must_use]
pub fn plan(s: &Situation<'_>) -> Plan {
    let queued = u32::try_from(s.queued_rows).unwrap_or(u32::MAX);
    let target = target_rows(s);
    let until = s.oldest + hold(s);
    let latest = s.earliest_deadline.checked_sub(stretched(s.latency.p95(queued.saturating_add(1))));
    let until = latest.map_or(s.now, |latest| until.min(latest));
    if queued < target && s.now < until {
        return Plan::Wait(until);
    }
    let fair = if s.replicas > 1 { queued.div_ceil(2) } else { queued };
    let rows = target.max(fair).clamp(1, s.max_rows);
    let slack = s.earliest_deadline.saturating_duration_since(s.now);
    let fits = s.latency.rows_within(slack.div_f64(MARGIN), rows);
    Plan::Flush(fits.min(s.latency.rows_per_call(s.slo, rows)))
}

/// `rows` stretched by [`MARGIN`]: what a prediction must leave room for.
#[must_use]
pub fn stretched(duration: Duration) -> Duration {
    duration.mul_f64(MARGIN)
}

/// The batch at which `replicas` replicas just keep up, b* = λ·c / (P − λ·a), a third more to catch up.
fn target_rows(s: &Situation<'_>) -> u32 {
    let spare = f64::from(s.replicas) - s.arrival_rate * s.latency.per_row();
    if spare <= 0.0 {
        return s.max_rows;
    }
    let steady = s.arrival_rate * s.latency.fixed() / spare;
    ((1.3 * steady).ceil().min(f64::from(s.max_rows)) as u32).max(1)
}

fn hold(s: &Situation<'_>) -> Duration {
    let hold = Duration::from_secs_f64(s.latency.fixed() / 4.0).min(s.max_hold);
    let another_is_likely = s.arrival_rate * hold.as_secs_f64() >= 1.0;
    if another_is_likely && hold >= SHORTEST_HOLD { hold } else { Duration::ZERO }
}

/// What makes requests mergeable: version, inputs (name, datatype, shape but for the rows), requested outputs and
/// every parameter. Anything unknown is part of it. `None` where rows cannot be told, or inputs from each other.
#[must_use]
pub fn key(inference: &Inference) -> Key {
    inference.rows().and_then(|rows| u32::try_from(rows).ok()).filter(|rows| *rows > 0)?;
    let mut key = KeyWriter::default();
    key.text(&inference.version);
    key.parameters(&inference.parameters);
    let mut inputs: Vec<&Tensor> = inference.inputs.iter().collect();
    inputs.sort_by(|a, b| a.name.cmp(&b.name));
    if inputs.windows(2).any(|pair| matches!(pair, [a, b] if a.name == b.name)) {
        return None;
    }
    key.number(inputs.len() as u64);
    for input in inputs {
        key.text(&input.name);
        key.text(input.datatype.as_str());
        key.number(input.shape.len() as u64);
        input.shape.iter().skip(1).for_each(|dim| key.number(*dim));
        key.parameters(&input.parameters);
    }
    let mut outputs: Vec<&RequestedOutput> = inference.outputs.iter().collect();
    outputs.sort_by(|a, b| a.name.cmp(&b.name));
    for output in outputs {
        key.text(&output.name);
        key.parameters(&output.parameters);
    }
    Some(key.bytes.into())
}

/// Writes length-prefixed, so that no two different requests spell the same bytes.
#[derive(Default)]
struct KeyWriter {
    bytes: Vec<u8>,
}

impl KeyWriter {
    fn number(&mut self, n: u64) {
        self.bytes.extend_from_slice(&n.to_le_bytes());
    }

    fn tagged(&mut self, tag: u8, n: u64) {
        self.bytes.push(tag);
        self.number(n);
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn parameters(&mut self, parameters: &Parameters) {
        self.number(parameters.len() as u64);
        for (name, value) in parameters {
            self.text(name);
            match value {
                Parameter::Bool(b) => self.tagged(0, u64::from(*b)),
                Parameter::Int(i) => self.tagged(1, i.cast_unsigned()),
                Parameter::Uint(u) => self.tagged(2, *u),
                Parameter::Double(d) => self.tagged(3, d.to_bits()),
                Parameter::String(s) => {
                    self.bytes.push(4);
                    self.text(s);
                }
            }
        }
    }
}

/// One call for several requests of equal [`key`]: rows in the order of `members`. A single one is not copied.
///
/// # Panics
/// Never for members of equal key; inputs a member lacks are left out.
#[must_use]
pub fn concat(members: &[&Inference]) -> Inference {
    let Some((first, rest)) = members.split_first() else { return Inference::default() };
    if rest.is_empty() {
        return Inference { id: String::new(), ..(*first).clone() };
    }
    let inputs = first.inputs.iter().map(|input| concat_input(input, members)).collect();
    Inference { id: String::new(), inputs, ..(*first).clone() }
}

fn concat_input(like: &Tensor, members: &[&Inference]) -> Tensor {
    let parts = || members.iter().filter_map(|m| m.inputs.iter().find(|t| t.name == like.name));
    let mut data = BytesMut::with_capacity(parts().map(|t| t.data.len()).sum());
    parts().for_each(|t| data.extend_from_slice(&t.data));
    let rows = parts().filter_map(Tensor::rows).sum();
    let shape = std::iter::once(rows).chain(like.shape.iter().skip(1).copied()).collect();
    Tensor { shape, data: Bytes::from(data), ..like.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DataType;

    fn learned(fixed_ms: f64, per_row_ms: f64) -> Latency {
        let mut latency = Latency::default();
        for i in 0..400u32 {
            let rows = 1 + i % 32;
            let seconds = (fixed_ms + per_row_ms * f64::from(rows)) / 1e3;
            latency.observe(rows, Duration::from_secs_f64(seconds), 1.0);
        }
        latency
    }

    fn situation(latency: &Latency, now: Instant) -> Situation<'_> {
        Situation {
            now,
            queued_rows: 1,
            oldest: now,
            earliest_deadline: now + Duration::from_secs(10),
            arrival_rate: 0.0,
            replicas: 4,
            max_rows: 32,
            max_hold: Duration::from_millis(5),
            slo: Duration::from_secs(1),
            latency,
        }
    }

    #[test]
    fn a_lone_request_is_sent_at_once() {
        let latency = learned(8.0, 1.0);
        assert_eq!(plan(&situation(&latency, Instant::now())), Plan::Flush(1));
    }

    #[test]
    fn a_batch_is_held_while_another_row_is_likely() {
        let latency = learned(8.0, 1.0);
        let now = Instant::now();
        let s = Situation { arrival_rate: 1_000.0, ..situation(&latency, now) };
        let Plan::Wait(until) = plan(&s) else { panic!("{:?}", plan(&s)) };
        let held = until - now;
        assert!((Duration::from_micros(1_800)..Duration::from_micros(2_200)).contains(&held), "{held:?}");
        let later = Situation { now: until, ..s };
        assert!(matches!(plan(&later), Plan::Flush(_)));
    }

    #[test]
    fn a_batch_is_never_held_past_a_deadline() {
        let latency = learned(8.0, 1.0);
        let now = Instant::now();
        let deadline = now + Duration::from_millis(12);
        let s = Situation { arrival_rate: 1_000.0, earliest_deadline: deadline, ..situation(&latency, now) };
        assert!(matches!(plan(&s), Plan::Flush(_)));
    }

    #[test]
    fn overload_takes_all_it_may() {
        let latency = learned(8.0, 1.0);
        let s = Situation { arrival_rate: 1e5, queued_rows: 500, ..situation(&latency, Instant::now()) };
        assert_eq!(plan(&s), Plan::Flush(32));
    }

    #[test]
    fn a_batch_is_no_larger_than_its_first_deadline_allows() {
        let latency = learned(8.0, 1.0);
        let now = Instant::now();
        let earliest_deadline = now + Duration::from_millis(24);
        let s =
            Situation { queued_rows: 64, arrival_rate: 1e5, earliest_deadline, ..situation(&latency, now) };
        let Plan::Flush(rows) = plan(&s) else { panic!() };
        assert!((10..=12).contains(&rows), "{rows}");
    }

    #[test]
    fn an_slo_that_no_call_can_keep_does_not_make_batches_small() {
        let latency = learned(80.0, 1.0);
        let slo = Duration::from_millis(50);
        let s = Situation { queued_rows: 500, arrival_rate: 1e5, slo, ..situation(&latency, Instant::now()) };
        assert_eq!(plan(&s), Plan::Flush(32));
    }

    #[test]
    fn several_replicas_share_what_waits() {
        let latency = learned(8.0, 0.0);
        let s = Situation { queued_rows: 20, ..situation(&latency, Instant::now()) };
        assert_eq!(plan(&s), Plan::Flush(10));
        assert_eq!(plan(&Situation { replicas: 1, ..s }), Plan::Flush(20));
    }

    fn inference(rows: u64, fill: u8) -> Inference {
        let data = Bytes::from(vec![fill; rows as usize * 8]);
        Inference {
            inputs: vec![Tensor::new("x", DataType::Fp32, vec![rows, 2], data)],
            ..Inference::default()
        }
    }

    #[test]
    fn rows_are_concatenated_in_order() {
        let (a, b) = (inference(1, 1), inference(2, 2));
        let merged = concat(&[&a, &b]);
        let [x] = merged.inputs.as_slice() else { panic!() };
        assert_eq!(x.shape, [3, 2]);
        assert_eq!(x.data[..8], [1; 8]);
        assert_eq!(x.data[8..], [2; 16]);
    }

    #[test]
    fn members_may_name_their_inputs_in_another_order() {
        let t = |name: &str, v: u8| Tensor::new(name, DataType::Int8, vec![1, 1], Bytes::from(vec![v]));
        let a = Inference { inputs: vec![t("p", 1), t("q", 2)], ..Inference::default() };
        let b = Inference { inputs: vec![t("q", 4), t("p", 3)], ..Inference::default() };
        assert_eq!(key(&a), key(&b));
        let merged = concat(&[&a, &b]);
        assert_eq!(&merged.inputs[0].data[..], [1, 3]);
        assert_eq!(&merged.inputs[1].data[..], [2, 4]);
    }

    #[test]
    fn no_parameter_is_spelled_like_the_beginning_of_another() {
        let spell = |value: Parameter| {
            let mut key = KeyWriter::default();
            key.parameters(&Parameters::from([("p".to_owned(), value)]));
            key.bytes
        };
        let text = spell(Parameter::String("x".into()));
        let number = spell(Parameter::Int(i64::from(b'x') << 56));
        assert!(!text.starts_with(&number));
    }

    #[test]
    fn inputs_that_cannot_be_told_apart_are_not_merged() {
        let mut twice = inference(1, 0);
        twice.inputs.push(twice.inputs[0].clone());
        assert_eq!(key(&twice), None);
    }

    #[test]
    fn the_key_tells_apart_whatever_changes_the_answer_and_nothing_else() {
        let base = inference(1, 0);
        assert_eq!(key(&base), key(&inference(5, 9)));
        assert_eq!(key(&base), key(&Inference { id: "other".into(), ..base.clone() }));
        let mut other = base.clone();
        other.parameters.insert("temperature".into(), Parameter::Double(0.5));
        assert_ne!(key(&base), key(&other));
        assert_ne!(key(&base), key(&Inference { version: "2".into(), ..base.clone() }));
        let output = RequestedOutput { name: "y".into(), ..RequestedOutput::default() };
        assert_ne!(key(&base), key(&Inference { outputs: vec![output], ..base.clone() }));
        let mut shape = base.clone();
        shape.inputs[0].shape = vec![1, 1, 2];
        assert_ne!(key(&base), key(&shape));
        let mut rank = base;
        rank.inputs[0].shape = vec![];
        assert_eq!(key(&rank), None);
    }
}
