"""The settings: where they are looked for, what they may be, and that Luigi's configuration is as before afterwards."""

import contextlib
import contextvars
import enum
import threading
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import luigi
import luigi.configuration
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from luigi.configuration.toml_parser import LuigiTomlParser

from superluigi import ConfigError, LocalFileTarget, Task, config, run_task


class Colour(enum.Enum):
    RED = 1


@pytest.fixture(params=["cfg", "toml"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Luigi's configuration, of either kind."""
    if request.param == "toml":
        toml = LuigiTomlParser()
        toml.data = {}
        monkeypatch.setattr(LuigiTomlParser, "_instance", toml)
        monkeypatch.setattr(luigi.configuration, "get_config", lambda: toml)
    return luigi.configuration.get_config()


def contents(parser: Any) -> dict[str, dict[str, Any]]:
    """Everything in Luigi's configuration, before interpolation."""
    if hasattr(parser, "data"):
        return {section: dict(options) for section, options in parser.data.items()}
    return {section: dict(parser._sections[section]) for section in parser.sections()}


# Where a setting is looked for


def test_without_any_setting_the_data_are_kept_in_the_home_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SUPERLUIGI_LOCAL_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert config.data_dir() == tmp_path / ".superluigi" / "data"
    assert not (tmp_path / ".superluigi").exists()


def test_the_call_wins_over_the_environment_and_the_environment_over_luigis_configuration(
    parser: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parser.set("superluigi", "local_data_dir", "/from/luigi")
    monkeypatch.delenv("SUPERLUIGI_LOCAL_DATA_DIR")

    assert config.data_dir() == Path("/from/luigi")
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", "/from/environment")
    assert config.data_dir() == Path("/from/environment")
    with config.applied({"superluigi": {"local_data_dir": "/from/call"}}, None):
        assert config.data_dir() == Path("/from/call")
    assert config.data_dir() == Path("/from/environment")


@pytest.mark.parametrize("option", ["local_data_dir", "local-data-dir"])
def test_hyphens_and_underscores_are_the_same_in_an_option(option: str) -> None:
    with config.applied({"superluigi": {option: "/from/call"}}, None):
        assert config.data_dir() == Path("/from/call")


def test_the_data_directory_is_absolute_and_a_tilde_is_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", "relative")
    assert config.data_dir() == tmp_path / "relative"
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", "~/data")
    assert config.data_dir() == tmp_path / "home" / "data"
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", "")
    assert config.data_dir() == tmp_path / "home" / ".superluigi" / "data"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (True, True),
        (False, False),
        ("yes", True),
        ("On", True),
        (" 1 ", True),
        ("no", False),
        ("off", False),
        (0, False),
    ],
    ids=repr,
)
def test_a_boolean_setting_takes_the_usual_words(text: Any, expected: bool) -> None:
    assert config.is_durable() is False
    with config.applied({"superluigi": {"durable": text}}, None):
        assert config.is_durable() is expected


def test_a_boolean_setting_that_is_none_is_an_error_that_names_it() -> None:
    with (
        pytest.raises(ConfigError, match=r"\[superluigi\] durable is 'maybe', but takes true or false"),
        config.applied({"superluigi": {"durable": "maybe"}}, None),
    ):
        pytest.fail("the call has begun")


NUMBERS = {
    "cache_max_bytes": (config.cache_max_bytes, 50 * 2**30),
    "cache_min_free_bytes": (config.cache_min_free_bytes, 2**30),
    "max_concurrency": (config.max_concurrency, 16),
    "lease_s": (config.lease_s, 60),
}


@pytest.mark.parametrize(("name", "setting"), NUMBERS.items(), ids=NUMBERS.keys())
def test_a_number_has_a_default_and_takes_whole_numbers(name: str, setting: tuple[Any, int]) -> None:
    function, default = setting

    assert function() == default
    with config.applied({"superluigi": {name: 3}}, None):
        assert function() == 3


@pytest.mark.parametrize(
    "value", ["many", "-1", "1.5", "", "\u00b2"], ids=["word", "negative", "fraction", "empty", "square"]
)
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_whole_number_is_an_error_that_names_the_setting(name: str, value: str) -> None:
    with (
        pytest.raises(ConfigError, match=rf"\[superluigi\] {name} is '{value}', but takes a whole number from 0 on"),
        config.applied({"superluigi": {name: value}}, None),
    ):
        pytest.fail("the call has begun")


@pytest.mark.parametrize("name", NUMBERS)
def test_a_setting_of_the_environment_that_is_no_number_is_an_error_where_it_is_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SUPERLUIGI_{name.upper()}", "many")

    with pytest.raises(ConfigError, match=f"{name} is 'many'"):
        NUMBERS[name][0]()


def test_at_least_one_request_is_made_at_a_time() -> None:
    with config.applied({"superluigi": {"max_concurrency": 0}}, None):
        assert config.max_concurrency() == 1


def test_a_lease_holds_for_a_second_at_least() -> None:
    with config.applied({"superluigi": {"lease_s": 0}}, None):
        assert config.lease_s() == 1


def test_runs_do_not_wait_for_each_other_unless_the_setting_says_so() -> None:
    assert config.is_single_flight() is False
    with config.applied({"superluigi": {"single_flight": True}}, None):
        assert config.is_single_flight() is True


def test_inputs_are_copied_unless_the_setting_says_link() -> None:
    assert not config.is_linking()
    with config.applied({"superluigi": {"input_mode": "Link"}}, None):
        assert config.is_linking()
    with (
        pytest.raises(ConfigError, match=r"\[superluigi\] input_mode is 'move', but takes copy or link"),
        config.applied({"superluigi": {"input_mode": "move"}}, None),
    ):
        pytest.fail("the call has begun")


# What a value may be


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("text", "text"),
        ("", ""),
        (True, "True"),
        (4, "4"),
        (0.25, "0.25"),
        (date(2022, 12, 15), "2022-12-15"),
        (datetime(2022, 12, 15, 10, 30), "2022-12-15T10:30:00"),  # noqa: DTZ001
        (timedelta(minutes=1), "60.0"),
        (Colour.RED, "RED"),
        (Path("a/b"), "a/b"),
        ([1, "x"], '[1, "x"]'),
        ((1, 2), "[1, 2]"),
        ({"x": None}, '{"x": null}'),
        ("100% of $HOME", "100% of $HOME"),
        ("${HOME} ${no such} $${x} %(x)s %%", "${HOME} ${no such} $${x} %(x)s %%"),
        ("two\nlines", "two\nlines"),
    ],
    ids=repr,
)
def test_a_value_of_any_simple_type_is_written_for_luigi_to_parse(parser: Any, value: Any, text: str) -> None:
    with config.applied({"mine": {"option": value}}, None):
        assert luigi.configuration.get_config().get("mine", "option") == text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text())
def test_every_text_arrives_as_it_was_given(text: str) -> None:
    with config.applied({"mine": {"option": text}}, None):
        assert luigi.configuration.get_config().get("mine", "option") == text


def test_a_value_that_does_not_fit_the_parameter_is_written_as_its_type() -> None:
    class Typed(luigi.Task):
        day = luigi.DateParameter()
        size = luigi.IntParameter(default=1)
        text = luigi.Parameter(default="")

    given = {"day": 3, "size": date(2022, 12, 15), "text": ["a"], "unknown": 2}
    with config.applied({"Typed": given}, None):
        items = dict(luigi.configuration.get_config().items("Typed"))

    assert items == {"day": "3", "size": "2022-12-15", "text": '["a"]', "unknown": "2"}


def test_a_value_is_written_as_the_parameter_that_reads_it_does() -> None:
    class Read(luigi.Task):
        month = luigi.MonthParameter()
        hour = luigi.DateHourParameter()
        text = luigi.Parameter()

    given = {"month": date(2022, 12, 15), "hour": datetime(2022, 12, 15, 10, 30), "text": "as it is"}  # noqa: DTZ001
    with config.applied({"Read": given}, None):
        items = dict(luigi.configuration.get_config().items("Read"))

    assert items == {"month": "2022-12", "hour": "2022-12-15T10", "text": "as it is"}


def test_a_value_that_no_parameter_could_read_is_refused_for_a_task_too() -> None:
    class Refusing(luigi.Task):
        text = luigi.Parameter()

    with (
        pytest.raises(ConfigError, match=r"\['Refusing'\]\['text'\] is"),
        config.applied({"Refusing": {"text": object()}}, None),
    ):
        pytest.fail("the block was entered")


@pytest.mark.parametrize(
    ("given_config", "message"),
    [
        ("text", "config is 'text', but must map sections to options"),
        ([("a", {})], "must map sections to options"),
        ({"a": 3}, r"config\['a'\] is 3, but must map options to values: \{'a': \{'version': 4\}\}"),
        ({"a": None}, r"config\['a'\] is None"),
        ({"a": {"b": object}}, r"config\['a'\]\['b'\] is <class 'object'>\. Give a string, number"),
        ({"a": {"b": {"c": object}}}, r"config\['a'\]\['b'\] is .*cannot be written as JSON"),
        ({"a": {"b": b"x"}}, r"config\['a'\]\['b'\] is b'x'"),
        ({"DEFAULT": {"b": 1}}, r"config\['DEFAULT'\] cannot be set for one call"),
    ],
    ids=["text", "list", "number", "none", "class", "class-within", "bytes", "default-section"],
)
def test_what_is_no_configuration_is_refused_and_nothing_changes(given_config: Any, message: str) -> None:
    before = contents(luigi.configuration.get_config())

    with pytest.raises(ConfigError, match=message), config.applied(given_config, None):
        pytest.fail("the block was entered")

    assert contents(luigi.configuration.get_config()) == before


# Files


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.cfg", "[mine]\nx = 1\ny = %(x)s2\n[other]\nz =\n"),
        ("a.ini", "[mine]\nx: 1\ny: 12\n[other]\nz:\n"),
        ("a.conf", "[DEFAULT]\nx = 1\n[mine]\ny = 12\n[other]\nx = 1\nz =\n"),
        ("a.toml", "[mine]\nx = 1\ny = '12'\n[other]\nz = ''\n"),
    ],
    ids=["cfg", "ini", "conf-with-default", "toml"],
)
def test_a_file_holds_for_the_block(name: str, text: str, parser: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    before = contents(parser)

    with config.applied(None, tmp_path / name):
        values = [parser.get(section, option) for section, option in [("mine", "x"), ("mine", "y"), ("other", "z")]]

    assert values == ["1", "12", ""]
    assert contents(parser) == before


def test_a_toml_file_keeps_lists_tables_and_dates(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[mine]\nday = 2022-12-15\nnames = ['a']\ntable = {x = 1}\nflag = true\n")

    with config.applied(None, tmp_path / "a.toml"):
        items = dict(luigi.configuration.get_config().items("mine"))

    assert items == {"day": "2022-12-15", "names": '["a"]', "table": '{"x": 1}', "flag": "True"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("absent.cfg", None, "does not exist"),
        ("broken.cfg", "x = 1\n", "cannot be read: File contains no section headers"),
        ("broken.toml", "[mine\n", "cannot be read"),
        ("unset.cfg", "[mine]\nx = ${NO_SUCH_VARIABLE}\n", "cannot be read: .*NO_SUCH_VARIABLE"),
        ("top.toml", "x = 1\n", r"config\['x'\] is 1, but must map"),
        ("binary.cfg", b"\xff\xfe", "cannot be read"),
    ],
    ids=["absent", "no-section", "broken-toml", "unset-variable", "option-at-the-top", "not-text"],
)
def test_a_file_that_cannot_be_used_is_an_error_that_names_it(
    name: str, text: str | bytes | None, message: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(ConfigError, match=message), config.applied(None, tmp_path / name):
        pytest.fail("the block was entered")


def test_a_folder_is_no_configuration_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"), config.applied(None, tmp_path):
        pytest.fail("the block was entered")


# Undone afterwards


@pytest.fixture
def settled(parser: Any) -> Any:
    parser.set("kept", "x", "50%%" if not hasattr(parser, "data") else "50%")
    parser.set("kept", "y", "2")
    return parser


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt], ids=["success", "error", "interrupt"])
def test_everything_is_as_before_when_the_block_is_left(settled: Any, error: type[BaseException] | None) -> None:
    before = contents(settled)

    with (
        contextlib.suppress(*([error] if error else [])),
        config.applied({"kept": {"x": 1, "z": 3}, "new": {"a": 1}}, None),
    ):
        during = contents(settled)
        if error is not None:
            raise error

    assert during == {"kept": {"x": "1", "y": "2", "z": "3"}, "new": {"a": "1"}}
    assert contents(settled) == before
    assert settled.get("kept", "x") == "50%"


def test_a_block_within_a_block_is_undone_on_its_own(settled: Any) -> None:
    with config.applied({"kept": {"x": "${outer}", "w": "outer"}, "superluigi": {"durable": True}}, None):
        with config.applied({"kept": {"x": "%inner"}, "superluigi": {"local_data_dir": "/inner"}}, None):
            assert settled.get("kept", "x") == "%inner"
            assert settled.get("kept", "w") == "outer"
            assert config.is_durable()
            assert config.of_this_call()["kept"] == {"x": "%inner", "w": "outer"}
        assert settled.get("kept", "x") == "${outer}"
        assert config.data_dir() != Path("/inner")

    assert settled.get("kept", "x") == "50%"
    assert config.of_this_call() == {}


@pytest.mark.parametrize("leaves_first", ["the first", "the last"])
def test_calls_that_overlap_leave_all_as_before_in_whatever_order_they_end(settled: Any, leaves_first: str) -> None:
    before = contents(settled)
    values = [{"kept": {"x": f"{name}%", name: name}, "new": {"a": name}} for name in ("first", "last")]
    blocks = [(contextvars.copy_context(), config.applied(value, None)) for value in values]  # as in two threads
    for context, block in blocks:
        context.run(block.__enter__)
    during = {name: settled.get("kept", name) for name in ("x", "first", "last")}
    (context, block), (remaining_context, remaining) = blocks if leaves_first == "the first" else blocks[::-1]

    context.run(block.__exit__, None, None, None)
    left = settled.get("kept", "x"), settled.get("new", "a"), settled.has_option("kept", leaves_first.split()[1])
    remaining_context.run(remaining.__exit__, None, None, None)

    stays = "last" if leaves_first == "the first" else "first"
    assert during == {"x": "last%", "first": "first", "last": "last"}
    assert left == (f"{stays}%", stays, False)
    assert contents(settled) == before
    assert settled.get("kept", "x") == "50%"
    assert "_Overlay" not in repr(settled._interpolation)


def test_two_runs_that_overlap_in_two_threads_leave_the_configuration_as_it_was(tmp_path: Path) -> None:
    before = contents(luigi.configuration.get_config())
    have_both_begun, has_first_ended = threading.Barrier(2, timeout=20), threading.Event()
    failures: list[Exception] = []

    class Overlapping(luigi.Task):
        name = luigi.Parameter()

        def run(self) -> None:
            have_both_begun.wait()
            if self.name == "second":
                has_first_ended.wait(20)
            (tmp_path / self.name).touch()

        def output(self) -> luigi.LocalTarget:
            return luigi.LocalTarget(tmp_path / self.name)

    def run(name: str) -> None:
        try:
            run_task(Overlapping(name=name), config={"new": {"a": name}})
        except Exception as error:  # noqa: BLE001
            failures.append(error)
        if name == "first":
            has_first_ended.set()

    threads = [threading.Thread(target=run, args=[name]) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert contents(luigi.configuration.get_config()) == before


def test_a_lone_percent_sign_of_a_file_is_put_back(settled: Any) -> None:
    if hasattr(settled, "data"):
        settled.data["kept"]["x"] = "100%"
    else:
        settled.read_string("[kept]\nx = 100%\n")
    before = contents(settled)

    with config.applied({"kept": {"x": "1"}}, None):
        pass

    assert contents(settled) == before


def test_an_option_that_stands_for_all_sections_is_not_copied_into_one() -> None:
    parser = luigi.configuration.get_config()
    parser.read_string("[DEFAULT]\nx = of all\n[kept]\ny = 2\n")
    before = contents(parser)

    with config.applied({"kept": {"x": "1"}}, None):
        during = parser.get("kept", "x")

    assert (during, parser.get("kept", "x")) == ("1", "of all")
    assert contents(parser) == before


def test_what_the_block_itself_sets_in_a_new_section_goes_with_the_section(parser: Any) -> None:
    with config.applied({"new": {"a": 1}}, None):
        parser.set("new", "b", "2")

    assert "new" not in contents(parser)


def test_another_thread_does_not_take_the_data_directory_of_this_call(local_data_dir: Path) -> None:
    seen: list[Path] = []

    with config.applied({"superluigi": {"local_data_dir": "/of/this/call"}}, None):
        thread = threading.Thread(target=lambda: seen.append(config.data_dir()))
        thread.start()
        thread.join()

    assert seen == [local_data_dir]


def test_the_rest_of_luigis_configuration_is_interpolated_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_ENVIRONMENT", "found")
    parser = luigi.configuration.get_config()
    parser.set("mine", "x", "${OF_THE_ENVIRONMENT} %(y)s")
    parser.set("mine", "y", "2")

    with config.applied({"mine": {"y": "3"}}, None):
        assert parser.get("mine", "x") == "found 3"
        parser.set("mine", "z", "100%%")
        assert parser.get("mine", "z") == "100%"

    assert parser.get("mine", "x") == "found 2"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    assert config.of_this_call() == {}


def test_threads_of_one_process_hold_the_settings_of_one_call_at_a_time() -> None:
    one, other = ({"kept": {"x": text}} for text in ("one", "other"))
    order: list[str] = []
    is_held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with config.shared(one):
            is_held.set()
            may_end.wait(10)
            order.append(luigi.configuration.get_config().get("kept", "x"))

    def wait() -> None:
        with config.shared(other):
            order.append(luigi.configuration.get_config().get("kept", "x"))

    first, second = threading.Thread(target=hold), threading.Thread(target=wait)
    first.start()
    is_held.wait(10)
    second.start()
    with config.shared(one):  # another task of the same call does not wait
        may_end.set()
        first.join()
    second.join()

    assert order == ["one", "other"]
    assert not luigi.configuration.get_config().has_section("kept")


def test_tasks_of_a_pool_that_wait_for_their_own_tasks_with_other_settings_do_not_wait_for_ever() -> None:
    have_both_begun = threading.Barrier(2, timeout=10)
    seen: list[tuple[str, str]] = []

    def read() -> str:
        return str(luigi.configuration.get_config().get("kept", "x"))

    def child(name: str, settings: Any) -> None:
        with config.shared(settings):
            seen.append((f"child of {name}", read()))

    def parent(name: str) -> None:
        with config.shared({"kept": {"x": "outer"}}):
            have_both_begun.wait()
            with config.applied({"kept": {"x": name}}, None, runs_in_pool=True):
                pool = threading.Thread(target=child, args=(name, dict(config.of_this_call())), daemon=True)
                pool.start()
                pool.join(10)
                assert not pool.is_alive()
            seen.append((name, read()))

    parents = [threading.Thread(target=parent, args=[name], daemon=True) for name in ("one", "other")]
    for thread in parents:
        thread.start()
    for thread in parents:
        thread.join(30)

    assert sorted(seen) == [("child of one", "one"), ("child of other", "other"), ("one", "outer"), ("other", "outer")]
    assert not luigi.configuration.get_config().has_section("kept")


def test_a_task_of_a_pool_that_runs_tasks_in_its_own_process_keeps_its_turn() -> None:
    order: list[str] = []

    def wait() -> None:
        with config.shared({"kept": {"x": "other"}}):
            order.append("other")

    with config.shared({"kept": {"x": "one"}}):
        waiting = threading.Thread(target=wait)
        with config.applied({"kept": {"x": "inner"}}, None):
            waiting.start()
            order.append(luigi.configuration.get_config().get("kept", "x"))
        order.append(luigi.configuration.get_config().get("kept", "x"))
    waiting.join(10)

    assert order == ["inner", "one", "other"]


@pytest.mark.parametrize("source", ["config", "a .cfg", "a .toml"])
def test_a_misspelt_setting_of_ours_is_an_error_that_names_the_nearest(source: str, tmp_path: Path) -> None:
    file = tmp_path / f"own{source.removeprefix('a ')}"
    value = "[superluigi]\ncache_max_byts = 1\n" if source != "a .toml" else "[superluigi]\ncache-max-byts = 1\n"
    file.write_text(value)
    given: Any = ({"superluigi": {"cache_max_byts": 1}}, None) if source == "config" else (None, file)

    with (
        pytest.raises(
            ConfigError, match=r"no setting 'cache_max_byts' in \[superluigi\]. Did you mean cache_max_bytes\?"
        ),
        config.applied(*given),
    ):
        pass


@pytest.mark.parametrize("key", sorted({*config.readers()} - {"local_data_dir", "scheduler_url"}))
def test_a_setting_that_cannot_be_used_is_told_before_anything_runs(key: str, tmp_path: Path) -> None:
    class Noted(Task):
        def output(self) -> LocalFileTarget:
            return LocalFileTarget(tmp_path / "noted.txt")

        def run(self) -> None:
            (tmp_path / "noted.txt").touch()

    with pytest.raises(ConfigError, match=key):
        run_task(Noted(), config={"superluigi": {key: "perhaps"}})

    assert not (tmp_path / "noted.txt").exists()


def test_what_is_like_no_setting_is_told_all_there_are() -> None:
    with (
        pytest.raises(ConfigError, match="There are: local_data_dir, "),
        config.applied({"superluigi": {"zzz": 1}}, None),
    ):
        pass


def test_unknown_keys_in_luigis_own_file_or_for_all_sections_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "own.cfg"
    file.write_text("[DEFAULT]\nroot = /data\n[superluigi]\nlocal_data_dir = %(root)s/here\n[Other]\nkey = 1\n")
    luigi.configuration.get_config().set("superluigi", "of_another_version", "1")
    try:
        with config.applied(None, file):
            assert config.data_dir() == Path("/data/here")
    finally:
        luigi.configuration.get_config().remove_option("superluigi", "of_another_version")
