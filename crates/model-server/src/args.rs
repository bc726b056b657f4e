//! The command line of the model server.

use std::{
    io::Write as _,
    net::IpAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::{
    Model, Options, Pace, Server,
    chat::{self, Simulator, SimulatorArgs},
};

/// Serves ONNX models over the Open Inference Protocol, REST and gRPC on one port; or simulates a chat engine.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// ONNX file to serve, may be repeated; NAME is the file's own name without its ending if not given
    #[arg(long = "onnx", value_name = "[NAME=]PATH", required_unless_present = "chat_sim")]
    pub models: Vec<ModelFile>,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one and prints it
    #[arg(long, default_value_t = 8001)]
    pub port: u16,
    /// Calls that execute at a time [default: the number of cores]
    #[arg(long, value_name = "N")]
    pub max_concurrency: Option<NonZeroUsize>,
    /// Rows a call may have [default: 1024]
    #[arg(long, value_name = "ROWS")]
    pub max_batch_size: Option<NonZeroU32>,
    /// Imitate a slow load: live at once, ready after this long
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub start_delay: Duration,
    /// Imitate a slower model: add FIXED to every call and PER_ROW to every row, e.g. 8ms+1ms
    #[arg(long, value_name = "FIXED+PER_ROW", default_value = "0s")]
    pub pace: Pace,
    #[command(flatten)]
    pub simulator: SimulatorArgs,
}

/// A file to serve and the name to serve it under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFile {
    pub name: String,
    pub path: PathBuf,
}

/// The text is not `PATH` or `NAME=PATH`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no file: write PATH or NAME=PATH")]
pub struct ModelFileError(String);

impl FromStr for ModelFile {
    type Err = ModelFileError;

    fn from_str(text: &str) -> Result<Self, ModelFileError> {
        let error = || ModelFileError(text.to_owned());
        let (name, path) = match text.split_once('=') {
            // A slash before the sign belongs to a path that has an equals sign of its own.
            Some((name, path)) if !name.contains('/') => (name.to_owned(), Path::new(path)),
            _ => {
                let path = Path::new(text);
                let stem = path.file_stem().and_then(|stem| stem.to_str()).ok_or_else(error)?;
                (stem.to_owned(), path)
            }
        };
        if name.is_empty() || path.as_os_str().is_empty() {
            return Err(error());
        }
        Ok(Self { name, path: path.to_owned() })
    }
}

impl Args {
    fn options(&self) -> Options {
        let default = Options::default();
        Options {
            address: (self.host, self.port).into(),
            max_concurrency: self.max_concurrency.unwrap_or(default.max_concurrency),
            max_batch_size: self.max_batch_size.unwrap_or(default.max_batch_size),
            start_delay: self.start_delay,
            pace: self.pace,
            ..default
        }
    }

    /// The simulator asked for, if one is.
    fn simulator(&self) -> Option<chat::Options> {
        self.simulator.options(chat::Options {
            address: (self.host, self.port).into(),
            start_delay: self.start_delay,
            ..chat::Options::default()
        })
    }
}

/// Loads the files of `args` and serves them until `shutdown`, or simulates a chat engine until then.
///
/// # Errors
/// A file cannot be served, the address cannot be had, or calls had to be cut off at the end.
pub async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    if let Some(options) = args.simulator() {
        return simulate(options, shutdown).await;
    }
    let options = args.options();
    let files = args.models;
    let load = move || files.iter().map(|file| Model::from_path(&file.name, &file.path)).collect();
    let models: Result<Vec<_>, _> = tokio::task::spawn_blocking(load).await.context("loading the models")?;
    serve(models?, options, shutdown).await
}

/// Serves loaded models until `shutdown`. Prints the address to standard output once it is bound.
///
/// # Errors
/// The address cannot be had, or calls had to be cut off at the end.
pub async fn serve(models: Vec<Model>, options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let names: Vec<_> = models.iter().map(|model| model.metadata().name.clone()).collect();
    let server = Server::bind(models, options).await?;
    // Nobody may be reading; that is no reason not to serve.
    let _ = writeln!(std::io::stdout(), "serving {} on http://{}", names.join(", "), server.address());
    server.run(shutdown).await?;
    Ok(())
}

/// Simulates a chat engine until `shutdown`. Prints the address to standard output once it is bound.
async fn simulate(options: chat::Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let model = options.model.clone();
    let simulator = Simulator::bind(options).await?;
    // Nobody may be reading; that is no reason not to serve.
    let _ =
        writeln!(std::io::stdout(), "simulating a chat engine as {model} on http://{}", simulator.address());
    simulator.run(shutdown).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        let words = std::iter::once("model-server").chain(line.split_whitespace());
        <Command as clap::Parser>::try_parse_from(words).map(|command| command.args)
    }

    #[test]
    fn a_model_is_named_after_its_file_unless_told_otherwise() {
        let args =
            parse("--onnx a/digits.onnx --onnx other=b.onnx --onnx d=x/e=f.onnx --onnx a=b/c=d/g.onnx");
        let files: Vec<_> = args
            .unwrap()
            .models
            .into_iter()
            .map(|file| (file.name, file.path.display().to_string()))
            .collect();
        let expected =
            [("digits", "a/digits.onnx"), ("other", "b.onnx"), ("d", "x/e=f.onnx"), ("a", "b/c=d/g.onnx")];
        assert_eq!(files, expected.map(|(name, path)| (name.to_owned(), path.to_owned())));
        assert_eq!("/data/v=2/m.onnx".parse::<ModelFile>().unwrap().name, "m");
    }

    #[test]
    fn options_come_from_the_command_line() {
        let args =
            parse("--onnx m.onnx --port 0 --max-concurrency 3 --start-delay 2s --pace 8ms+1ms").unwrap();
        let options = args.options();
        assert_eq!(options.address.to_string(), "127.0.0.1:0");
        assert_eq!(options.max_concurrency.get(), 3);
        assert_eq!(options.start_delay, Duration::from_secs(2));
        assert_eq!(options.pace.of(2), Duration::from_millis(10));
    }

    #[test]
    fn a_simulator_comes_from_the_command_line_too() {
        assert!(parse("--onnx m.onnx").unwrap().simulator().is_none());
        let args = parse("--chat-sim --port 0 --start-delay 2s").unwrap();
        let options = args.simulator().unwrap();
        assert_eq!((options.model.as_str(), options.address.port()), ("sim", 0));
        assert_eq!(options.start_delay, Duration::from_secs(2));
        assert_eq!(options.times, chat::Times::default());
        let line = "--chat-sim big --ttft 0s --prefill 8k/s --tpot 5ms --tpot-per-stream 0s --jitter 0.1 \
                    --slow 3 --slots 4 --queue 0 --full-status 429 --prefix-cache 0 --context 1k \
                    --output-tokens 10-20 --fail error=0.5 --seed 7";
        let options = parse(line).unwrap().simulator().unwrap();
        let times = chat::Times {
            prefill: 8000,
            tpot: Duration::from_millis(5),
            jitter: 0.1,
            slow: 3.0,
            ..chat::Times::none()
        };
        assert_eq!((options.model.as_str(), options.times), ("big", times));
        assert_eq!((options.slots.get(), options.queue, options.full_status), (4, 0, 429));
        assert_eq!((options.prefix_cache, options.context, options.seed), (0, 1000, 7));
        assert_eq!(options.output_tokens, chat::OutputTokens::Range(10..=20));
        assert_eq!(options.failures, "error=0.5".parse().unwrap());
    }

    #[test]
    fn a_simulator_and_models_exclude_each_other() {
        for line in [
            "--chat-sim --onnx m.onnx",
            "--chat-sim --pace 1ms",
            "--onnx m.onnx --ttft 1s",
            "--chat-sim --full-status 500",
            "--chat-sim --slots 0",
            "--chat-sim --fail oops=1",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn nonsense_on_the_command_line_is_refused() {
        for line in ["", "--onnx =x", "--onnx m=", "--onnx m --max-concurrency 0", "--onnx m --start-delay 2"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
