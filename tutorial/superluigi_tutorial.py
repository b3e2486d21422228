# %% [markdown]
# # Super Luigi: a tutorial
#
# A city rents out bicycles, and every morning you predict how many will be hired at each of its 200 stations. That is
# a small pipeline of three tasks: make the **features** of a day, fit a **model**, join them into **predictions**. In
# ten minutes you will define the last of them, run the pipeline, run it again, force parts of it, read what it made,
# look up where that came from, and stop at an error.
#
# This file is a script and a notebook at once: run it with `python superluigi_tutorial.py`, or open it in VS Code, or
# in Jupyter with the jupytext extension. It needs no account anywhere: an S3 server runs inside the process, and is
# gone when the process ends.
#
# To run it on your own account, say `python superluigi_tutorial.py --aws --bucket YOUR-BUCKET`; it writes some 20 kB
# under `data/` there. In a notebook, write the same words into the next cell:
# `parse_known_args(["--aws", "--bucket", "YOUR-BUCKET"])`.

# %%
import argparse
import atexit
import json
import os
import traceback
from contextlib import ExitStack
from datetime import date

import joblib
import pandas as pd
from tutorial_utils import FeaturesTask, ModelTask, heading, show, tutorial_bucket

from superluigi import AtomicTaskWithMetadata, DateParameter, IntParameter, S3ObjectTarget, lineage, run_task, tree, why
from superluigi.testing import embedded_s3

parser = argparse.ArgumentParser(description="The Super Luigi tutorial.", allow_abbrev=False)
parser.add_argument("--aws", action="store_true", help="use your own AWS account instead of the embedded S3 server")
parser.add_argument("--bucket", help="your bucket; needed with --aws, and only there")
# A Jupyter kernel has arguments of its own, so unknown ones are passed over.
arguments, _ = parser.parse_known_args()
if arguments.aws != bool(arguments.bucket):
    parser.error("--aws and --bucket go together: say both to use your account, neither to use the embedded S3 server.")

session = ExitStack()
atexit.register(session.close)
if arguments.aws:
    os.environ["SUPERLUIGI_TUTORIAL_BUCKET"] = arguments.bucket
    print(f"Using your AWS account and the bucket {arguments.bucket!r}.")
else:
    session.enter_context(embedded_s3(tutorial_bucket()))
    print(f"Using an S3 server inside this process, with the bucket {tutorial_bucket()!r}.")

# %% [markdown]
# ## 1. Concepts
#
# * A **task** is one step of work, with parameters. It says what it needs (`requires`), what it makes (`output`), and
#   how (`run`). Every Super Luigi task is a Luigi task.
# * A **target** is the place of an output: a local file or folder, an S3 object or all objects under an S3 prefix. A
#   task is complete when its targets exist, and a complete task is not run again.
# * `run` is handed **local paths**. It reads `input_path` and writes `output_path`, as if there were no S3. When it
#   returns, the output is published in one step; when it fails, nothing is, and what was there before stays.
# * A task's **`task_id`** is 32 characters computed from its name, its parameters and the ids of everything it
#   requires. Put it into the name of the output, and other parameters upstream lead to another file.
# * Beside every output lies its **lineage record**: a JSON file that says which task made it, when, with which
#   parameters and from which inputs.

# %%
heading("1. Concepts")
features_task = FeaturesTask(date=date(2022, 12, 15), version=4)
print(f"A task:      {features_task}")
print(f"its target:  {features_task.output().path}")
print(f"complete?    {features_task.complete()}")

# %% [markdown]
# ## 2. Defining a task
#
# `FeaturesTask` and `ModelTask` are in `tutorial_utils.py`; here is the third. `requires` returns a dict, so
# `input_path` is a dict with the same keys. (A list gives a list, one task gives one path.) Whatever you put into
# `metadata` lands in the lineage record.
#
# `version` is yours to raise when you change the code: a new version has a new `task_id`, so it gets a new output,
# and the old one stays to compare with.

# %%
heading("2. Defining a task")


class PredictionsTask(AtomicTaskWithMetadata):
    date = DateParameter()
    version = IntParameter()

    def requires(self):
        return {
            "features": FeaturesTask(date=self.date, version=self.version),
            "model": ModelTask(version=self.version),
        }

    def output(self):
        # tutorial_bucket() is "superluigi", or the bucket that you named.
        return S3ObjectTarget(
            bucket=tutorial_bucket(), object_key=f"data/predictions/date={self.date:%Y%m%d}/{self.task_id}.csv"
        )

    def run(self, input_path, output_path, metadata):
        features = pd.read_csv(input_path["features"], index_col="station")
        model = joblib.load(input_path["model"])
        hires = pd.Series(model.predict(features), index=features.index, name="predicted_hires")
        hires.round(1).to_csv(output_path)
        metadata["row_count"] = len(hires)
        metadata["total_hires"] = hires.sum()


task = PredictionsTask(date=date(2022, 12, 15), version=4)
print(f"{task} has the task_id {task.task_id}")

# %% [markdown]
# ## 3. Running it
#
# `run_task` runs the task and whatever it needs that is not there yet: three tasks, as Luigi's summary says. It
# prints where the outputs are, and returns the path. (On your own bucket this holds the first time only: the outputs
# stay.)

# %%
heading("3. Running it: three tasks run")
path = run_task(task)

# %% [markdown]
# ## 4. Running it again
#
# The output exists, so there is nothing to do: none is run. That is what makes a pipeline safe to run every hour, or
# to start again after it broke off half-way.

# %%
heading("4. Running it again: none run")
run_task(task)

# %% [markdown]
# ## 5. Forcing the task
#
# `force=True` runs this task although it is complete, and nothing else. Until the new output is published, the old
# one stays.

# %%
heading("5. force=True: one runs")
run_task(task, force=True)

# %% [markdown]
# ## 6. Forcing from one task down
#
# Suppose the weather service has corrected its figures. The features have to be made again, and the predictions from
# them; the model was fitted on other days and can stay. Name the class where the change begins: the tasks of that
# class run, and all tasks between them and yours. Here that is two.
#
# `force_upstream_to_task` does the same for one particular task, and `force_upstream=True` runs everything.

# %%
heading("6. force_upstream_to_task_cls=FeaturesTask: two run")
run_task(task, force_upstream_to_task_cls=FeaturesTask)

# %% [markdown]
# ## 7. Reading the output
#
# `run_task` returned the address of the output, and pandas reads it. For a file on your own disk, say `run_task(task,
# local_output=True)`; that also returns a path when nothing has to be run.

# %%
heading("7. Reading the output with pandas")
print(path)
predictions = pd.read_csv(path)
print(predictions.sort_values("predicted_hires", ascending=False).head())

# %% [markdown]
# ## 8. Opening the lineage record
#
# The record lies beside the output, under its name and `.metadata.json`. It holds what you put into `metadata`
# (`row_count`, `total_hires`), and how the output came about. Each input is named with its fingerprint and with the
# place of its own record, so you can walk back to the beginning.
#
# In a notebook a task that ends a cell shows all this by itself: its state, what it requires, its outputs with their
# records, and the first rows of a table. (`show` draws a value in a notebook, and prints it in a script.)

# %%
heading("8. Opening the lineage record")
target = task.output()
record = target.read_metadata()
print(target.metadata_path)
print(json.dumps({name: value for name, value in record.items() if name != "packages"}, indent=2))

model_record = task.requires()["model"].output().read_metadata()
print(f"\nThe model behind it is off by {model_record['held_out_mean_absolute_error']:.1f} hires a day and station.")

show(task)

# %% [markdown]
# ## 9. Stopping at an error
#
# When a task fails, `run_task` raises a `TaskFailedError` that names every task that failed. While you work on one,
# say `raise_exception=True`: your own exception comes out, and its traceback ends in your line. In a notebook,
# `%debug` in the next cell then stands there, with all your variables; in a script, `python -m pdb` does.
#
# This task divides by the number of very large stations. There are none. (Its `run` leaves out `output_path`: a `run`
# is handed what it declares.)

# %%
heading("9. raise_exception=True on a broken task")


class BrokenTask(PredictionsTask):
    def run(self, input_path, metadata):
        features = pd.read_csv(input_path["features"])
        very_large = features[features["docks"] > 1000]
        metadata["docks_per_station"] = int(very_large["docks"].sum()) / len(very_large)


broken_task = BrokenTask(date=date(2022, 12, 15), version=4)
try:
    run_task(broken_task, raise_exception=True)
except ZeroDivisionError as error:
    last = traceback.extract_tb(error.__traceback__)[-1]
    print(f"{type(error).__name__}: {error}")
    print(f"The traceback ends in {last.name}(), line {last.lineno}:")
    print(f"    {last.line}")
print(f"Was anything published? {broken_task.output().exists()}")

# %% [markdown]
# ## 10. The second part: what changes when something changes
#
# Until here you named what to run again. The records know it as well. `tree` shows a task and all that it requires:
# what is there, what is missing, what is out of date. Delete the last file, and a run makes that one again. Delete a
# file in the middle, and a plain run does not care, as the predictions are there; `rerun_stale=True` makes it again,
# and as it comes out with the same bytes, nothing else.

# %%
heading("10. The last file is deleted, and one in the middle: each time one runs")
show(tree(task))
task.output().remove()
show(tree(task))
run_task(task)
FeaturesTask(date=date(2022, 12, 15), version=4).output().remove()
show(tree(task))
run_task(task, rerun_stale=True)

# %% [markdown]
# ## 11. A new version, and the path moves
#
# `__version__` is part of `task_id`, and `task_id` stands in the path: another version of the model leads to another
# file, and so does everything downstream of it. The old outputs stay where they are. `salted_path("model-{salt}.pkl",
# self)` writes such a path; an f-string with `self.task_id` does the same.

# %%
heading("11. A new __version__ of the model: its path moves, and that of the predictions")
before = task.output().path
ModelTask.__version__ = "2"
show(tree(task))
print(f"before: {before}\nnow:    {task.output().path}")
run_task(task)

# %% [markdown]
# ## 12. Why, and where from
#
# `why` says of one task why it will run or not; `lineage` follows an output to its beginnings, from the records alone.

# %%
heading("12. why and lineage")
show(why(task))
show(lineage(task.output()))

# %% [markdown]
# ## That is all
#
# You have seen the whole of the daily work: define, run, force, read, look back, stop at an error, and let the records
# say what is out of date. The README says what else there is. The last cell stops the embedded server.

# %%
session.close()
print("\n\nAll done.")
