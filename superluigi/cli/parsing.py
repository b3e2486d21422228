"""The words of a command line: the options of a command before and after the task's name, and the task's parameters.

Luigi's own parameter objects say how their flags look and read their values. The rule for names that an option and a
parameter share: before the task's name it is the option, after it the parameter. So a new option of ours changes the
meaning of no command line that is written down somewhere.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import luigi
from luigi.parameter import ParameterVisibility
from luigi.task_register import Register

from superluigi.cli.terminal import UsageError, listed, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class HelpAskedError(Exception):
    """Somebody asks for help; `parser` has it, and `in_full` says that all of it is wanted."""

    def __init__(self, parser: Parser, *, in_full: bool) -> None:
        self.parser = parser
        self.in_full = in_full
        super().__init__()


class _ShowHelp(argparse.Action):
    def __call__(self, parser: Any, *_: object) -> None:
        raise HelpAskedError(parser, in_full=bool(self.const))


class Parser(argparse.ArgumentParser):
    """argparse's parser without abbreviations, whose errors are ours."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, add_help=False, conflict_handler="resolve", **settings)
        self.add_argument("-h", "--help", action=_ShowHelp, nargs=0, const=False, help="show this")

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UsageError(f"{message[:1].upper()}{message[1:]}. See {self.prog} --help.")

    def flags(self) -> list[str]:
        """Give all flags that are known here."""
        return list(self._option_string_actions)

    def split(self, words: Sequence[str]) -> tuple[list[str], str | None, list[str]]:
        """Give what stands before the first word that belongs to no flag, that word, and what follows it."""
        position = 0
        while position < len(words) and words[position].startswith("-") and len(words[position]) > 1:
            flag, equals, _ = words[position].partition("=")
            action = self._option_string_actions.get(flag)
            takes_next = action is not None and not equals and action.nargs is None and action.const is None
            position += 2 if takes_next else 1
        name = words[position] if position < len(words) else None
        return list(words[:position]), name, list(words[position + 1 :])

    def parse_all(self, words: Sequence[str], namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        """Parse words all of which are known here.

        Raises:
            UsageError: one is not; nearest names are told.
        """
        parsed, unknown = self.parse_known_args(words, namespace)
        if unknown:
            raise unknown_words(unknown, self.flags(), f"of {self.prog}", self.prog)
        return parsed


def unknown_words(
    words: Sequence[str], known: Sequence[str], whose: str, program: str, others: Sequence[str] = ()
) -> UsageError:
    """Give the error for words that nobody knows; each flag among them is named. `others` are known less well."""
    flags = [word.partition("=")[0] for word in words if word.startswith("-") and len(word) > 1]
    if not flags:
        verb = "stands" if len(words) == 1 else "stand"
        return UsageError(
            f"{listed([repr(word) for word in words])} {verb} alone: a value follows the name of its parameter, "
            f"--name value. See {program} --help."
        )
    told = []
    for flag in flags:
        meant = nearest(flag, _offered(known)) or nearest(flag, _offered(others))
        told.append(f"{flag} is no option {whose}.{meant}")
    return UsageError("\n".join([*told, f"See {program} --help."]))


def _offered(flags: Sequence[str]) -> list[str]:
    """Give the flags that are worth naming: each parameter once."""
    return [flag for flag in flags if flag != "-h" and not ("_" in flag and flag.replace("_", "-") in flags)]


# Parameters


@dataclass
class Values:
    """What a command line says of parameters: those of the task, and, by family, those of others."""

    own: dict[str, Any] = field(default_factory=dict)
    others: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Flag:
    """A parameter as a flag; `family` is None for those of the task itself."""

    name: str
    parameter: Any
    family: str | None


class TaskParser:
    """Reads what follows the name of a task: its parameters, options of the command, parameters of other tasks."""

    def __init__(self, task_cls: type[luigi.Task], prog: str, add_options: Callable[[Parser], None]) -> None:
        self.task_cls = task_cls
        self._add_options = add_options
        self._family = task_cls.get_task_family()
        self._prog = prog
        self._flags: dict[str, _Flag] = {}
        self.parser = self._make(with_help=False)

    def parse(self, words: Sequence[str], options: argparse.Namespace) -> Values:
        """Add the options among the words to those from before the task's name, and give the parameters.

        Raises:
            UsageError: a word is not known, or a value cannot be read; all of them are named.
        """
        _, unknown = self.parser.parse_known_args(words, options)
        if unknown:
            others = self._of_others()
            _, unknown = others.parse_known_args(unknown, options)
            if unknown:
                whose = f"of {self._prog}, and no parameter of {self._family}"
                raise unknown_words(unknown, self.parser.flags(), whose, self._prog, others.flags())
        return self._values(options)

    def help(self, *, in_full: bool = False) -> str:
        """Give the help of the task: its parameters, with the defaults as they are configured, and the options."""
        parser = self._make(with_help=True)
        if in_full:
            self._add_others(parser.add_argument_group("parameters of other tasks"), parser)
        return parser.format_help().rstrip("\n")

    def _make(self, *, with_help: bool) -> Parser:
        parser = Parser(prog=self._prog, usage=f"{self._prog} [--PARAMETER VALUE ...] [option ...]")
        parser.description = _first_paragraph(self.task_cls.__doc__) if with_help else None
        group = parser.add_argument_group(f"parameters of {self._family}")
        parser.add_argument(
            "--help-all", action=_ShowHelp, nargs=0, const=True, help="show the parameters of others, too"
        )
        self._add_options(parser)
        for action in parser._actions:  # noqa: SLF001  (what was given before the task's name must stay)
            action.default = argparse.SUPPRESS
        taken = set(parser.flags())
        names = {name for name, _ in self.task_cls.get_params()}
        for name, parameter in self.task_cls.get_params():
            flags = _flags(name)
            text = _help(parameter, self._family, name) if with_help else None
            if with_help and taken & set(flags):
                text = f"{text} (The option of this name stands before the task.)"
            self._add(group, flags, _Flag(name, parameter, None), text)
            if _is_implicit(parameter) and f"no_{name}" not in names:
                negative = [flag.replace("--", "--no-", 1) for flag in flags]
                free = [flag for flag in negative if flag not in taken]
                if free:
                    group.add_argument(
                        *free,
                        dest=f"own {name}",
                        action="store_false",
                        default=argparse.SUPPRESS,
                        help=argparse.SUPPRESS,
                    )
        parser._action_groups.sort(key=lambda each: each is not group)  # noqa: SLF001  (what is the task's comes first)
        return parser

    def _of_others(self) -> Parser:
        parser = Parser(prog=self._prog)
        self._add_others(parser, parser)
        return parser

    def _add_others(self, group: Any, parser: Parser) -> None:
        """Add what Luigi calls global flags: `--Family-name`, or `--name` of sections without a name of their own."""
        for family, is_bare, name, parameter in Register.get_all_params():
            flags = [flag for flag in _flags(name if is_bare else f"{family}_{name}") if flag not in parser.flags()]
            flags = [flag for flag in flags if flag not in self.parser.flags()] if hasattr(self, "parser") else flags
            if flags:
                self._add(group, flags, _Flag(name, parameter, family), _help(parameter, family, name))

    def _add(self, group: Any, flags: list[str], flag: _Flag, text: str | None) -> None:
        dest = f"{flag.family or 'own'} {flag.name}"
        self._flags[dest] = flag
        settings = flag.parameter._parser_kwargs(flag.name)  # noqa: SLF001  (as Luigi's own parser does)
        settings |= {"dest": dest, "default": argparse.SUPPRESS, "help": text and text.replace("%", "%%")}
        if settings.get("nargs") == "?":
            settings["metavar"] = "true|false"
        elif settings.get("action") == "store":
            settings.setdefault("metavar", flag.name.upper())
        group.add_argument(*flags, **settings)

    def _values(self, options: argparse.Namespace) -> Values:
        values, problems = Values(), []
        given = vars(options)
        others: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for dest, flag in self._flags.items():
            if dest not in given:
                continue
            text = str(given.pop(dest))
            try:
                value = flag.parameter.normalize(flag.parameter.parse(text))
            except Exception as error:  # noqa: BLE001  (parameters, also the user's own, fail in whatever way)
                owner = f"{flag.family}-" if flag.family else ""
                said = str(error).splitlines()[0] if str(error) else type(error).__name__
                takes = takes_of(flag.parameter)
                problems.append(
                    f"--{owner}{flag.name.replace('_', '-')} is {text!r}, which {type(flag.parameter).__name__} does "
                    f"not take ({said}).{f' It takes {takes}.' if takes else ''}"
                )
                continue
            if flag.family is None:
                values.own[flag.name] = value
            else:
                others[flag.family][flag.name] = text
        if problems:
            raise UsageError("\n".join(problems))
        values.others = dict(others)
        return values


def make(task_cls: type[luigi.Task], own: dict[str, Any]) -> luigi.Task:
    """Make a task of these parameters; those that are missing come from the configuration or are the defaults.

    Raises:
        UsageError: some are nowhere, or the configuration holds what a parameter does not take; all are named.
    """
    family = task_cls.get_task_family()
    problems = []
    for name, parameter in task_cls.get_params():
        if name in own:
            continue
        try:
            if not parameter.has_task_value(family, name):
                takes = takes_of(parameter)
                said = f" ({parameter.description.strip()})" if parameter.description else ""
                problems.append(f"--{name.replace('_', '-')} is missing{said}.{f' It takes {takes}.' if takes else ''}")
        except Exception as error:  # noqa: BLE001  (as above)
            problems.append(
                f"The configuration has in [{family}] a {name} that {type(parameter).__name__} does not take: {error}."
            )
    if problems:
        raise UsageError("\n".join([f"{family} needs what is not given:", *(f"  {problem}" for problem in problems)]))
    return task_cls(**own)


def _flags(name: str) -> list[str]:
    """Give the flag with hyphens, as Luigi has it, and the one with the underscores of the name."""
    return list(dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"]))


def _is_implicit(parameter: Any) -> bool:
    return isinstance(parameter, luigi.BoolParameter) and parameter.parsing == luigi.BoolParameter.IMPLICIT_PARSING


# Help


_TAKES: tuple[tuple[type[Any], str], ...] = (
    (luigi.DateHourParameter, "YYYY-MM-DDTHH"),
    (luigi.DateMinuteParameter, "YYYY-MM-DDTHHMM"),
    (luigi.DateSecondParameter, "YYYY-MM-DDTHHMMSS"),
    (luigi.MonthParameter, "YYYY-MM"),
    (luigi.YearParameter, "YYYY"),
    (luigi.DateParameter, "YYYY-MM-DD"),
    (luigi.DateIntervalParameter, "YYYY-MM-DD, YYYY-MM, YYYY, YYYY-Www, or two dates with a hyphen between"),
    (luigi.TimeDeltaParameter, "seconds, such as 90; '1 h 30 m'; or PT1H30M"),
    (luigi.IntParameter, "a whole number"),
    (luigi.FloatParameter, "a number"),
    (luigi.BoolParameter, "true or false"),
    (luigi.TupleParameter, "a JSON list, such as '[1, 2]', or a tuple of Python"),
    (luigi.ListParameter, "a JSON list, such as '[1, 2]'"),
    (luigi.DictParameter, "a JSON object, such as '{\"a\": 1}'"),
    (luigi.TaskParameter, "the name of a task"),
    (luigi.PathParameter, "a path"),
)


def takes_of(parameter: Any) -> str:
    """Give in words what a parameter takes, nothing where that goes without saying."""
    if isinstance(parameter, luigi.EnumListParameter):
        return f"{listed(list(parameter._enum.__members__))}, with commas between"  # noqa: SLF001
    if isinstance(parameter, luigi.EnumParameter):
        return listed(list(parameter._enum.__members__), "or")  # noqa: SLF001
    if isinstance(parameter, luigi.ChoiceListParameter):
        return f"{listed(sorted(map(str, parameter._choices)))}, with commas between"  # noqa: SLF001
    if isinstance(parameter, luigi.ChoiceParameter):
        return listed(sorted(map(str, parameter._choices)), "or")  # noqa: SLF001
    if isinstance(parameter, luigi.NumericalParameter):
        return str(parameter._permitted_range)  # noqa: SLF001
    return next((takes for kind, takes in _TAKES if isinstance(parameter, kind)), "")


def _help(parameter: Any, family: str, name: str) -> str:
    takes = "a flag" if _is_implicit(parameter) else takes_of(parameter)
    kind = type(parameter).__name__ + (f": {takes}" if takes else "")
    described = (parameter.description or "").strip()
    # What Luigi adds to a description, in the order of a set, is told in order already.
    described = re.sub(r"\s*(Choices: \{.*\}|permitted values: .*)$", "", described)
    return "; ".join(filter(None, [kind, _default(parameter, family, name), " ".join(described.split())]))


def _default(parameter: Any, family: str, name: str) -> str:
    try:
        if not parameter.has_task_value(family, name):
            return "required"
        if parameter.visibility != ParameterVisibility.PUBLIC:
            return "has a default"
        value = parameter.task_value(family, name)
        shown = parameter.serialize(value) if value is not None else ""
    except Exception as error:  # noqa: BLE001  (as above)
        return f"its default cannot be read: {error}"
    if isinstance(value, bool):
        shown = shown.lower()
    return f"default {shown}" if shown else "default nothing"


def _first_paragraph(text: str | None) -> str | None:
    return None if not text else " ".join(text.strip().split("\n\n")[0].split())


def size_bytes(text: str) -> int:
    """Read a size such as 500MB, 10GB, 2GiB or 1000."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B?", text.strip())
    if not found:
        message = f"{text!r} is no size; it takes bytes, or such as 500MB, 10GB, 2GiB"
        raise argparse.ArgumentTypeError(message)
    number, unit, is_binary = found.groups()
    return int(float(number) * (1024 if is_binary else 1000) ** " KMGT".index(unit.upper() or " "))


def count(text: str) -> int:
    """Read a whole number from 1 on."""
    if not text.strip().isdecimal() or int(text) < 1:
        message = f"{text!r} is no whole number from 1 on"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def setting(text: str) -> tuple[str, str, str]:
    """Read a setting of the configuration: SECTION.OPTION=VALUE."""
    name, equals, value = text.partition("=")
    section, dot, option = name.rpartition(".")
    if not (equals and dot and section and option):
        message = f"{text!r} is no setting; it takes SECTION.OPTION=VALUE, such as superluigi.cache_max_bytes=1000"
        raise argparse.ArgumentTypeError(message)
    return section, option.replace("-", "_"), value
