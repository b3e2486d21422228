"""Train a model whose file bears the identity of all that made it: salted paths.

A model depends on its data, its features and its parameters. With the id of the task in the name of every file, another
value of any of them leads to another file: nothing is overwritten, and no model is taken for one that it is not.

    python examples/salted_model.py
    python examples/salted_model.py --degree 1
"""

import argparse
import json
import os
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

from superluigi import AtomicTaskWithMetadata, IntParameter, LocalFileTarget, PathParameter, diff, run_task, salted_path


class Measurements(AtomicTaskWithMetadata):
    """The power of a wind turbine, measured at many wind speeds."""

    seed = IntParameter(default=0)
    folder = PathParameter(significant=False)  # where the files lie is no part of what they are, and not in the id

    def output(self):
        # The salt is `self.task_id`: a hash of the task's name, its parameters, its `__version__`, and the ids of all
        # that it requires. It is the same on every machine, and known before anything has run.
        return LocalFileTarget(salted_path(f"{self.folder}/measurements/{{salt}}.csv", self))

    def run(self, output_path):
        weather = np.random.default_rng(self.seed)
        speed = weather.uniform(3, 12, size=300).round(2)
        power = 1.2 * speed**3 + weather.normal(scale=80, size=300)
        pd.DataFrame({"wind_m_s": speed, "power_kw": power.round(1)}).to_csv(output_path, index=False)


class Features(AtomicTaskWithMetadata):
    """The measurements that can be trusted."""

    __version__ = "1"  # raise it when you change `run`: every file below gets a new name, and the old ones stay
    seed = IntParameter(default=0)
    folder = PathParameter(significant=False)

    def requires(self):
        return self.clone(Measurements)  # with all parameters that the two have in common

    def output(self):
        return LocalFileTarget(salted_path(f"{self.folder}/features/{{salt}}.csv", self))

    def run(self, input_path, output_path, metadata):
        measured = pd.read_csv(input_path)
        trusted = measured[measured["power_kw"] > 0]
        trusted.to_csv(output_path, index=False)
        metadata["dropped"] = len(measured) - len(trusted)


class Model(AtomicTaskWithMetadata):
    """A polynomial through two thirds of them. A model of scikit-learn is stored in the same way."""

    degree = IntParameter(default=3)
    seed = IntParameter(default=0)
    folder = PathParameter(significant=False)

    def requires(self):
        return self.clone(Features)

    def output(self):
        return LocalFileTarget(salted_path(f"{self.folder}/models/{{salt}}.joblib", self))

    def run(self, input_path, output_path, metadata):
        features = pd.read_csv(input_path)
        training = features[features.index % 3 > 0]
        model = np.polynomial.Polynomial.fit(training["wind_m_s"], training["power_kw"], self.degree)
        joblib.dump(model, output_path)
        metadata["training_rows"] = len(training)


class Evaluation(AtomicTaskWithMetadata):
    """The error of the model on the third that it has not seen."""

    degree = IntParameter(default=3)
    seed = IntParameter(default=0)
    folder = PathParameter(significant=False)

    def requires(self):
        return {"features": self.clone(Features), "model": self.clone(Model)}

    def output(self):
        return LocalFileTarget(salted_path(f"{self.folder}/evaluations/{{salt}}.json", self))

    # `requires()` gives a dict, so `input_path` is one, with the same keys.
    def run(self, input_path, output_path, metadata):
        features = pd.read_csv(input_path["features"])
        model = joblib.load(input_path["model"])
        held_out = features[features.index % 3 == 0]
        error_kw = float(np.abs(model(held_out["wind_m_s"]) - held_out["power_kw"]).mean())
        output_path.write_text(json.dumps({"degree": self.degree, "error_kw": round(error_kw, 1)}))
        metadata["error_kw"] = error_kw


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a model, and compare it with those that were trained before.")
    parser.add_argument("--folder", type=Path, default=Path("data"), help="where everything is written (data)")
    parser.add_argument("--degree", type=int, default=3, help="of the polynomial (3)")
    arguments = parser.parse_args()
    # Logs and private copies of inputs go to ~/.superluigi/data, unless another place is named.
    os.environ["SUPERLUIGI_LOCAL_DATA_DIR"] = str(arguments.folder / "superluigi")

    task = Evaluation(degree=arguments.degree, folder=arguments.folder)
    path = run_task(task)

    # All former models are still there, and the record beside each evaluation knows what it was made of. `diff` follows
    # two of them upstream, to the first place where they part.
    for other in sorted(set(path.parent.glob("*.json")) - set(path.parent.glob("*.metadata.json"))):
        print(("-> " if other == path else "   ") + other.name, other.read_text())
        if other != path:
            print(diff(other, path))
