"""The graph of tasks as a picture to look into: each task with its state, why it will run, and what its record says.

The invariant: it shows what a plan has found, and asks nothing more; private and hidden parameters are not shown, nor
their values in what is.
"""

from __future__ import annotations

import contextlib
import html
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from superluigi import dag, markup, visuals
from superluigi.errors import TaskTypeError
from superluigi.explaining import Tree, drawn
from superluigi.forcing import plan_forcing
from superluigi.pictures.graphs import Section, interactive
from superluigi.planning import make_plan
from superluigi.plans import task_of
from superluigi.provenance import Mask, masked, public_params
from superluigi.records import inputs_of
from superluigi.staleness import Sight, own_outputs
from superluigi.storage import workplace
from superluigi.targets.metadata import IN_MEMORY, duration_s_in, output_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from superluigi.forcing import TaskClasses, Tasks
    from superluigi.luigi_task import AnyTask
    from superluigi.plans import Planned
    from superluigi.targets.metadata import Metadata

_MAX_IN_NOTEBOOK = 8 << 20  # bytes of a page in a notebook, which keeps it; of a larger one the tree is shown
_MAX_SHOWN = 30  # parameters, outputs, reasons or values of a record
# What is told elsewhere on the page, and the packages, which are many.
_NOT_SHOWN = {"schema", "task_family", "task_module", "task_id", "task_hash", "params", "input", "dynamic_input"}
_NOT_SHOWN |= {IN_MEMORY, "output", "packages"}


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What a plan has found out about a task beside its state; all of it may be shown.

    `outputs` are paths, each with whether it is there, None if the plan had no need to know. `record` is that of the
    first output that has one.
    """

    task_id: str
    planned: Planned
    params: Mapping[str, str]
    outputs: tuple[tuple[str, bool | None], ...]
    record: Metadata | None = field(default=None, repr=False)

    def sections(self) -> Iterator[Section]:
        """Give them as a page shows them."""
        yield Section("Why", tuple(("", str(reason)) for reason in self.planned.reasons[:_MAX_SHOWN]))
        yield Section("Parameters", _first(self.params.items()))
        yield Section("Run", tuple(self._of_run()))
        signs = {True: "✓", False: "○", None: ""}
        yield Section("Outputs", _first((signs[is_there], path) for path, is_there in self.outputs))
        record = self.record or {}
        yield Section("Has yielded", tuple(_yielded(record)))
        told = {name: value for name, value in record.items() if name not in _NOT_SHOWN and value is not None}
        yield Section("Record", _first((name, _as_text(value)) for name, value in told.items()), is_folded=True)

    def _of_run(self) -> Iterator[tuple[str, str]]:
        planned, record = self.planned, self.record or {}
        if planned.expected_s is not None:
            yield "is expected to take", markup.duration(planned.expected_s)
        if planned.expected_bytes is not None:
            yield "is expected to make", markup.size(planned.expected_bytes)
        if planned.download_bytes:
            yield "downloads", markup.size(planned.download_bytes)
        duration_s = duration_s_in(record)
        if duration_s is not None:
            yield "took", markup.duration(duration_s)
        size_bytes = output_in(record).get("size_bytes")
        if isinstance(size_bytes, int):
            yield "made", markup.size(size_bytes)
        if isinstance(record.get("end_time"), str):
            yield "ended", record["end_time"][:19].replace("T", " ") + " UTC"


@dataclass(frozen=True, repr=False)
class TaskGraph(Tree):
    """Tasks and all that they require, each with its state and what is known of it."""

    facts: tuple[TaskFacts, ...] = ()  # of each node of the graph, in their order

    def to_html(self) -> str:
        """Give a page of its own, which needs no network: to zoom and search in, and to click on tasks.

        Where there are many tasks those of one family are drawn as one, and opened on demand.
        """
        facts = {told.task_id: told for told in self.facts}
        labels = [node.label for node in self.graph.nodes if node.key in self.graph.roots]
        title = labels[0] if len(labels) == 1 else f"{len(labels)} tasks and what they require"
        return interactive(replace(self.graph, title=title), lambda node: facts[node.key].sections())

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON's own types: what a tree gives, and what is known of each task."""
        given = super().to_dict()
        for node, told in zip(given["nodes"], self.facts, strict=True):
            node |= {
                "task_family": told.planned.task.get_task_family(),
                "params": dict(told.params),
                "reasons": [reason.to_dict() for reason in told.planned.reasons],
                "expected_s": told.planned.expected_s,
                "expected_bytes": told.planned.expected_bytes,
                "download_bytes": told.planned.download_bytes,
                "outputs": [{"path": path, "exists": is_there} for path, is_there in told.outputs],
                "record": told.record,
            }
        return given

    def _repr_html_(self) -> str:
        """Give the page in a frame; of more than 8 MB, which a notebook would keep, the tree."""
        page = self.to_html()
        if len(page.encode()) > _MAX_IN_NOTEBOOK:
            return f"<p>The page is too large for a notebook: save('graph.html').</p>{visuals.fragment(self.graph)}"
        return (
            f'<iframe title="Graph" sandbox="allow-scripts" srcdoc="{html.escape(page)}" '
            'style="width:100%;height:640px;border:0"></iframe>'
        )


def graph(
    task: AnyTask | Iterable[AnyTask],
    *,
    force: bool = False,
    force_upstream: bool = False,
    force_upstream_to_task: Tasks | None = None,
    force_upstream_to_task_cls: TaskClasses | None = None,
) -> TaskGraph:
    """Draw a task, or several, and all that they require: `graph(task).save("graph.html")`, or .svg, .png, .mmd, .dot.

    Touches nothing. Costs what `plan(task, rerun_stale=True)` costs, and not a request more: the records that are shown
    are those that the plan has read.

    Raises:
        TaskTypeError: something else than a task is given, such as its class, or no task at all.
        TaskFailedError: what `requires()`, `output()` or `complete()` of a task raises. Names the task.
    """
    given = dict.fromkeys(task) if isinstance(task, Iterable) else [task]
    roots = [dag.check_is_asked_of_task(root, "graph") for root in given]
    if not roots:
        message = "graph() was given no task: give one or several."
        raise TaskTypeError(message)
    sight = Sight()
    with dag.asked_anew(), workplace.hands_off(), dag.outputs_held():
        forcing = plan_forcing(
            roots,
            force=force,
            force_upstream=force_upstream,
            force_upstream_to_task=force_upstream_to_task,
            force_upstream_to_task_cls=force_upstream_to_task_cls,
        )
        plan = make_plan(roots, forcing, rerun_stale=True, with_cost=True, sight=sight)
        mask = Mask()
        facts = tuple(_known(planned, sight, mask) for planned in plan)
        return TaskGraph(plan, drawn(plan, roots), facts)


def _known(planned: Planned, sight: Sight, mask: Mask) -> TaskFacts:
    task = task_of(planned)
    own = {id(target): target for target in own_outputs(task)}
    outputs, record = [], None
    for target in dag.targets(task):
        seen = sight.found(own[id(target)]) if id(target) in own else None
        outputs.append((dag.place_of(target), None if seen is None else seen.fingerprint is not None))
        record = record or (None if seen is None else seen.record)
    facts = TaskFacts(str(task.task_id), planned, public_params(task), tuple(outputs), record)
    secrets = mask.secrets(task, dag.deps(task))
    return _hidden(facts, secrets) if secrets else facts


def _hidden(facts: TaskFacts, secrets: frozenset[str]) -> TaskFacts:
    def shown(value: Any) -> Any:
        if isinstance(value, str):
            return masked(value, secrets)
        if isinstance(value, dict):
            return {name: shown(item) for name, item in value.items()}
        return list(map(shown, value)) if isinstance(value, list | tuple) else value

    reasons = tuple(
        replace(why, subject=shown(why.subject), before=shown(why.before), after=shown(why.after), path=shown(why.path))
        for why in facts.planned.reasons
    )
    return replace(
        facts,
        planned=replace(facts.planned, reasons=reasons),
        outputs=tuple((shown(path), is_there) for path, is_there in facts.outputs),
        record=shown(facts.record),
    )


def _yielded(record: Metadata) -> Iterator[tuple[str, str]]:
    """Give the families of what a run has yielded, each with how many; no paths, as who made them may have secrets."""
    with contextlib.suppress(ValueError):  # of a record that was altered
        families = Counter(given.task_family or "?" for given in inputs_of(record) if given.is_dynamic)
        yield from ((family, str(count)) for family, count in families.items())


def _first(rows: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    found = list(rows)
    more = [("", f"… and {len(found) - _MAX_SHOWN} more")] if len(found) > _MAX_SHOWN else []
    return tuple(found[:_MAX_SHOWN] + more)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
