#!/usr/bin/env python3
"""Situations a gateway must get through, staged on this machine. Each prints a Markdown table and says whether it held.

    overload   twice (or --factors 2 10) what the server can do, open loop, with a deadline
    stampede   ten thousand calls at once while no replica runs
    kill       kill -9 of one of two replicas under load
    rolling    two gateways restarted in turn under load, while clients learn of it late

    cargo build --release --workspace && python3 loadtest/compare/scenarios.py overload
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request

from processes import (
    LOADTEST, ROOT, TIDEGATE, WORK, built, children, configure, free_port, load, machine, notice, stop, table, tidegate,
    upstream, wait_for,
)

DIGITS = ROOT / "examples" / "models" / "digits.onnx"
SAMPLES = ROOT / "examples" / "digits-heldout.json"
CHECKED = ["--model", "digits", "--input", "pixels:FP32:64", "--data", str(SAMPLES), "--check"]


def overload(options: argparse.Namespace) -> bool:
    """Goodput must stay near capacity, and refusals must be fast."""
    server = ["--concurrency", "1", "--latency", "8ms", "--latency-per-row", "1ms"]
    values = {"protocol": "v2-grpc", "model": "bench", "slo": f"{options.deadline_ms}ms", "queue": 1024}
    common = ["--model", "bench", "--input", "x:FP32:64", "--warmup", "3s"]
    rows, held = [], True
    with upstream(*server) as port, tidegate("tidegate-batching.yaml", "bench", upstream=port, **values) as (url, _, process):
        capacity = load(url, *common, "--clients", "64", "--duration", "13s")["ok_per_second"]
        for factor in options.factors:
            report = load(
                url, *common, "--rate", f"{capacity * factor:.0f}", "--duration", "23s", "--deadline",
                f"{options.deadline_ms}ms", "--connections", "4096", "--cpu-of", str(process.pid),
            )
            share = report["goodput_per_second"] / capacity
            refused = [row for row in report["outcomes"] if row.get("status") in (429, 503)]
            slowest = max((row["latency"]["p99"] for row in refused), default=0.0)
            held &= share >= 0.9 and slowest <= 10.0
            rows.append([
                f"{factor:g}×", f"{report['offered_per_second']:,.0f}", f"{report['goodput_per_second']:,.0f}", f"{share:.0%}",
                f"{report['latency']['p99']:.1f}", f"{slowest:.2f}", f"{report['processes'][0]['peak_rss_bytes'] / 2**20:.0f}",
            ])
    header = ["load", "offered/s", "on time/s", "of capacity", "answered p99 ms", "refused p99 ms", "peak RSS MiB"]
    print(f"{machine()}. Capacity {capacity:,.0f}/s (closed loop, 64 clients), deadline {options.deadline_ms} ms.\n")
    print(table(header, rows))
    return held


def stampede(options: argparse.Namespace) -> bool:
    """One wake, and every call answered or refused by its deadline."""
    # With one replica at most, the replicas that were started are the wakes.
    values = {"queue": options.calls, "min": 0, "max": 1, "start_delay": "2s"}
    with digits(values) as (url, admin, process):
        before = cold_starts(admin)
        report = load(
            url, *CHECKED, "--burst", str(options.calls), "--deadline", "30s", "--timeout", "35s",
            "--cpu-of", str(process.pid), attempts=1,
        )
        wakes = cold_starts(admin) - before
        peak = report["processes"][0]["peak_rss_bytes"] / 2**20
    silent = sum(row["requests"] for row in report["outcomes"] if row["kind"] not in ("ok", "http"))
    header = ["calls", "answered", "refused", "neither", "wrong", "cold starts", "slowest s", "peak RSS MiB"]
    refused = report["requests"] - report["ok"] - silent
    slowest = max(row["latency"]["max"] for row in report["outcomes"]) / 1e3
    print(f"{machine()}. All at once at zero replicas; the model takes 2 s to start; deadline 30 s.\n")
    print(table(header, [[report["requests"], report["ok"], refused, silent, report["wrong_answers"], f"{wakes:g}",
                          f"{slowest:.2f}", f"{peak:.0f}"]]))
    return wakes == 1 and silent == 0 and slowest <= 30.5


def kill(options: argparse.Namespace) -> bool:
    """No client may notice."""
    values = {"queue": 1024, "min": 2, "max": 2, "start_delay": "1s"}
    with digits(values) as (url, _, process):
        wait_for_replicas(process.pid, 2)
        out = WORK / "kill.json"
        command = [built(LOADTEST), url, *CHECKED, "--rate", str(options.rate), "--duration", "20s", "--warmup", "2s",
                   "--quiet", "--output", "json"]
        with out.open("w") as output, subprocess.Popen(command, stdout=output) as run:
            time.sleep(10)
            victim = children(process.pid)[0]
            os.kill(victim, signal.SIGKILL)
            notice(f"killed replica {victim}")
        report = json.loads(out.read_text())
    failed = report["requests"] - report["ok"]
    calm = statistics_before(report["seconds"], 9)
    worst = max(second["p99_ms"] for second in report["seconds"] if 10 <= second["second"] <= 13)
    print(f"{machine()}. {options.rate} requests/s, two replicas, one killed after 10 s.\n")
    header = ["requests", "failed", "wrong", "p99 before ms", "worst second's p99 after ms"]
    print(table(header, [[report["requests"], failed, report["wrong_answers"], f"{calm:.1f}", f"{worst:.1f}"]]))
    return failed == 0 and not report["void"]


def rolling(options: argparse.Namespace) -> bool:
    """No request may fail, however late the clients learn which gateway is there."""
    addresses, seconds = WORK / "gateways", options.requests // options.rate
    common = ["--model", "bench", "--input", "x:FP32:64", "--rate", f"{options.rate / len(PROTOCOLS):g}", "--duration",
              f"{seconds}s", "--addresses", str(addresses), "--connections", "16", "--max-lag", "100ms", "--quiet", "--output", "json"]
    with upstream("--latency", "1ms") as port, contextlib.ExitStack() as stack:
        pair = [Restarted(stack, upstream=port) for _ in range(2)]
        addresses.write_text("\n".join(gateway.address for gateway in pair))
        out = {name: WORK / f"rolling-{number}.json" for number, name in enumerate(PROTOCOLS)}
        runs = [stack.enter_context(subprocess.Popen([built(LOADTEST), f"http://{pair[0].address}", *common, *arguments],
                                                     stdout=out[name].open("w")))
                for name, arguments in PROTOCOLS.items()]
        restarts, lags = 0, itertools.cycle(options.lags)
        while all(run.poll() is None for run in runs):
            leaving, other = pair[restarts % 2], pair[(restarts + 1) % 2]
            leaving.process.send_signal(signal.SIGTERM)
            time.sleep(next(lags))
            addresses.write_text(other.address)
            leaving.process.wait()
            leaving.start()
            addresses.write_text("\n".join(gateway.address for gateway in pair))
            restarts += 1
            time.sleep(1)
    rows, failed, sent = [], 0, 0
    for name, path in out.items():
        report = json.loads(path.read_text())
        failed, sent = failed + report["requests"] - report["ok"], sent + report["requests"]
        rows.append([name, report["requests"], report["requests"] - report["ok"], f"{report['latency']['p99']:.1f}",
                     f"{report['latency']['max']:.0f}"])
        if report["ok"] != report["requests"]:
            notice(f"{name}: {report['outcomes']}")
    print(f"{machine()}. {options.rate} requests/s in all over two gateways, {restarts} restarts, "
          f"clients told after {', '.join(f'{lag:g}' for lag in options.lags)} s.\n")
    print(table(["clients", "requests", "failed", "p99 ms", "slowest ms"], rows))
    return failed == 0 and sent >= 0.98 * options.requests and restarts >= 2


PROTOCOLS = {
    "HTTP/1.1": ["--protocol", "v2"], "HTTP/2": ["--protocol", "v2", "--http2"], "gRPC": ["--protocol", "v2-grpc"],
}


class Restarted:
    """A gateway that is started again on the port it had."""

    def __init__(self, stack: contextlib.ExitStack, **values: object):
        self.port, self.admin = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.config = configure("tidegate-rolling.yaml", self.port, admin=self.admin, **values)
        self.start()
        stack.callback(lambda: stop(self.process))

    def start(self) -> None:
        log = WORK / f"rolling-{self.port}.log"
        command = [built(TIDEGATE), "serve", "--config", self.config]
        with log.open("a") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        wait_for(f"gateway {self.port}", self.process, f"http://{self.address}/v2/models/bench/ready", log)


def digits(values: dict):
    paths = {"tidegate": built(TIDEGATE), "onnx": str(DIGITS)}
    return tidegate("tidegate-digits.yaml", **paths, **values)


def statistics_before(seconds: list[dict], until: int) -> float:
    """The median p99 of the calm seconds."""
    calm = sorted(second["p99_ms"] for second in seconds if 2 < second["second"] <= until)
    return calm[len(calm) // 2]


def cold_starts(admin: str) -> float:
    """The sum of tidegate_cold_starts_total over its outcomes."""
    with urllib.request.urlopen(f"{admin}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(r"^tidegate_cold_starts_total\{.*\} (\S+)$", text, re.MULTILINE))


def wait_for_replicas(pid: int, replicas: int) -> None:
    until = time.monotonic() + 60
    while len(children(pid)) < replicas:
        if time.monotonic() > until:
            sys.exit(f"{replicas} replicas did not start")
        time.sleep(0.1)
    time.sleep(5)  # They are processes now; the model in them still has to load.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("overload", help=overload.__doc__)
    verb.add_argument("--factors", type=float, nargs="*", default=[2.0])
    verb.add_argument("--deadline-ms", type=int, default=200)
    verb.set_defaults(stage=overload)
    verb = verbs.add_parser("stampede", help=stampede.__doc__)
    verb.add_argument("--calls", type=int, default=10_000)
    verb.set_defaults(stage=stampede)
    verb = verbs.add_parser("kill", help=kill.__doc__)
    verb.add_argument("--rate", type=int, default=500)
    verb.set_defaults(stage=kill)
    verb = verbs.add_parser("rolling", help=rolling.__doc__)
    verb.add_argument("--requests", type=int, default=100_000)
    verb.add_argument("--rate", type=int, default=1000, help="of all protocols together")
    verb.add_argument("--lags", type=float, nargs="*", default=[0.0, 5.0, 10.0], help="seconds from SIGTERM, in turn")
    verb.set_defaults(stage=rolling)
    options = parser.parse_args()
    held = options.stage(options)
    print(f"\n{'held' if held else 'NOT HELD'}")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
