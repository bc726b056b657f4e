//! `tidegate exec-replica`: what a child process runs before it becomes the replica's command.

use std::{ffi::OsString, process::ExitCode};

use clap::Args;

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
    match fleet::launch::exec(args.parent_pid, &args.command)? {}
}
