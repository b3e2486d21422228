"""What type checkers make of a pipeline: strict mypy and strict pyright, as a user would run them."""

import concurrent.futures
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from documents import ROOT, python_blocks

HERE = Path(__file__).parent
RIGHT = {name: (HERE / name).read_text(encoding="utf-8") for name in ("typed_pipeline.py", "typed_constructors.py")}
RIGHT |= {
    f"docs_typing_{position}.py": block
    for position, block in enumerate(python_blocks((ROOT / "docs" / "typing.md").read_text(encoding="utf-8")), 1)
}
MISTAKEN = "typed_mistakes.py"

# Errors of the package itself are not a user's: where it is installed, neither checker shows them.
MYPY = f"""
[mypy]
strict = True
mypy_path = {ROOT}
[mypy-superluigi.*]
follow_imports = silent
"""


@dataclass(frozen=True)
class Finding:
    file: str
    line: int
    rule: str
    text: str


@dataclass(frozen=True)
class Findings:
    """What both checkers say of the typed files."""

    mypy: tuple[Finding, ...]
    pyright: tuple[Finding, ...]

    def in_file(self, checker: str, name: str) -> list[Finding]:
        return [finding for finding in getattr(self, checker) if finding.file == name]


def mypy(arguments: list[str], config: str, scratch: Path) -> list[Finding]:
    settings = scratch / "mypy.ini"
    settings.write_text(config)
    options = [
        "--config-file",
        settings,
        "--cache-dir",
        scratch / "cache",
        "--output",
        "json",
        "--no-warn-unused-configs",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *map(str, options), *arguments],
        cwd=scratch,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        Finding(Path(one["file"]).name, one["line"], one["code"], one["message"])
        for one in told
        if one["severity"] == "error"
    ]


def pyright(names: list[str], scratch: Path) -> list[Finding]:
    settings = {"include": names, "typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}
    (scratch / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(scratch)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["summary"]["filesAnalyzed"] == len(names)
    return [
        Finding(Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["rule"], one["message"])
        for one in told["generalDiagnostics"]
    ]


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Let both checkers look at copies in a folder of its own, side by side."""
    scratch = tmp_path_factory.mktemp("typing")
    sources = {**RIGHT, MISTAKEN: (HERE / MISTAKEN).read_text(encoding="utf-8")}
    names = list(sources)
    for name, source in sources.items():
        (scratch / name).write_text(source, encoding="utf-8")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        by_mypy = pool.submit(mypy, names, MYPY, scratch)
        by_pyright = pool.submit(pyright, names, scratch)
        return Findings(tuple(by_mypy.result()), tuple(by_pyright.result()))


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
@pytest.mark.parametrize("name", RIGHT)
def test_a_typed_pipeline_passes_without_ignores(findings: Findings, checker: str, name: str) -> None:
    assert findings.in_file(checker, name) == []
    assert not re.search(r"#\s*(type|pyright|mypy):", RIGHT[name])


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_each_mistake_is_found_where_it_is_and_nothing_else(findings: Findings, checker: str) -> None:
    expected = set()
    for number, line in enumerate((HERE / MISTAKEN).read_text().splitlines(), 1):
        for rules in re.findall(rf"#.*\b{checker}: ([\w, -]+)", line):
            expected |= {(number, rule.strip()) for rule in rules.split(",")}

    found = {(finding.line, finding.rule) for finding in findings.in_file(checker, MISTAKEN)}
    assert len(expected) > 10
    # Of the type of what is not there, and of expressions that stand alone, pyright complains besides.
    assert {(line, rule) for line, rule in found if not re.match("reportUn(known|used)", rule)} == expected


def test_the_typed_classes_are_those_that_run() -> None:
    import superluigi
    from superluigi import luigi_task, typed

    for name in typed.__all__:
        assert getattr(typed, name) is getattr(superluigi, name)
    assert superluigi.Task.__mro__[1] is luigi_task.LuigiTask
    assert luigi_task.LuigiTask.__module__ == "luigi.task"
