"""Fits the random forest that batching.py serves, and writes what MLServer needs: run inside its environment.

    python forest.py DIRECTORY HTTP_PORT GRPC_PORT METRICS_PORT
"""

import json
import pathlib
import sys

import joblib
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

TREES = 100


def main() -> None:
    directory = pathlib.Path(sys.argv[1])
    http, grpc, metrics = map(int, sys.argv[2:5])
    directory.mkdir(parents=True, exist_ok=True)
    pixels, labels = load_digits(return_X_y=True)
    fit, held, fit_labels, _ = train_test_split(pixels, labels, test_size=0.25, random_state=0)
    forest = RandomForestClassifier(TREES, random_state=0, n_jobs=1).fit(fit, fit_labels)
    joblib.dump(forest, directory / "model.joblib")
    samples = [{"pixels": row.tolist(), "predicted": int(c)} for row, c in zip(held, forest.predict(held))]
    write(directory / "samples.json", {"samples": samples})
    write(directory / "settings.json", {
        "host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics, "debug": False,
        "access_logs": False, "use_structured_logging": False,
    })
    write(directory / "model-settings.json", {
        "name": "forest",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [{"name": "predict", "datatype": "INT64", "shape": [-1, 1]}],
        "parameters": {"uri": "./model.joblib", "version": "v1"},
    })


def write(path: pathlib.Path, content: object) -> None:
    path.write_text(json.dumps(content))


if __name__ == "__main__":
    main()
