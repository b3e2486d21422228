"""The table of the commands, and how the words of a command line lead to one of them.

A command is two functions: one adds its options, the other is given them parsed, and a task if it takes one, and gives
an `Answer`. To add one, write the two and a line in the table, which is at the end. What a command needs of the library
it imports when it is called.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import superluigi
from superluigi import config as configuration
from superluigi.cli import naming, of_outputs, of_tasks, options, parsing
from superluigi.cli.terminal import Answer, UsageError, nearest

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    import luigi

    from superluigi.cli.parsing import Parser

_PROGRAM = "superluigi"
_EXIT_CODES = """exit codes: 0 fine, 1 a task failed, 2 the command line or the configuration, 3 something differs,
4 data are missing, 5 a server does not answer, 130 interrupted; docs/cli.md has them all"""


class Request:
    """The words of one command line; whether JSON is wanted is known once they are parsed."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.wants_json = False


@dataclass(frozen=True)
class Command:
    """One command. With `takes_task`, `call` is given the task before the options."""

    name: str
    help: str
    add_options: Callable[[Parser], None]
    call: Callable[..., Answer]
    takes_task: bool = False
    needs_task: bool = True  # if it takes one
    example: str = ""

    def parser(self) -> Parser:
        """Give the parser of all that is no parameter of a task."""
        program = f"{_PROGRAM} {self.name}"
        usage = f"{program} [option ...] TASK [--PARAMETER VALUE ...] [option ...]" if self.takes_task else None
        epilog = _ABOUT_TASKS.format(program=program) if self.takes_task else ""
        parser = parsing.Parser(
            prog=program,
            usage=usage,
            description=f"{self.help[0].upper()}{self.help[1:]}.",
            epilog=f"{epilog}{self.example}\n{_EXIT_CODES}",
        )
        self.add_options(parser)
        return parser


_ABOUT_TASKS = """TASK is pkg.module.Task, path/to/file.py:Task, or the name of a task with --module. Its parameters
follow it: {program} TASK --help lists them. Options may stand before or after TASK; if the task has a
parameter of the same name, an option stands before it.

"""


def answer(request: Request) -> Answer:
    """Do what was asked for.

    Raises:
        UsageError: the words cannot be followed.
        SuperLuigiError, and whatever the user's code raises: as the functions of the library do.
    """
    words = request.words
    if not words:
        raise UsageError(f"Say what to do: {_PROGRAM} COMMAND.\n\n{_overview()}")
    name, *rest = words
    if name in ("-h", "--help"):
        return Answer(_overview())
    if name == "--version":
        return Answer(f"{_PROGRAM} {superluigi.__version__}")
    command = COMMANDS.get(name)
    if command is None:
        what = "option" if name.startswith("-") else "command"
        raise UsageError(f"There is no {what} {name}.{nearest(name, COMMANDS)} See {_PROGRAM} --help.")
    try:
        return _about_task(command, rest, request) if command.takes_task else _plain(command, rest, request)
    except parsing.HelpAskedError as asked:
        return Answer(asked.parser.format_help().rstrip("\n"))


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {command.name:<{width}}  {command.help}" for command in COMMANDS.values()]
    return "\n".join(
        [
            f"usage: {_PROGRAM} COMMAND [...]",
            "",
            *lines,
            "",
            f"{_PROGRAM} COMMAND --help has the options, {_PROGRAM} run TASK --help the parameters of a task.",
            f"{_PROGRAM} --version tells the version.",
            "",
            _EXIT_CODES,
        ]
    )


def _plain(command: Command, words: list[str], request: Request) -> Answer:
    given = command.parser().parse_all(words)
    request.wants_json = bool(getattr(given, "json", False))
    with _configured(given, takes_any_value=True):  # doctor tells of them
        naming.make_importable()
        return command.call(given)


def _about_task(command: Command, words: list[str], request: Request) -> Answer:
    parser = command.parser()
    before, name, after = parser.split(words)
    try:
        given = parser.parse_all(before)
    except UsageError as error:
        raise UsageError(f"{error}\nParameters of a task follow its name.") from None
    if name is None and not command.needs_task:
        request.wants_json = bool(getattr(given, "json", False))
        with _configured(given):
            naming.make_importable()
            return command.call(None, given)
    if name is None:
        raise UsageError(f"{parser.prog} takes a task: {parser.prog} pkg.module.Task. See {parser.prog} --help.")
    with _configured(given):
        task_cls, shown, after = _task_cls(name, after, given)
    task_parser = parsing.TaskParser(task_cls, f"{parser.prog} {shown}", command.add_options)
    try:
        values = task_parser.parse(after, given)
    except parsing.HelpAskedError as asked:
        with _configured(given):
            return Answer(task_parser.help(in_full=asked.in_full))
    request.wants_json = bool(getattr(given, "json", False))
    with _configured(given, values.others):
        return command.call(parsing.make(task_cls, values.own), given)


def _task_cls(name: str, after: list[str], given: argparse.Namespace) -> tuple[type[luigi.Task], str, list[str]]:
    """Give the class, how it was named, and the words that remain; `--module` may follow the name, as in Luigi."""
    if naming.is_file_alone(name) and after and not after[0].startswith("-"):
        name, after = f"{name}:{after[0]}", after[1:]
    if given.module is None and not ("." in name and ":" not in name and _has_module(name)) and ":" not in name:
        parser = parsing.Parser()
        parser.add_argument("--module", default=None)
        words = [word for word in after if word not in ("-h", "--help")]
        given.module = parser.parse_known_args(words)[0].module
    return naming.find(name, given.module), name, after


def _has_module(name: str) -> bool:
    """Say whether a dotted name begins with that of a module; if not it may be that of a family in a namespace."""
    import importlib.util

    naming.make_importable()
    with contextlib.suppress(ImportError, ValueError):
        return importlib.util.find_spec(name.partition(".")[0]) is not None
    return False


@contextlib.contextmanager
def _configured(
    given: argparse.Namespace, others: dict[str, dict[str, str]] | None = None, *, takes_any_value: bool = False
) -> Iterator[None]:
    """Hold what the command line says of the configuration, and of the parameters of other tasks."""
    sections: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for section, option, value in getattr(given, "config", None) or []:
        sections[section][option] = value
    for family, values in (others or {}).items():
        sections[family].update(values)
    with configuration.applied(sections, getattr(given, "config_file", None), takes_any_value=takes_any_value):
        yield


_TABLE = (
    Command(
        "run",
        "run a task and all that it needs that is not there yet; give the paths of its output",
        of_tasks.run_options,
        of_tasks.run,
        takes_task=True,
    ),
    Command("plan", "show what would run, and why", of_tasks.plan_options, of_tasks.plan, takes_task=True),
    Command(
        "why",
        "say why a task would run or not, the old value and the new",
        options.with_task,
        of_tasks.why,
        takes_task=True,
    ),
    Command(
        "tree",
        "show a task and all that it requires, each with its state",
        of_tasks.tree_options,
        of_tasks.tree,
        takes_task=True,
    ),
    Command(
        "graph",
        "draw that tree to a file: Mermaid, DOT, HTML, text, SVG, PNG, PDF",
        of_tasks.graph_options,
        of_tasks.graph,
        takes_task=True,
    ),
    Command(
        "accept",
        "take today's code for that which made the existing output, as after a cosmetic edit",
        options.with_task,
        of_tasks.accept,
        takes_task=True,
    ),
    Command(
        "debug",
        "run the task that failed last, or a given one, and stand in the debugger where it fails; publishes nothing",
        of_tasks.debug_options,
        of_tasks.debug,
        takes_task=True,
        needs_task=False,
    ),
    Command(
        "history",
        "show what former runs of a class put into their metadata",
        of_tasks.history_options,
        of_tasks.history,
    ),
    Command(
        "lineage",
        "show where an output came from, by the records",
        of_outputs.lineage_options,
        of_outputs.lineage,
    ),
    Command("diff", "say what makes two outputs differ, by the records", of_outputs.diff_options, of_outputs.diff),
    Command(
        "verify",
        "see whether outputs are the bytes that their records tell of",
        of_outputs.verify_options,
        of_outputs.verify,
    ),
    Command(
        "reproduce",
        "run the task of an output again in a temporary folder, and compare",
        of_outputs.reproduce_options,
        of_outputs.reproduce,
    ),
    Command(
        "cache",
        "show, clear or prune the local copies of what is in S3",
        of_outputs.cache_options,
        of_outputs.cache,
    ),
    Command(
        "doctor",
        "check the installation, the settings and the access, and say what to do",
        of_outputs.doctor_options,
        of_outputs.doctor,
    ),
    Command(
        "completion",
        "print what lets a shell complete commands, tasks and parameters",
        of_outputs.completion_options,
        of_outputs.completion,
        example='bash: put eval "$(superluigi completion bash)" into ~/.bashrc\n'
        'zsh:  put eval "$(superluigi completion zsh)" into ~/.zshrc, after compinit\n'
        "fish: superluigi completion fish > ~/.config/fish/completions/superluigi.fish\n",
    ),
)
COMMANDS = {command.name: command for command in _TABLE}
