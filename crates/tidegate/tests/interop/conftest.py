"""What several test files share: one gateway whose models start from zero at their first call."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from harness import PACE, Gateway, bundled, serving


# KServe's and Triton's clients both bring the protocol's messages along, and one process can load them only once:
# `pytest kserve_sdk` is a run of its own. So is `pytest openai_sdk`, in an environment of its own.
collect_ignore = ["kserve_sdk", "openai_sdk"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("interop")


@pytest.fixture(scope="session")
def gateway(folder: pathlib.Path) -> Iterator[Gateway]:
    """Both bundled models, each once by gRPC and once by HTTP."""
    models = [
        bundled("digits", "digits", arguments=("--pace", PACE)),
        bundled("digits-http", "digits", arguments=("--pace", PACE), protocol="v2-http"),
        bundled("mixed", "mixed", arguments=("--pace", PACE)),
        bundled("mixed-http", "mixed", arguments=("--pace", PACE), protocol="v2-http"),
    ]
    with serving("gateway", models, folder) as running:
        yield running
