"""What the README says is so: its code runs, its two commands are there, its names and its settings exist."""

import inspect
import json
import re
from pathlib import Path

import pytest
from documents import ROOT, python_blocks, run_block
from documents import section as section_of

import superluigi
import superluigi.config
import superluigi.errors
import superluigi.parameters

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = python_blocks(README)


def section(title: str) -> str:
    """The text under one of the README's headings."""
    return section_of(README, title)


def first_cells(title: str) -> list[str]:
    """The names in backticks in the first column of a section's table."""
    rows = [line for line in section(title).splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block{position}" for position in range(1, len(BLOCKS) + 1)])
def test_every_python_block_runs_as_it_stands(block: str, tmp_path: Path) -> None:
    finished = run_block(block, tmp_path)

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Warning" not in finished.stderr
    if "\ndef test_" in block:
        assert "1 passed" in finished.stdout


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
    listed = first_cells("The names")
    reexported = set(superluigi.parameters.__all__) | {"__version__"}
    errors = {name for name, value in inspect.getmembers(superluigi.errors, inspect.isclass)}

    assert len(listed) == len(set(listed))
    assert set(listed) <= set(superluigi.__all__)
    assert set(superluigi.__all__) - reexported - errors <= set(listed)
    assert {"DateParameter", "IntParameter", "Parameter"} <= set(superluigi.__all__)


def test_every_name_that_is_listed_for_targets_and_run_task_exists() -> None:
    list_of_members = section("The names").split("A target also works alone:")[1].split("```")[0]
    target_names = re.findall(r"`(\w+)(?:\(\))?`", list_of_members)
    arguments = set(inspect.signature(superluigi.run_task).parameters)
    text = section("Running, and running again") + section("When a task fails")
    forcing = {cell.split("=")[0] for cell in first_cells("Running, and running again")}
    target = superluigi.S3ObjectTarget(bucket="shops", object_key="a.csv")

    assert [name for name in target_names if not hasattr(target, name)] == []
    assert len(target_names) == 10
    assert forcing == {argument for argument in arguments if argument.startswith("force")} - {"force_local_download"}
    assert [argument for argument in arguments - {"task"} if f"`{argument}" not in text] == []


def test_the_lineage_record_that_is_shown_is_one(tmp_path: Path) -> None:
    shown = json.loads(re.findall(r"^```json\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)[0])
    and_the_record = (
        "    import json\n"
        "    print('RECORD', json.dumps(TotalsTask(date=date(2022, 12, 15)).output().read_metadata()))\n"
    )

    printed = run_block(BLOCKS[0], tmp_path, extra=and_the_record).stdout

    record = json.loads(printed.split("RECORD ")[1])
    assert set(shown) <= set(record)
    for name in ("task_family", "params", "row_count"):
        assert shown[name] == record[name]
    for name in ("input", "output"):
        assert set(shown[name]) <= set(record[name])
        assert [key for key, value in shown[name].items() if not matches(value, record[name][key])] == []


def test_every_setting_that_is_listed_is_read() -> None:
    keys = first_cells("Configuration")
    source = inspect.getsource(superluigi.config)

    assert "local_data_dir" in keys
    assert [key for key in keys if f'"{key}"' not in source] == []
    assert [key for key in keys if f"`SUPERLUIGI_{key.upper()}`" not in section("Configuration")] == []


def matches(shown: object, real: object) -> bool:
    """Whether a value of the README is the real one, where `...` stands for whatever has been left out."""
    pattern = ".+".join(map(re.escape, str(shown).split("...")))
    return re.fullmatch(pattern, str(real)) is not None


def test_the_libraries_that_are_listed_are_those_that_are_installed() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = re.search(r"^dependencies = \[(.*?)^\]", pyproject, flags=re.DOTALL | re.MULTILINE)

    assert declared is not None
    assert set(first_cells("What it costs")) == set(re.findall(r'^\s*"([\w-]+)', declared.group(1), flags=re.MULTILINE))
