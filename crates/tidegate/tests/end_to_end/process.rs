//! Processes that end with their test, whatever becomes of it.

use std::{fs, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

/// Longest a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(10);

/// Looks again and again until there is something.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(LOOK).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

/// A running `tidegate`. It is killed on drop, and by the kernel if the tests themselves are killed.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pid: Pid,
}

impl Running {
    pub(crate) fn start(arguments: &[&str], stdout: Stdio, stderr: Stdio) -> Self {
        Self::start_in(arguments, &[], stdout, stderr)
    }

    /// As [`start`](Self::start), with these variables besides.
    pub(crate) fn start_in(
        arguments: &[&str],
        environment: &[(&str, &str)],
        stdout: Stdio,
        stderr: Stdio,
    ) -> Self {
        let program = env!("CARGO_BIN_EXE_tidegate");
        let ourselves = std::process::id().to_string();
        let child = Command::new(program)
            .args(["exec-replica", "--parent-pid", &ourselves, "--", program])
            .args(arguments)
            .current_dir(repository())
            .env_remove("RUST_LOG")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap());
        Self { child, pid }
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Its exit code once it has ended; `None` if a signal ended it.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        timeout(PATIENCE, self.child.wait()).await.expect("the process ends").unwrap().code()
    }

    /// The processes it started and that are still there.
    pub(crate) fn children(&self) -> Vec<Pid> {
        let folders = fs::read_dir("/proc").unwrap();
        let pids = folders.filter_map(|folder| folder.ok()?.file_name().to_str()?.parse().ok());
        pids.map(Pid::from_raw).filter(|pid| parent(*pid) == Some(self.pid)).collect()
    }
}

/// The parent of a process that runs; `None` for one that has ended.
fn parent(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name in parentheses, which may hold anything: the state, and the parent.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (state != "Z").then(|| Pid::from_raw(parent))
}

pub(crate) fn is_running(pid: Pid) -> bool {
    parent(pid).is_some()
}

pub(crate) fn kill_now(pid: Pid) {
    kill(pid, Signal::SIGKILL).unwrap();
}

/// The folder that paths in configurations start from.
pub(crate) fn repository() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../..")
}
