"""What a notebook shows of a task: its state and parameters, what it requires, its outputs with record and first rows.

The invariant is that of `targets.cards`: showing changes nothing, fetches no data, ends soon and never fails. Private
and hidden parameters are not shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from superluigi import dag, identity, markup, provenance
from superluigi.errors import public_name
from superluigi.execution import own_target, successor_of
from superluigi.markup import Tone
from superluigi.patience import Patience
from superluigi.storage import workplace
from superluigi.targets import cards
from superluigi.targets.foresight import foresight
from superluigi.targets.memory import PathlessTarget
from superluigi.targets.s3 import ask_together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import luigi

    from superluigi.markup import Markup
    from superluigi.targets.metadata import Metadata

_MAX_REQUIRED = 20
_MAX_OUTPUTS = 5
_MAX_PARAMETERS = 50

_COMPLETE = markup.said("✓ complete", Tone.GOOD)
_MISSING = markup.said("○ missing", Tone.PLAIN)


def card_of(task: luigi.Task) -> str:
    """Give the card of a task.

    Calls `requires()`, `output()` and `complete()` of the task, and `complete()` of up to 20 that it requires. For each
    output in S3 that is a HEAD or a listing of its own and of theirs, and for its own another and a GET of the record.
    """
    dag.forget()
    try:
        with workplace.hands_off(), foresight():
            return _Card(task).drawn()
    except Exception as error:  # noqa: BLE001  (a picture must not fail)
        return markup.card(markup.titled(markup.beside(type(task).__name__, cards.reason(error))))
    finally:
        dag.forget()


class _Card:
    """The card of one task, with the seconds that are left for it."""

    def __init__(self, task: luigi.Task) -> None:
        self.task: Any = task
        self.patience = Patience(cards.SECONDS)

    def drawn(self) -> str:
        required = self._asked(lambda: dag.required(self.task))
        outputs = self._asked(lambda: [target for _, target in dag.leaves(self.task.output())])
        shown = [upstream for _, upstream in required[:_MAX_REQUIRED]] if isinstance(required, list) else []
        self._look_ahead(outputs if isinstance(outputs, list) else [], shown)
        state = self._state(self.task)
        title = markup.titled(markup.beside(self.task.get_task_family(), state))
        rows: list[tuple[str, str]] = [*self._of_class(), ("parameters", self._parameters())]
        rows += self._of_required(required)
        if not isinstance(outputs, list):
            return markup.card(title, markup.facts([*rows, ("output", outputs)]))
        if identity.is_known(self.task):
            rows.append(("task_id", markup.said(self.task.task_id, kind="path")))
        parts = [part for target in outputs[:_MAX_OUTPUTS] for part in self._of_output(target, rows)]
        if len(outputs) > _MAX_OUTPUTS:
            parts.append(markup.facts([("", f"… and {len(outputs) - _MAX_OUTPUTS} more outputs")]))
        return markup.card(title, *(parts or [markup.facts(rows)]))

    def _asked(self, question: Callable[[], Any]) -> Any:
        """Give an answer, or as markup why there is none."""
        try:
            return self.patience.ask(question)
        except Exception as error:  # noqa: BLE001  (the user's code may fail in whatever way)
            return cards.reason(error)

    def _look_ahead(self, outputs: list[Any], required: list[luigi.Task]) -> None:
        def look() -> None:
            targets = [*outputs]
            for upstream in required:
                try:
                    targets += [target for _, target in dag.leaves(upstream.output())]
                except Exception:  # noqa: BLE001, S112  (its complete() fails, too, and that is told)
                    continue
            ask_together(targets, [])

        self._asked(look)

    def _state(self, task: luigi.Task) -> Markup:
        found = self._asked(task.complete)
        return found if isinstance(found, markup.Markup) else _COMPLETE if found else _MISSING

    def _of_class(self) -> Iterator[tuple[str, str]]:
        if successor_of(type(self.task)) is not None:
            yield "", markup.said("its class was defined again since: make the task anew", Tone.NOTE)

    def _parameters(self) -> Markup:
        told = self._asked(lambda: self.task.to_str_params(only_public=True))
        if isinstance(told, markup.Markup):
            return told
        shown = list(told.items())
        given = [markup.beside(markup.said(name, kind="role"), value) for name, value in shown[:_MAX_PARAMETERS]]
        if len(shown) > len(given):
            given.append(markup.said(f"… and {len(shown) - len(given)} more", Tone.FAINT))
        return markup.lines(given or [markup.said("none", Tone.FAINT)])

    def _of_required(self, required: Any) -> Iterator[tuple[str, str]]:
        if isinstance(required, markup.Markup):
            yield "requires", required
            return
        told = [
            markup.beside(markup.said(_role(role), kind="role"), public_name(upstream), self._state(upstream))
            for role, upstream in required[:_MAX_REQUIRED]
        ]
        if len(required) > len(told):
            told.append(markup.said(f"… and {len(required) - len(told)} more", Tone.FAINT))
        if told:
            yield "requires", markup.lines(told)

    def _of_output(self, target: Any, rows: list[tuple[str, str]]) -> Iterator[Markup]:
        """Give the pieces of one output; those of the first begin with the `rows` that are given, and take them."""
        own = own_target(target)
        if own is None:
            found = self._asked(target.exists)
            sign = found if isinstance(found, markup.Markup) else cards.present(is_there=bool(found))
            shown = "" if isinstance(target, PathlessTarget) and not found else sign  # it is there in a run alone
            yield markup.facts([*rows, ("output", markup.beside(markup.said(_path(target), kind="path"), shown))])
            rows.clear()
            return
        seen = self._asked(own.store.glimpse)
        name = markup.said(str(own.path), kind="path")
        if isinstance(seen, markup.Markup):
            yield markup.facts([*rows, ("output", markup.beside(name, seen))])
            rows.clear()
            return
        sign = cards.present(is_there=seen.exists, is_removed=cards.is_removed(seen))
        told: list[tuple[str, str]] = [("output", markup.beside(name, sign)), *cards.rows_of(own, seen)]
        if seen.record is not None:
            told += [*self._of_record(seen.record), *cards.rows_of_run(seen.record)]
        yield markup.facts([*rows, *told])
        rows.clear()
        if seen.copy is not None:
            yield cards.table_in(seen.copy, self.patience)
        yield cards.record_of(seen.record)

    def _of_record(self, record: Metadata) -> Iterator[tuple[str, str]]:
        """Say whether the code is still that which made the data."""
        version, code = provenance.made_by(record)
        code_now = self._asked(lambda: identity.code_of(type(self.task)))
        is_other_code = None not in (code, code_now) and code != code_now
        if version != identity.version_of(type(self.task)) or is_other_code:
            told = "it was made by other code than the class has now: why(task) tells, rerun_stale=True makes it again"
            yield "", markup.said(told, Tone.NOTE)


def _role(role: dag.Role) -> str:
    return ".".join(str(part) for part in role if part is not None)


def _path(target: Any) -> str:
    return str(getattr(target, "path", target))
