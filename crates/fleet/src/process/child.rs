//! A running server: its process, the group of processes around it, and its log.

use std::{io, os::unix::process::ExitStatusExt, process::ExitStatus, sync::Arc, time::Duration};

use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{sync::watch, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, error, warn};

use super::log;

/// Leads a process group of its own. Dropped, it is killed with its whole group.
#[derive(Debug)]
pub(super) struct Child {
    process: tokio::process::Child,
    group: Pid,
    ended: bool,
    log: Option<AbortOnDropHandle<()>>,
    last_words: watch::Receiver<Option<Arc<str>>>,
}

impl Child {
    pub(super) fn new(process: tokio::process::Child) -> io::Result<Self> {
        let pid = process.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| io::Error::other("the process has no id"))?;
        let (_, last_words) = watch::channel(None);
        Ok(Self { process, group: Pid::from_raw(pid), ended: false, log: None, last_words })
    }

    pub(super) fn pid(&self) -> i32 {
        self.group.as_raw()
    }

    /// Starts to log what it prints, in the current span.
    pub(super) fn log(&mut self) {
        let (words, last_words) = watch::channel(None);
        let relay = log::relay(self.process.stdout.take(), self.process.stderr.take(), words);
        self.last_words = last_words;
        self.log = Some(AbortOnDropHandle::new(tokio::spawn(relay.in_current_span())));
    }

    /// Waits for its end, by itself or otherwise. May be dropped and called again.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.process.wait().await;
        if !self.ended {
            // What it started and left behind must not outlive it, keep its port, or hold its log open.
            signal(self.group, Signal::SIGKILL);
            self.ended = true;
        }
        status
    }

    /// Asks the group to end, and kills it if that takes longer than `patience`.
    pub(super) async fn stop(&mut self, patience: Duration) {
        const KILLED: Duration = Duration::from_secs(10);
        if !self.ended {
            signal(self.group, Signal::SIGTERM);
        }
        if timeout(patience, self.ended()).await.is_ok() {
            return;
        }
        warn!(pid = self.pid(), ?patience, "it did not stop when asked and is killed");
        signal(self.group, Signal::SIGKILL);
        if timeout(KILLED, self.ended()).await.is_err() {
            error!(
                pid = self.pid(),
                "it does not even end when killed: the kernel holds it, and it is left behind"
            );
        }
    }

    /// The last line it wrote to stderr, once it has ended.
    pub(super) async fn last_words(&mut self) -> Option<Arc<str>> {
        // A process that left the group may hold the pipe open for ever.
        const PIPE_HELD: Duration = Duration::from_millis(200);
        if let Some(log) = self.log.take() {
            drop(timeout(PIPE_HELD, log).await);
        }
        self.last_words.borrow().clone()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended {
            signal(self.group, Signal::SIGKILL);
        }
    }
}

/// The group's id cannot have passed to others: it stays taken while its leader is not waited for and after that
/// while any member lives. Only between the two, for the instants until [`Child::ended`] has signalled, could
/// the kernel have run through all its ids and given it to another process.
fn signal(group: Pid, signal: Signal) {
    match killpg(group, signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => warn!(group = group.as_raw(), %signal, %error, "cannot signal a replica"),
    }
}

/// How a process ended, in words.
pub(super) fn describe(status: &io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with status {code}"),
            (None, Some(number)) => match Signal::try_from(number) {
                Ok(signal) => format!("killed by {signal}"),
                Err(_) => format!("killed by signal {number}"),
            },
            (None, None) => "ended".to_owned(),
        },
        Err(error) => format!("lost: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_described_by_status_or_signal() {
        assert_eq!(describe(&Ok(ExitStatus::from_raw(3 << 8))), "ended with status 3");
        assert_eq!(describe(&Ok(ExitStatus::from_raw(9))), "killed by SIGKILL");
        assert_eq!(describe(&Ok(ExitStatus::from_raw(0))), "ended with status 0");
        assert_eq!(describe(&Ok(ExitStatus::from_raw(64))), "killed by signal 64");
    }
}
