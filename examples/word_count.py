"""Count words: the first example of Luigi's documentation, moved over to Super Luigi.

A text arrives every day, and the words of some days are to be counted. Run it twice: the second time there is nothing
to do. Then change a text in the folder, or ask for other days, and run it again.

    python examples/word_count.py
    python examples/word_count.py --days 2012-06-01-2012-06-06
"""

import argparse
import os
from collections import Counter
from pathlib import Path

from superluigi import (
    AtomicTaskWithMetadata,
    DateIntervalParameter,
    DateParameter,
    ExternalTask,
    LocalFileTarget,
    PathParameter,
    run_task,
)


# The texts come from elsewhere: no task makes them. An ExternalTask says where one is; if it is missing, the run tells.
class InputText(ExternalTask):
    date = DateParameter()
    # Where the files lie says nothing of what is in them. So this is not significant: no part of the task's identity.
    folder = PathParameter(significant=False)

    def output(self):
        return LocalFileTarget(self.folder / "texts" / f"{self.date}.txt")


class WordCount(AtomicTaskWithMetadata):
    days = DateIntervalParameter()
    folder = PathParameter(significant=False)

    def requires(self):
        return [InputText(date=date, folder=self.folder) for date in self.days.dates()]

    def output(self):
        return LocalFileTarget(self.folder / "word_counts" / f"{self.days}.tsv")

    # In Luigi, `run` opens its targets: `for text in self.input(): text.open()`, and `self.output().open("w")`. Here it
    # is handed paths, and any library can read and write them. `input_path` mirrors `requires()`, so it is a list.
    # `output_path` is a private place: what is left there when `run` returns is published in one step, with the folders
    # that it needs. If `run` fails, nothing is.
    def run(self, input_path, output_path, metadata):
        counts = Counter(word for path in input_path for word in path.read_text().split())
        output_path.write_text("".join(f"{word}\t{count}\n" for word, count in counts.most_common()))

        # Beside the table lies its record, a JSON file: the parameters, each text that was read with its digest, the
        # code, the time, and what is put here.
        metadata["words"] = counts.total()
        metadata["different_words"] = len(counts)


def receive_texts(folder):
    """Make what others would send: five short texts. Those that are there stay as they are."""
    verses = ["the more you give", "the more you get", "the less you say", "the more you hear", "give and you get"]
    (folder / "texts").mkdir(parents=True, exist_ok=True)
    for day, verse in enumerate(verses, start=1):
        text = folder / "texts" / f"2012-06-{day:02}.txt"
        if not text.exists():
            text.write_text(verse)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Count the words of some days.")
    parser.add_argument("--folder", type=Path, default=Path("data"), help="where everything is written (data)")
    parser.add_argument("--days", default="2012-06-01-2012-06-04", help="the last day is not among them")
    arguments = parser.parse_args()
    # Logs and private copies of inputs go to ~/.superluigi/data, unless another place is named.
    os.environ["SUPERLUIGI_LOCAL_DATA_DIR"] = str(arguments.folder / "superluigi")

    receive_texts(arguments.folder)
    task = WordCount(days=DateIntervalParameter().parse(arguments.days), folder=arguments.folder)

    # Luigi asks only whether the output is there. With `rerun_stale` its record is asked as well: a text that has
    # changed since, or other code in `run`, and the words are counted again.
    path = run_task(task, rerun_stale=True)
    print(path.read_text())
    print("From the record:", {name: task.output().read_metadata()[name] for name in ("words", "different_words")})
