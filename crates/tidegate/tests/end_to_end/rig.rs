//! `tidegate serve` on free ports with a configuration of the test's, and model servers that are already there.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    client::{Http, Reply},
    process::{Running, until},
};

const RECORD: &str = "decisions.jsonl";

/// The models of a configuration, in YAML.
pub(crate) struct Model<'a> {
    pub(crate) name: &'a str,
    /// Arguments of the model server, as elements of a YAML list.
    pub(crate) server: &'a str,
    /// More keys of the model, one a line.
    pub(crate) keys: &'a str,
    pub(crate) scaling: &'a str,
}

impl Model<'_> {
    /// The bundled digits.
    pub(crate) const DIGITS: Model<'static> =
        Model { name: "digits", server: "", keys: "slo: {p99: 500ms}", scaling: "{min: 0, max: 1}" };

    pub(crate) fn yaml(&self) -> String {
        let Self { name, server, keys, scaling } = self;
        let keys = keys.replace('\n', "\n    ");
        format!(
            r#"  - name: {name}
    fleet:
      process:
        command: [tidegate, model-server, --onnx, examples/models/{name}.onnx, --port, "{{port}}"{server}]
        env: {{SECRET_OF_THE_MODEL: hidden-value}}
    {keys}
    scaling: {scaling}
"#
        )
    }
}

/// A model whose servers run already.
pub(crate) fn fixed(addresses: &[SocketAddr], keys: &str) -> String {
    let keys = keys.replace('\n', "\n    ");
    let addresses = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!(
        "  - name: digits\n    fleet:\n      static: {{addresses: [\"{}\"]}}\n    {keys}\n",
        addresses.replace(", ", "\", \"")
    )
}

/// A folder of its own, removed on drop.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{count}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that stays behind in the build directory is no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) type Lines = Arc<Mutex<Vec<String>>>;

/// A gateway that serves.
#[derive(Debug)]
pub(crate) struct Gateway {
    process: Running,
    folder: Folder,
    log: Lines,
    pub(crate) clients: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Gateway {
    /// Starts it with these models, as YAML each.
    pub(crate) async fn start(models: &[String]) -> Self {
        Self::start_in(Folder::new(), &[], &configuration(models)).await
    }

    /// The same, with these variables in its environment.
    pub(crate) async fn start_with(environment: &[(&str, &str)], models: &[String]) -> Self {
        Self::start_in(Folder::new(), environment, &configuration(models)).await
    }

    /// The same, with its decisions on record.
    pub(crate) async fn start_on_record(models: &[String]) -> Self {
        let folder = Folder::new();
        let text = on_record(models, &folder.file(RECORD));
        Self::start_in(folder, &[], &text).await
    }

    pub(crate) async fn start_in(folder: Folder, environment: &[(&str, &str)], configuration: &str) -> Self {
        fs::write(folder.file("tidegate.yaml"), configuration).unwrap();
        let file = folder.file("tidegate.yaml").display().to_string();
        let arguments = ["serve", "--config", &file];
        let mut process = Running::start_in(&arguments, environment, Stdio::null(), Stdio::piped());
        let log = Lines::default();
        tokio::spawn(keep(BufReader::new(process.child().stderr.take().unwrap()), Arc::clone(&log)));
        let logged = || log.lock().unwrap().clone();
        let (clients, admin) = until("the gateway says where it listens", async || {
            let log = logged();
            Some((address(&log, "serving http://")?, address(&log, "status and metrics: http://")?))
        })
        .await;
        Self { process, folder, log, clients, admin }
    }

    /// One model that is ready before it is called.
    pub(crate) async fn ready(model: &Model<'_>) -> Self {
        let gateway = Self::start(&[model.yaml()]).await;
        gateway.until_ready(model.name, 1).await;
        gateway
    }

    pub(crate) fn rewrite(&self, models: &[String]) {
        self.rewrite_as(&configuration(models));
    }

    /// Replaces the configuration in one step, as careful editors do.
    pub(crate) fn rewrite_as(&self, text: &str) {
        fs::write(self.folder.file("next"), text).unwrap();
        fs::rename(self.folder.file("next"), self.folder.file("tidegate.yaml")).unwrap();
    }

    /// Where its decisions are on record.
    pub(crate) fn record(&self) -> PathBuf {
        self.folder.file(RECORD)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub(crate) async fn ended(&mut self) -> Option<i32> {
        self.process.ended().await
    }

    pub(crate) fn replicas(&self) -> Vec<Pid> {
        self.process.children()
    }

    pub(crate) async fn connect(&self) -> Http {
        Http::connect(self.clients).await
    }

    pub(crate) async fn admin(&self, path: &str) -> Reply {
        Http::connect(self.admin).await.get(path).await
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics(self.admin("/metrics").await.text())
    }

    pub(crate) async fn model(&self, name: &str) -> Value {
        self.admin(&format!("/api/models/{name}")).await.json()
    }

    /// The decisions about digits that were worth telling, oldest first.
    pub(crate) async fn decisions(&self) -> Vec<Value> {
        let answer = self.admin("/api/models/digits/decisions?n=1000").await.json();
        answer["decisions"].as_array().unwrap().iter().rev().cloned().collect()
    }

    pub(crate) async fn until_ready(&self, model: &str, replicas: u64) {
        until(&format!("{replicas} replicas of {model} are ready"), async || {
            (self.model(model).await["replicas"]["ready"] == replicas).then_some(())
        })
        .await;
    }

    pub(crate) async fn until_logged(&self, text: &str) {
        until(&format!("the log has: {text}"), async || {
            self.log.lock().unwrap().iter().any(|line| line.contains(text)).then_some(())
        })
        .await;
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }
}

pub(crate) fn configuration(models: &[String]) -> String {
    format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nshutdown: {{acceptFor: 0s, drain: 5s}}\nmodels:\n{}",
        models.concat()
    )
}

/// As [`configuration`], with decisions on record in `file`.
pub(crate) fn on_record(models: &[String], file: &Path) -> String {
    format!("record: {{file: \"{}\"}}\n{}", file.display(), configuration(models))
}

pub(crate) async fn keep(stream: impl tokio::io::AsyncBufRead + Unpin, lines: Lines) {
    let mut stream = stream.lines();
    while let Ok(Some(line)) = stream.next_line().await {
        lines.lock().unwrap().push(line);
    }
}

/// The address that follows `before` in a line.
pub(crate) fn address(lines: &[String], before: &str) -> Option<SocketAddr> {
    let rest = lines.iter().find_map(|line| line.split_once(before))?.1;
    rest.split(|c: char| !c.is_ascii_digit() && !".:".contains(c)).next()?.parse().ok()
}

/// A model server that no gateway started.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    process: Running,
}

impl Server {
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let digits = ["model-server", "--onnx", "examples/models/digits.onnx", "--port", "0"];
        let arguments = [&digits[..], arguments].concat();
        let mut process = Running::start(&arguments, Stdio::piped(), Stdio::null());
        let lines = Lines::default();
        tokio::spawn(keep(BufReader::new(process.child().stdout.take().unwrap()), Arc::clone(&lines)));
        let address = until("the model server says where it listens", async || {
            address(&lines.lock().unwrap(), "on http://")
        })
        .await;
        Self { address, process }
    }

    pub(crate) async fn stop(mut self) {
        self.process.signal(Signal::SIGKILL);
        self.process.ended().await;
    }
}

/// What `/metrics` showed at a moment.
#[derive(Debug)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// The sum of the series of a name that have all these labels, each written `name="value"`.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let series = self.0.lines().filter(of_name).filter(|line| labels.iter().all(|l| line.contains(l)));
        series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Every metric with its kind.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.0.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(str::to_owned).collect();
        names.sort();
        names
    }
}
