"""What a class expects of its metadata: what breaks it is not published; and what former runs have put there."""

import itertools
import json
import os
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import Any

import luigi
import pytest
from engines import QUICK, Engine, all_engines

import superluigi
from superluigi import (
    AtomicTaskWithMetadata,
    ConfigError,
    ExpectationError,
    LocalFileTarget,
    TaskFailedError,
    TaskTypeError,
    TaskWithMetadata,
    at_least,
    between,
    expectations,
    history,
    run_task,
    within,
)
from superluigi.expectations import Expectation, key_of, remember


class Counted(AtomicTaskWithMetadata):
    day = luigi.IntParameter()
    rows = luigi.FloatParameter(significant=False)
    secret = luigi.Parameter(default="hidden", visibility=luigi.parameter.ParameterVisibility.PRIVATE)
    expect: Any = {"row_count": within(0.2, of_last=3)}  # noqa: RUF012  (as users write it)

    def output(self) -> Any:
        return LocalFileTarget(f"counted{self.day}.txt")

    def run(self, output_path: Path, metadata: dict[str, Any]) -> None:
        metadata["row_count"] = self.rows
        metadata["note"] = "seen"
        metadata["table"] = [1, 2, 3]
        output_path.write_text(str(self.rows))


def counted(*rows: float) -> None:
    for day, count in enumerate(rows):
        run_task(Counted(day=day, rows=float(count)))


def test_a_value_off_the_last_ones_fails_the_task_before_anything_is_published() -> None:
    counted(100, 110, 90)

    with pytest.raises(TaskFailedError, match=r"row_count.*is 10\.0, but was expected to be within 20%") as caught:
        run_task(Counted(day=3, rows=10.0))

    error = caught.value.__cause__
    assert isinstance(error, ExpectationError)
    assert "of the median of the last 3; it was 100.0, 110.0, 90.0" in error.problems[0]
    assert "Nothing was published" in str(error)
    assert not Path("counted3.txt").exists()
    assert not Path("counted3.txt.metadata.json").exists()
    assert [row.value for row in history(Counted, "row_count")] == [100, 110, 90]


def test_a_former_output_stays_when_the_new_value_breaks_what_is_expected() -> None:
    counted(100)

    with pytest.raises(TaskFailedError):
        run_task(Counted(day=0, rows=1), force=True)

    assert Path("counted0.txt").read_text() == "100.0"
    assert Counted(day=0, rows=1).output().read_metadata()["row_count"] == 100


def test_only_the_last_values_count() -> None:
    counted(1_000, 1_000, 1_000)
    for day in range(3, 40):
        run_task(Counted(day=day, rows=history(Counted, "row_count").rows[-1].value * 0.9))

    assert history(Counted, "row_count").rows[-1].value < 50


def test_without_former_values_any_number_will_do() -> None:
    counted(7)

    assert len(history(Counted, "row_count")) == 1


EXPECTATIONS = {
    "between, inside": (between(1, 3), 2, ""),
    "between, at the border": (between(1, 3), 3, ""),
    "between, outside": (between(1, 3), 4, "from 1 to 3"),
    "at least": (at_least(2), 2, ""),
    "less": (at_least(2), 1.5, "2 or more"),
    "a function": (lambda value: value == 2, 2, ""),
    "a function that says no": (lambda value: value == 2, 3, "such that <lambda>() says yes"),
    "no number": (at_least(2), None, "cannot be compared"),
}


@pytest.mark.parametrize(("expectation", "value", "said"), EXPECTATIONS.values(), ids=EXPECTATIONS.keys())
def test_expectations_hold_or_say_what_they_are(expectation: Any, value: Any, said: str) -> None:
    class One(AtomicTaskWithMetadata):
        expect = {"value": expectation}  # noqa: RUF012

        def output(self) -> Any:
            return LocalFileTarget("one.txt")

        def run(self, output_path: Path, metadata: dict[str, Any]) -> None:
            metadata["value"] = value
            output_path.write_text("one")

    if said:
        with pytest.raises(TaskFailedError, match=said.replace("(", r"\(").replace(")", r"\)")):
            run_task(One())
    run_task(One()) if not said else None
    assert Path("one.txt").exists() == (not said)


def test_all_that_is_broken_or_missing_is_told_at_once() -> None:
    class Several(Counted):
        expect: Any = {"row_count": at_least(5), "columns": between(1, 2)}  # noqa: RUF012

    with pytest.raises(TaskFailedError) as caught:
        run_task(Several(day=0, rows=1))

    problems = caught.value.__cause__.problems  # type: ignore[union-attr]
    assert [problem.partition("]")[0] for problem in problems] == ["metadata['row_count'", "metadata['columns'"]
    assert "is not there" in problems[1]


@pytest.mark.parametrize("expect", [["row_count"], {"row_count": 3}], ids=["list", "number"])
def test_what_is_no_expectation_is_an_error(expect: Any) -> None:
    class Wrong(Counted):
        pass

    Wrong.expect = expect
    with pytest.raises(TaskFailedError, match=r"Wrong\.expect is .*, but maps keys of the metadata to within\(\)"):
        run_task(Wrong(day=0, rows=1))


@pytest.mark.parametrize("arguments", [(-0.1, 5), (0.1, 0)], ids=["fraction", "of_last"])
def test_within_takes_a_fraction_and_at_least_one_value(arguments: tuple[float, int]) -> None:
    with pytest.raises(ConfigError, match="takes a fraction from 0 on"):
        within(arguments[0], of_last=arguments[1])


@all_engines
def test_on_every_engine_values_are_checked_and_kept(engine: Engine, local_data_dir: Path) -> None:
    # Said for the call: a process of a pool may be older than the test, and have another one in its environment.
    settings = {**QUICK, "superluigi": {"local_data_dir": str(local_data_dir)}}
    engine.run(Counted(day=0, rows=100), config=settings)

    with pytest.raises(TaskFailedError, match="within 20%"):
        engine.run(Counted(day=1, rows=1), config=settings)

    assert [row.value for row in history(Counted, "row_count")] == [100]


def test_a_task_that_writes_its_outputs_itself_is_checked_before_its_record() -> None:
    class Itself(TaskWithMetadata):
        expect = {"rows": at_least(5)}  # noqa: RUF012

        def output(self) -> Any:
            return LocalFileTarget("itself.txt")

        def run(self, metadata: dict[str, Any]) -> None:
            metadata["rows"] = 1
            self.output().path.write_text("itself")

    with pytest.raises(TaskFailedError, match="5 or more"):
        run_task(Itself())
    assert not Itself().complete()


def test_the_history_is_a_table_without_what_is_private() -> None:
    counted(4, 4)

    told = history(Counted, "row_count")

    lines = str(told).splitlines()
    assert lines[0].split() == ["time", "(UTC)", "row_count", "parameters"]
    assert lines[2].endswith("4.0  day=1, rows=4.0")
    assert repr(told) == str(told)
    assert "hidden" not in str(told)
    assert [row.path for row in told] == ["counted0.txt", "counted1.txt"]
    frame = told.to_pandas()
    assert frame["row_count"].tolist() == [4, 4]
    assert str(frame["time"].dtype).endswith("UTC]")
    assert [row.value for row in history(Counted, "note")] == ["seen", "seen"]
    assert len(history(Counted, "table")) == len(history(Counted, "nothing")) == 0


def test_a_line_that_a_kill_has_torn_is_passed_over(local_data_dir: Path) -> None:
    counted(3)
    (file,) = (local_data_dir / "history").iterdir()
    file.write_text(file.read_text() + '{"time": "2020', encoding="utf-8")

    assert len(history(Counted, "row_count")) == 1


def test_a_history_that_grew_long_loses_its_older_half_and_is_seldom_written_anew(
    local_data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superluigi.expectations._MAX_BYTES", 20_000)
    record = {"end_time": "2020-01-01", "rows": 1}
    sizes = []
    for day in range(100):  # few entries, all large
        task = Counted(day=day, rows=1)
        remember(task, {**record, "params": {"day": str(day), "long": "x" * 2_000}}, ["rows"], "counted.txt")
        (file,) = (local_data_dir / "history").iterdir()
        sizes.append(file.stat().st_size)

    kept = history(Counted, "rows")
    days = [int(row.params["day"]) for row in kept]
    assert days == list(range(100 - len(days), 100))
    assert 10_000 - 2_100 < sizes[-1] <= max(sizes) <= 20_000
    assert sum(after < before for before, after in itertools.pairwise(sizes)) <= 100 / 4
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_an_entry_larger_than_a_history_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superluigi.expectations._MAX_BYTES", 1_000)
    for day in range(3):
        params = {"day": str(day), "long": "x" * 2_000}
        remember(Counted(day=day, rows=1), {"end_time": "2020", "rows": day, "params": params}, ["rows"], "")

    assert [row.value for row in history(Counted, "rows")] == [2]


def test_classes_of_notebooks_in_two_folders_have_two_histories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))  # as that of a notebook: without a file

    class InNotebook(Counted):
        __module__ = "__main__"

    keys = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        keys.append(key_of(InNotebook))

    assert [key.rpartition("/")[0] for key in keys] == [str(tmp_path / "one"), str(tmp_path / "other")]


def test_values_of_a_script_on_a_pool_are_found_by_who_imports_it(tmp_path: Path, local_data_dir: Path) -> None:
    (tmp_path / "counting.py").write_text(
        textwrap.dedent(
            """
            import sys
            from loky import ProcessPoolExecutor
            from superluigi import AtomicTaskWithMetadata, LocalFileTarget, history, run_task

            class Rows(AtomicTaskWithMetadata):
                def output(self):
                    return LocalFileTarget(self.get_task_family() + "rows.txt")

                def run(self, output_path, metadata):
                    metadata["rows"] = 3
                    output_path.touch()

            if __name__ == "__main__":
                with ProcessPoolExecutor(1) as pool:
                    run_task(Rows(), executor=pool)
            """
        )
    )
    environment = {**os.environ, "SUPERLUIGI_LOCAL_DATA_DIR": str(local_data_dir)}
    environment["PYTHONPATH"] = str(Path(superluigi.__file__).parent.parent)
    asked = "from counting import Rows, history; print([row.value for row in history(Rows, 'rows')])"

    told = [
        subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout
        for arguments in (["counting.py"], ["-c", asked])
    ]

    assert told[1] == "[3]\n"


def test_an_expectation_of_a_users_own_says_what_it_is() -> None:
    even = Expectation("even", lambda value, _: value % 2 == 0)

    assert even.holds(2, [])
    assert not even.holds(3, [])


# What cannot be meant


@pytest.mark.parametrize("function", [within, between, at_least], ids=lambda function: function.__name__)
def test_an_expectation_that_was_not_called_is_an_error_that_says_so(function: Any) -> None:
    class Uncalled(Counted):
        expect: Any = {"row_count": function}  # noqa: RUF012

    with pytest.raises(TaskFailedError, match=rf"expect\['row_count'\] is the function {function.__name__} itself"):
        run_task(Uncalled(day=0, rows=1))


NAN = float("nan")
NONSENSE: dict[str, tuple[Any, str]] = {
    "half a value": (lambda: within(0.2, of_last=2.5), r"of_last=2\.5"),  # type: ignore[arg-type]
    "nan": (lambda: within(NAN), r"within\(nan"),
    "infinite": (lambda: within(float("inf")), r"within\(inf"),
    "text": (lambda: within("0.2"), r"within\('0\.2'"),  # type: ignore[arg-type]
    "a yes": (lambda: within(True), r"within\(True"),
    "turned round": (lambda: between(5, 1), r"between\(5, 1\)"),
    "low is nan": (lambda: between(NAN, 1), r"between\(nan, 1\)"),
    "high is nan": (lambda: between(1, NAN), r"between\(1, nan\)"),
    "at least nan": (lambda: at_least(NAN), r"at_least\(nan\)"),
    "at least text": (lambda: at_least("3"), r"at_least\('3'\)"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("make", "said"), NONSENSE.values(), ids=NONSENSE.keys())
def test_bounds_that_mean_nothing_are_refused_at_once_with_the_value(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def record_of(**values: Any) -> dict[str, Any]:
    return {"end_time": "2022-12-15T00:00:00+00:00", "params": {}, **values}


def broken(expectation: Any, *values: Any) -> str:
    """What is said of the last of some values, the others being former ones; nothing if it is as expected."""

    class Huge(Counted):
        expect: Any = {"x": expectation}  # noqa: RUF012

    task = Huge(day=0, rows=0)
    for value in values[:-1]:
        expectations.remember(task, record_of(x=value), ["x"], "huge.txt")
    try:
        expectations.check(task, record_of(x=values[-1]))
    except ExpectationError as error:
        return str(error)
    return ""


def test_a_function_that_raises_breaks_the_expectation_with_key_and_exception() -> None:
    def parses(value: Any) -> bool:
        return bool(value["missing"])

    assert "metadata['x'] is {}, but was expected to be such that parses() says yes, which raised KeyError" in broken(
        parses, {}
    )


def test_numbers_that_no_float_holds_are_compared() -> None:
    assert broken(within(0.2), 10**400, 10**400 + 1) == ""
    assert "within 20%" in broken(within(0.2), 10**400, 2 * 10**400)
    assert "from 0 to 1" in broken(between(0, 1), 10**400)
    assert broken(at_least(0.5), 10**400) == ""
    assert "cannot be compared" in broken(lambda value: value / 2.0 > 1, 10**400)


@pytest.mark.parametrize("expectation", [within(0.2), between(0, 2), at_least(0)], ids=["within", "between", "least"])
@pytest.mark.parametrize("value", [True, "1", None], ids=str)
def test_what_is_no_number_is_told(expectation: Any, value: Any) -> None:
    assert f"cannot be compared: a number was expected, and not a {type(value).__name__}" in broken(expectation, value)


def test_a_field_of_the_record_that_is_expected_has_a_history() -> None:
    class Timed(Counted):
        expect: Any = {"duration": at_least(0)}  # noqa: RUF012

    run_task(Timed(day=0, rows=1))

    assert [type(row.value) for row in history(Timed, "duration")] == [float]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((Counted(day=0, rows=0), "x"), "was given the task .*: give its class, Counted"),
        ((None, "x"), "was given None: give a class of tasks"),
        ((Counted, 5), "was given the name 5, a int: give the key in metadata as text"),
    ],
    ids=["task", "none", "number"],
)
def test_history_of_something_else_than_a_class_and_a_name_is_an_error(arguments: Any, said: str) -> None:
    with pytest.raises(TaskTypeError, match=said):
        history(*arguments)


@pytest.mark.parametrize("name", ["time", "params", "path"])
def test_a_value_named_like_another_column_has_one_of_its_own(name: str) -> None:
    pytest.importorskip("pandas")
    rows = (expectations.Row("2022-12-15T00:00:00+00:00", 3, {}, "counted.txt"),)

    frame = expectations.History(name, rows).to_pandas()

    assert list(frame.columns) == ["time", "value", "params", "path"]
    assert list(frame["value"]) == [3]


def test_with_a_file_for_a_data_directory_there_is_no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", str(tmp_path / "file"))

    assert len(history(Counted, "row_count")) == 0
