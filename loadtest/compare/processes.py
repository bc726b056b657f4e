"""Programs under comparison: found or installed, started on free ports, waited for, and ended by process id."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RELEASE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
LOADTEST = RELEASE / "loadtest"
TIDEGATE = RELEASE / "tidegate"
# Configurations, logs and virtual environments of the comparisons; below target, so never committed.
WORK = RELEASE.parent / "compare"

START_TIMEOUT = 120.0
STOP_TIMEOUT = 10.0


class NotThere(Exception):
    """A program that is not installed; its comparison is skipped."""


def program(name: str) -> str:
    """The path of an installed program; Debian keeps some of them outside of a user's PATH."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise NotThere(f"{name} is not installed")
    return found


def built(path: pathlib.Path) -> str:
    if not path.exists():
        raise NotThere(f"{path} is not built: cargo build --release --workspace")
    return str(path)


def environment(name: str, *packages: str) -> pathlib.Path:
    """The bin directory of a virtual environment with `packages`, made on first use."""
    directory = WORK / f"venv-{name}"
    done = directory / "complete"
    wanted = " ".join(packages)
    if not done.exists() or done.read_text() != wanted:
        notice(f"installing {wanted} …")
        venv.create(directory, clear=True, with_pip=True)
        pip = [str(directory / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *packages]
        if subprocess.run(pip, check=False).returncode != 0:
            raise NotThere(f"{wanted} cannot be installed")
        done.write_text(wanted)
    return directory / "bin"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def configure(template: str, port: int, **values: object) -> str:
    """Fills a template of this directory in, for a server on `port`, and gives the path of the result."""
    WORK.mkdir(parents=True, exist_ok=True)
    # One file per server: a running one may watch its own.
    path = WORK / f"{port}-{template}"
    text = (HERE / template).read_text()
    path.write_text(string.Template(text).substitute(directory=WORK, port=port, **values))
    return str(path)


@contextlib.contextmanager
def running(name: str, command: list[str], ready: str, **variables: str):
    """Runs `command` until the block ends, from when the URL `ready` answers 200. Gives the process."""
    WORK.mkdir(parents=True, exist_ok=True)
    log = WORK / f"{name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=os.environ | variables
        )
    try:
        wait_for(name, process, ready, log)
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen) -> None:
    """Ends the process and waits for it, first politely."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(name: str, process: subprocess.Popen, url: str, log: pathlib.Path) -> None:
    until = time.monotonic() + START_TIMEOUT
    while time.monotonic() < until:
        if process.poll() is not None:
            sys.exit(f"{name} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        with contextlib.suppress(OSError, urllib.error.URLError):
            with urllib.request.urlopen(url, timeout=1) as answer:
                if answer.status == 200:
                    return
        time.sleep(0.05)
    sys.exit(f"{name} was not ready after {START_TIMEOUT:.0f} s:\n{log.read_text()[-2000:]}")


@contextlib.contextmanager
def upstream(*arguments: str):
    """A `loadtest upstream`. Gives its port."""
    port = free_port()
    command = [built(LOADTEST), "upstream", "--listen", f"127.0.0.1:{port}", *arguments]
    with running("upstream", command, f"http://127.0.0.1:{port}/v2/health/ready"):
        yield port


@contextlib.contextmanager
def tidegate(template: str, model_ready: str | None = None, **values: object):
    """A `tidegate serve` of a configuration. Gives its URL, its admin URL and its process."""
    port, admin = free_port(), free_port()
    config = configure(template, port, admin=admin, **values)
    command = [built(TIDEGATE), "serve", "--config", config]
    ready = f"http://127.0.0.1:{port}/v2/models/{model_ready}/ready" if model_ready else f"http://127.0.0.1:{admin}/readyz"
    with running(f"tidegate-{port}", command, ready, TOKIO_WORKER_THREADS="2") as process:
        yield f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}", process


def load(url: str, *arguments: str, attempts: int = 3) -> dict:
    """One run of loadtest. A run that is void is repeated; one that fails otherwise is still reported."""
    for _ in range(attempts):
        command = [built(LOADTEST), url, "--quiet", "--output", "json", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not done.stdout:
            sys.exit(f"loadtest failed: {done.stderr}")
        report = json.loads(done.stdout)
        if not report["void"]:
            return report
        notice(f"repeated, {report['void']}")
    sys.exit("the generator lags on every attempt: this machine is too busy to measure on")


class LoadInBackground:
    """One run of loadtest that others, or faults, go on beside."""

    def __init__(self, url: str, *arguments: str):
        command = [built(LOADTEST), url, "--quiet", "--output", "json", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> "LoadInBackground":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def report(self) -> dict:
        """Waits for its end. A run that is void is reported with a notice."""
        output, errors = self.process.communicate()
        if not output:
            sys.exit(f"loadtest failed: {errors}")
        report = json.loads(output)
        if report["void"]:
            notice(f"void: {report['void']}")
        return report


def resident_bytes(pid: int) -> int:
    """Memory that the process and those it started hold now."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    own = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:")), 0)
    return own + sum(resident_bytes(child) for child in children(pid))


def children(pid: int) -> list[int]:
    """The processes that `pid` started."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def table(header: list[str], rows: list[list[object]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def notice(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def machine() -> str:
    model = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown")
    return f"{os.cpu_count()} × {model}, Linux {os.uname().release}"
