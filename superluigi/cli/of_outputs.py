"""The commands that are given outputs, or nothing: lineage, diff, verify, reproduce, cache, doctor, completion.

Each is two functions: which options it adds, and what it gives. None prints anything.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from superluigi.cli import drawings, naming, parsing
from superluigi.cli import options as shared
from superluigi.cli.terminal import Answer, ExitCode, UsageError, code_of
from superluigi.errors import SuperLuigiError
from superluigi.markup import size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from superluigi.cli.parsing import Parser
    from superluigi.comparison import Change
    from superluigi.reproduction import Verification


# lineage, diff, verify, reproduce


def lineage_options(parser: Parser) -> None:
    parser.add_argument("path", metavar="PATH", help="an output: a path or an s3:// address")
    drawings.add_options(parser, "text")
    shared.with_config(parser)


def lineage(options: argparse.Namespace) -> Answer:
    from superluigi.ancestry import lineage

    found = lineage(options.path)
    if options.json and not options.output and not options.format:
        return Answer("", found.to_dict())
    return drawings.drawn(found, options, "text")


def diff_options(parser: Parser) -> None:
    parser.add_argument("before", metavar="BEFORE", help="an output: a path or an s3:// address")
    parser.add_argument("after", metavar="AFTER", help="another one")
    shared.with_config(parser)


def diff(options: argparse.Namespace) -> Answer:
    from superluigi.comparison import diff

    found = diff(options.before, options.after)
    data = {"before": found.before, "after": found.after, "differs": bool(found), "causes": _changes(found.causes)}
    return Answer(str(found), data, ExitCode.DIFFERS if found else ExitCode.OK)


def _changes(changes: Sequence[Change]) -> list[dict[str, Any]]:

    return [dataclasses.asdict(change) for change in changes]


def verify_options(parser: Parser) -> None:
    parser.add_argument("paths", metavar="PATH", nargs="+", help="an output: a path or an s3:// address")
    shared.with_config(parser)


def verify(options: argparse.Namespace) -> Answer:
    from superluigi.reproduction import verify

    if len(options.paths) == 1:
        return _verified(verify(options.paths[0]))
    answers = []
    for path in options.paths:
        try:
            answers.append(_verified(verify(path)))
        except SuperLuigiError as error:  # the others are looked at all the same
            data = [{"path": path, "record_path": None, "matches": None, "mismatches": [], "error": str(error)}]
            answers.append(Answer(f"{path} cannot be verified: {error}", data, code_of(error)))
    data = [each for answer in answers for each in answer.data]
    worst = max((answer.code for answer in answers), key=_BY_WEIGHT.index)
    return Answer("\n".join(str(answer.text) for answer in answers), data, worst)


_BY_WEIGHT = [
    *(ExitCode.OK, ExitCode.DIFFERS, ExitCode.MISSING, ExitCode.UNREACHABLE),
    *(ExitCode.USAGE, ExitCode.FAILED, ExitCode.INTERRUPTED),
]


def _verified(found: Verification) -> Answer:
    facts = {
        "path": found.path,
        "record_path": found.record_path,
        "matches": bool(found),
        "mismatches": _changes(found.mismatches),
    }
    return Answer(str(found), [facts], ExitCode.OK if found else ExitCode.DIFFERS)


def reproduce_options(parser: Parser) -> None:
    parser.add_argument("path", metavar="PATH", help="an output: a path or an s3:// address")
    shared.with_task(parser)


def reproduce(options: argparse.Namespace) -> Answer:
    from superluigi.reproduction import reproduce

    if options.module:
        naming.load(options.module)
    found = reproduce(options.path)
    data = {
        "path": found.path,
        "task": found.task,
        "matches": bool(found),
        "sizes_bytes": list(found.sizes_bytes),
        "mismatches": _changes(found.mismatches),
        "changes": _changes(found.changes),
        "alterations": _changes(found.alterations),
    }
    return Answer(str(found), data, ExitCode.OK if found else ExitCode.DIFFERS)


# cache, doctor, completion


def cache_options(parser: Parser) -> None:
    parser.usage = f"{parser.prog} info|clear|prune [option ...]"
    parser.add_argument(
        "action",
        choices=["info", "clear", "prune"],
        help="info: what lies there; clear: remove all that no process is using; prune: the least recently used",
    )
    parser.add_argument(
        "--max-bytes", type=parsing.size_bytes, metavar="SIZE", help="for prune: what may stay, such as 10GB or 500MiB"
    )
    shared.with_config(parser)


def cache(options: argparse.Namespace) -> Answer:
    from superluigi.storage import cache

    root = cache.default_root()
    if (options.action == "prune") != (options.max_bytes is not None):
        raise UsageError("cache prune takes --max-bytes SIZE, such as 10GB; the others take none.")
    if options.action == "info":
        usage = cache.usage(root)
        text = "\n".join(
            [
                f"{usage.root}",
                f"  {usage.copies} copies of S3 objects and prefixes, {size(usage.size_bytes)}",
                f"  they may take {size(usage.max_bytes)}, and leave {size(usage.min_free_bytes)} of the disk free",
                f"  {size(usage.disk_free_bytes)} are free there",
            ]
        )
        return Answer(text, {**_as_dict(usage), "root": str(usage.root)})
    removed = cache.clear(root) if options.action == "clear" else cache.prune(root, options.max_bytes)
    text = f"Removed {removed.copies} copies, {size(removed.size_bytes)}; {size(removed.kept_bytes)} are left."
    if removed.in_use:
        text += f" {removed.in_use} are in use and stayed."
    return Answer(text, _as_dict(removed))


def _as_dict(facts: Any) -> dict[str, Any]:

    return dataclasses.asdict(facts)


def doctor_options(parser: Parser) -> None:
    parser.add_argument("addresses", metavar="s3://BUCKET/PREFIX", nargs="*", help="where to check the access as well")
    parser.add_argument(
        "--write",
        action="store_true",
        help="check writing, too: with a small object of its own, which is removed again",
    )
    parser.add_argument("--role-arn", metavar="ARN", help="the role with which the targets reach the buckets")
    shared.with_config(parser)


def doctor(options: argparse.Namespace) -> Answer:
    from superluigi.cli import doctor

    return doctor.examine(options.addresses, writes=options.write, role_arn=options.role_arn)


def completion_options(parser: Parser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="which shell")


def completion(options: argparse.Namespace) -> Answer:
    from argcomplete.shell_integration import shellcode

    return Answer(shellcode(["superluigi"], shell=options.shell).strip("\n"))
