//! The lines of a record: JSON, each with a name for what it is.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::exact;
use crate::{log::Outcome, policy::Policy, snapshot::Snapshot, state::State};

/// Form of a record; another one is not read.
pub const VERSION: u32 = 1;

/// One line of a record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// Begins each file, and each process's part of one.
    Header(Header),
    /// What the owner asked for, from here on.
    Policy(Box<PolicyLine>),
    /// The memory before the tick that follows.
    State(Box<StateLine>),
    Tick(Box<Tick>),
    Gap(Gap),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub version: u32,
    /// The program that wrote it, and its version.
    pub program: String,
    /// Another process has another one.
    pub session: u64,
    /// Which of the session's files this begins, from 0.
    pub part: u64,
    /// When it was written.
    pub at: Duration,
}

/// One loop over one model: another configuration, or another term of office, is another run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Run {
    pub model: Arc<str>,
    /// Distinct within a session.
    pub number: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyLine {
    pub run: Run,
    pub at: Duration,
    #[serde(with = "exact")]
    pub policy: Policy,
    /// The model's settings in the words of a configuration file, without its commands and their environment.
    pub settings: Value,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateLine {
    pub run: Run,
    pub at: Duration,
    /// The epoch in which this process leads, where several may.
    #[serde(default)]
    pub epoch: Option<u64>,
    #[serde(with = "exact")]
    pub state: State,
}

/// What was seen and decided at one moment.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tick {
    pub run: Run,
    pub at: Duration,
    pub snapshot: Snapshot,
    /// A [`Decision`](crate::decide::Decision) as it was written: as text it can be compared to the last bit.
    pub decision: Box<RawValue>,
    pub outcome: Outcome,
}

/// Ticks that are not in the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub run: Run,
    pub ticks: u64,
}

/// Why a line is not read.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("not a line of a record: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("the record has form {found}, not {known}; {program} has written it")]
    Version { found: u32, known: u32, program: String },
}

#[derive(Deserialize)]
struct Form {
    header: FormHeader,
}

#[derive(Deserialize)]
struct FormHeader {
    version: u32,
    #[serde(default)]
    program: Option<String>,
}

impl Line {
    /// The line that was written as `text`.
    ///
    /// # Errors
    /// It is no line of a record, or the header of a record of another form.
    pub fn parse(text: &str) -> Result<Self, LineError> {
        if let Some(FormHeader { version, program }) = form(text)
            && version != VERSION
        {
            let program = program.unwrap_or_else(|| "a program that does not say its name".to_owned());
            return Err(LineError::Version { found: version, known: VERSION, program });
        }
        Ok(serde_json::from_str(text)?)
    }

    /// Its text, without the end of the line.
    #[must_use]
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("has string keys only and no value that can refuse")
    }

    /// The model it is about; `None`: about all of them.
    #[must_use]
    pub fn run(&self) -> Option<&Run> {
        match self {
            Self::Header(_) => None,
            Self::Policy(line) => Some(&line.run),
            Self::State(line) => Some(&line.run),
            Self::Tick(tick) => Some(&tick.run),
            Self::Gap(gap) => Some(&gap.run),
        }
    }
}

/// Whether `text`, the first line of a file, begins a record, of whatever form.
#[must_use]
pub fn begins_record(text: &str) -> bool {
    form(text).is_some()
}

fn form(text: &str) -> Option<FormHeader> {
    let header = text.trim_start().starts_with("{\"header\"");
    header.then(|| serde_json::from_str::<Form>(text).ok())?.map(|form| form.header)
}
