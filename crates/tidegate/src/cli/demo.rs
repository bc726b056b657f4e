//! `tidegate demo`: a bundled model and a simulated chat engine at zero replicas on this machine, lines to call them
//! with, and what their autoscalers do, as they do it.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use autoscaler::{explain, fleet::Phase};
use clap::Args;
use tokio::time::interval;

use super::terminal::{Style, print};
use crate::{
    admin::wall_clock,
    config::{self, Source},
    serve::{self, Started, View},
    telemetry::{self, LogFormat, traces::Settings},
};

const MODEL: &[u8] = include_bytes!("../../../../examples/models/digits.onnx");
/// A handwritten 8 of the held-out part, eight rows of eight.
const DIGIT: &str = include_str!("../../../../examples/requests/digits-v1.json");
const MODELS: [&str; 2] = ["digits", "parrot"];
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Where clients call
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// Where the status page and the metrics are
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "HOST:PORT")]
    admin: SocketAddr,
    /// Most replicas
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    max: u32,
    /// Seconds without a call after which the model goes back to zero
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    idle: u32,
    /// Record decisions in this file, for `tidegate plan --record`
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// The folder the bundled model is unpacked into, for as long as the demo runs.
struct Unpacked {
    folder: PathBuf,
}

impl Unpacked {
    fn new() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("tidegate-demo-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let unpacked = Self { folder };
        fs::write(unpacked.model(), MODEL)
            .with_context(|| format!("writing {}", unpacked.model().display()))?;
        Ok(unpacked)
    }

    fn model(&self) -> PathBuf {
        self.folder.join("digits.onnx")
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // What is left behind in the folder for temporary files is no harm.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

pub(crate) fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    telemetry::start_logging(LogFormat::Text, "warn")?;
    let traces = Settings::read(std::env::vars_os())?;
    let unpacked = Unpacked::new()?;
    let text = configuration(&args, &unpacked.model());
    let loaded = config::parse(Source { name: "demo".to_owned(), text })
        .map_err(|report| anyhow::anyhow!("{}", report.render(Style::Plain)))?;
    let metrics = telemetry::start_metrics(loaded.config.models.iter().flat_map(|model| model.slo.times()))?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let process = serve::Process::alone(metrics, traces);
    let served = serve::run(loaded.config, process, |started| {
        let style = Style::of(&io::stdout());
        // If nobody reads what the demo prints, it still serves.
        let _ = print(&welcome(&started, &args, style));
        for name in MODELS {
            if let Some(view) = started.registry.view(name) {
                tokio::spawn(narrate(view, style));
            }
        }
    });
    let served = runtime.block_on(served);
    served.context("if another program has the port, choose others with --listen and --admin")
}

/// The model answers in 8 ms + 1 ms a row, so that there is something to batch and to scale on a laptop; the engine
/// takes its time as one on an accelerator does.
fn configuration(args: &DemoArgs, model: &Path) -> String {
    let DemoArgs { listen, admin, max, idle, record } = args;
    let text = |path: &Path| serde_json::Value::from(path.display().to_string());
    let model = text(model);
    let record =
        record.as_ref().map_or_else(String::new, |file| format!("record: {{file: {}}}\n", text(file)));
    format!(
        r#"listen: "{listen}"
admin: "{admin}"
{record}shutdown: {{acceptFor: 0s, drain: 5s}}
models:
  - name: digits
    fleet:
      process:
        command: [tidegate, model-server, --onnx, {model}, --port, "{{port}}", --start-delay, 2s, --pace, 8ms+1ms]
    protocol: v2-grpc
    slo: {{p99: 100ms}}
    scaling: {{min: 0, max: {max}, idleAfter: {idle}s}}
  - name: parrot
    fleet:
      process:
        command: [tidegate, model-server, --chat-sim, parrot, --port, "{{port}}", --start-delay, 3s]
    protocol: openai
    slo: {{ttft: {{p99: 1s}}, tpot: {{p95: 40ms}}}}
    scaling: {{min: 0, max: {max}, idleAfter: {idle}s}}
"#
    )
}

fn welcome(started: &Started, args: &DemoArgs, style: Style) -> String {
    let listen = started.listen.first().copied().unwrap_or(args.listen);
    let pixels = DIGIT.trim().trim_start_matches("{\"instances\": [").trim_end_matches("]}").replace(' ', "");
    let heading = |text: &str| style.bold(text);
    let version = env!("CARGO_PKG_VERSION");
    format!(
        r#"{title}: no configuration, no cluster

  models     digits (8×8 handwritten digits) and parrot (a simulated chat engine that repeats what it hears),
             each at zero replicas, at most {max}
  clients    http://{listen}   HTTP/1.1, HTTP/2 and gRPC
  status     http://{admin}/

{call}

  curl -si http://{listen}/v1/models/digits:predict -d '{{"instances":[{pixels}]}}'

{same}

  curl -s http://{listen}/v2/models/digits/infer -d '{{"inputs":[{{"name":"pixels","shape":[1,64],"datatype":"FP32","data":{pixels}}}]}}'
  curl -s http://{listen}/v2/models/digits

{chat}

  curl -sN http://{listen}/v1/chat/completions -d '{{"model":"parrot","stream":true,"max_tokens":24,"messages":[{{"role":"user","content":"the tide comes in, the tide goes out"}}]}}'

{load}

  cargo run --release -p loadtest -- http://{listen} --model digits --bursts on=20s,off=40s --rate 1000 --duration 3m
  tidegate status --admin {admin} --watch
  tidegate why digits --admin {admin}
  tidegate why parrot --admin {admin}

Ctrl-C ends it. What the autoscaler does:

"#,
        title = heading(&format!("tidegate {version} demo")),
        max = args.max,
        admin = started.admin,
        call = heading("Call it with a handwritten 8; the first call starts a replica and waits for it:"),
        same = heading("The same over the Open Inference Protocol, and what the model says of itself:"),
        chat = heading("Chat, as the openai package does; the base URL for it is http://…/v1:"),
        load = heading("Put it under load and watch, each in a terminal of its own:"),
    )
}

/// Prints each change of the wish with its reason, and each replica that becomes ready.
async fn narrate(view: Arc<View>, style: Style) {
    let name = &view.config.name;
    let mut told = Duration::ZERO;
    let mut ready = 0;
    let mut tick = interval(LOOK);
    loop {
        tick.tick().await;
        let entries = view.scaling().map(|deciding| deciding.handle.log.recent(16)).unwrap_or_default();
        for entry in entries.iter().rev() {
            if entry.decision.at <= told {
                continue;
            }
            told = entry.decision.at;
            if entry.decision.from != entry.decision.to {
                let time = style.dim(&wall_clock(entry.decision.at));
                let _ = print(&format!("  {time}  {name} {}\n", explain::sentence(&entry.decision)));
            }
        }
        let now = view.replicas().iter().filter(|replica| replica.phase == Phase::Ready).count();
        if now != ready {
            ready = now;
            let time = style.dim(&wall_clock(view.clock.now()));
            let _ = print(&format!("  {time}  {name} {}\n", style.green(&format!("{ready} ready"))));
        }
    }
}
