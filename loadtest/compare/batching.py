#!/usr/bin/env python3
"""What batching in the gateway is worth to a server that does not batch.

MLServer serves a scikit-learn random forest with its own batching off. The same single-row clients call it directly
and through Tidegate, in turn, and every answer is checked against what the forest says of that very input. Prints a
Markdown table with throughput and p99; numbers are medians over the rounds.

    cargo build --release --workspace && python3 loadtest/compare/batching.py
"""

import argparse
import contextlib
import statistics
import subprocess

from processes import HERE, WORK, NotThere, environment, free_port, load, machine, notice, running, table, tidegate


@contextlib.contextmanager
def forest():
    """MLServer with the forest. Gives its HTTP and gRPC ports and its process."""
    # MLServer's workers need an event loop that makes itself, as uvloop's did until 0.21.
    bin = environment("mlserver", "mlserver", "mlserver-sklearn", "uvloop<0.22")
    ports = http, grpc, _ = [free_port() for _ in range(3)]
    directory = WORK / "forest"
    subprocess.run([bin / "python", HERE / "forest.py", directory, *map(str, ports)], check=True)
    ready = f"http://127.0.0.1:{http}/v2/models/forest/ready"
    with running("mlserver", [str(bin / "mlserver"), "start", str(directory)], ready) as process:
        yield http, grpc, process


def measure(url: str, options: argparse.Namespace) -> dict:
    report = load(
        url, "--model", "forest", "--data", str(WORK / "forest" / "samples.json"), "--check", "--input",
        "pixels:FP32:64", "--clients", str(options.clients), "--duration", f"{options.seconds}s", "--warmup", "2s",
    )
    if report["ok"] != report["requests"]:
        notice(f"{url}: {report['requests'] - report['ok']} of {report['requests']} not answered rightly: {report['outcomes']}")
    return report


def row(name: str, reports: list[dict], direct: float) -> list[object]:
    middle = lambda pick: statistics.median(pick(report) for report in reports)
    throughput = middle(lambda r: r["ok_per_second"])
    rows = [r["batch_rows_mean"] for r in reports if r["batch_rows_mean"]]
    return [
        name, f"{throughput:,.0f}", f"{throughput / direct:.2f}×", f"{middle(lambda r: r['latency']['p50']):.1f}",
        f"{middle(lambda r: r['latency']['p99']):.1f}", f"{statistics.median(rows):.1f}" if rows else "",
        sum(r["requests"] - r["ok"] for r in reports), sum(r["wrong_answers"] for r in reports),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=12, help="of each measurement, the first two are warm-up")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--protocols", nargs="*", choices=["v2-grpc", "v2-http"], default=["v2-grpc", "v2-http"],
                        help="spoken by the gateway to MLServer")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        http, grpc, _ = stack.enter_context(forest())
        urls = {"direct": f"http://127.0.0.1:{http}"}
        for protocol in options.protocols:
            server = grpc if protocol == "v2-grpc" else http
            values = {"protocol": protocol, "upstream": server, "model": "forest", "slo": "1s", "queue": 1024}
            try:
                url, _, _ = stack.enter_context(tidegate("tidegate-batching.yaml", "forest", **values))
                urls[f"through Tidegate, {protocol}"] = url
            except NotThere as reason:
                notice(f"gateway left out: {reason}")
        reports = {name: [] for name in urls}
        for number in range(options.rounds):
            for name, url in urls.items():
                notice(f"round {number + 1} of {options.rounds}: {name}")
                reports[name].append(measure(url, options))
    direct = statistics.median(report["ok_per_second"] for report in reports["direct"])
    header = ["path", "requests/s", "÷ direct", "p50 ms", "p99 ms", "batch rows", "failed", "wrong"]
    print(f"{machine()}. {options.clients} single-row clients, V2 JSON, medians of {options.rounds} interleaved rounds.\n")
    print(table(header, [row(name, results, direct) for name, results in reports.items()]))


if __name__ == "__main__":
    main()
