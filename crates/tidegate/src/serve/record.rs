//! Writing the record: a thread of its own takes what the loops hand over and appends it to a file of bounded size.
//! Whatever goes wrong here ends the recording and nothing else.

mod files;

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use autoscaler::record::{Header, Recorder, Sink, Tape, VERSION};
use metrics::{counter, gauge};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

pub(crate) use self::files::before;
use self::files::{Files, Written};
use crate::config::{self, words};

/// Ticks that may wait to be written: some seconds of a hundred models.
const ROOM: usize = 1024;
/// How long what waits may take to be written at the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// The record of this process, as far as there is to be one.
#[derive(Debug, Default)]
pub(super) struct Recording {
    sink: Sink,
    followed: Mutex<Followed>,
}

/// What is followed, and what came of it.
#[derive(Debug, Default)]
struct Followed {
    config: Option<config::Record>,
    /// Whether there is or was a record to write.
    is_known: bool,
    writer: Option<JoinHandle<()>>,
}

impl Followed {
    /// A writer that could not go on has ended.
    fn is_writing(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| !writer.is_finished())
    }
}

impl Recording {
    /// Where the loops of this process send to, whether or not anything is written.
    pub(super) fn sink(&self) -> Sink {
        self.sink.clone()
    }

    /// From now on writes to where `config` says, and to nowhere else. If that cannot be, it is logged, and nothing is
    /// recorded: serving does not depend on it. A recording that ended by itself is begun again.
    pub(super) async fn follow(&self, config: Option<&config::Record>) {
        let mut followed = self.followed.lock().await;
        if followed.config.as_ref() == config && followed.is_writing() == config.is_some() {
            return;
        }
        let was_writing = followed.is_writing();
        if let Some(writer) = followed.writer.take() {
            end(&self.sink, writer).await;
        }
        if was_writing {
            tracing::info!("decisions are not recorded any more");
        }
        followed.is_known |= config.is_some();
        followed.config = config.cloned();
        if let Some(config) = config.cloned() {
            let sink = self.sink();
            // Opening waits for the disk. A panic of it was logged.
            followed.writer = spawn_blocking(move || start(&sink, &config)).await.unwrap_or_default();
        }
    }

    /// Publishes whether a record is written, where there is or was one to write.
    pub(super) fn publish_gauge(&self) {
        // While it goes over to another file, nothing is known that the next time will not tell.
        let Ok(followed) = self.followed.try_lock() else { return };
        if followed.is_known {
            gauge!("tidegate_recording").set(if followed.is_writing() { 1.0 } else { 0.0 });
        }
    }
}

fn start(sink: &Sink, config: &config::Record) -> Option<JoinHandle<()>> {
    let files = match Files::open(&config.file, config.max_bytes, header()) {
        Ok(files) => files,
        Err(error) => {
            tracing::error!("nothing is recorded: {error:#}");
            return None;
        }
    };
    let tape = sink.tape(ROOM);
    let writer = thread::Builder::new().name("record".to_owned()).spawn(move || write(tape, files));
    match writer {
        Ok(writer) => {
            tracing::info!("decisions are recorded in {}", config.file.display());
            Some(writer)
        }
        Err(error) => {
            tracing::error!(%error, "nothing is recorded: there is no thread to write");
            None
        }
    }
}

/// Writes what waits, if that does not take too long.
async fn end(sink: &Sink, writer: JoinHandle<()>) {
    let written = async {
        sink.end().await;
        spawn_blocking(|| writer.join()).await
    };
    if timeout(FAREWELL, written).await.is_err() {
        tracing::warn!("the end of the record is not written: its file does not take it in time");
    }
}

/// The record of a new loop over `model`. `epoch`: of the term of office, where there are such.
pub(super) fn recorder(sink: &Sink, model: &config::Model, epoch: Option<u64>) -> Recorder {
    Recorder::new(sink.clone(), Arc::clone(&model.name), Arc::new(words(model)), epoch)
}

fn header() -> Header {
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Two processes that write one file after the other do not begin in the same nanosecond.
    let session = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    Header {
        version: VERSION,
        program: format!("tidegate {}", env!("CARGO_PKG_VERSION")),
        session,
        part: 0,
        at,
    }
}

fn write(mut tape: Tape, mut files: Files) {
    while let Some(taken) = tape.next() {
        if taken.missed() > 0 {
            let (model, ticks) = (taken.model(), taken.missed());
            counter!("tidegate_record_missed_total", "model" => model.to_string()).increment(ticks);
            tracing::warn!(%model, ticks, "the record has a gap: its file does not take it as fast as it comes");
        }
        match files.write(&taken.lines()) {
            Ok(Written::InPlace) => {}
            Ok(Written::Anew) => tape.renew(),
            Err(error) => {
                tracing::error!("recording stops: {error:#}");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
