"""Which task a task is: the id's known answers, what changes it, what does not, and what it costs."""

import enum
import importlib.util
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import luigi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from luigi.parameter import ParameterVisibility

from superluigi import (
    AtomicTaskWithMetadata,
    CycleError,
    External,
    ExternalTask,
    InvalidNameError,
    LocalFileTarget,
    Task,
    TaskTypeError,
    TaskWithMetadata,
    dag,
    identity,
    run_task,
    salted_path,
)


class Raw(ExternalTask):
    name = luigi.Parameter(default="raw")


class Features(Task):
    day = luigi.DateParameter()
    version = luigi.IntParameter(default=1)

    def requires(self) -> Any:
        return Raw()


class Model(TaskWithMetadata):
    __version__ = "2"
    rate = luigi.FloatParameter(default=0.5)
    verbose = luigi.BoolParameter(default=False, significant=False)


class Legacy(luigi.Task):
    size = luigi.IntParameter(default=3)


class Predictions(AtomicTaskWithMetadata):
    day = luigi.DateParameter()

    def requires(self) -> Any:
        return {
            "features": [Features(day=self.day), Features(day=self.day, version=2)],
            "model": Model(),
            "old": Legacy(),
        }


# Pinned: an id is the name of files that users have, so it must not change from one release to the next.
KNOWN = {
    "no-upstream": (Raw, "ac51a54ad6d70830eb7384c8ac6e86ff"),
    "one-upstream": (lambda: Features(day=date(2022, 12, 15)), "12bf2e85dd3583690fbf6add15168e85"),
    "version": (Model, "e0ce8c7a2fa5786f8d20f9cf485b1dc9"),
    "nested": (lambda: Predictions(day=date(2022, 12, 15)), "350de2e64cc6a4eecbde5e9b797a8689"),
    "non-ascii": (lambda: Raw(name="Äpfel 🍏"), "67e03c8b2b589a76bb92ca9d906876c4"),
    "external": (lambda: External("s3://bucket/data/"), "9ce3f1e01427931bdb8e45bc6750173e"),
}


def known_answers(function: Callable[..., None]) -> Any:
    return pytest.mark.parametrize(("make", "expected"), KNOWN.values(), ids=KNOWN.keys())(function)


@known_answers
def test_the_id_is_the_known_answer(make: Callable[[], Task], expected: str) -> None:
    task = make()

    assert task.task_id == expected
    assert task.task_hash == expected
    assert len(expected) == 32


@pytest.mark.parametrize("seed", ["0", "1234"])
def test_the_id_is_the_same_in_another_process_with_another_hash_seed(seed: str) -> None:
    program = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_identity
        for make, _ in test_identity.KNOWN.values():
            print(make().task_id)
    """

    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(identity.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )

    assert finished.stdout.split() == [expected for _, expected in KNOWN.values()]


# What changes the id


def root(required: Any, **members: Any) -> Task:
    """A task of one and the same family that requires this."""
    return type(Task)("Root", (Task,), {"requires": lambda self: required, "__module__": __name__, **members})()


def a(number: int = 1) -> Task:
    return Raw(name=f"a{number}")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(None, a(), id="nothing-or-something"),
        pytest.param(a(1), a(2), id="another-task"),
        pytest.param(a(), [a()], id="alone-or-in-a-list"),
        pytest.param({"x": a()}, {"y": a()}, id="dict-key"),
        pytest.param({"x": a(1), "y": a(2)}, {"x": a(2), "y": a(1)}, id="dict-keys-exchanged"),
        pytest.param([a(1), a(2)], [a(2), a(1)], id="list-order"),
        pytest.param([a(), a()], [a()], id="twice-or-once"),
        pytest.param({"x": [a(1), a(2)]}, {"x": [a(2), a(1)]}, id="order-within-a-dict"),
        pytest.param({"1": a()}, {1: a()}, id="text-or-number-as-key"),
        pytest.param({1: a()}, {True: a()}, id="number-or-boolean-as-key"),
        pytest.param({"x": {"y": a()}}, {"x.y": a()}, id="nested-or-flat"),
        pytest.param(Legacy(size=1), Legacy(size=2), id="parameter-of-a-plain-luigi-task"),
    ],
)
def test_another_upstream_or_another_role_gives_another_id(one: Any, other: Any) -> None:
    assert root(one).task_id != root(other).task_id


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(None, [], id="none-or-empty"),
        pytest.param([a(1), a(2)], (a(1), a(2)), id="list-or-tuple"),
        pytest.param([a(1), a(2)], iter([a(1), a(2)]), id="list-or-iterator"),
        pytest.param({a(1), a(2), a(3)}, frozenset([a(3), a(1), a(2)]), id="order-of-a-set"),
        pytest.param({"x": a(), "y": None}, {"x": a()}, id="a-key-without-a-task"),
    ],
)
def test_what_is_no_other_role_gives_the_same_id(one: Any, other: Any) -> None:
    assert root(one).task_id == root(other).task_id


@given(st.permutations(["a", "b", "c", "d", "é", "10", "9"]))
def test_the_order_of_a_dict_does_not_matter(keys: list[str]) -> None:
    def tasks(names: list[str]) -> dict[str, Task]:
        return {name: Raw(name=name) for name in names}

    assert root(tasks(keys)).task_id == root(tasks(sorted(keys))).task_id


@settings(max_examples=30)
@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), min_size=1, max_size=4))
def test_whatever_the_parameters_and_roles_are_the_id_is_32_hex_characters_and_stable(names: dict[str, str]) -> None:
    required = {role: Raw(name=name) for role, name in names.items()}

    first = root(required).task_id
    dag.forget()

    assert root(required).task_id == first
    assert set(first) <= set("0123456789abcdef")
    assert len(first) == 32


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({}, {"__version__": "1"}, id="none-or-1"),
        pytest.param({"__version__": "1"}, {"__version__": "2"}, id="1-or-2"),
        pytest.param({"task_namespace": "here"}, {"task_namespace": "there"}, id="family"),
    ],
)
def test_version_and_family_matter(one: dict[str, Any], other: dict[str, Any]) -> None:
    below, changed = root(None, **one), root(None, **other)

    assert below.task_id != changed.task_id
    assert root([below], task_namespace="above").task_id != root([changed], task_namespace="above").task_id


def test_a_version_as_number_and_as_text_is_the_same() -> None:
    assert root(None, __version__=2).task_id == root(None, __version__="2").task_id


def test_only_significant_public_parameters_matter() -> None:
    class Parametrized(Task):
        public = luigi.Parameter(default="x")
        insignificant = luigi.Parameter(default="x", significant=False)
        hidden = luigi.Parameter(default="x", visibility=ParameterVisibility.HIDDEN)
        private = luigi.Parameter(default="x", visibility=ParameterVisibility.PRIVATE)

    known = Parametrized().task_id

    assert Parametrized(insignificant="y").task_id == known
    assert Parametrized(hidden="y").task_id == known
    assert Parametrized(private="y").task_id == known
    assert Parametrized(public="y").task_id != known


def test_parameters_named_like_our_own_words_are_parameters() -> None:
    class Named(Task):
        version = luigi.IntParameter()
        force = luigi.BoolParameter()
        metadata = luigi.Parameter()
        path = luigi.Parameter()

    one = Named(version=1, force=True, metadata="m", path="p")

    assert one.task_id != Named(version=2, force=True, metadata="m", path="p").task_id
    assert (one.version, one.force, one.metadata, one.path) == (1, True, "m", "p")


def test_an_enum_parameter_counts_with_its_name() -> None:
    class Size(enum.Enum):
        SMALL = 1
        LARGE = 2

    class Sized(Task):
        size = luigi.EnumParameter(enum=Size)

    assert Sized(size=Size.SMALL).task_id != Sized(size=Size.LARGE).task_id


def test_a_plain_luigi_task_upstream_counts_with_its_own_id() -> None:
    class Between(luigi.Task):
        def requires(self) -> Any:
            return a(self.number)

        number = luigi.IntParameter(significant=False)

    assert root(Between(number=1)).task_id == root(Between(number=2)).task_id  # Luigi's id knows nothing of upstream


def test_what_deps_adds_counts_as_well() -> None:
    plain = root(a())

    with_extra = root(a(), deps=lambda self: [*luigi.Task.deps(self), a(2)])
    with_other = root(a(), _requires=lambda self: [*luigi.Task._requires(self), a(3)])
    with_the_same = root(a(), deps=lambda self: [*luigi.Task.deps(self)])

    assert len({plain.task_id, with_extra.task_id, with_other.task_id}) == 3
    assert with_the_same.task_id == plain.task_id


# A notebook, where classes are defined again


def define(version: str) -> type[Task]:
    class Cell(Task):
        __version__ = version

    return Cell


def test_redefining_an_upstream_class_changes_the_id_of_an_instance_that_exists() -> None:
    cell = {"Cell": define("1")}

    class Below(Task):
        def requires(self) -> Any:
            return cell["Cell"]()

    task = Below()
    before = task.task_id
    cell["Cell"] = define("2")

    assert Below() is task
    assert task.task_id != before
    cell["Cell"] = define("1")
    assert task.task_id == before


def test_redefining_an_upstream_class_of_plain_luigi_is_noticed_too() -> None:
    cell: dict[str, type[luigi.Task]] = {}

    def define_plain(size: int) -> None:
        class PlainCell(luigi.Task):
            task_family = "PlainCell"
            number = luigi.IntParameter(default=size)

        cell["Cell"] = PlainCell

    class BelowPlain(Task):
        def requires(self) -> Any:
            return cell["Cell"]()

    define_plain(1)
    before = BelowPlain().task_id
    define_plain(2)

    assert BelowPlain().task_id != before


def test_a_class_that_is_defined_again_stays_usable_by_its_name() -> None:
    define("1")
    second = define("2")

    assert luigi.task_register.Register.get_task_cls("Cell") is second


def test_assigning_a_class_attribute_changes_the_ids_at_and_below_it() -> None:
    upstream_cls = define("1")
    task = root(upstream_cls())
    before = upstream_cls().task_id, task.task_id

    upstream_cls.__version__ = "2"

    assert upstream_cls().task_id != before[0]
    assert task.task_id != before[1]


def test_assigning_requires_changes_the_id() -> None:
    task_cls = define("1")
    before = task_cls().task_id

    task_cls.requires = lambda self: a()  # type: ignore[method-assign]

    assert task_cls().task_id != before


def test_every_run_looks_anew() -> None:
    required = [a(1)]

    class Changing(Task):
        def requires(self) -> Any:
            return required[-1]

        def complete(self) -> bool:
            return True

    before = Changing().task_id
    required.append(a(2))
    remembered = Changing().task_id
    run_task(Changing())

    assert remembered == before
    assert Changing().task_id != before


# What it costs


class Counting(Task):
    """A task that counts how often its `requires()` was called."""

    layer = luigi.IntParameter()
    column = luigi.IntParameter(default=0)
    calls: list[tuple[int, int]] = []  # noqa: RUF012
    width = 1

    def requires(self) -> Any:
        type(self).calls.append((self.layer, self.column))
        return [type(self)(layer=self.layer - 1, column=column) for column in range(self.width)] if self.layer else None


@pytest.fixture
def calls() -> list[tuple[int, int]]:
    Counting.calls.clear()
    return Counting.calls


def test_making_comparing_and_hashing_tasks_never_calls_requires(calls: list[tuple[int, int]]) -> None:
    one, same, other = Counting(layer=3), Counting(layer=3), Counting(layer=4)

    assert one == same
    assert one != other
    assert one != Legacy()
    assert len({one, same, other}) == 2
    assert str(one) == "Counting(layer=3, column=0)"
    assert one.initialized()
    assert calls == []


def test_a_subclass_of_the_same_parameters_is_another_task() -> None:
    class Other(Counting):
        pass

    assert Other(layer=1) != Counting(layer=1)
    assert Other(layer=1).task_id != Counting(layer=1).task_id


def test_a_chain_of_ten_thousand_calls_requires_once_per_task(calls: list[tuple[int, int]]) -> None:
    task = Counting(layer=10_000)

    first = task.task_id
    again = task.task_id

    assert first == again
    assert len(calls) == len(set(calls)) == 10_001


def test_a_diamond_of_a_thousand_layers_calls_requires_once_per_task(
    calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counting, "width", 2)

    _ = Counting(layer=1000).task_id

    assert len(calls) == len(set(calls)) == 2001


def test_what_was_computed_on_the_way_is_not_computed_again(calls: list[tuple[int, int]]) -> None:
    _ = Counting(layer=50).task_id
    calls.clear()

    _ = Counting(layer=20).task_id
    _ = Counting(layer=51).task_id

    assert calls == [(51, 0)]


def test_a_chain_with_a_failing_bottom_asks_each_task_thrice_at_most(tmp_path: Path) -> None:
    class Sinking(Counting):
        def requires(self) -> Any:
            super().requires()
            if self.layer == 0:
                message = "the bottom"
                raise ValueError(message)
            return Sinking(layer=self.layer - 1)

        def output(self) -> Any:
            return LocalFileTarget(tmp_path / f"{self.layer}.txt")

    Sinking.calls.clear()

    with pytest.raises(RuntimeError, match="1 task failed"):
        run_task(Sinking(layer=500))

    assert max(map(Sinking.calls.count, Sinking.calls)) <= 3  # for its id, by the worker, and for the summary


# Errors


def test_a_cycle_is_an_error_that_prints_it() -> None:
    class Ring(Task):
        at = luigi.IntParameter()

        def requires(self) -> Any:
            return Ring(at=1) if self.at == 3 else Ring(at=self.at + 1)

    with pytest.raises(CycleError, match=r"Ring\(at=1\) -> Ring\(at=2\) -> Ring\(at=3\) -> Ring\(at=1\)") as caught:
        _ = Ring(at=0).task_id

    assert caught.value.tasks == ("Ring(at=1)", "Ring(at=2)", "Ring(at=3)")


def test_a_task_that_requires_itself_is_a_cycle() -> None:
    class Narcissus(Task):
        def requires(self) -> Any:
            return Narcissus()

    with pytest.raises(CycleError, match=r"Narcissus\(\) -> Narcissus\(\)\."):
        run_task(Narcissus())


@pytest.mark.parametrize("first", ["ours", "plain"])
def test_a_cycle_through_plain_luigi_tasks_is_an_error_when_run(first: str) -> None:
    class Plain(luigi.Task):
        def requires(self) -> Any:
            return Ours()

        def complete(self) -> bool:
            return False

    class Ours(Task):
        def requires(self) -> Any:
            return Plain()

        def complete(self) -> bool:
            return False

    with pytest.raises(CycleError, match=r"Plain\(\) -> Ours\(\)|Ours\(\) -> Plain\(\)"):
        run_task(Ours() if first == "ours" else Plain())


@pytest.mark.parametrize(
    "required", [LocalFileTarget("x"), 3, Raw, object()], ids=["target", "number", "class", "object"]
)
def test_what_is_no_task_is_an_error_in_the_id(required: Any) -> None:
    with pytest.raises(TaskTypeError, match=r"requires\(\) gives"):
        _ = root([a(), required]).task_id


def test_an_error_of_requires_is_raised_as_it_is_and_asked_for_again_next_time() -> None:
    errors = [ValueError("not now")]

    class Moody(Task):
        def requires(self) -> Any:
            if errors:
                raise errors.pop()

    task = root(Moody(), task_namespace="above")
    error = errors[0]

    with pytest.raises(ValueError, match="not now") as caught:
        _ = task.task_id

    assert caught.value is error
    assert len(task.task_id) == 32


# Other processes


def test_a_task_survives_pickling_and_is_the_same() -> None:
    task = Predictions(day=date(2022, 12, 15))
    known = task.task_id

    copy = pickle.loads(pickle.dumps(task))

    assert copy == task
    assert hash(copy) == hash(task)
    assert "_remembered" not in vars(copy)
    assert copy.task_id == known


# The code


def written(tmp_path: Path, name: str, body: str) -> Any:
    """The class `Coded` of a module with this source."""
    path = tmp_path / f"{name}.py"
    path.write_text(f"import luigi\n{textwrap.dedent(body)}")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Coded


CODE = """
class Coded(luigi.Task):
    def run(self):
        return 1
"""
SAME_CODE = '''
class Coded( luigi.Task ):
    """A docstring."""

    # a comment
    def run(self):
        "Another docstring."
        return (1)
'''


@pytest.fixture(autouse=True)
def _no_module_of_a_test_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "modules", sys.modules)
    for name in ("coded_one", "coded_other"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        pytest.param(CODE, True, id="identical"),
        pytest.param(SAME_CODE, True, id="layout-comments-docstrings"),
        pytest.param(CODE.replace("return 1", "return 2"), False, id="another-constant"),
        pytest.param(CODE.replace("def run(self)", "async def run(self)"), False, id="async"),
    ],
)
def test_the_code_fingerprint_sees_code_and_nothing_else(other: str, is_same: bool, tmp_path: Path) -> None:
    one = identity.code_fingerprint(written(tmp_path, "coded_one", CODE))
    two = identity.code_fingerprint(written(tmp_path, "coded_other", other))

    assert one is not None
    assert one.startswith("sha256:")
    assert (one == two) == is_same


def test_a_body_that_is_only_a_docstring_has_a_fingerprint(tmp_path: Path) -> None:
    only = identity.code_fingerprint(written(tmp_path, "coded_one", 'class Coded(luigi.Task):\n    """Only this."""\n'))
    empty = identity.code_fingerprint(written(tmp_path, "coded_other", "class Coded(luigi.Task):\n    pass\n"))

    assert only == empty


def test_a_class_whose_source_is_gone_has_no_code_fingerprint() -> None:
    namespace: dict[str, Any] = {"luigi": luigi, "__name__": "nowhere"}
    exec("class Gone(luigi.Task):\n    pass\n", namespace)

    assert identity.code_fingerprint(namespace["Gone"]) is None


# Code and salt


@pytest.mark.parametrize("is_tracked", [True, False], ids=["tracked", "not tracked"])
def test_code_is_part_of_the_id_of_a_class_that_tracks_it(is_tracked: bool, tmp_path: Path) -> None:
    code = CODE.replace("class Coded(luigi.Task):", f"class Coded(Task):\n    track_code = {is_tracked}")
    assert code != CODE
    code = f"from superluigi import Task\n{textwrap.dedent(code)}"

    one = written(tmp_path, "coded_one", code)
    other = written(tmp_path, "coded_other", code.replace("return 1", "return 2"))

    assert (one().task_id != other().task_id) == is_tracked


def test_a_salted_path_moves_with_the_version_of_whatever_is_upstream() -> None:
    class Upstream(AtomicTaskWithMetadata):
        __version__ = "1"

    class Salted(AtomicTaskWithMetadata):
        def requires(self) -> Any:
            return Upstream()

        def output(self) -> Any:
            return LocalFileTarget(salted_path("data/model-{salt}.pkl", self))

    before = Salted().output().path
    Upstream.__version__ = "2"

    assert before.name == f"model-{before.name[6:38]}.pkl"
    assert Salted().output().path != before


def test_a_path_without_a_place_for_the_salt_is_an_error() -> None:
    with pytest.raises(InvalidNameError, match=r"'data/model.pkl' holds no \{salt\}"):
        salted_path("data/model.pkl", luigi.Task())


def test_a_salted_path_of_a_class_is_an_error_and_no_path() -> None:
    class Model(Task):
        pass

    with pytest.raises(TaskTypeError, match=r"salted_path\(\) was given the class Model: give a task, Model\("):
        salted_path("model-{salt}.pkl", Model)
