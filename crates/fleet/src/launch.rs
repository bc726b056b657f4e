//! Runs in the child, between fork and the model server: ties the child's life to its parent's, then becomes the
//! command. The kernel sends the parent-death signal also when the parent is killed with SIGKILL and can clean
//! up nothing itself. It is asked for here, not between fork and exec, because only code of the child's own
//! process image may do so without `unsafe`.

use std::{convert::Infallible, ffi::OsString, io, os::unix::process::CommandExt, process::Command};

use nix::{errno::Errno, unistd};

/// Arguments that go between a launcher (see `process::Config::launcher`) and the command it is to become.
pub(crate) fn arguments() -> [OsString; 3] {
    ["--parent-pid".into(), std::process::id().to_string().into(), "--".into()]
}

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("there is no command to run")]
    NoCommand,
    #[error("process {0}, which asked for this one, is gone")]
    ParentGone(u32),
    #[error("cannot ask to be ended with the parent: {0}")]
    Unbound(#[source] Errno),
    #[error("cannot run {}: {error}", program.display())]
    Exec { program: OsString, error: io::Error },
}

/// Replaces this process with `command`, which is then killed by the kernel as soon as process `parent` ends.
/// Returns only if that fails.
///
/// The binary that starts replicas offers this as a verb taking `--parent-pid PARENT -- COMMAND…`, and calls it
/// before it starts a runtime or any thread. The tie survives exec unless the command is set-uid or has file
/// capabilities. It binds the command itself; what that starts in turn must notice its end by itself.
pub fn exec(parent: u32, command: &[OsString]) -> Result<Infallible, LaunchError> {
    let (program, arguments) = command.split_first().ok_or(LaunchError::NoCommand)?;
    end_with_parent().map_err(LaunchError::Unbound)?;
    // A parent that died before the line above sends no signal any more; by now this process has another one.
    if u32::try_from(unistd::getppid().as_raw()) != Ok(parent) {
        return Err(LaunchError::ParentGone(parent));
    }
    let error = Command::new(program).args(arguments).exec();
    Err(LaunchError::Exec { program: program.clone(), error })
}

#[cfg(target_os = "linux")]
fn end_with_parent() -> Result<(), Errno> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
}

#[cfg(not(target_os = "linux"))]
fn end_with_parent() -> Result<(), Errno> {
    Err(Errno::ENOSYS)
}
