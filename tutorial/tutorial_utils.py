"""The two tasks that the tutorial builds on: the features of one day, and a model fitted on the weeks before it.

The city, its bicycle stations and their riders are made up; the work is not. The table is a real CSV file and the model
a real regression, fitted with scikit-learn. The tutorial itself is in `superluigi_tutorial.py`. One invariant: the same
date always gives the same table, so every run can be compared with the last.
"""

import builtins
import os
from datetime import date, timedelta

import joblib
import numpy as np
import pandas as pd
from sklearn.linear_model import PoissonRegressor
from sklearn.metrics import mean_absolute_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from superluigi import AtomicTaskWithMetadata, DateParameter, IntParameter, S3ObjectTarget

STATION_COUNT = 200
LAST_TRAINING_DAY = date(2022, 11, 30)
TRAINING_DAYS = 60
HELD_OUT_DAYS = 14


class FeaturesTask(AtomicTaskWithMetadata):
    """One row per bicycle station: what is known of it, and of the weather, on one day."""

    date = DateParameter()
    version = IntParameter()

    def output(self):
        return S3ObjectTarget(
            bucket=tutorial_bucket(), object_key=f"data/features/date={self.date:%Y%m%d}/{self.task_id}.csv"
        )

    def run(self, output_path, metadata):
        features = station_features(self.date)
        features.to_csv(output_path, index=False)
        metadata["row_count"] = len(features)
        metadata["columns"] = list(features.columns)


class ModelTask(AtomicTaskWithMetadata):
    """A Poisson regression of a station's hires on its features, with its error on days that it has not seen."""

    version = IntParameter()

    def output(self):
        return S3ObjectTarget(bucket=tutorial_bucket(), object_key=f"data/models/{self.task_id}.joblib")

    def run(self, output_path, metadata):
        days = [LAST_TRAINING_DAY - timedelta(days=back) for back in reversed(range(TRAINING_DAYS))]
        features = pd.concat([station_features(day).set_index("station") for day in days])
        hires = np.concatenate([observed_hires(day) for day in days])
        held_out = HELD_OUT_DAYS * STATION_COUNT

        model = make_pipeline(StandardScaler(), PoissonRegressor(alpha=1e-4))
        model.fit(features[:-held_out], hires[:-held_out])

        predicted = model.predict(features[-held_out:])
        metadata["training_rows"] = len(features) - held_out
        metadata["held_out_mean_absolute_error"] = mean_absolute_error(hires[-held_out:], predicted)
        joblib.dump(model, output_path)


def tutorial_bucket() -> str:
    """The bucket that all three tasks write to: `superluigi`, unless SUPERLUIGI_TUTORIAL_BUCKET names another."""
    return os.environ.get("SUPERLUIGI_TUTORIAL_BUCKET", "superluigi")


def station_features(day: date) -> pd.DataFrame:
    """The features of all stations on one day. The stations stay the same from day to day; the weather does not."""
    city = np.random.default_rng(seed=0)
    weather = np.random.default_rng(seed=day.toordinal())
    season = np.cos(2 * np.pi * (day.timetuple().tm_yday - 200) / 365)
    return pd.DataFrame(
        {
            "station": np.arange(1, STATION_COUNT + 1),
            "docks": city.integers(10, 60, size=STATION_COUNT),
            "km_to_centre": city.uniform(0, 12, size=STATION_COUNT).round(2),
            "temperature_c": round(11 + 9 * season + weather.normal(scale=3), 1),
            "rain_mm": round(weather.exponential(scale=2), 1),
            "is_weekend": int(day.isoweekday() >= 6),
        }
    )


def observed_hires(day: date) -> np.ndarray:
    """The hires that were counted at each station on one past day, in the order of `station_features`."""
    features = station_features(day)
    log_rate = (
        1.5
        + 0.03 * features["docks"]
        - 0.12 * features["km_to_centre"]
        + 0.05 * features["temperature_c"]
        - 0.10 * features["rain_mm"]
        - 0.30 * features["is_weekend"]
    )
    riders = np.random.default_rng(seed=[day.toordinal(), 1])
    return riders.poisson(np.exp(log_rate))


def show(value) -> None:
    """Show a value as the place can: a notebook draws it, a script prints it."""
    if hasattr(builtins, "__IPYTHON__"):
        from IPython.display import display

        display(value)
    else:
        print(value)


def heading(text: str) -> None:
    """Print a section heading, so that the script's output reads in chapters."""
    print(f"\n\n{text}\n{'=' * len(text)}\n")
