"""Writes an MLServer repository of two models: a scikit-learn random forest on the handwritten digits that declares
its tensors (`forest`), and the same without a declaration (`bare`).

    python train_forest.py FOLDER
"""

import json
import pathlib
import sys

import joblib
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier


DECLARATION = {
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}],
    "outputs": [
        {"name": "predict", "datatype": "INT64", "shape": [-1, 1]},
        {"name": "predict_proba", "datatype": "FP64", "shape": [-1, 10]},
    ],
}


def main(folder: pathlib.Path) -> None:
    images, labels = load_digits(return_X_y=True)
    forest = RandomForestClassifier(n_estimators=20, random_state=20).fit(images, labels)
    for name, declaration in [("forest", DECLARATION), ("bare", {})]:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        joblib.dump(forest, place / "model.joblib")
        settings = {
            "name": name,
            "implementation": "mlserver_sklearn.SKLearnModel",
            "parameters": {"uri": "./model.joblib", "version": "v3"},
        }
        (place / "model-settings.json").write_text(json.dumps(settings | declaration))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
