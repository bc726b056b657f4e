#!/usr/bin/env python3
"""Chat completions through Tidegate and others, in turn, in front of the same simulated engines. Each prints a table.

    unary      whole answers of instant engines: CPU per request and added latency
    stream     streams: CPU per token and added time to the first one
    prefix     sessions of several turns over four engines with prefix caches; then with one of them three times slower
    overload   three times the peak, and floods by a class and by a tenant
    streams    2,000 streams at once, and one reader that stops reading
    faults     an engine killed, frozen, or answering nonsense
    all        one after the other

    cargo build --release --workspace && python3 loadtest/compare/chat.py unary

Measurements are interleaved and medians are reported, where there is more than one round. A gateway that cannot be
installed or is not built is left out with a notice; --only names those that are wanted.
"""

import argparse
import contextlib
import os
import signal
import statistics
import sys
import time

from chat_gateways import GATEWAYS, IMPATIENT, INSTANT, MODEL, Engine, Gateway, engines
from processes import LoadInBackground, NotThere, load, machine, notice, resident_bytes, table

CHAT = ["--protocol", "chat", "--model", MODEL, "--threads", "1"]
OBJECTIVE = ["--slo-ttft", "2s", "--slo-tpot", "60ms"]
PROXIES = ["tidegate", "sglang-router", "vllm-router", "nginx", "envoy"]


class Targets:
    """The gateways of one comparison, all running in front of the same engines."""

    def __init__(self, servers: list[Engine], names: list[str], stack: contextlib.ExitStack,
                 gateways: dict[str, Gateway] = GATEWAYS):
        self.servers = servers
        self.urls: dict[str, tuple[str, int]] = {}
        for name in names:
            try:
                url, process = stack.enter_context(gateways[name](servers))
                self.urls[name] = (url, process.pid)
            except NotThere as reason:
                notice(f"{name} left out: {reason}")

    def rounds(self, number: int, measure, direct: bool = False) -> dict[str, list]:
        """What `measure(url, pid)` gives for each, in `number` interleaved rounds; `pid` is None for an engine itself."""
        targets = ({"direct": (self.servers[0].url, None)} if direct else {}) | self.urls
        results: dict[str, list] = {name: [] for name in targets}
        for turn in range(number):
            for name, (url, pid) in targets.items():
                notice(f"round {turn + 1} of {number}: {name}")
                for server in self.servers:
                    server.reset()
                results[name].append(measure(url, pid))
        return results


def chosen(options: argparse.Namespace, names: list[str]) -> list[str]:
    return [name for name in names if not options.only or name in options.only]


def charged(pid: int | None) -> list[str]:
    return ["--cpu-of", str(pid)] if pid else []


def cpu_seconds(report: dict) -> float:
    return sum(process["cpu_seconds"] for process in report["processes"])


def all_answered(report: dict, url: str) -> dict:
    if report["ok"] != report["requests"]:
        notice(f"{url}: {report['requests'] - report['ok']} of {report['requests']} failed: {failures(report)}")
    return report


def failures(report: dict) -> str:
    """What went wrong, by kind."""
    kinds: dict[str, int] = {}
    for row in report["outcomes"]:
        if row["kind"] != "ok":
            kind = " ".join(str(row[key]) for key in ("kind", "status", "reason", "code") if row.get(key))
            kinds[kind] = kinds.get(kind, 0) + row["requests"]
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none"


def medians(rounds: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        name: {key: statistics.median(one[key] for one in results) for key in results[0]}
        for name, results in rounds.items()
    }


def ratio(value: float, median: dict[str, dict[str, float]], name: str) -> str:
    base = median.get(name)
    return f"{value / base['cpu']:.2f}" if base and base["cpu"] else ""


def unary(options: argparse.Namespace) -> None:
    """CPU seconds per 10,000 requests of 1 KB in a closed loop, and latency added at a fixed rate."""
    body = ["--prompt-tokens", "238", "--output-tokens", "16", "--warmup", "1s", "--duration", f"{options.seconds}s"]

    def measure(url: str, pid: int | None) -> dict[str, float]:
        closed = all_answered(load(url, *CHAT, *body, "--clients", "32", *charged(pid)), url)
        fixed = all_answered(load(url, *CHAT, *body, "--rate", str(options.rate)), url)
        return {
            "cpu": cpu_seconds(closed) * 1e4 / closed["requests"], "throughput": closed["ok_per_second"],
            "p50": fixed["service"]["p50"], "p99": fixed["service"]["p99"], "bytes": closed["request_bytes"],
        }

    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(engines(2, *INSTANT))
        median = medians(Targets(servers, chosen(options, PROXIES), stack).rounds(options.rounds, measure, direct=True))
    direct = median["direct"]
    rows = [["direct", "", "", "", f"{direct['throughput']:,.0f}", f"({direct['p50']:.3f})", f"({direct['p99']:.3f})"]]
    rows += [[
        name, f"{m['cpu']:.3f}", ratio(m["cpu"], median, "sglang-router"), ratio(m["cpu"], median, "vllm-router"),
        f"{m['throughput']:,.0f}", f"{m['p50'] - direct['p50']:+.3f}", f"{m['p99'] - direct['p99']:+.3f}",
    ] for name, m in median.items() if name != "direct"]
    print(f"{machine()}. Whole answers of two instant engines, bodies of {direct['bytes']:.0f} B; medians of {options.rounds} "
          f"interleaved rounds. CPU and throughput: 32 clients, closed loop. Latency: {options.rate}/s, Poisson, less the "
          f"direct call's (in parentheses).\n")
    print(table(["gateway", "CPU s / 10,000", "÷ sglang-router", "÷ vllm-router", "requests/s", "added p50 ms", "added p99 ms"], rows))


def stream(options: argparse.Namespace) -> None:
    """CPU seconds per 100,000 tokens, each in a frame of its own, and time added to the first one."""
    paced = ["--ttft", "10ms", "--prefill", "0", "--tpot", "20ms", "--tpot-per-stream", "0us", "--slots", "16384", "--prefix-cache", "0"]
    asked = ["--stream", "--prompt-tokens", "225", "--output-tokens", "64", "--rate", str(options.stream_rate), "--warmup", "2s",
             "--duration", f"{options.seconds + 2}s"]

    def measure(url: str, pid: int | None) -> dict[str, float]:
        report = all_answered(load(url, *CHAT, *asked, *charged(pid)), url)
        chat = report["chat"]
        return {
            "cpu": cpu_seconds(report) * 1e5 / max(chat["tokens"], 1), "tokens": chat["tokens_per_second"],
            "p50": chat["ttft_service"]["p50"], "p99": chat["ttft_service"]["p99"], "gap": chat["gap"]["p99"],
        }

    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(engines(2, *paced))
        median = medians(Targets(servers, chosen(options, PROXIES), stack).rounds(options.rounds, measure, direct=True))
    direct = median["direct"]
    rows = [["direct", "", "", "", f"({direct['p50']:.2f})", f"({direct['p99']:.2f})", f"{direct['gap']:.1f}"]]
    rows += [[
        name, f"{m['cpu']:.2f}", ratio(m["cpu"], median, "sglang-router"), ratio(m["cpu"], median, "vllm-router"),
        f"{m['p50'] - direct['p50']:+.2f}", f"{m['p99'] - direct['p99']:+.2f}", f"{m['gap']:.1f}",
    ] for name, m in median.items() if name != "direct"]
    print(f"{machine()}. {options.stream_rate} streams/s of 64 tokens, 20 ms apart, from two engines: {direct['tokens']:,.0f} tokens/s; "
          f"medians of {options.rounds} interleaved rounds. TTFT less the direct call's (in parentheses).\n")
    print(table(["gateway", "CPU s / 100,000 tokens", "÷ sglang-router", "÷ vllm-router", "added TTFT p50 ms", "added TTFT p99 ms",
                 "longest gap p99 ms"], rows))


ROUTED = ["tidegate", "tidegate-no-affinity", "nginx", "nginx-least-conn", "sglang-router", "vllm-router"]


def prefix(options: argparse.Namespace) -> None:
    """Prefix cache hits and TTFT. Each engine's cache holds some of the system prompts and sessions, not all."""
    cached = ["--ttft", "20ms", "--prefill", "10k/s", "--tpot", "10ms", "--tpot-per-stream", "200us", "--slots", "32",
              "--prefix-cache", "24k"]
    asked = ["--stream", "--sessions", str(options.sessions), "--rate", "2", "--turns", "5", "--think", "1s", "--shared-prefix", "2000",
             "--prefix-groups", "16", "--prompt-tokens", "200", "--output-tokens", "64", "--max-lag", "50ms", *OBJECTIVE]
    for slow in (False, True):
        with contextlib.ExitStack() as stack:
            servers = stack.enter_context(engines(4, *cached, first=("--slow", "3") if slow else ()))

            def measure(url: str, _: int | None) -> dict[str, float]:
                report = all_answered(load(url, *CHAT, *asked), url)
                counts = [server.counts() for server in servers]
                prompts = [one["prompt_tokens"] for one in counts]
                return {
                    "hits": sum(one["cached_tokens"] for one in counts) / max(sum(prompts), 1),
                    "p50": report["chat"]["ttft"]["p50"], "p99": report["chat"]["ttft"]["p99"],
                    "good": report["within_slo"] / report["requests"], "most": max(prompts) / max(sum(prompts), 1),
                    "first": prompts[0] / max(sum(prompts), 1), "failed": report["requests"] - report["ok"],
                }

            median = medians(Targets(servers, chosen(options, ROUTED), stack).rounds(options.prefix_rounds, measure))
        rows = [[
            name, f"{m['hits']:.1%}", f"{m['p50']:.0f}", f"{m['p99']:.0f}", f"{m['good']:.1%}", f"{m['most']:.0%}", f"{m['first']:.0%}",
            f"{m['failed']:g}",
        ] for name, m in median.items()]
        what = "One of four engines is three times slower" if slow else "Four equal engines"
        print(f"{machine()}. {what}. {options.sessions} sessions, 2/s, of five turns; 16 system prompts of 2,000 tokens; caches of "
              f"24,000 tokens; medians of {options.prefix_rounds} rounds.\n")
        print(table(["gateway", "cache hits", "TTFT p50 ms", "TTFT p99 ms", "within SLO", "busiest engine's share",
                     "first engine's share", "failed"], rows) + "\n")


# Two engines of 16 slots: a request takes about 1.2 s when all are busy, which makes 26 a second together.
LIMITED = ["--ttft", "50ms", "--prefill", "8k/s", "--tpot", "10ms", "--tpot-per-stream", "500us", "--slots", "16", "--queue", "4096",
           "--prefix-cache", "0"]
ASKED = ["--stream", "--prompt-tokens", "200", "--output-tokens", "64", "--timeout", "10s", "--max-lag", "100ms", *OBJECTIVE]
RAMP = [18, 22, 26, 30]


def overload(options: argparse.Namespace) -> None:
    """Goodput at three times the peak, with a deadline that the server is told; and who suffers from whose flood."""
    names = chosen(options, ["tidegate", "sglang-router", "vllm-router", "nginx-least-conn"])
    rows, floods = [], []
    for name in names:
        with contextlib.ExitStack() as stack:
            servers = stack.enter_context(engines(2, *LIMITED))
            for url, _ in Targets(servers, [name], stack).urls.values():
                notice(f"{name}: overload")
                peak = max(goodput(url, servers, rate) for rate in RAMP)
                rows.append(overloaded(name, url, servers, peak, options))
                floods += [flooded(name, url, servers, kind, peak, options) for kind in FLOODS]
    print(f"{machine()}. Two engines of 16 slots; goodput: TTFT within 2 s, TPOT within 60 ms, and the deadline of 5 s. Peak: the best "
          f"of {', '.join(map(str, RAMP))} requests/s. Clients give up after 10 s.\n")
    print(table(["gateway", "peak/s", "offered/s", "on time/s", "of peak", "TTFT p99 ms", "refused p99 ms", "not answered"], rows))
    print(f"\n0.4 of the peak is interactive, first alone, then beside a flood of three times the peak for {options.flood_seconds} s.\n")
    print(table(["gateway, flood of a", "TTFT p99 alone ms", "with flood ms", "within SLO alone", "with flood", "flood on time/s"], floods))


def goodput(url: str, servers: list[Engine], rate: float) -> float:
    report = load(url, *CHAT, *ASKED, "--rate", str(rate), "--warmup", "3s", "--duration", "15s", "--deadline", "5s")
    drain(servers)
    return on_time(report)


def slowest(report: dict) -> str:
    """The 99th percentile of TTFT, of those that were answered."""
    return f"{report['chat']['ttft']['p99']:.0f}" if report["ok"] else "none"


def on_time(report: dict) -> float:
    """Answers within the objective for each second in which requests were sent: not also the time the last ones took."""
    return report["within_slo"] * report["offered_per_second"] / report["requests"]


def overloaded(name: str, url: str, servers: list[Engine], peak: float, options: argparse.Namespace) -> list[object]:
    report = load(url, *CHAT, *ASKED, "--rate", f"{3 * peak:.1f}", "--duration", f"{options.overload_seconds}s", "--warmup", "5s",
                  "--deadline", "5s")
    refused = [row["latency"]["p99"] for row in report["outcomes"] if row["kind"] == "http"]
    drain(servers)
    return [
        name, f"{peak:.1f}", f"{report['offered_per_second']:.1f}", f"{on_time(report):.1f}",
        f"{on_time(report) / peak:.0%}", slowest(report),
        f"{max(refused):.1f}" if refused else "", failures(report),
    ]


FLOODS = {
    "class": (["--service-tier", "default"], ["--service-tier", "flex"]),
    "tenant": (["--tenant", "quiet"], ["--tenant", "loud"]),
}


def flooded(name: str, url: str, servers: list[Engine], kind: str, peak: float, options: argparse.Namespace) -> list[object]:
    calm, loud = FLOODS[kind]
    seconds = options.flood_seconds
    interactive = [*CHAT, *ASKED, *calm, "--rate", f"{0.4 * peak:.1f}", "--duration", f"{seconds}s", "--warmup", "5s", "--deadline", "5s"]
    flood = [*CHAT, *ASKED, *loud, "--rate", f"{3 * peak:.1f}", "--duration", f"{seconds}s", "--warmup", "5s", "--deadline", "5s",
             "--seed", "2"]
    alone = load(url, *interactive)
    notice(f"{name}: flood of a {kind}")
    with LoadInBackground(url, *interactive) as one, LoadInBackground(url, *flood) as other:
        beside, drowned = one.report(), other.report()
    drain(servers)
    share = lambda report: f"{report['within_slo'] / report['requests']:.1%}"
    return [
        f"{name}, {kind}", slowest(alone), slowest(beside), share(alone), share(beside),
        f"{on_time(drowned):.1f}",
    ]


def drain(servers: list[Engine]) -> None:
    """Lets queues run empty, so that one measurement does not burden the next."""
    until = time.monotonic() + 180
    while any(counts["running"] + counts["waiting"] for counts in (server.counts() for server in servers)):
        if time.monotonic() > until:
            sys.exit("the engines do not run empty")
        time.sleep(0.5)


def streams(options: argparse.Namespace) -> None:
    """Many streams at once: none may be lost or late, and each may cost only so much memory."""
    slow = ["--ttft", "0ms", "--prefill", "0", "--tpot", "500ms", "--tpot-per-stream", "0us", "--slots", "16384", "--prefix-cache", "0"]
    opening = 5
    tokens = 2 * (opening + 15)
    many = ["--stream", "--prompt-tokens", "16", "--output-tokens", str(tokens), "--rate", str(options.streams / opening), "--spacing",
            "constant", "--duration", f"{opening}s", "--timeout", "120s", "--max-lag", "200ms"]
    short = ["--stream", "--prompt-tokens", "16", "--output-tokens", "32", "--rate", "100", "--duration", "12s", "--warmup", "2s",
             "--max-lag", "100ms"]
    rows = []
    for name in ["direct", *chosen(options, PROXIES)]:
        notice(f"{name}: streams")
        with contextlib.ExitStack() as stack:
            url, pid = sole(stack, name, slow)
            if not url:
                continue
            before = resident_bytes(pid) if pid else 0
            with LoadInBackground(url, *CHAT, *many) as run:
                time.sleep(opening + 8)
                during = resident_bytes(pid) if pid else 0
                report = run.report()
        with contextlib.ExitStack() as stack:
            url, pid = sole(stack, name, INSTANT)
            calm = load(url, *CHAT, *short)
            memory = resident_bytes(pid) if pid else 0
            with LoadInBackground(url, *CHAT, *short, "--stalled", "1") as run:
                time.sleep(10)
                held = resident_bytes(pid) - memory if pid else 0
                stalled = run.report()
        rows.append([
            name, report["requests"], report["requests"] - report["ok"], f"{report['chat']['ttft']['p99']:.0f}",
            f"{report['chat']['gap']['p99']:.0f}", f"{(during - before) / 1024 / options.streams:.1f}" if pid else "",
            f"{calm['chat']['ttft']['p99']:.1f}", f"{stalled['chat']['ttft']['p99']:.1f}", stalled["requests"] - stalled["ok"],
            f"{held / 2**20:.1f}" if pid else "",
        ])
    print(f"{machine()}. {options.streams} streams opened in {opening} s, a token every 500 ms each. Then 100 short streams/s of an instant "
          f"engine, alone and beside one reader that stopped reading an answer of 100,000 tokens (about 20 MB).\n")
    print(table(["gateway", "streams", "failed", "TTFT p99 ms", "longest gap p99 ms", "KiB a stream", "short: TTFT p99 ms",
                 "beside stalled ms", "failed", "MiB more"], rows))


def sole(stack: contextlib.ExitStack, name: str, arguments: list[str]) -> tuple[str | None, int | None]:
    """One engine and the gateway in front of it, or the engine itself."""
    servers = stack.enter_context(engines(1, *arguments))
    if name == "direct":
        return servers[0].url, None
    return Targets(servers, [name], stack).urls.get(name, (None, None))


FAULTS = ["killed", "frozen", "nonsense"]


def faults(options: argparse.Namespace) -> None:
    """What clients see when one of three engines fails while 20 streams a second are under way."""
    paced = ["--ttft", "20ms", "--prefill", "0", "--tpot", "20ms", "--tpot-per-stream", "0us", "--slots", "1024"]
    seconds, timeout = 16, 10
    asked = ["--stream", "--prompt-tokens", "50", "--output-tokens", "64", "--rate", "20", "--duration", f"{seconds}s", "--timeout",
             f"{timeout}s", "--max-lag", "100ms", *OBJECTIVE]
    rows = []
    for fault in FAULTS:
        for name in chosen(options, ["tidegate", "sglang-router", "vllm-router", "nginx-least-conn", "envoy"]):
            notice(f"{name}: {fault}")
            with contextlib.ExitStack() as stack:
                first = ("--fail", "nonsense=1") if fault == "nonsense" else ()
                servers = stack.enter_context(engines(3, *paced, first=first))
                for url, _ in Targets(servers, [name], stack, IMPATIENT).urls.values():
                    with LoadInBackground(url, *CHAT, *asked) as run:
                        time.sleep(5)
                        break_engine(servers[0], fault)
                        report = run.report()
                    rows.append(survived(name, fault, report, timeout))
                    servers[0].process.send_signal(signal.SIGCONT)
    print(f"{machine()}. 20 streams/s of 64 tokens, 20 ms apart, over three engines for {seconds} s; after 5 s the first is killed "
          f"or frozen, or it answers nonsense from the start. Clients give up after {timeout} s; Tidegate, nginx and Envoy "
          f"may wait 3 s for a silent engine.\n")
    print(table(["fault, gateway", "streams", "answered", "told of the error", "cut without a word", "refused", "gave up",
                 "told after ms (p99)", "TTFT p99 ms", "longest gap p99 ms"], rows))


def break_engine(server: Engine, fault: str) -> None:
    signals = {"killed": signal.SIGKILL, "frozen": signal.SIGSTOP}
    if fault in signals:
        os.kill(server.process.pid, signals[fault])


def survived(name: str, fault: str, report: dict, timeout: float) -> list[object]:
    requests = lambda *kinds: sum(row["requests"] for row in report["outcomes"] if row["kind"] in kinds)
    told = [row["latency"]["p99"] for row in report["outcomes"] if row["kind"] in ("stream_error", "http")]
    return [
        f"{fault}, {name}", report["requests"], report["ok"], requests("stream_error"),
        requests("stream_unfinished", "stream_broken_off", "broken_off", "bad_response", "connect_failed"), requests("http"),
        requests("client_timeout"), f"{max(told):.0f}" if told else "", f"{report['chat']['ttft']['p99']:.0f}",
        f"{report['chat']['gap']['p99']:.0f}",
    ]


SCENARIOS = {"unary": unary, "stream": stream, "prefix": prefix, "overload": overload, "streams": streams, "faults": faults}


def everything(options: argparse.Namespace) -> None:
    """Each in turn, with a heading."""
    for name, scenario in SCENARIOS.items():
        print(f"## {name}\n", flush=True)
        scenario(options)
        print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=[*SCENARIOS, "all"])
    parser.add_argument("--only", nargs="*", choices=GATEWAYS, help="gateways to measure")
    parser.add_argument("--rounds", type=int, default=3, help="of unary and stream")
    parser.add_argument("--seconds", type=int, default=8, help="of each measurement of unary and stream, warm-up included")
    parser.add_argument("--rate", type=int, default=300, help="requests a second at which unary measures latency")
    parser.add_argument("--stream-rate", type=int, default=30, help="streams a second of stream")
    parser.add_argument("--sessions", type=int, default=100, help="of prefix")
    parser.add_argument("--prefix-rounds", type=int, default=1)
    parser.add_argument("--overload-seconds", type=int, default=65, help="of overload, the first five are warm-up")
    parser.add_argument("--flood-seconds", type=int, default=25, help="of each flood, the first five are warm-up")
    parser.add_argument("--streams", type=int, default=2000, help="open at once in streams")
    options = parser.parse_args()
    (SCENARIOS | {"all": everything})[options.scenario](options)


if __name__ == "__main__":
    main()
