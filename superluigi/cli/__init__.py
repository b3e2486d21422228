"""The command `superluigi`: what the library does, from a terminal and for scripts.

`main` parses nothing but the name of the command: `commands` has the table of them. Nothing heavy is imported before
a command needs it. The invariants are those of `terminal` (what is on which stream) and of docs/cli.md (exit codes).
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from superluigi.cli import terminal
from superluigi.cli.terminal import Answer, ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Answer", "ExitCode", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Do what a command line says (`sys.argv` if None), and give the exit code.

    The answer is on standard output, all else on standard error. Raises nothing but what ends a process.
    """
    from superluigi.cli import commands

    if "_ARGCOMPLETE" in os.environ:
        from superluigi.cli import completion

        completion.complete()
    terminal.open_what_is_closed()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with terminal.stdout_kept_free():
            request = commands.Request(words)
            answer = commands.answer(request)
        return int(terminal.tell(answer, as_json=request.wants_json))
    except terminal.PostMortem as stopped:
        from superluigi.debugging import post_mortem

        error = stopped.__cause__ or stopped
        sys.stderr.write(terminal.users_traceback(error))
        post_mortem(error, stopped.task)
        return int(ExitCode.FAILED)
    except BrokenPipeError:
        return int(ExitCode.PIPE_CLOSED)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (the user's code fails in whatever way)
        return int(terminal.report(error))
