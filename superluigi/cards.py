"""What a notebook shows of a task: its state and parameters, what it requires, its outputs with record and first rows.

The invariant is that of `targets.cards`: showing changes nothing, fetches no data, ends soon and never fails. Private
and hidden parameters are not shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from superluigi import dag, identity, markup, provenance
from superluigi.errors import public_name
from superluigi.markup import Tone
from superluigi.patience import Patience
from superluigi.register import successor_of
from superluigi.storage import workplace
from superluigi.targets import cards
from superluigi.targets.foreign import own_target
from superluigi.targets.foresight import foresight
from superluigi.targets.memory import PathlessTarget
from superluigi.targets.s3 import ask_together
from superluigi.targets.store import Glimpse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import luigi

    from superluigi.markup import Markup
    from superluigi.targets.metadata import Metadata

_MAX_REQUIRED = 20
_MAX_OUTPUTS = 5
_MAX_PARAMETERS = 50
_MAX_NAMED = 5  # files of a folder

_COMPLETE = markup.said("✓ complete", Tone.GOOD)
_MISSING = markup.said("○ missing", Tone.PLAIN)


def card_of(task: luigi.Task) -> str:
    """Give the card of a task.

    Calls `requires()`, `output()` and `complete()` of the task, and `complete()` of up to 20 that it requires. For each
    output in S3 that is a HEAD or a listing of its own and of theirs, and for its own another and a GET of the record.
    """
    try:
        with dag.asked_anew(), workplace.hands_off(), foresight():
            return _Card(task).drawn()
    except Exception as error:  # noqa: BLE001  (a picture must not fail)
        return markup.card(markup.titled(markup.beside(type(task).__name__, cards.reason(error))))


class _Card:
    """The card of one task, with the seconds that are left for it."""

    def __init__(self, task: luigi.Task) -> None:
        self.task: Any = task
        self.patience = Patience(cards.SECONDS)
        self.runs: set[object] = set()  # whose facts are shown: outputs of one run have them in common

    def drawn(self) -> str:
        """Ask in the order of what may take long, the user's own `complete()` last; then put it together."""
        parameters = self._parameters()
        required = self._asked(lambda: dag.required(self.task))
        outputs = self._asked(lambda: list(dag.leaves(self.task.output())))
        is_told = isinstance(outputs, list)
        self._look_ahead([target for _, target in outputs] if is_told else [], _first(required))
        pieces = [self._of_output(*output) for output in outputs[:_MAX_OUTPUTS]] if is_told else []
        title = markup.titled(markup.beside(self.task.get_task_family(), self._state(self.task)))
        rows = [*self._of_class(), ("parameters", parameters), *self._of_required(required)]
        if is_told and identity.is_known(self.task):
            rows.append(("task_id", markup.said(self.task.task_id, kind="path")))
        if not is_told:
            rows.append(("output", outputs))
        elif len(outputs) > _MAX_OUTPUTS:
            pieces.append(([("", f"… and {len(outputs) - _MAX_OUTPUTS} more outputs")], []))
        first, *others = pieces or [([], [])]
        parts: list[str] = [markup.facts([*rows, *first[0]]), *first[1]]
        for told, further in others:
            parts += [markup.facts(told), *further]
        return markup.card(title, *parts)

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

    def _name(self, task: luigi.Task) -> str:
        name: str = self._asked(lambda: public_name(task))
        return name

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
            markup.beside(markup.said(dag.in_words(role), kind="role"), self._name(upstream), self._state(upstream))
            for role, upstream in required[:_MAX_REQUIRED]
        ]
        if len(required) > len(told):
            told.append(markup.said(f"… and {len(required) - len(told)} more", Tone.FAINT))
        if told:
            yield "requires", markup.lines(told)

    def _of_output(self, role: dag.Role, target: Any) -> tuple[list[tuple[str, str]], list[Markup]]:
        """Give the facts of one output, and what stands below them: its first rows, and its record."""
        own = own_target(target)
        place = self._asked(lambda: dag.place_of(target) if own is None else str(own.path))
        name = markup.beside(markup.said(dag.in_words(role), kind="role"), markup.said(place, kind="path"))
        seen = self._asked(target.exists if own is None else own.store.glimpse)
        if not isinstance(seen, Glimpse):
            sign = seen if isinstance(seen, markup.Markup) else cards.present(is_there=bool(seen))
            is_over = isinstance(target, PathlessTarget) and seen is False  # a value of a run
            return [("output", name if is_over else markup.beside(name, sign))], []
        sign = cards.present(is_there=seen.exists, is_removed=cards.is_removed(seen))
        size = markup.said(cards.size_of(seen), Tone.FAINT) if seen.exists else ""
        told: list[tuple[str, str]] = [("output", markup.beside(name, sign, size))]
        told += [*cards.rows_of_contents(seen, _MAX_NAMED), *cards.rows_of_no_record(seen)]
        run = seen.record and seen.record.get("run_id")
        if seen.record is not None and (run is None or run not in self.runs):
            self.runs.add(run)
            told += [*self._of_record(seen.record), *cards.rows_of_run(seen.record)]
        table = markup.Markup() if seen.copy is None else cards.table_in(seen.copy, self.patience)
        return told, [table, cards.record_of(seen.record)]

    def _of_record(self, record: Metadata) -> Iterator[tuple[str, str]]:
        """Say whether the code is still that which made the data."""
        version, code = provenance.made_by(record)
        code_now = self._asked(lambda: identity.code_of(type(self.task)))
        is_other_code = None not in (code, code_now) and code != code_now
        if version != identity.version_of(type(self.task)) or is_other_code:
            told = "it was made by other code than the class has now: why(task) tells, rerun_stale=True makes it again"
            yield "", markup.said(told, Tone.NOTE)


def _first(required: Any) -> list[luigi.Task]:
    return [upstream for _, upstream in required[:_MAX_REQUIRED]] if isinstance(required, list) else []
