//! One binary: the gateway, the autoscaler, and the tools around them.

mod admin;
mod cli;
mod config;
mod serve;
mod telemetry;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An inference serving gateway with autoscaling
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Start with `tidegate demo`. Exit codes: 0 ok, 1 failure, 2 usage, 69 unavailable, 78 bad configuration."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Try it: a bundled model at zero replicas, lines to call it with, and its scaling shown live
    Demo(cli::demo::DemoArgs),
    /// Run gateway and autoscaler
    Serve(cli::serve::ServeArgs),
    /// Check, explain or print configuration
    Config(cli::config::ConfigArgs),
    /// Whether a cluster is fit for Tidegate, and what runs there well: a line for each thing, with its fix
    Check(cli::check::CheckArgs),
    /// Models, replicas, queues and latencies of a running gateway
    Status(cli::status::StatusArgs),
    /// Why a model has the replicas it has
    Why(cli::why::WhyArgs),
    /// What scaling would come to under a trace, before it is trusted; without one, what schedules do next week
    Plan(Box<cli::plan::PlanArgs>),
    /// A sample call, built from what the model says of itself
    Predict(cli::predict::PredictArgs),
    /// Serve ONNX files: a small model server; or simulate a chat engine (--chat-sim)
    ModelServer(model_server::Args),
    /// Become a replica's command, tied to the life of its gateway
    #[command(hide = true)]
    ExecReplica(cli::exec_replica::ExecReplicaArgs),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Demo(args) => cli::demo::run(args),
        Verb::Serve(args) => cli::serve::run(args),
        Verb::Config(args) => cli::config::run(args).map_err(Into::into),
        Verb::Check(args) => cli::check::run(&args),
        Verb::Status(args) => cli::status::run(args),
        Verb::Why(args) => cli::why::run(&args),
        Verb::Plan(args) => cli::plan::run(*args),
        Verb::Predict(args) => cli::predict::run(args),
        Verb::ModelServer(args) => cli::model_server::run(args),
        Verb::ExecReplica(args) => cli::exec_replica::run(&args),
    };
    done.unwrap_or_else(|error| {
        // Nothing is left to tell if standard error is gone.
        let _ = cli::terminal::complain(&format!("{error:#}"));
        ExitCode::FAILURE
    })
}
