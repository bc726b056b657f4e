#!/usr/bin/env python3
"""Situations a gateway must get through, staged on this machine. Each prints a Markdown table and says whether it held.

    overload   twice (or --factors 2 10) what the server can do, open loop, with a deadline
    stampede   ten thousand calls at once while no replica runs
    kill       kill -9 of one of two replicas under load

    cargo build --release --workspace && python3 loadtest/compare/scenarios.py overload
"""

import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request

from processes import LOADTEST, ROOT, TIDEGATE, WORK, built, children, load, machine, notice, table, tidegate, upstream

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
    options = parser.parse_args()
    held = options.stage(options)
    print(f"\n{'held' if held else 'NOT HELD'}")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
