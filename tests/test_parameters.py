"""`superluigi.parameters` is Luigi's own set of parameters, whole and unchanged."""

import inspect
import subprocess
import sys

import luigi
import luigi.parameter
import pytest

import superluigi
from superluigi import parameters


def public_parameters_of_luigi() -> set[str]:
    """The names of all parameter classes of the Luigi that is installed."""
    classes = inspect.getmembers(luigi.parameter, inspect.isclass)
    return {name for name, cls in classes if issubclass(cls, luigi.Parameter) and not name.startswith("_")}


def test_every_parameter_of_luigi_is_there() -> None:
    missing = public_parameters_of_luigi() - set(parameters.__all__)

    assert missing == set()


def test_beside_the_parameters_there_is_only_what_declares_them() -> None:
    others = set(parameters.__all__) - public_parameters_of_luigi()

    assert others == {"OptionalParameterMixin", "ParameterVisibility"}


@pytest.mark.parametrize("name", parameters.__all__)
def test_a_parameter_is_the_very_one_of_luigi(name: str) -> None:
    assert getattr(parameters, name) is getattr(luigi.parameter, name)
    assert getattr(superluigi, name) is getattr(luigi.parameter, name)


def test_what_luigi_exports_at_its_top_is_there() -> None:
    exported = {name for name in vars(luigi) if name.endswith("Parameter")}

    assert exported <= set(parameters.__all__)


def test_the_names_are_sorted_and_stand_once() -> None:
    assert parameters.__all__ == sorted(set(parameters.__all__))


def test_star_import_gives_the_parameters_and_nothing_else() -> None:
    namespace: dict[str, object] = {}

    exec("from superluigi.parameters import *", namespace)

    assert set(namespace) - {"__builtins__"} == set(parameters.__all__)


def test_importing_them_is_quiet_and_needs_no_aws(tmp_path) -> None:
    script = (
        "import sys, superluigi.parameters; print({'boto3', 'botocore', 'pandas', 's3fs', 'moto'} & set(sys.modules))"
    )

    finished = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert finished.stdout == "set()\n"
    assert finished.stderr == ""
