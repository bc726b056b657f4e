//! `tidegate exec-replica`: what a child process runs before it becomes the replica's command.

use std::{ffi::OsString, process::ExitCode};

use clap::Args;

/// What shells answer for a command that cannot be run.
const CANNOT_RUN: u8 = 127;

#[derive(Debug, Args)]
pub(crate) struct ExecReplicaArgs {
    /// The process whose end ends the replica
    #[arg(long)]
    parent_pid: u32,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Returns only if the command cannot be run.
pub(crate) fn run(args: &ExecReplicaArgs) -> anyhow::Result<ExitCode> {
    let Err(error) = fleet::launch::exec(args.parent_pid, &args.command);
    super::terminal::complain(&error.to_string())?;
    Ok(ExitCode::from(CANNOT_RUN))
}
