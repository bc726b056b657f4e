//! The one thread that starts child processes.
//!
//! The parent-death signal of a child is sent when the *thread* that forked it ends, not the process. A runtime's
//! threads come and go (those for blocking work after some idle seconds; a worker that once blocked in place
//! becomes one of them), and each would take its replicas with it. This thread waits for work until the process
//! ends. It also keeps the time a fork takes off the runtime.

use std::{io, sync::LazyLock, thread};

use tokio::{
    process::Command,
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use super::child::Child;

struct Job {
    command: Command,
    /// Whose signal and I/O drivers are to serve the child.
    runtime: Handle,
    done: oneshot::Sender<io::Result<Child>>,
}

static FORKER: LazyLock<io::Result<mpsc::Sender<Job>>> = LazyLock::new(|| {
    const JOBS_MAX: usize = 64;
    let (jobs, queue) = mpsc::channel(JOBS_MAX);
    thread::Builder::new().name("replica-forker".to_owned()).spawn(move || work(queue))?;
    Ok(jobs)
});

fn work(mut queue: mpsc::Receiver<Job>) {
    while let Some(Job { mut command, runtime, done }) = queue.blocking_recv() {
        let _context = runtime.enter();
        let child = command.spawn().and_then(Child::new);
        // If nobody waits for it any more, dropping the child ends it.
        drop(done.send(child));
    }
}

/// Starts a process that lives no longer than the value returned, nor than this process if it was launched for it.
pub(super) async fn spawn(command: Command) -> io::Result<Child> {
    let gone = || io::Error::other("the thread that starts processes has ended");
    let forker = FORKER.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
    let (done, child) = oneshot::channel();
    let job = Job { command, runtime: Handle::current(), done };
    forker.send(job).await.map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}
