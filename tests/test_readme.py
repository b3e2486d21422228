"""What the README says is so, and what has moved from it to docs/: its two commands, the names, the settings.

That its code runs, and that its links lead somewhere, is held by tests/test_docs.py.
"""

import inspect
import json
import re
from pathlib import Path

import pytest
from documents import ROOT, blocks, python_blocks, run_block

import superluigi
import superluigi.config
import superluigi.errors
import superluigi.parameters

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = python_blocks(README)


def page(name: str) -> str:
    """A page of docs/."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def first_cells(text: str) -> list[str]:
    """The names in backticks in the first column of the tables of a text."""
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def part(name: str, title: str) -> str:
    """The text of a page under a heading of the second level."""
    return page(name).split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]


def test_the_example_prints_what_its_comments_say(tmp_path: Path) -> None:
    printed = run_block(BLOCKS[0], tmp_path).stdout

    assert "* 2 ran successfully" in printed
    assert re.search(r"^s3://shops/totals/date=20221215/[0-9a-f]{32}\.csv$", printed, flags=re.MULTILINE)
    assert re.search(r"north\s+8\n.*south\s+4", printed)


@pytest.mark.parametrize("name", ["tutorial", "test"])
def test_each_command_stands_once_as_one_line_that_does_its_own_set_up(name: str) -> None:
    commands = re.findall(rf"^<!-- {name}-command -->\n```bash\n(.*)\n```$", README, flags=re.MULTILINE)

    assert len(commands) == 1
    assert README.count(f"<!-- {name}-command -->") == 1
    assert commands[0].startswith("python3 -m venv --upgrade-deps .venv && .venv/bin/pip install ")
    assert README.index(commands[0]) < README.index("\n## ")


def test_there_are_exactly_two_commands() -> None:
    assert len(re.findall(r"^```(?:bash|sh|shell|console)$", README, flags=re.MULTILINE)) == 2


def test_the_list_of_names_is_the_public_surface() -> None:
    listed = first_cells(page("api/index.md").split("\n## ")[0])
    reexported = set(superluigi.parameters.__all__) | {"__version__"}
    errors = {name for name, value in inspect.getmembers(superluigi.errors, inspect.isclass)}

    assert len(listed) == len(set(listed))
    assert set(listed) <= set(superluigi.__all__)
    assert set(superluigi.__all__) - reexported - errors <= set(listed)
    assert {"DateParameter", "IntParameter", "Parameter"} <= set(superluigi.__all__)


def test_every_name_that_is_listed_has_its_entry_in_the_api() -> None:
    entries = re.findall(r"^::: superluigi\.(\w+)$", page("api/superluigi.md"), flags=re.MULTILINE)
    errors = {name for name, value in inspect.getmembers(superluigi.errors, inspect.isclass)}
    parameters = re.findall(r"`(\w+)`", page("api/parameters.md"))

    assert len(entries) == len(set(entries))
    assert set(entries) == set(superluigi.__all__) - set(superluigi.parameters.__all__) - errors - {"__version__"}
    assert set(superluigi.parameters.__all__) == set(parameters) - {"luigi"}


def test_every_argument_of_run_task_and_member_of_a_target_is_listed() -> None:
    arguments = set(inspect.signature(superluigi.run_task).parameters)
    forcing = {cell.split("=")[0] for cell in first_cells(part("staleness.md", "Forcing"))}
    target = superluigi.S3ObjectTarget(bucket="shops", object_key="a.csv")
    members = [re.sub(r"\(.*", "", name) for name in first_cells(part("targets.md", "Alone"))]
    keywords = {cell.split("=")[0] for cell in first_cells(part("targets.md", "In S3"))}

    assert set(first_cells(part("api/index.md", "The arguments of `run_task`"))) == arguments
    assert forcing == {argument for argument in arguments if argument.startswith("force")} - {"force_local_download"}
    assert [name for name in members if not hasattr(target, name)] == []
    assert len(members) >= 10
    own = set(inspect.signature(superluigi.S3ObjectTarget).parameters) - {"bucket", "object_key", "client_options"}
    assert own <= keywords


def test_the_lineage_record_that_is_shown_is_one(tmp_path: Path) -> None:
    text = page("how-it-works.md")
    (shown,) = [json.loads(block.text) for block in blocks(text) if block.language == "json"]
    and_the_record = "\nprint('RECORD', json.dumps(record))\n"

    printed = run_block(python_blocks(text)[0], tmp_path, extra=and_the_record).stdout

    record = json.loads(printed.split("RECORD ")[1])
    assert set(shown) <= set(record)
    for name in ("schema", "task_family", "version", "params", "row_count"):
        assert shown[name] == record[name]
    for name in ("input", "output"):
        assert set(shown[name]) <= set(record[name])
        assert [key for key, value in shown[name].items() if not matches(value, record[name][key])] == []


def matches(shown: object, real: object) -> bool:
    """Whether a value of the page is the real one, where `...` stands for whatever has been left out."""
    pattern = ".+".join(map(re.escape, str(shown).split("...")))
    return re.fullmatch(pattern, str(real)) is not None


def test_every_setting_is_listed_with_its_default_and_its_variable() -> None:
    rows = [line.split(" | ") for line in part("configuration.md", "The keys").splitlines() if line.startswith("| `")]
    listed = {row[0].strip("| `"): row for row in rows}

    assert set(listed) == set(superluigi.config.readers())
    for key, (_, meaning, unit, default, variable) in listed.items():
        assert f"`SUPERLUIGI_{key.upper()}`" in variable
        assert meaning
        assert unit
        assert f"`{DEFAULTS[key]}`" in default or DEFAULTS[key] is None, key


DEFAULTS = {
    "local_data_dir": "~/.superluigi/data",
    "cache_max_bytes": 50 << 30,
    "cache_min_free_bytes": 1 << 30,
    "input_mode": "copy",
    "max_concurrency": 16,
    "scheduler_url": None,  # Luigi's own
    "rerun_stale": "false",
    "progress": "auto",
    "single_flight": "false",
    "lease_s": 60,
    "durable": "false",
    "logs_max_bytes": 100 << 20,
}


def test_the_defaults_that_are_listed_are_those_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in superluigi.config.readers():
        monkeypatch.delenv(f"SUPERLUIGI_{key.upper()}", raising=False)
    meant = {
        **DEFAULTS,
        "local_data_dir": Path("~/.superluigi/data").expanduser().absolute(),
        "input_mode": False,  # whether inputs are linked
        "scheduler_url": "",
        "progress": None,
        **dict.fromkeys(("rerun_stale", "single_flight", "durable"), False),
    }

    assert {key: read() for key, read in superluigi.config.readers().items()} == meant


def test_every_class_of_the_errors_is_explained_with_its_bases_its_cause_and_the_way_out() -> None:
    classes = {
        name: cls
        for name, cls in inspect.getmembers(superluigi.errors, inspect.isclass)
        if cls.__module__ == "superluigi.errors"
    }
    parts = re.split(r"^##+ ", page("errors.md"), flags=re.MULTILINE)[1:]
    entries = {title: text for title, _, text in (part.partition("\n") for part in parts) if " " not in title}

    assert set(entries) == set(classes)
    for name, text in entries.items():
        if issubclass(classes[name], superluigi.SuperLuigiError) and name != "SuperLuigiError":
            said = re.findall(r"`(\w+)`", re.split(r"\*\*Cause", text)[0])
            bases = [base.__name__ for base in classes[name].__bases__ if base is not superluigi.SuperLuigiError]
            assert set(bases) <= set(said) or said == ["StorageError"] == bases, name
        if issubclass(classes[name], superluigi.SuperLuigiError):
            assert "**Cause:**" in text, name
            assert re.search(r"\*\*Way\s+out:\*\*", text), name


def test_the_libraries_and_extras_that_are_listed_are_those_that_are_installed() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = re.search(r"^dependencies = \[(.*?)^\]", pyproject, flags=re.DOTALL | re.MULTILINE)
    optional = pyproject.split("\n[project.optional-dependencies]\n")[1].split("\n[", maxsplit=1)[0]
    listed = first_cells(part("getting-started.md", "What is installed"))

    assert declared is not None
    libraries = re.findall(r'^\s*"([\w-]+)', declared.group(1), flags=re.MULTILINE)
    extras = re.findall(r"^(\w+) = ", optional, flags=re.MULTILINE)
    assert sorted(listed) == sorted([*libraries, *extras])
