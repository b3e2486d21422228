"""The command line: what is parsed, what is answered on which stream, and with which exit code.

Most of it in this process, by `main`; what a process of its own decides (streams, pipes, signals) by a few processes.
"""

from __future__ import annotations

import datetime as dt
import enum
import errno
import inspect
import io
import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import luigi
import pytest
from documents import ROOT
from luigi.cmdline_parser import CmdlineParser

from superluigi import AtomicTaskWithMetadata, External, LocalFileTarget, NoTarget, Task, debugging, failures, run_task
from superluigi.cli import ExitCode, commands, completion, main, of_tasks, parsing, reading, terminal
from superluigi.errors import ExecutorError
from superluigi.running import executors

DAY = "2022-12-15"

PIPELINE = '''
"""Sales by day."""

import luigi
from superluigi import AtomicTaskWithMetadata, BoolParameter, DateParameter, External, IntParameter, LocalFileTarget


class SalesTask(AtomicTaskWithMetadata):
    date = DateParameter(description="the day of the sales")
    fails = BoolParameter(significant=False)
    amount = IntParameter(default=3)

    def output(self):
        return LocalFileTarget(f"sales-{self.date}.txt")

    def run(self, output_path):
        print("printed by a task")
        if self.fails:
            raise ValueError("no sales today")
        output_path.write_text(str(self.amount))


class TotalsTask(AtomicTaskWithMetadata):
    """The totals of a day.

    And more words.
    """

    date = DateParameter(description="the day, 100 % of it")
    row_count = IntParameter(default=4)
    password = luigi.Parameter(default="secret!", visibility=luigi.parameter.ParameterVisibility.PRIVATE)

    def requires(self):
        return SalesTask(date=self.date)

    def output(self):
        return LocalFileTarget(f"totals-{self.date}-{self.row_count}.txt")

    def run(self, input_path, output_path, metadata):
        metadata["count"] = self.row_count
        output_path.write_text(input_path.read_text())


class NeedsRawTask(AtomicTaskWithMetadata):
    def requires(self):
        return External("raw.csv")

    def output(self):
        return LocalFileTarget("from-raw.txt")


class ForceTask(AtomicTaskWithMetadata):
    force = BoolParameter()
    json = luigi.Parameter(default="no")

    def output(self):
        return LocalFileTarget(f"force-{self.force}-{self.json}.txt")

    def run(self, output_path):
        output_path.write_text("")


class BrokenTask(luigi.Task):
    def requires(self):
        raise KeyError("broken requires")


if __name__ == "__main__":
    raise AssertionError("a script is imported, not run")
'''


@dataclass(frozen=True)
class Told:
    """How a command line ended, and what it wrote."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module `pipeline` in the working directory, which nobody knows afterwards."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "pipeline.py").write_text(PIPELINE, encoding="utf-8")
    before = set(sys.modules)
    yield tmp_path / "pipeline.py"
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]):
    """Do what a command line says, in this process."""

    def told(*words: str) -> Told:
        capsys.readouterr()
        code = main(words)
        written = capsys.readouterr()
        return Told(code, written.out, written.err)

    return told


def process(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Do it in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "superluigi", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


# run


def test_a_run_writes_the_paths_of_the_output_to_stdout_and_all_else_to_stderr(cli, pipeline) -> None:
    told = cli("run", "pipeline.TotalsTask", "--date", DAY)

    assert told.code == 0
    assert told.out == f"totals-{DAY}-4.txt\n"
    assert "printed by a task" in told.err
    assert "* 2 ran successfully" in told.err
    assert Path(told.out.strip()).read_text() == "3"


def test_what_programs_print_that_a_task_starts_does_not_reach_stdout_either(pipeline, tmp_path) -> None:
    script = tmp_path / "noisy.py"
    script.write_text(
        "import subprocess, sys\nfrom superluigi import AtomicTaskWithMetadata, LocalFileTarget\nprint('at import')\n"
        "class Noisy(AtomicTaskWithMetadata):\n"
        "    def output(self): return LocalFileTarget('ñ.txt')\n"
        "    def run(self, output_path):\n"
        "        subprocess.run([sys.executable, '-c', 'print(\"by a child\")'])\n"
        "        output_path.write_text('')\n",
        encoding="utf-8",
    )

    done = process("run", "noisy.py", "Noisy", "--workers", "2", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (0, "ñ.txt\n")
    assert "at import" in done.stderr
    assert "by a child" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["pipeline.TotalsTask"],
        ["pipeline.py:TotalsTask"],
        ["pipeline.py", "TotalsTask"],
        ["--module", "pipeline", "TotalsTask"],
        ["--module", "pipeline.py", "TotalsTask"],
        ["TotalsTask", "--module", "pipeline"],
        ["TotalsTask", "--module=pipeline"],
    ],
    ids=" ".join,
)
def test_a_task_is_named_in_each_of_these_ways(words, cli, pipeline) -> None:
    assert cli("run", *words, "--date", DAY).out == f"totals-{DAY}-4.txt\n"


def test_a_file_in_a_package_is_imported_as_a_part_of_it(cli, pipeline, tmp_path) -> None:
    package = tmp_path / "pkg" / "inner"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "pipe.py").write_text(PIPELINE)

    by_file = cli("run", "pkg/inner/pipe.py:SalesTask", "--date", DAY)
    record = json.loads(Path(f"sales-{DAY}.txt.metadata.json").read_text())

    assert by_file.code == 0
    assert record["task_module"] == "pkg.inner.pipe"
    assert cli("run", "pkg.inner.pipe.SalesTask", "--date", DAY).code == 0


def test_as_json_a_run_tells_the_task_its_state_and_its_output(cli, pipeline) -> None:
    done = cli("run", "pipeline.TotalsTask", "--date", DAY, "--json")
    failed = cli("run", "pipeline.SalesTask", "--date", "2022-12-16", "--fails", "--json")

    assert list(done.json()) == list(failed.json()) == ["task", "task_id", "status", "output", "failures"]
    assert done.json()["output"] == f"totals-{DAY}-4.txt"
    assert done.json()["status"] == "done"
    assert failed.code == ExitCode.FAILED
    assert failed.json()["failures"][0]["reason"] == "ValueError: no sales today"
    assert "no sales today" in failed.json()["failures"][0]["traceback"]


def test_a_failed_task_ends_with_1_and_nothing_on_stdout(cli, pipeline) -> None:
    told = cli("run", "pipeline.SalesTask", "--date", DAY, "--fails")

    assert (told.code, told.out) == (1, "")
    assert "error: 1 task failed:\n  SalesTask(date=2022-12-15, amount=3): ValueError: no sales today" in told.err


def test_data_that_are_made_elsewhere_and_missing_end_with_4(cli, pipeline) -> None:
    told = cli("run", "pipeline.NeedsRawTask")

    assert (told.code, told.out) == (4, "")
    assert "raw.csv" in told.err


def test_with_raise_exception_the_users_traceback_is_told_without_our_frames(cli, pipeline) -> None:
    told = cli("run", "pipeline.SalesTask", "--date", DAY, "--fails", "--raise-exception")

    assert told.code == 1
    assert told.err.count("  File ") == 1
    assert 'pipeline.py", line' in told.err
    assert "ValueError: no sales today" in told.err


def test_pdb_stands_in_the_users_frame(pipeline, tmp_path) -> None:
    (tmp_path / "deep.py").write_text(
        "import json\nfrom superluigi import AtomicTaskWithMetadata, LocalFileTarget\n"
        "class Deep(AtomicTaskWithMetadata):\n"
        "    def output(self): return LocalFileTarget('deep.txt')\n"
        "    def run(self, output_path):\n"
        "        mine = 'my own value'\n"
        "        json.loads('{')\n"
    )
    (tmp_path / ".pdbrc").write_text("")

    done = subprocess.run(
        [sys.executable, "-m", "superluigi", "run", "deep.Deep", "--pdb"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input="p mine\nq\n",
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )

    # json is of the standard library: there the exception was raised, and not in the user's own file.
    assert done.returncode == 1
    assert "JSONDecodeError" in done.stderr
    assert "'my own value'" in done.stdout


def test_debug_enters_the_task_that_failed_last_or_one_that_is_named(pipeline, cli, monkeypatch) -> None:
    with pipeline.open("a", encoding="utf-8") as module:
        module.write(
            "\n\nclass Halved(AtomicTaskWithMetadata):\n"
            "    number = IntParameter()\n\n"
            "    def output(self):\n        return LocalFileTarget('halved.txt')\n\n"
            "    def run(self, output_path):\n        half = self.number // 2\n        raise ValueError(half)\n"
        )
    failed = cli("run", "pipeline.Halved", "--number", "84")

    told = []
    for words in (["debug"], ["debug", "--last"], ["debug", "pipeline.Halved", "--number", "84"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("p half\nq\n"))
        told.append(cli(*words))

    assert failed.code == 1
    assert all("(Pdb) 42" in each.err and each.out == "" and each.code == 0 for each in told)
    assert not Path("halved.txt").exists()
    assert "takes a task or --last" in cli("debug", "pipeline.Halved", "--number", "84", "--last").err


def test_another_debugger_is_taken_where_pythonbreakpoint_names_one(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "mydb.py").write_text("def post_mortem(where):\n    print('mydb at line', where.tb_lineno)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONBREAKPOINT", "mydb.set_trace")
    with pytest.raises(ZeroDivisionError) as caught:
        1 / 0  # noqa: B018

    debugging.post_mortem(caught.value, luigi.Task())

    assert f"mydb at line {caught.value.__traceback__.tb_lineno}" in capsys.readouterr().out


def test_each_argument_of_run_task_has_an_option(pipeline) -> None:
    parser = parsing.Parser(prog="superluigi run")
    of_tasks.run_options(parser)
    options = set(vars(parser.parse_args([])))

    assert set(inspect.signature(run_task).parameters) - {"task"} <= options


def test_a_report_is_written_beside_the_answer(cli, pipeline, tmp_path) -> None:
    told = cli("run", "pipeline.TotalsTask", "--date", DAY, "--report", "run.html")

    assert (told.code, told.out) == (0, f"totals-{DAY}-4.txt\n")
    assert "Report: " in told.err
    assert "Run of TotalsTask(" in Path("run.html").read_text(encoding="utf-8")


def test_a_report_of_a_dry_run_is_a_wrong_use(cli, pipeline) -> None:
    told = cli("run", "pipeline.TotalsTask", "--date", DAY, "--report", "run.html", "--dry-run")

    assert told.code == 2
    assert "--dry-run runs nothing" in told.err


@pytest.mark.parametrize("executor", ["threads", "processes", "async"])
def test_a_pool_is_named_by_a_word(executor, cli, pipeline) -> None:
    told = cli("run", "pipeline.TotalsTask", "--date", DAY, "--executor", executor, "--workers", "2")

    assert (told.code, told.out) == (0, f"totals-{DAY}-4.txt\n")


@pytest.mark.filterwarnings("ignore:The configuration contains the parameter 'rpc_retry")
def test_a_scheduler_that_does_not_answer_ends_with_5(cli, pipeline) -> None:
    hasty = ["--config", "core.rpc_retry_attempts=1", "--config", "core.rpc_retry_wait=0"]
    words = ["--central-scheduler", "--scheduler-url", "http://127.0.0.1:9/", *hasty]

    told = cli("run", "pipeline.SalesTask", "--date", DAY, *words)

    assert told.code == 5
    assert "http://127.0.0.1:9/" in told.err
    assert "--config superluigi.scheduler_url=" in told.err


def test_a_dask_that_does_not_answer_ends_with_5(cli, pipeline, monkeypatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(executors, "_CONNECT_TIMEOUT_S", 0.1)

    told = cli("run", "pipeline.SalesTask", "--date", DAY, "--executor", "dask://127.0.0.1:9")

    assert told.code == 5
    assert "No Dask scheduler answers at tcp://127.0.0.1:9" in told.err
    assert "Traceback" not in told.err


MALFORMED = {
    "no header": ("doctor", "luigi.cfg", b"[core", {}, "no section headers"),
    "an option twice": ("run", "luigi.cfg", b"[core]\na=1\na=2\n", {}, "option 'a' in section 'core' already exists"),
    "no UTF-8": ("doctor", "luigi.cfg", b"[core]\na=\xff\n", {"PYTHONUTF8": "1"}, "can't decode byte 0xff"),
    "named": ("plan", "other.cfg", b"core", {"LUIGI_CONFIG_PATH": "other.cfg"}, "no section headers"),
}


@pytest.mark.parametrize(("command", "name", "content", "environment", "said"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_configuration_of_luigi_is_told_in_a_sentence_that_names_the_file(
    command, name, content, environment, said, tmp_path
) -> None:
    (tmp_path / name).write_bytes(content)

    done = process(command, cwd=tmp_path, **environment)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: Luigi cannot read its configuration, {tmp_path / name}: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("program", "code"), [("/usr/bin/superluigi", 2), ("script.py", 1)])
def test_a_malformed_configuration_ends_the_command_in_words_and_leaves_other_programs_luigis_error(
    program, code, tmp_path
) -> None:
    (tmp_path / "luigi.cfg").write_text("[core")
    source = f"import sys; sys.argv = [{program!r}]; import superluigi"

    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == code
    assert ("Traceback" in done.stderr) == (code == 1)


@pytest.mark.parametrize("command", ["plan", "why", "tree", "graph", "run"])
def test_a_store_that_does_not_answer_ends_with_5_whatever_is_asked(command, cli, pipeline) -> None:
    Path("remote.py").write_text(
        textwrap.dedent("""
            from superluigi import StoreUnavailableError, Task

            class RemoteTask(Task):
                def complete(self):
                    raise StoreUnavailableError("HeadObject", "s3://b/a.txt", "the connection failed", "Run again.")
        """)
    )

    told = cli(command, "remote.RemoteTask")

    assert told.code == 5
    assert "RemoteTask(): StoreUnavailableError: s3://b/a.txt: the connection failed" in told.err


def test_a_pool_that_cannot_start_a_process_is_no_server_that_does_not_answer() -> None:
    error = ExecutorError("The pool takes no tasks.")
    error.__cause__ = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    assert terminal.code_of(error) is ExitCode.FAILED


# Forcing, planning


def modified(path: str) -> int:
    return os.stat(path).st_mtime_ns


@pytest.mark.parametrize(
    ("words", "is_sales_made"),
    [
        (["--force"], False),
        (["--force-upstream"], True),
        (["--force-upstream-to-task", f"SalesTask(date={DAY}, amount=3)"], True),
        (["--force-upstream-to-task-cls", "SalesTask"], True),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_forcing_makes_again_what_it_names(words, is_sales_made, cli, pipeline) -> None:
    run = ["run", "pipeline.TotalsTask", "--date", DAY]
    cli(*run)
    before = modified(f"sales-{DAY}.txt"), modified(f"totals-{DAY}-4.txt")

    assert cli(*run, *words).code == 0
    assert (modified(f"sales-{DAY}.txt") != before[0]) == is_sales_made
    assert modified(f"totals-{DAY}-4.txt") != before[1]


def test_a_plan_tells_what_would_run_and_runs_nothing(cli, pipeline) -> None:
    told = cli("plan", "pipeline.TotalsTask", "--date", DAY)
    by_run = cli("run", "pipeline.TotalsTask", "--date", DAY, "--dry-run", "--json")

    assert told.out.startswith("2 to run, 0 unknown, 0 to skip:")
    assert [planned["verdict"] for planned in by_run.json()] == ["run", "run"]
    assert not Path(f"sales-{DAY}.txt").exists()


def test_with_exit_code_a_plan_ends_with_3_as_long_as_there_is_something_to_run(cli, pipeline) -> None:
    plan = ["plan", "pipeline.SalesTask", "--date", DAY]
    codes = [cli(*plan).code, cli(*plan, "--exit-code").code]
    cli("run", "pipeline.SalesTask", "--date", DAY)

    assert [*codes, cli(*plan, "--exit-code").code] == [0, 3, 0]


def test_what_is_out_of_date_is_made_again_on_demand(cli, pipeline) -> None:
    cli("run", "pipeline.SalesTask", "--date", DAY)
    changed = ["pipeline.SalesTask", "--date", DAY, "--amount", "9"]

    assert "0 to run" in cli("plan", *changed).out
    assert "1 to run" in cli("plan", *changed, "--rerun-stale").out
    assert "0 to run" in cli("plan", *changed, "--no-rerun-stale", "--config", "superluigi.rerun_stale=true").out
    assert "1 to run" in cli("plan", *changed, "--config", "superluigi.rerun_stale=true").out
    assert "the parameter amount was '3', and is '9'" in cli("why", *changed).out
    assert cli("run", *changed, "--rerun-stale").code == 0
    assert Path(f"sales-{DAY}.txt").read_text() == "9"


# Parameters


MIDNIGHT = dt.datetime(2020, 1, 1)  # noqa: DTZ001  (Luigi's have no time zone)


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Every(luigi.Task):
    """A task with a parameter of every type."""

    text = luigi.Parameter(default="x")
    string = luigi.StrParameter(default="x")
    number = luigi.IntParameter(default=1)
    real = luigi.FloatParameter(default=1.5)
    implicit = luigi.BoolParameter()
    explicit = luigi.BoolParameter(default=True, parsing=luigi.BoolParameter.EXPLICIT_PARSING)
    date = luigi.DateParameter(default=dt.date(2020, 1, 1))
    month = luigi.MonthParameter(default=dt.date(2020, 1, 1))
    year = luigi.YearParameter(default=dt.date(2020, 1, 1))
    hour = luigi.DateHourParameter(default=MIDNIGHT)
    minute = luigi.DateMinuteParameter(default=MIDNIGHT)
    second = luigi.DateSecondParameter(default=MIDNIGHT)
    interval = luigi.DateIntervalParameter(default=luigi.date_interval.Year(2020))
    delta = luigi.TimeDeltaParameter(default=dt.timedelta(1))
    task = luigi.TaskParameter(default=luigi.Task)
    colour = luigi.EnumParameter(enum=Colour, default=Colour.RED)
    colours = luigi.EnumListParameter(enum=Colour, default=())
    table = luigi.DictParameter(default={})
    items = luigi.ListParameter(default=())
    pair = luigi.TupleParameter(default=())
    bounded = luigi.NumericalParameter(var_type=int, min_value=0, max_value=9, default=1)
    choice = luigi.ChoiceParameter(choices=["one", "two"], default="one")
    choices = luigi.ChoiceListParameter(choices=["a", "b"], default=())
    path = luigi.PathParameter(default="a")
    optional = luigi.OptionalParameter(default=None)
    optional_number = luigi.OptionalIntParameter(default=None)


EVERY = [
    ["--text", "ünïcode π"],
    ["--text=--dashes"],
    ["--string", "two words"],
    ["--number", "-3"],
    ["--real", "1e3"],
    ["--implicit"],
    ["--explicit", "false"],
    ["--explicit"],
    ["--date", DAY],
    ["--month", "2022-12"],
    ["--year", "2022"],
    ["--hour", "2022-12-15T07"],
    ["--minute", "2022-12-15T0730"],
    ["--second", "2022-12-15T073059"],
    ["--interval", "2022-W35"],
    ["--delta", "1 h 30 m"],
    ["--delta", "PT90S"],
    ["--task", "Every"],
    ["--colour", "GREEN"],
    ["--colours", "RED,GREEN"],
    ["--table", '{"a": [1, {"b": 2}]}'],
    ["--items", "[1, [2, 3]]"],
    ["--pair", "((1, 2), (3, 4))"],
    ["--bounded", "8"],
    ["--choice", "two"],
    ["--choices", "b,a"],
    ["--path", "b/c"],
    ["--optional", "given"],
    ["--optional-number", "4"],
    ["--Every-number", "5"],
    ["--Every-optional-number", "4", "--number", "2"],
    ["--number", "1", "--number", "2"],
]


def parsed(task_cls: Any, *words: str) -> Any:
    """Give the task that these words make, as a command does."""
    given = parsing.TaskParser(task_cls, "superluigi run", of_tasks.run_options)
    options = parsing.Parser(prog="superluigi run")
    of_tasks.run_options(options)
    values = given.parse(words, options.parse_all([]))
    with commands._configured(options.parse_all([]), values.others):
        return parsing.make(task_cls, values.own)


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_parameters_are_read_as_luigis_own_command_line_reads_them(words) -> None:
    with CmdlineParser.global_instance(["Every", *words]) as luigis:
        expected = luigis.get_task_obj()

    assert parsed(Every, *words).param_kwargs == expected.param_kwargs


def test_names_may_have_underscores_and_a_flag_may_be_denied() -> None:
    assert parsed(Every, "--optional_number", "4").optional_number == 4
    assert parsed(Every, "--implicit", "--no-implicit").implicit is False


def test_an_empty_value_is_a_value() -> None:
    assert parsed(Every, "--text", "").text == ""


def test_parameters_come_from_the_configuration_where_they_are_not_given(cli, pipeline, tmp_path) -> None:
    (tmp_path / "day.cfg").write_text(f"[TotalsTask]\ndate = {DAY}\nrow_count = 7\n")
    (tmp_path / "day.toml").write_text(f'[TotalsTask]\ndate = "{DAY}"\n')

    assert cli("run", "pipeline.TotalsTask", "--config-file", "day.cfg").out == f"totals-{DAY}-7.txt\n"
    assert cli("run", "pipeline.TotalsTask", "--config-file", "day.cfg", "--row-count", "8").out.endswith("-8.txt\n")
    assert cli("run", "--config-file", "day.toml", "pipeline.TotalsTask").out.endswith("-4.txt\n")
    assert cli("run", "pipeline.TotalsTask", "--config", f"TotalsTask.date={DAY}").code == 0


def test_parameters_of_tasks_upstream_are_given_by_their_family(cli, pipeline) -> None:
    cli("run", "pipeline.TotalsTask", "--date", DAY, "--SalesTask-amount", "11", "--executor", "threads")

    assert Path(f"totals-{DAY}-4.txt").read_text() == "11"


def test_before_the_name_it_is_the_option_and_after_it_the_parameter(cli, pipeline) -> None:
    cli("run", "pipeline.ForceTask")
    first = modified("force-False-no.txt")

    by_option = cli("run", "--force", "--json", "pipeline.ForceTask")
    by_parameter = cli("run", "pipeline.ForceTask", "--force", "--json", "yes")

    assert by_option.json()["output"] == "force-False-no.txt"
    assert modified("force-False-no.txt") != first
    assert by_parameter.out == "force-True-yes.txt\n"
    assert cli("run", "pipeline.ForceTask", "--ForceTask-force").out == "force-True-no.txt\n"
    text = " ".join(cli("run", "pipeline.ForceTask", "--help").out.split())
    assert "The option of this name stands before the task." in text


# Help


def test_the_help_of_a_task_lists_its_parameters_with_types_defaults_and_descriptions(cli, pipeline) -> None:
    told = cli("run", "pipeline.TotalsTask", "--config", "TotalsTask.row_count=6", "--help")
    text = " ".join(told.out.split())

    assert (told.code, told.err) == (0, "")
    assert "The totals of a day." in text
    assert "--date DATE DateParameter: YYYY-MM-DD; required; the day, 100 % of it" in text
    assert "IntParameter: a whole number; default 6" in text
    assert "secret!" not in text
    assert "--SalesTask-amount" not in text
    assert "--SalesTask-amount" in cli("run", "pipeline.TotalsTask", "--help-all").out
    assert list(Path().glob("*.txt")) == []


@pytest.mark.parametrize("name", list(commands.COMMANDS))
def test_every_command_has_help_that_names_the_exit_codes(name, cli) -> None:
    told = cli(name, "--help")

    assert (told.code, told.err) == (0, "")
    assert told.out.startswith(f"usage: superluigi {name}")
    assert "exit codes: 0 fine" in told.out
    assert f"  {name} " in cli("--help").out


def test_the_version_is_told(cli) -> None:
    import superluigi

    assert cli("--version").out == f"superluigi {superluigi.__version__}\n"


# What a typo leads to

TYPOS = {
    "no command": ([], "Say what to do"),
    "command": (["rnu"], "no command rnu. Did you mean run?"),
    "flag instead of a command": (["--verbose"], "no option --verbose"),
    "no task": (["run"], "superluigi run takes a task"),
    "module": (["run", "pipelin.TotalsTask"], "no module pipelin"),
    "nearest module": (["run", "pipelin.TotalsTask"], "Did you mean pipeline?"),
    "module in a package": (["run", "luigi.tsk.Task"], "no module tsk in luigi. Did you mean task"),
    "task": (["run", "pipeline.TotlsTask"], "no task TotlsTask. Did you mean TotalsTask"),
    "task by module": (["run", "--module", "pipeline", "totalstask"], "Did you mean TotalsTask"),
    "nothing like it": (["run", "pipeline.Xyz"], "It has: BrokenTask, ForceTask"),
    "no module at all": (["run", "TotalsTask"], "Did you mean pipeline.py:TotalsTask?"),
    "a module of a package": (["run", "luigi.contrib.spark"], "luigi.contrib.spark is a module. Name a task in it: "),
    "dots alone": (["run", ".."], "'..' names no task"),
    "a path without its suffix": (["run", "./pipeline.TotalsTask"], "does not say where the task is"),
    "nothing": (["run", ""], "An empty name does not say where the task is"),
    "a module alone": (["run", "pipeline"], "pipeline is a module. Name a task in it: pipeline.SalesTask"),
    "a file alone": (["run", "pipeline.py"], "pipeline.py is a file. Name a task in it: pipeline.py:SalesTask"),
    "file": (["run", "pipelin.py:TotalsTask"], "no file pipelin.py. Did you mean pipeline.py?"),
    "no task but a class": (["run", "pipeline.IntParameter"], "is no task"),
    "parameter": (["run", "pipeline.TotalsTask", "--datte", DAY], "Did you mean --date?"),
    "parameter of another": (
        ["run", "pipeline.TotalsTask", "--SalesTsk-amount", "3"],
        "Did you mean --SalesTask-amount",
    ),
    "option": (["run", "pipeline.TotalsTask", "--date", DAY, "--wrokers", "2"], "Did you mean --workers"),
    "abbreviation": (["run", "pipeline.TotalsTask", "--dat", DAY], "--dat is no option"),
    "value alone": (["run", "pipeline.TotalsTask", DAY], "stands alone"),
    "values alone": (["run", "pipeline.TotalsTask", DAY, "2>"], f"'{DAY}' and '2>' stand alone"),
    "parameter before the task": (["run", "--date", DAY, "pipeline.TotalsTask"], "follow its name"),
    "value": (["run", "pipeline.TotalsTask", "--date", "15.12.2022"], "It takes YYYY-MM-DD"),
    "second value": (["run", "pipeline.TotalsTask", "--date", "x", "--row-count", "y"], "It takes a whole number"),
    "no value": (["run", "pipeline.TotalsTask", "--date"], "expected one argument"),
    "missing": (["run", "pipeline.TotalsTask"], "--date is missing (the day, 100 % of it)"),
    "value in the configuration": (
        ["run", "pipeline.TotalsTask", "--config", "TotalsTask.date=x"],
        "The configuration has in [TotalsTask] a date that DateParameter does not take",
    ),
    "setting": (["run", "pipeline.TotalsTask", "--config", "x"], "SECTION.OPTION=VALUE"),
    "value of a setting": (
        ["run", "pipeline.SalesTask", "--date", DAY, "--config", "superluigi.single_flight=x"],
        "takes true or false",
    ),
    "configuration file": (["run", "pipeline.TotalsTask", "--config-file", "no.cfg"], "no.cfg' does not exist"),
    "workers": (["run", "pipeline.TotalsTask", "--workers", "0"], "'0' is no whole number from 1 on"),
    "log level": (["run", "pipeline.TotalsTask", "--log-level", "loud"], "invalid choice: 'LOUD'"),
    "two ways of forcing": (
        ["run", "pipeline.TotalsTask", "--date", DAY, "--force", "--force-upstream"],
        "--force and --force-upstream each say alone",
    ),
    "forced task": (
        ["run", "pipeline.TotalsTask", "--date", DAY, "--force-upstream-to-task", "SalesTask(date=2022-12-14)"],
        f"Did you mean SalesTask(date={DAY}, amount=3)",
    ),
    "forced class": (
        ["run", "pipeline.TotalsTask", "--date", DAY, "--force-upstream-to-task-cls", "SaleTask"],
        "Did you mean SalesTask",
    ),
    "debugger elsewhere": (
        ["run", "pipeline.SalesTask", "--date", DAY, "--pdb", "--workers", "2"],
        "Leave out --workers",
    ),
    "executor": (["run", "pipeline.SalesTask", "--date", DAY, "--executor", "treads"], "Did you mean threads?"),
    "executor without a port": (
        ["run", "pipeline.SalesTask", "--date", DAY, "--executor", "dask://localhost"],
        "an address of Dask has a host and a port",
    ),
    "format": (["graph", "pipeline.SalesTask", "--date", DAY, "-o", "x.jpeg"], "x.jpeg does not say which format"),
    "picture without a file": (["graph", "pipeline.SalesTask", "--date", DAY, "--format", "svg"], "-o FILE.svg"),
    "address": (["lineage", "s3://"], "names a bucket, not data"),
    "size": (["cache", "prune", "--max-bytes", "big"], "'big' is no size"),
    "prune without a size": (["cache", "prune"], "--max-bytes SIZE"),
    "shell": (["completion", "csh"], "invalid choice: 'csh'"),
    "doctor's address": (["doctor", "bucket"], "is no address in S3"),
}


@pytest.mark.parametrize(("words", "said"), TYPOS.values(), ids=TYPOS)
def test_a_typo_ends_with_2_and_is_answered_with_what_was_meant(words, said, cli, pipeline) -> None:
    told = cli(*words)

    assert (told.code, told.out) == (2, "")
    assert said in told.err
    assert told.err.startswith("error: ")
    assert "Traceback" not in told.err


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nothing_like_it\n", "ModuleNotFoundError"),
        ("def f(:\n", "SyntaxError"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("raise SystemExit(0)\n", "SystemExit"),
    ],
    ids=["an import", "the syntax", "the code", "an exit"],
)
def test_a_module_that_fails_when_it_is_imported_is_told_by_the_users_lines_alone(source, said, cli, pipeline) -> None:
    Path("failing.py").write_text(f"x = 1\n{source}")

    told = cli("plan", "failing.Task")

    assert (told.code, told.out) == (2, "")
    assert told.err.count("  File ") == 1
    assert 'failing.py", line 2' in told.err
    assert told.err.endswith(f"error: The module failing raised {said} when it was imported.\n")


def test_a_file_whose_name_belongs_to_another_module_is_refused(cli, pipeline, tmp_path) -> None:
    (tmp_path / "json.py").write_text(PIPELINE)

    told = cli("plan", "json.py:SalesTask", "--date", DAY)

    assert told.code == 2
    assert "Rename the file." in told.err


def test_what_the_users_requires_raises_is_told_by_its_traceback(cli, pipeline) -> None:
    told = cli("tree", "pipeline.BrokenTask")

    assert (told.code, told.out) == (1, "")
    assert told.err.count("  File ") == 1
    assert "KeyError: 'broken requires'" in told.err


def test_a_run_whose_requirements_cannot_be_told_is_a_failed_run_as_any_other(cli, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("unclear.py").write_text(
        textwrap.dedent(
            """
            from superluigi import AtomicTaskWithMetadata, LocalFileTarget

            class Unclear(AtomicTaskWithMetadata):
                def requires(self):
                    raise KeyError("what is it")

                def output(self):
                    return LocalFileTarget("unclear.txt")
            """
        )
    )

    told = cli("run", "unclear.Unclear", "--json")

    assert told.code == 1
    assert told.json()["task_id"] is None
    assert told.json()["failures"][0]["reason"] == "KeyError: 'what is it'"
    assert told.err.endswith("On the command line: superluigi debug\n")
    assert [type(task).__name__ for task in failures.recall()] == ["Unclear"]


# The other commands


@pytest.fixture
def made(cli, pipeline) -> str:
    """The output of a run, made by a task that is there."""
    return cli("run", "pipeline.TotalsTask", "--date", DAY).out.strip()


def test_why_and_tree_tell_the_state_of_a_task(made, cli) -> None:
    why = cli("why", "pipeline.TotalsTask", "--date", DAY, "--json").json()
    text = cli("tree", "pipeline.TotalsTask", "--date", DAY).out
    tree = cli("tree", "pipeline.TotalsTask", "--date", DAY, "--force", "--json").json()

    assert (list(why), why["verdict"]) == (["task", "verdict", "reasons"], "skip")
    assert text.startswith("✓ TotalsTask(")
    assert [node["state"] for node in tree["nodes"]] == ["complete", "forced"]
    assert set(tree["nodes"][0]) == {"task_id", "task", "state", "detail", "requires"}
    assert tree["nodes"][1]["requires"][0]["task_id"] == tree["nodes"][0]["task_id"]


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("g.mmd", "flowchart"),
        ("g.dot", "digraph"),
        ("g.html", "<!DOCTYPE html>"),
        ("g.txt", "✓ TotalsTask"),
        ("g.json", "{"),
    ],
)
def test_a_graph_is_drawn_in_the_format_that_the_files_name_says(name, begins, made, cli) -> None:
    told = cli("graph", "pipeline.TotalsTask", "--date", DAY, "-o", name)

    assert told.out == f"{name}\n"
    assert Path(name).read_text(encoding="utf-8").lower().startswith(begins.lower())
    assert list(Path().glob(".*partial")) == []


def test_a_graph_goes_to_stdout_without_a_file(made, cli) -> None:
    assert cli("graph", "pipeline.TotalsTask", "--date", DAY).out.startswith("flowchart LR")
    assert cli("graph", "pipeline.TotalsTask", "--date", DAY, "--format", "dot").out.startswith("digraph")


def test_pictures_are_drawn_by_graphviz_where_it_is_installed(made, cli, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setitem(sys.modules, "pygraphviz", None)  # as if it were not installed
    without = cli("graph", "pipeline.TotalsTask", "--date", DAY, "-o", "g.svg")
    dot = tmp_path / "bin" / "dot"
    dot.parent.mkdir()
    dot.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1], sys.stdin.read().split()[0])\n")
    dot.chmod(0o755)
    told = cli("graph", "pipeline.TotalsTask", "--date", DAY, "-o", "g.svg")

    assert without.code == 2
    assert "pip install 'superluigi[visuals]'" in without.err
    assert (told.code, Path("g.svg").read_text()) == (0, "-Tsvg digraph\n")


def test_lineage_diff_verify_and_reproduce_tell_of_outputs(made, cli) -> None:
    other = cli("run", "pipeline.TotalsTask", "--date", "2022-12-16").out.strip()
    differing = cli("diff", made, other, "--json")

    assert "SalesTask" in cli("lineage", made).out
    assert cli("lineage", made, "--json").json()["root"] == str(Path(made).absolute())
    assert cli("lineage", made, "-o", "lineage.html").out == "lineage.html\n"
    assert differing.code == ExitCode.DIFFERS
    assert list(differing.json()) == ["before", "after", "differs", "causes"]
    assert "params.date" in {cause["field"] for cause in differing.json()["causes"]}
    assert cli("diff", made, made).code == 0
    assert cli("verify", made, other).code == 0
    assert cli("reproduce", made).code == 0
    assert cli("reproduce", made, "--module", "pipeline", "--json").json()["matches"] is True


def test_bytes_that_are_not_those_of_the_record_end_with_3(made, cli) -> None:
    Path(made).write_text("other")

    verified, reproduced = cli("verify", made, "--json"), cli("reproduce", made, "--json")

    assert (verified.code, reproduced.code) == (3, 0)
    assert list(verified.json()[0]) == ["path", "record_path", "matches", "mismatches"]
    assert verified.json()[0]["matches"] is False
    assert [change["field"] for change in reproduced.json()["alterations"]] == ["fingerprint"]
    record = Path(f"{made}.metadata.json")
    record.write_text(re.sub(r'"sha256:\w+"', '"sha256:00"', record.read_text()))
    assert cli("reproduce", made).code == 3


def test_an_output_that_is_not_there_ends_with_4(cli) -> None:
    for command in ("lineage", "verify", "reproduce"):
        assert cli(command, "nothing.csv").code == 4


def test_accept_takes_todays_code_and_says_of_which_outputs(made, cli) -> None:
    told = cli("accept", "pipeline.TotalsTask", "--date", DAY, "--json")

    assert told.json()["accepted"] == [made]
    assert "accepted" in json.loads(Path(f"{made}.metadata.json").read_text())
    assert cli("accept", "pipeline.TotalsTask", "--date", "2020-01-01").code == 4


def test_history_tells_the_values_of_former_runs(made, cli) -> None:
    rows = cli("history", "pipeline.TotalsTask", "count", "--json").json()

    assert [(set(row), row["value"]) for row in rows] == [({"time", "value", "params", "path"}, 4)]
    assert "count" in cli("history", "TotalsTask", "count", "--module", "pipeline").out
    assert "No run on this machine" in cli("history", "pipeline.TotalsTask", "nothing").out


def test_the_cache_is_told_cleared_and_pruned(cli, s3) -> None:
    for name in ("a", "b"):
        External(s3.put(name, b"x" * 100)).output().download()

    info = cli("cache", "info", "--json").json()
    pruned = cli("cache", "prune", "--max-bytes", "150B", "--json").json()

    assert (info["copies"], info["size_bytes"], info["max_bytes"]) == (2, 200, 50 << 30)
    assert pruned == {"copies": 1, "size_bytes": 100, "kept_bytes": 100, "in_use": 0}
    assert "Removed 1 copies, 100 B; 0 B are left." in cli("cache", "clear").out
    assert "0 copies" in cli("cache", "info").out


@pytest.mark.parametrize(
    ("text", "expected"), [("1000", 1000), ("10GB", 10**10), ("2GiB", 2 << 30), ("1.5kB", 1500), ("500M", 500_000_000)]
)
def test_sizes_are_read_with_their_units(text, expected) -> None:
    assert parsing.size_bytes(text) == expected


# Outputs of other shapes


class Pair(AtomicTaskWithMetadata):
    def output(self):
        return {1: LocalFileTarget("one.txt"), "two": [LocalFileTarget("two.txt")]}

    def run(self, output_path):
        for path in (output_path[1], output_path["two"][0]):
            path.write_text("")


class Effect(Task):
    def output(self):
        return NoTarget()

    def run(self):
        pass


def test_several_outputs_are_a_line_each_and_nested_as_json(cli) -> None:
    assert cli("run", f"{__name__}.Pair").out == "one.txt\ntwo.txt\n"
    assert cli("run", f"{__name__}.Pair", "--json").json()["output"] == {"1": "one.txt", "two": ["two.txt"]}


def test_a_task_without_a_lasting_output_runs(cli) -> None:
    told = cli("run", f"{__name__}.Effect", "--json")

    assert (told.code, told.json()["status"]) == (0, "done")


# The terminal


def test_a_reader_that_goes_away_is_no_error(pipeline, tmp_path) -> None:
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(
        [sys.executable, "-m", "superluigi", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=writer,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    os.close(writer)

    assert (done.returncode, done.stderr) == (ExitCode.PIPE_CLOSED, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
def test_an_answer_that_finds_no_room_is_an_error_in_a_sentence(tmp_path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "superluigi", "completion", "bash"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )

    assert done.returncode == ExitCode.FAILED
    assert done.stderr.startswith("error: standard output: No space left on device")


@pytest.mark.skipif(os.name == "nt", reason="the shell is a POSIX one")
def test_a_job_that_was_started_without_streams_runs(pipeline, tmp_path) -> None:
    command = f"exec {sys.executable} -m superluigi run pipeline.SalesTask --date {DAY} >&- 2>&- <&-"

    done = subprocess.run(command, shell=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)

    assert done.returncode == 0
    assert (tmp_path / f"sales-{DAY}.txt").read_text() == "3"


def test_what_the_encoding_of_the_stream_lacks_is_escaped(made, tmp_path) -> None:
    done = process("tree", "pipeline.TotalsTask", "--date", DAY, cwd=tmp_path, PYTHONIOENCODING="ascii")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("\\u2713 TotalsTask")


@pytest.mark.parametrize(
    ("environment", "is_terminal", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(environment, is_terminal, expected, monkeypatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    class Stream:
        def isatty(self) -> bool:
            return is_terminal

    assert terminal.wants_colour(Stream()) is expected


def test_coloured_trees_are_told_where_colour_is_forced(made, cli, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = cli("tree", "pipeline.TotalsTask", "--date", DAY).out
    monkeypatch.setenv("NO_COLOR", "1")

    assert "\x1b[32m" in coloured
    assert "\x1b[" not in cli("tree", "pipeline.TotalsTask", "--date", DAY).out


def test_an_interrupted_run_ends_with_130(cli, pipeline) -> None:
    Path("stopped.py").write_text(
        textwrap.dedent(
            """
            from superluigi import AtomicTaskWithMetadata, LocalFileTarget

            class Stopped(AtomicTaskWithMetadata):
                def output(self):
                    return LocalFileTarget("stopped.txt")

                def run(self, output_path):
                    raise KeyboardInterrupt
            """
        )
    )

    told = cli("run", "stopped.Stopped")

    assert (told.code, told.out) == (130, "")
    assert told.err.endswith("Interrupted.\n")


def test_help_imports_nothing_heavy() -> None:
    heavy = ["boto3", "botocore", "pandas", "dask", "distributed", "s3fs", "argcomplete", "superluigi.task_runner"]
    program = (
        "import sys; from superluigi.cli import main; main(['--help']); "
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stderr.strip() == "[]"


# Completion


def completions(line: str, tmp_path: Path) -> set[str]:
    """Ask as a shell does."""
    written = tmp_path / "completions"
    process(
        cwd=tmp_path,
        COMP_LINE=line,
        COMP_POINT=str(len(line)),
        _ARGCOMPLETE="1",
        _ARGCOMPLETE_IFS="\n",
        _ARGCOMPLETE_SUPPRESS_SPACE="1",
        _ARGCOMPLETE_STDOUT_FILENAME=str(written),
    )
    return set(written.read_text().split("\n"))


def test_a_shell_is_offered_the_parameters_of_a_task_and_its_module_is_not_run(pipeline, tmp_path) -> None:
    pipeline.write_text(f"{PIPELINE}\nraise AssertionError\n")

    assert completions("superluigi run pipeline.TotalsTask --", tmp_path) >= {"--date", "--row-count", "--force"}
    assert completions("superluigi plan pipeline.To", tmp_path) == {"pipeline.TotalsTask"}


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("pipe", {"pipeline.SalesTask", "pipeline.TotalsTask"}),
        ("pipeline.T", {"pipeline.TotalsTask"}),
        ("pipeline.py", {"pipeline.py:SalesTask", "pipeline.py:TotalsTask"}),
        ("pipeline.py:S", {"pipeline.py:SalesTask"}),
        ("pk", {"pkg."}),
        ("pkg.", {"pkg.inner.InnerTask"}),
        ("pkg/", {"pkg/inner.py:InnerTask"}),
        ("nothing", set()),
    ],
)
def test_tasks_are_offered_by_their_names(prefix, expected, pipeline, tmp_path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "inner.py").write_text("import luigi\nclass InnerTask(luigi.Task): pass\n")
    (tmp_path / "unreadable.py").write_text("def f(:")

    offered = set(completion.task_names(prefix))

    assert expected <= offered
    assert expected or not offered
    assert all(name.startswith(prefix) for name in offered)


def test_parameters_are_read_also_from_bases_in_other_files(pipeline, tmp_path) -> None:
    (tmp_path / "later.py").write_text(
        "from pipeline import TotalsTask as Base\nimport luigi\nclass Later(Base):\n    more = luigi.Parameter()\n"
    )

    task = reading.task_named("later.Later")

    assert task is not None
    assert task.parameters == {
        "date": "DateParameter",
        "row_count": "IntParameter",
        "password": "Parameter",
        "more": "Parameter",
    }


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_code_for_a_shell_is_printed(shell, cli) -> None:
    told = cli("completion", shell)

    assert told.code == 0
    assert "superluigi" in told.out
    assert "_ARGCOMPLETE" in told.out


def test_the_document_tells_the_exit_codes_and_the_commands() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)}

    assert codes == {int(code) for code in ExitCode}
    assert [name for name in commands.COMMANDS if f"`superluigi {name}" not in text] == []


def test_verify_tells_of_all_outputs_although_one_is_missing(made, cli) -> None:
    other = cli("run", "pipeline.TotalsTask", "--date", "2022-12-16").out.strip()
    Path(other).write_text("other")

    told, as_json = cli("verify", made, "nope", other), cli("verify", made, "nope", other, "--json")

    assert told.code == as_json.code == ExitCode.MISSING
    assert "is what its record tells of" in told.out
    assert "nope cannot be verified: There are neither data nor a lineage record" in told.out
    assert "is not what its record tells of" in told.out
    assert [each["matches"] for each in as_json.json()] == [True, None, False]
    assert cli("verify", made, other).code == ExitCode.DIFFERS


def test_a_failed_run_tells_how_to_debug_it_on_the_command_line(cli, pipeline) -> None:
    assert "\nOn the command line: superluigi debug\n" in cli("run", "pipeline.SalesTask", "--date", DAY, "--fails").err
    assert "superluigi debug" not in cli("run", "pipeline.NeedsRawTask").err


def test_a_misspelt_setting_ends_with_2_and_the_nearest_one(cli, pipeline) -> None:
    told = cli("plan", "pipeline.SalesTask", "--date", DAY, "--config", "superluigi.rerun_stael=true")

    assert told.code == ExitCode.USAGE
    assert "Did you mean rerun_stale?" in told.err
