"""What the tests know of the KServe SDK's server."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass

from harness import Gateway

SERVER = pathlib.Path(__file__).parents[1] / "servers/kserve_mixed.py"
#: With declared tensors, and without.
MODELS = ("mixed", "bare")
#: How the gateway reaches it, and whether it merges.
ROUTES = [(protocol, batching) for protocol in ("v1", "v2-http", "v2-grpc") for batching in ("auto", "off")]


@dataclass
class KServe:
    url: str
    grpc: str
    routes: dict[tuple[str, str], Gateway]
