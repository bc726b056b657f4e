//! The status of `Model` objects: what the leader makes of each, for `kubectl get` and for whoever waits on conditions.
//!
//! A cluster with five hundred models must not feel that: [`StatusWriter`] writes what matters at once, numbers now
//! and then, nothing twice, and never more than two times a minute and model.

use std::time::Duration;

use jiff::{Timestamp, Unit};
use serde::{Serialize, Serializer};
use serde_json::Value;

mod board;
mod change;
mod condition;
mod slot;
mod writer;

pub use self::{
    board::TooMany,
    condition::{
        Accepted, Active, Condition, Fact, Ready, Reconciling, ScalingActive, ScalingLimited, SloMet, Stalled,
    },
    writer::StatusWriter,
};

/// What the leader makes of one model.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// The generation of the spec that the rest is about.
    pub observed_generation: i64,
    pub state: ModelState,
    /// Like `Deployment/digits`.
    #[serde(serialize_with = "short")]
    pub target: String,
    pub replicas: Replicas,
    /// `None`: nothing is known of its traffic.
    pub observed: Option<Observed>,
    /// The last one that changed the number of replicas.
    pub last_decision: Option<LastDecision>,
    /// At most one of each type; of more the first counts.
    #[serde(skip)]
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ModelState {
    Zero,
    Starting,
    Ready,
    Scaling,
    Degraded,
    Frozen,
    Error,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replicas {
    /// Those that the target asks for.
    pub current: u32,
    pub ready: u32,
    /// Those that the last decision asks for.
    pub desired: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    #[serde(serialize_with = "rounded")]
    pub rps: f64,
    /// As `138ms`.
    #[serde(serialize_with = "in_words")]
    pub p99: Option<Duration>,
    pub queue: u64,
    #[serde(serialize_with = "to_the_second")]
    pub as_of: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastDecision {
    #[serde(serialize_with = "to_the_second")]
    pub time: Timestamp,
    pub from: u32,
    pub to: u32,
    /// In one word.
    #[serde(serialize_with = "word")]
    pub reason: String,
    /// With its arithmetic, in a sentence.
    #[serde(serialize_with = "sentence")]
    pub summary: String,
    pub epoch: u64,
}

impl ModelStatus {
    /// As the API server is told, but for the conditions.
    fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("plain fields under names of ours always have a JSON form")
    }
}

/// The start of a text; the cluster's definition of the kind refuses an object with a longer one as a whole.
fn cut(text: &str, chars: usize) -> &str {
    text.char_indices().nth(chars).map_or(text, |(end, _)| text.get(..end).unwrap_or(text))
}

fn short<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(cut(text, 512))
}

fn word<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(cut(text, 64))
}

fn sentence<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(cut(text, 1_024))
}

/// Nobody reads more, and each digit would be a difference.
fn rounded<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((number * 1e3).round() / 1e3)
}

fn to_the_second<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    time.round(Unit::Second).unwrap_or(*time).serialize(serializer)
}

fn in_words<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time.map(|time| time.as_secs_f64()) {
        Some(seconds) if seconds >= 10.0 => serializer.serialize_str(&format!("{seconds:.1}s")),
        Some(seconds) if seconds >= 0.01 => serializer.serialize_str(&format!("{:.0}ms", seconds * 1e3)),
        Some(seconds) => serializer.serialize_str(&format!("{:.2}ms", seconds * 1e3)),
        None => serializer.serialize_none(),
    }
}
