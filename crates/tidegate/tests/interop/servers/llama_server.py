"""llama.cpp's own HTTP server with one model, for chat, completions and embeddings. Ends on SIGTERM.

    python llama_server.py FILE NAME PORT
"""

from __future__ import annotations

import signal
import sys

import xllamacpp

#: Calls that it works on at the same time; more wait in its queue.
SLOTS = 4


def main(file: str, name: str, port: int) -> None:
    # Blocked before the server has threads: they inherit it, and the signal is left for this one.
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.model_alias = {name}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = SLOTS
    params.n_ctx = 32768
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.endpoint_metrics = True
    # The tests' other processes want the processor as well.
    params.cpuparams.n_threads = 1
    # With a cache for each slot, texts of unequal length that are computed together are embedded by their ends only.
    params.kv_unified = True
    params.cache_ram_mib = 0
    server = xllamacpp.Server(params)
    print(f"{name} at {server.listening_address}", flush=True)
    signal.sigwait(stop)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
