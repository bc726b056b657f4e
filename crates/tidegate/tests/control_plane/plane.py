"""A real Kubernetes control plane on loopback: etcd, kube-apiserver and kube-controller-manager from the folder that
KUBEBUILDER_ASSETS names, with a kubelet that runs each pod as a model server on an address of its own.

Pod addresses are not loopback ones (the API server refuses those in EndpointSlices), so all of this runs in a network
namespace of its own, where they are addresses of the loopback device.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import threading
import time

import requests
import urllib3

urllib3.disable_warnings()

ROOT = pathlib.Path(__file__).resolve().parents[4]
TIDEGATE = pathlib.Path(os.environ.get("TIDEGATE", ROOT / "target" / "debug" / "tidegate"))
ASSETS = pathlib.Path(os.environ.get("KUBEBUILDER_ASSETS", "/nonexistent"))
NEEDED = ["etcd", "kube-apiserver", "kube-controller-manager"]
API, ETCD, PEERS, MANAGER = 6443, 2379, 2380, 10257
ADMIN = "admin-of-the-test"
PATIENCE = 60.0


def until(what: str, look, patience: float = PATIENCE, pause: float = 0.05):
    """Looks again and again until there is something, and gives it."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with contextlib.suppress(requests.RequestException, KeyError):
            if found := look():
                return found
        time.sleep(pause)
    raise AssertionError(f"not within {patience:g} s: {what}")


def session() -> requests.Session:
    """A client that goes straight to where it is told, whatever proxies and authorities the machine has."""
    plain = requests.Session()
    plain.trust_env = False
    return plain


class Process:
    """A program that ends with its test."""

    def __init__(self, name: str, folder: pathlib.Path, command: list[str], **environment: str):
        self.log = folder / f"{name}.log"
        with self.log.open("a") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT,
                env=os.environ | environment,
            )

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, patience: float = 60.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                return self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()


class Api:
    """The API server, as one account sees it."""

    def __init__(self, token: str):
        self.session = session()
        self.session.verify = False
        self.session.headers["authorization"] = f"Bearer {token}"

    def call(self, verb: str, path: str, body=None, kind: str = "application/json") -> requests.Response:
        data = None if body is None else json.dumps(body)
        return self.session.request(verb, f"https://127.0.0.1:{API}{path}", data=data, headers={"content-type": kind}, timeout=15)

    def get(self, path: str):
        answer = self.call("GET", path)
        answer.raise_for_status()
        return answer.json()

    def create(self, path: str, body) -> dict:
        answer = self.call("POST", path, body)
        assert answer.status_code in (200, 201, 409), answer.text
        return answer.json()

    def merge(self, path: str, body) -> dict:
        answer = self.call("PATCH", path, body, "application/merge-patch+json")
        assert answer.ok, answer.text
        return answer.json()

    def delete(self, path: str, grace: int | None = None) -> None:
        self.call("DELETE", path, None if grace is None else {"gracePeriodSeconds": grace})


class ControlPlane:
    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.processes: dict[str, Process] = {}
        key = folder / "service-accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        (folder / "tokens.csv").write_text(f"{ADMIN},admin,admin,system:masters\n")
        self.kubeconfig("admin", ADMIN)
        self.start("etcd", "--data-dir", str(folder / "etcd"), "--log-level", "error",
                   *sum((["--" + flag, f"http://127.0.0.1:{port}"] for flag, port in [
                       ("listen-client-urls", ETCD), ("advertise-client-urls", ETCD), ("listen-peer-urls", PEERS),
                       ("initial-advertise-peer-urls", PEERS)]), []),
                   "--initial-cluster", f"default=http://127.0.0.1:{PEERS}")
        self.start_api_server()
        self.start("kube-controller-manager", "--kubeconfig", str(folder / "admin.kubeconfig"), "--leader-elect=false",
                   "--service-account-private-key-file", str(key), "--secure-port", str(MANAGER), "--cert-dir", str(folder / "manager"),
                   "--controllers=deployment,replicaset,endpointslice-controller,garbagecollector,namespace,"
                   "serviceaccount,statefulset,horizontalpodautoscaling,pod-garbage-collector-controller", "--horizontal-pod-autoscaler-sync-period=2s",
                   "--concurrent-deployment-syncs=2")
        self.api.create("/api/v1/nodes", {"metadata": {"name": "node"}})

    def start(self, name: str, *arguments: str) -> None:
        self.processes[name] = Process(name, self.folder, [str(ASSETS / name), *arguments])

    def start_api_server(self) -> None:
        key = str(self.folder / "service-accounts.key")
        self.start("kube-apiserver", "--etcd-servers", f"http://127.0.0.1:{ETCD}", "--secure-port", str(API), "--bind-address", "127.0.0.1",
                   "--advertise-address", "127.0.0.1", "--endpoint-reconciler-type=none", "--cert-dir", str(self.folder / "certificates"),
                   "--service-cluster-ip-range=10.96.0.0/16", "--service-account-issuer=https://kubernetes.default.svc",
                   "--service-account-signing-key-file", key, "--service-account-key-file", key, "--authorization-mode=RBAC",
                   "--token-auth-file", str(self.folder / "tokens.csv"), "--disable-admission-plugins=ServiceAccount",
                   # Lists and watches end sooner than usual, so that the tests meet their ends.
                   "--min-request-timeout=30")
        self.api = Api(ADMIN)
        until("the API server is ready", lambda: self.api.call("GET", "/readyz").ok)

    def kubeconfig(self, name: str, token: str) -> pathlib.Path:
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": f"https://127.0.0.1:{API}", "insecure-skip-tls-verify": True}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "tidegate"}}],
        }))
        return path

    def account(self, name: str, namespace: str = "tidegate") -> pathlib.Path:
        """A kubeconfig of a service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
        until(f"there is an account {name}", lambda: self.api.call("GET", path.removesuffix("/token")).ok)
        return self.kubeconfig(name, self.api.create(path, request)["status"]["token"])

    def apply(self, folder: str) -> None:
        """Applies a kustomization of the project's, server side."""
        for _ in range(2):  # A kind and its first object may come in one.
            done = subprocess.run(["kubectl", "--kubeconfig", self.folder / "admin.kubeconfig", "apply", "--server-side", "--validate=false", "-k", ROOT / folder],
                                  capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            time.sleep(1)
        raise AssertionError(done.stderr)

    def stop(self) -> None:
        for name in ["kube-controller-manager", "kube-apiserver", "etcd"]:
            self.processes[name].stop(patience=10)


class Kubelet:
    """Runs every pod as a model server, on an address of its own; says when it is ready, and ends it when it is deleted."""

    def __init__(self, plane: ControlPlane, namespace: str, start_delay: float = 1.0):
        self.api, self.folder, self.namespace = Api(ADMIN), plane.folder, namespace
        self.start_delay, self.pace, self.unschedulable, self.crash = start_delay, "0s", False, False
        self.free = [f"10.244.0.{n}" for n in range(10, 90)]
        self.pods: dict[str, tuple[str, Process]] = {}
        self.stopping: dict[str, float] = {}
        self.ready: set[str] = set()
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while not self.closed.wait(0.05):
            with contextlib.suppress(requests.RequestException, AssertionError):
                self.look()

    def look(self) -> None:
        pods = self.api.get(f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=model")["items"]
        for pod in pods:
            name, meta = pod["metadata"]["name"], pod["metadata"]
            if meta.get("deletionTimestamp"):
                self.end(name, meta)
            elif name not in self.pods:
                self.begin(name, meta)
            elif name not in self.ready:
                self.probe(name)
        for name in set(self.pods) - {pod["metadata"]["name"] for pod in pods}:
            self.forget(name)

    def begin(self, name: str, meta: dict) -> None:
        if self.unschedulable:
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                         "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}
            self.status(name, {"phase": "Pending", "conditions": [condition]})
            return
        ip = self.free.pop(0)
        process = Process(f"pod-{name}", self.folder, [
            str(TIDEGATE), "model-server", "--onnx", "examples/models/digits.onnx", "--host", ip, "--port", "8001",
            "--start-delay", f"{self.start_delay}s", "--pace", self.pace,
        ])
        self.pods[name] = ip, process
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"apiVersion": "v1", "kind": "Node", "name": "node"}}
        self.api.create(f"/api/v1/namespaces/{self.namespace}/pods/{name}/binding", binding)
        self.status(name, {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": self.conditions("False")})

    def probe(self, name: str) -> None:
        ip, _ = self.pods[name]
        with contextlib.suppress(requests.RequestException):
            if session().get(f"http://{ip}:8001/v2/models/digits/ready", timeout=1).ok:
                self.status(name, {"conditions": self.conditions("True")})
                self.ready.add(name)

    def conditions(self, ready: str) -> list[dict]:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return [{"type": kind, "status": status, "lastTransitionTime": now}
                for kind, status in [("PodScheduled", "True"), ("Initialized", "True"), ("ContainersReady", ready), ("Ready", ready)]]

    def end(self, name: str, meta: dict) -> None:
        if name not in self.pods:
            self.api.delete(f"/api/v1/namespaces/{self.namespace}/pods/{name}", grace=0)
            return
        ip, process = self.pods[name]
        if name not in self.stopping:
            self.stopping[name] = time.monotonic()
            process.send(signal.SIGTERM)
        elif process.process.poll() is not None or time.monotonic() - self.stopping[name] > 30:
            self.forget(name)
            self.api.delete(f"/api/v1/namespaces/{self.namespace}/pods/{name}", grace=0)

    def forget(self, name: str) -> None:
        ip, process = self.pods.pop(name)
        process.stop(signal.SIGKILL)
        self.free.append(ip)
        self.ready.discard(name)
        self.stopping.pop(name, None)

    def status(self, name: str, status: dict) -> None:
        self.api.merge(f"/api/v1/namespaces/{self.namespace}/pods/{name}/status", {"status": status})

    def close(self) -> None:
        self.closed.set()
        self.thread.join()
        for name in list(self.pods):
            self.forget(name)


class Tidegate:
    """One process of Tidegate as a pod's container would be."""

    def __init__(self, plane: ControlPlane, name: str, role: str, ip: str, config: pathlib.Path, kubeconfig: pathlib.Path):
        self.name, self.ip = name, ip
        self.arguments = (name, plane.folder, [str(TIDEGATE), "serve", "--config", str(config), "--role", role])
        self.environment = {"POD_NAME": name, "POD_NAMESPACE": "tidegate", "POD_IP": ip, "KUBECONFIG": str(kubeconfig)}
        self.start()

    def start(self) -> None:
        self.process = Process(*self.arguments, **self.environment)

    def admin(self, path: str):
        return session().get(f"http://{self.ip}:9090{path}", timeout=5)

    def log(self) -> str:
        return self.process.log.read_text()



def install(plane: ControlPlane) -> None:
    """A model's Deployment at zero with its Service, and where gateways are found."""
    apps, core = "/apis/apps/v1/namespaces/tidegate", "/api/v1/namespaces/tidegate"
    template = {"metadata": {"labels": {"model": "digits"}}, "spec": {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "server", "image": "tidegate:0.1.0", "securityContext": {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}]}}
    plane.api.create(f"{apps}/deployments", {"metadata": {"name": "digits"}, "spec": {
        "replicas": 0, "selector": {"matchLabels": {"model": "digits"}}, "template": template}})
    plane.api.create(f"{core}/services", {"metadata": {"name": "digits"}, "spec": {
        "selector": {"model": "digits"}, "ports": [{"name": "grpc", "port": 8001}, {"name": "metrics", "port": 8002}]}})


class Installation:
    """Two gateways and two autoscalers as processes beside the control plane."""

    def __init__(self, plane: ControlPlane):
        self.plane, self.api = plane, plane.api
        gateway, autoscaler = plane.account("tidegate-gateway"), plane.account("tidegate-autoscaler")
        self.gateways = [self.process(f"gateway-{n}", "gateway", f"10.244.0.{200 + n}", gateway) for n in (1, 2)]
        self.autoscalers = [self.process(f"autoscaler-{n}", "autoscaler", f"10.244.0.{210 + n}", autoscaler) for n in (1, 2)]
        self.api.create("/apis/discovery.k8s.io/v1/namespaces/tidegate/endpointslices", {
            "metadata": {"name": "gateways", "labels": {"kubernetes.io/service-name": "tidegate-gateway"}},
            "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [
                {"addresses": [gateway.ip], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": gateway.name, "namespace": "tidegate"}}
                for gateway in self.gateways]})
        self.api.create("/apis/tidegate.dev/v1alpha1/namespaces/tidegate/models", {
            "apiVersion": "tidegate.dev/v1alpha1", "kind": "Model", "metadata": {"name": "digits"}, "spec": {
                "fleet": {"kubernetes": {"target": "Deployment/digits", "port": 8001}}, "slo": {"p99": "500ms"},
                "scaling": {"min": 0, "max": 4, "idleAfter": "15s"}}})
        until("somebody leads", self.leader)
        until("the model is known", lambda: all(self.knows(gateway) for gateway in self.gateways))

    def process(self, name: str, role: str, ip: str, kubeconfig: pathlib.Path) -> Tidegate:
        config = self.plane.folder / f"{name}.yaml"
        config.write_text(
            f"listen: {ip}:8080\nadmin: {ip}:9090\nallowInsecureAdmin: true\nshutdown: {{acceptFor: 1s, drain: 10s}}\n"
            f'cluster: {{signals: "{ip}:9091", leaseTiming: fast, models: "on"}}\n'
        )
        return Tidegate(self.plane, name, role, ip, config, kubeconfig)

    def knows(self, process: Tidegate) -> bool:
        return process.admin("/api/models/digits").status_code == 200

    def leader(self) -> Tidegate | None:
        """The autoscaler that holds the Lease."""
        lease = self.api.get("/apis/coordination.k8s.io/v1/namespaces/tidegate/leases/tidegate")["spec"]
        return next((a for a in self.autoscalers if a.name == lease.get("holderIdentity")), None)

    def follower(self) -> Tidegate:
        leader = self.leader()
        return next(a for a in self.autoscalers if a is not leader)

    def epoch(self) -> int:
        return self.api.get("/apis/coordination.k8s.io/v1/namespaces/tidegate/leases/tidegate")["spec"]["leaseTransitions"]

    def replicas(self) -> int:
        return self.api.get("/apis/apps/v1/namespaces/tidegate/deployments/digits/scale")["spec"].get("replicas", 0)

    def scale(self, replicas: int) -> None:
        self.api.merge("/apis/apps/v1/namespaces/tidegate/deployments/digits/scale", {"spec": {"replicas": replicas}})

    def why(self) -> str:
        return self.leader().admin("/api/models/digits/why").json()["text"]

    def decisions(self) -> list[dict]:
        return self.leader().admin("/api/models/digits/decisions?n=200").json()["decisions"]

    def status(self) -> dict:
        return self.api.get("/apis/tidegate.dev/v1alpha1/namespaces/tidegate/models/digits").get("status", {})

    def condition(self, kind: str) -> dict:
        return next(c for c in self.status()["conditions"] if c["type"] == kind)

    def predict(self, gateway: int = 0, patience: float = 60.0) -> requests.Response:
        url = f"http://{self.gateways[gateway].ip}:8080/v1/models/digits:predict"
        return session().post(url, data=(ROOT / "examples/requests/digits-v1.json").read_bytes(), timeout=patience)

    def to_zero(self) -> None:
        until("the model is at zero", lambda: self.replicas() == 0, 150.0)

    def stop(self) -> None:
        for process in self.gateways + self.autoscalers:
            process.process.stop(patience=20)


class Load:
    """Calls to both gateways from a few threads, until the block ends. Counts what was not answered with 200."""

    def __init__(self, installation: Installation, threads: int = 4, pause: float = 0.02):
        self.installation, self.pause, self.closed = installation, pause, threading.Event()
        self.answered, self.failed = 0, []
        self.threads = [threading.Thread(target=self.run, args=(n,), daemon=True) for n in range(threads)]

    def run(self, number: int) -> None:
        client = session()
        body = (ROOT / "examples/requests/digits-v1.json").read_bytes()
        url = f"http://{self.installation.gateways[number % 2].ip}:8080/v1/models/digits:predict"
        while not self.closed.wait(self.pause):
            try:
                answer = client.post(url, data=body, timeout=60)
                if answer.ok:
                    self.answered += 1
                else:
                    self.failed.append((time.time(), answer.status_code, answer.text[:200]))
            except requests.RequestException as error:
                self.failed.append((time.time(), 0, str(error)[:200]))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.closed.set()
        for thread in self.threads:
            thread.join()
