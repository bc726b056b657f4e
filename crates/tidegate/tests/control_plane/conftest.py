import os
import pathlib
import tempfile

import pytest

import plane as stage

MISSING = [name for name in stage.NEEDED if not (stage.ASSETS / name).exists()]


def pytest_collection_modifyitems(items):
    if MISSING:
        reason = f"KUBEBUILDER_ASSETS names no folder with {', '.join(MISSING)}"
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def plane():
    with tempfile.TemporaryDirectory(prefix="tidegate-plane-") as folder:
        plane = stage.ControlPlane(pathlib.Path(folder))
        try:
            plane.apply("manifests/base")
            stage.install(plane)
            yield plane
        finally:
            plane.stop()
            if kept := os.environ.get("TIDEGATE_KEEP_LOGS"):
                pathlib.Path(kept).mkdir(parents=True, exist_ok=True)
                for log in pathlib.Path(folder).glob("*.log"):
                    (pathlib.Path(kept) / log.name).write_bytes(log.read_bytes())


@pytest.fixture(scope="session")
def kubelet(plane):
    kubelet = stage.Kubelet(plane, "tidegate")
    yield kubelet
    kubelet.close()


@pytest.fixture(scope="session")
def installation(plane, kubelet):
    """Two gateways and two autoscalers, each with its own account's rights."""
    installation = stage.Installation(plane)
    yield installation
    installation.stop()
