//! A real API server for one test binary: `KUBEBUILDER_ASSETS` names a folder with `kube-apiserver` and `etcd`.

use std::{
    fs::{self, File},
    io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use fleet::kubernetes::{Cluster, ConnectOptions};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// Signs the tokens of a server that lives for one test, on loopback.
const SERVICE_ACCOUNT_KEY: &str = "\
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIH3QTH37TjCQKMJ6FIe/67kAthoxi2315AFrbXZYEKmqoAoGCCqGSM49
AwEHoUQDQgAEkt1gPFhugNlMcF6tHzC7YoBrKzHcWD1fV7q868iPd1i0c7Yb5shC
fiNXdau/biRYNoGU+oXgcZJx1tMogS4CJg==
-----END EC PRIVATE KEY-----
";

/// Token, name, uid, groups. Each token is the name of its user.
const TOKENS: &str = "\
admin,admin,admin,system:masters
autoscaler,autoscaler,autoscaler
gateway,gateway,gateway
";

/// An API server and its store, in a folder of their own. They end with this.
pub(crate) struct ApiServer {
    folder: PathBuf,
    processes: Vec<Child>,
}

impl ApiServer {
    /// `None`, with a notice, where there is none to start.
    pub(crate) async fn start() -> Option<Self> {
        #[expect(
            clippy::disallowed_methods,
            reason = "the folder of a real API server is an option of the tests"
        )]
        let Ok(assets) = std::env::var("KUBEBUILDER_ASSETS") else {
            println!("skipped: KUBEBUILDER_ASSETS does not name a folder with kube-apiserver and etcd");
            return None;
        };
        Some(Self::start_from(Path::new(&assets)).await.unwrap())
    }

    async fn start_from(assets: &Path) -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("tidegate-api-server-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let mut this = Self { folder, processes: Vec::new() };
        let [client, peer, api] = free_ports()?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let mut etcd = Command::new(assets.join("etcd"));
        etcd.arg("--data-dir").arg(this.folder.join("etcd"));
        etcd.args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)]);
        etcd.args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)]);
        etcd.args(["--initial-cluster", &format!("default={}", url(peer)), "--unsafe-no-fsync"]);
        this.run(etcd, "etcd")?;
        let (key, tokens) = (this.folder.join("sa.key"), this.folder.join("tokens.csv"));
        fs::write(&key, SERVICE_ACCOUNT_KEY)?;
        fs::write(&tokens, TOKENS)?;
        for user in ["admin", "autoscaler", "gateway"] {
            fs::write(this.kubeconfig(user), kubeconfig(api, user).to_string())?;
        }
        let mut server = Command::new(assets.join("kube-apiserver"));
        server.args(["--etcd-servers", &url(client), "--secure-port", &api.to_string()]);
        server.args(["--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"]);
        server.arg("--cert-dir").arg(this.folder.join("certificates"));
        server.args(["--service-cluster-ip-range", "10.96.0.0/16", "--endpoint-reconciler-type", "none"]);
        server.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
        server.arg("--service-account-signing-key-file").arg(&key);
        server.arg("--service-account-key-file").arg(&key);
        server.arg("--token-auth-file").arg(&tokens);
        server.args(["--authorization-mode", "RBAC", "--disable-admission-plugins", "ServiceAccount"]);
        this.run(server, "kube-apiserver")?;
        this.wait().await;
        Ok(this)
    }

    fn run(&mut self, mut command: Command, name: &str) -> io::Result<()> {
        let log = File::create(self.folder.join(format!("{name}.log")))?;
        let child = command.stdout(log.try_clone()?).stderr(log).spawn()?;
        self.processes.push(child);
        Ok(())
    }

    fn kubeconfig(&self, user: &str) -> PathBuf {
        self.folder.join(format!("{user}.kubeconfig"))
    }

    /// As `admin`, who may do everything, or as `autoscaler` or `gateway`, who may do nothing at first.
    pub(crate) async fn connect(&self, user: &str) -> Cluster {
        let agent = "tidegate/test (fleet)".to_owned();
        let options = ConnectOptions { kubeconfig: Some(self.kubeconfig(user)), context: None, agent };
        Cluster::connect(options).await.unwrap()
    }

    /// Until it answers and has made what it makes by itself.
    async fn wait(&self) {
        let (client, deadline) =
            (self.connect("admin").await.client(), Instant::now() + Duration::from_secs(60));
        loop {
            let ready = http::Request::get("/api/v1/namespaces/default").body(Vec::new()).unwrap();
            match client.request::<Value>(ready).await {
                Ok(_) => return,
                Err(error) if Instant::now() > deadline => panic!("it does not start: {error}"),
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            // What cannot be ended or removed here goes with the machine.
            drop(process.kill());
            drop(process.wait());
        }
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn free_ports() -> io::Result<[u16; 3]> {
    let listeners = [(); 3].map(|()| TcpListener::bind(("127.0.0.1", 0)));
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(listeners) {
        *port = listener?.local_addr()?.port();
    }
    Ok(ports)
}

fn kubeconfig(port: u16, user: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true}}],
        "users": [{"name": "test", "user": {"token": user}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    })
}
