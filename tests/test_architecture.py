"""The way the imports run, read from the sources, and what `import superluigi` may bring along."""

import ast
import functools
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import superluigi

PACKAGE = Path(superluigi.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
BY_NAME = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())

# A module may import from the layers above its own in this list, and from its own.
LAYERS = [
    ["luigi_import"],
    [
        "errors",
        "failure_cards",
        "forks",
        "garbage",
        "config",
        "luigi_task",
        "parameters",
        "patience",
        "markup",
        "visuals",
    ],
    ["origins", "syntax"],
    ["loaded"],
    ["source", "task_log"],
    ["storage"],
    ["pictures"],
    ["targets"],
    ["dag"],
    ["identity", "provenance", "expectations"],
    ["outputs"],
    ["execution"],
    ["register"],
    ["tasks", "cards", "typed"],
    ["rehearsal"],
    ["records"],
    ["failures"],
    ["ancestry", "comparison"],
    ["reproduction"],
    ["forcing", "staleness", "outlook"],
    ["unsettled"],
    ["plans"],
    ["costs"],
    ["planning"],
    ["debugging"],
    ["explaining"],
    ["task_graph"],
    ["running"],
    ["task_runner"],
    ["testing", "cli"],
    ["__main__"],
]
FREE_OF = [
    "boto3",
    "botocore",
    "pandas",
    "s3fs",
    "fsspec",
    "dask",
    "distributed",
    "joblib",
    "moto",
    "matplotlib",
    "numpy",
    "openlineage",
]


@functools.cache
def imports(path: Path, *, at_import: bool = False) -> frozenset[str]:
    """The full names that a module imports, wherever in it or at its own import; not what only a type checker sees."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute, so that they can be read here"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def layer_of(name: str) -> int:
    """The place in the order of a module of the package, given its full name."""
    part = name.split(".")[1]
    return next(number for number, names in enumerate(LAYERS) if part in names)


def own_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_module_has_its_place_in_the_order() -> None:
    known = {name for names in LAYERS for name in names}
    there = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}

    assert there == known


@BY_NAME
def test_imports_run_one_way(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return
    submodules = {name for names in LAYERS for name in names}

    upwards = []
    for name in sorted(imports(path)):
        parts = name.split(".")
        if parts[0] != "superluigi" or len(parts) < 2:
            continue
        assert parts[1] in submodules, f"{path}: from superluigi import {parts[1]} goes through the whole package"
        if layer_of(name) > layer_of(own_name(path)):
            upwards.append(name)

    assert upwards == []


def test_no_module_imports_itself_over_others() -> None:
    modules = {own_name(path): path for path in MODULES if path != PACKAGE / "__init__.py"}
    edges = {
        name: {known for known in modules for found in imports(path) if f"{found}.".startswith(f"{known}.")}
        for name, path in modules.items()
    }

    finished: set[str] = set()
    while ready := {
        name for name in edges if name not in finished and edges[name] - {name} <= finished | parents(name)
    }:
        finished |= ready

    assert set(edges) - finished == set()


def parents(name: str) -> set[str]:
    """The packages that a module is in: importing a sibling names them too."""
    parts = name.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts))}


@BY_NAME
def test_only_the_s3_store_imports_boto3_and_only_when_it_is_used(path: Path) -> None:
    def of_amazon(names: frozenset[str]) -> set[str]:
        return {name for name in names if name.split(".")[0] in ("boto3", "botocore", "s3transfer")}

    # The server for tests and tutorials is no part of the library's way to S3.
    may_import = path.relative_to(PACKAGE).as_posix() in ("storage/s3.py", "testing.py")
    assert may_import or not of_amazon(imports(path))
    assert not of_amazon(imports(path, at_import=True))


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = f"import sys, superluigi; print([name for name in {FREE_OF} if name in sys.modules])"

    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )

    assert finished.stdout.strip() == "[]"


def test_making_targets_and_tasks_imports_nothing_heavy_either() -> None:
    program = f"""if True:
        import sys, superluigi
        superluigi.S3ObjectTarget("b-b", "k"), superluigi.S3PrefixTarget("b-b", "k"), superluigi.External("s3://b-b/k").output()
        superluigi.External("x").task_id
        print([name for name in {FREE_OF} if name in sys.modules])
    """

    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )

    assert finished.stdout.strip() == "[]"


def test_importing_the_package_writes_and_prints_nothing(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_QUIETLY],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(PACKAGE.parent), "HOME": str(tmp_path)},
    )

    assert (finished.stdout, finished.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


IMPORT_QUIETLY = """
import warnings
warnings.filterwarnings("ignore", module="luigi")
import luigi
warnings.resetwarnings()
warnings.simplefilter("error")
import superluigi
"""


def test_no_module_bears_the_name_of_an_exported_function() -> None:
    modules = {module.name for module in pkgutil.iter_modules([str(PACKAGE)])}

    assert modules & {*superluigi.__all__, "embedded_s3"} == set()


def test_all_is_true_and_sorted_and_names_nothing_twice() -> None:
    public = {
        name for name in dir(superluigi) if not name.startswith("_") and not inspect.ismodule(getattr(superluigi, name))
    }

    assert superluigi.__getattr__("run_task") is superluigi.run_task  # the one that is loaded when it is asked for
    assert set(superluigi.__all__) - {"__version__"} == public
    assert len(superluigi.__all__) == len(set(superluigi.__all__))


def test_every_error_is_exported() -> None:
    errors = importlib.import_module("superluigi.errors")
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}

    assert defined - {"MissingParameterException"} <= set(superluigi.__all__)


@BY_NAME
def test_every_module_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))

    assert docstring
    assert docstring.splitlines()[0].rstrip(":").endswith((".", ",", "`")) or len(docstring.splitlines()) > 1
