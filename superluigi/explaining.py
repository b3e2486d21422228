"""What the user asks of a task without running it: why it will run, what its tree looks like, what is accepted of it.

The invariant: an answer is the plan of a run with `rerun_stale`, read out; nothing is decided here.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from superluigi import config, dag, identity, markup, provenance
from superluigi.errors import TargetNotFoundError, public_name
from superluigi.forcing import plan_forcing
from superluigi.markup import Tone
from superluigi.pictures.drawings import Drawing
from superluigi.planning import make_plan
from superluigi.plans import Plan, Planned, Verdict, task_of
from superluigi.records import is_followable
from superluigi.staleness import Cause, Reason, gives_values, has_record, in_short, makers_of_values, own_outputs
from superluigi.storage import workplace
from superluigi.targets.metadata import ACCEPTED, IN_MEMORY, now
from superluigi.visuals import Edge, Graph, Look, Node

if TYPE_CHECKING:
    from collections.abc import Iterable

    import luigi

    from superluigi.forcing import TaskClasses, Tasks
    from superluigi.luigi_task import AnyTask
    from superluigi.targets import Target
    from superluigi.targets.metadata import Metadata

_LOOKS = {
    "complete": Look("✓", Tone.GOOD, "is there, as its record says"),
    "elsewhere": Look("•", Tone.GOOD, "is there; it is made elsewhere"),
    "gone": Look("✗", Tone.BAD, "is not there; it is made elsewhere, so no run makes it"),
    "missing": Look("○", Tone.PLAIN, "is not there; it is made if something that runs needs it"),
    "stale": Look("↻", Tone.NOTE, "is out of date: rerun_stale makes it again"),
    "unknown": Look("?", Tone.FAINT, "is made again if what is upstream comes out different"),
    "forced": Look("!", Tone.BAD, "is forced"),
}

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a task will run or not: `reasons` as data, and as sentences when it is printed.

    Of data that are made elsewhere, and that no run makes, the reasons are why they are not there. `gone` are such data
    upstream that it would read, and without which it cannot run. `reruns_stale` is the setting, which runs go by that
    do not say it themselves.
    """

    task: str
    verdict: Verdict
    reasons: tuple[Reason, ...]
    is_external: bool = False
    gone: tuple[str, ...] = ()
    reruns_stale: bool = False

    def __str__(self) -> str:
        """Give the sentences, one reason a line."""
        return "\n".join([self._summary(), *(f"  - {reason}" for reason in self.reasons), *self._obstacle()])

    def __repr__(self) -> str:
        """Give the sentences: it is asked for to be read."""
        return str(self)

    def _repr_html_(self) -> str:
        reasons = [f"• {reason}" for reason in self.reasons]
        return markup.card(markup.titled(self._summary()), markup.lines([*reasons, *self._obstacle()]))

    def _obstacle(self) -> list[str]:
        if not self.gone:
            return []
        more = f" and {len(self.gone) - _NAMED} more" if len(self.gone) > _NAMED else ""
        verb = "is" if len(self.gone) == 1 else "are"
        named = f"{', '.join(self.gone[:_NAMED])}{more}"
        return [f"But it cannot, until {named} {verb} there, which {verb} made elsewhere."]

    def _summary(self) -> str:
        task = markup.clean(self.task)
        if self.is_external:
            state, end = ("is not there", ":") if self.reasons else ("is there", ".")
            return f"{task} {state}. It is made elsewhere, so no run makes it{end}"
        if self.verdict is Verdict.SKIP:
            return f"{task} will not run: it is complete, and as its record says."
        if self.reruns_stale and self.verdict is Verdict.UNKNOWN:
            return f"{task} is complete. If it will run is decided when what is upstream has run, because"
        if self.verdict is Verdict.UNKNOWN:
            return (
                f"{task} is complete, and a run skips it. With rerun_stale=True that is decided when what is "
                "upstream has run, because"
            )
        if not self.reruns_stale and all(reason.is_stale for reason in self.reasons):
            return f"{task} is complete, and a run skips it. With rerun_stale=True it will run, because"
        return f"{task} will run, because"


def why(task: AnyTask) -> Explanation:
    """Say why a task will run or will not, field by field, the old value and the new.

    Looks at all that is upstream, and touches nothing. Costs what planning a run with `rerun_stale` costs.

    Raises:
        TaskTypeError: something else than a task is given, such as its class.
        TaskFailedError: what `requires()`, `output()` or `complete()` of a task raises. Names the task.
    """
    task = dag.check_is_asked_of_task(task, "why")
    plan = _planned([task])
    planned, is_external = plan[task], dag.is_external(task)
    gone = () if is_external else tuple(public_name(one.task) for one in plan.gone)
    judges = config.reruns_stale()
    return Explanation(public_name(task), planned.verdict, planned.reasons, is_external, gone, judges)


def accept(task: AnyTask) -> None:
    """Take today's code and `__version__` as those that made the existing outputs of a task, as after a cosmetic edit.

    Its records say so from then on, in the field `accepted`, with the time. Other reasons to run the task stay. The
    tasks whose values it has read leave no records: what its own records tell of them, in `in_memory`, is accepted
    along with it, and says so in the same way.

    Raises:
        TargetNotFoundError: an output is not there, or has no record of its own that can be followed.
        TaskTypeError: something else than a task is given, such as its class.
    """
    task = dag.check_is_asked_of_task(task, "accept")
    outputs = own_outputs(task) if has_record(task) else []
    if not outputs:
        message = f"{public_name(task)} leaves no records, so there is nothing in which today's code could be accepted."
        if gives_values(task):
            message += " Of a value those tell who have read it: accept the tasks that require this one."
        raise TargetNotFoundError(message)
    with dag.asked_anew():
        changed = [(target, _as_accepted(task, _followable(target))) for target in outputs]
    for target, record in changed:
        target.store.write_record(record)


def _followable(target: Target) -> Metadata:
    """Give the record of a target. Raises TargetNotFoundError if there is none by which it could be judged."""
    record = target.read_metadata()
    if "task_id" not in record or not is_followable(record):
        message = (
            f"The record of {target} at {target.metadata_path} cannot be read: it was written by hand, by a newer "
            "version, or is damaged. So there is nothing in which today's code could be accepted; run the task again."
        )
        raise TargetNotFoundError(message)
    return record


def _as_accepted(task: luigi.Task, record: Metadata) -> Metadata:
    """Give a record that takes the present classes of its task, and of those whose values that read, for the former."""
    time = now().isoformat()
    changed = {**record, ACCEPTED: _present(type(task), time)}
    makers = makers_of_values(task, record)
    if makers:
        told = record[IN_MEMORY]
        accepted = {key: {**told[key], ACCEPTED: _present(makers[key], time)} for key in makers}
        changed[IN_MEMORY] = {**told, **accepted}
    return changed


def _present(task_cls: type[luigi.Task], time: str) -> Metadata:
    return {"version": identity.version_of(task_cls), "code": identity.code_of(task_cls), "time": time}


@dataclass(frozen=True)
class Tree(Drawing):
    """A task and all that it requires, each with its state: complete, missing, stale, unknown or forced."""

    plan: Plan
    graph: Graph

    def __str__(self) -> str:
        """Give the tree as text, in colours on a terminal that wants them (`NO_COLOR` is not set)."""
        return self.to_text(colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))

    def __repr__(self) -> str:
        """Give the tree as text: it is asked for to be read."""
        return str(self)

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON's own types: the ids of the roots, and the tasks, each after all that it requires."""
        return {"roots": list(self.graph.roots), "nodes": [_as_dict(node) for node in self.graph.nodes]}

    def _graph(self) -> Graph:
        return self.graph


def _as_dict(node: Node) -> dict[str, Any]:
    return {
        "task_id": node.key,
        "task": node.label,
        "state": node.state,
        "detail": node.detail,
        "requires": [{"task_id": edge.upstream, "role": edge.label} for edge in node.edges],
    }


def tree(
    task: AnyTask,
    *,
    force: bool = False,
    force_upstream: bool = False,
    force_upstream_to_task: Tasks | None = None,
    force_upstream_to_task_cls: TaskClasses | None = None,
) -> Tree:
    """Show a task and all that it requires, by colour and by sign; with forcing, what that would make again.

    Touches nothing. Costs what planning a run with `rerun_stale` costs.

    Raises:
        TaskTypeError: something else than a task is given, such as its class.
        TaskFailedError: what `requires()`, `output()` or `complete()` of a task raises. Names the task.
    """
    task = dag.check_is_asked_of_task(task, "tree")
    plan = _planned(
        [task],
        force=force,
        force_upstream=force_upstream,
        force_upstream_to_task=force_upstream_to_task,
        force_upstream_to_task_cls=force_upstream_to_task_cls,
    )
    return Tree(plan, drawn(plan, [task]))


def _planned(tasks: list[luigi.Task], **forced: Any) -> Plan:
    with dag.asked_anew(), workplace.hands_off():
        return make_plan(tasks, plan_forcing(tasks, **forced), rerun_stale=True)


def drawn(plan: Plan, roots: Iterable[luigi.Task]) -> Graph:
    """Give the tasks of a plan as a graph, each with its state."""
    mask = provenance.Mask()
    return Graph(
        "", tuple(str(task.task_id) for task in roots), tuple(_drawn(planned, mask) for planned in plan), _LOOKS
    )


def _drawn(planned: Planned, mask: provenance.Mask) -> Node:
    task = task_of(planned)
    required = dag.required(task)
    reasons = "" if planned.verdict is Verdict.SKIP else in_short(planned.reasons)
    detail = mask(reasons, task, (upstream for _, upstream in required)) if reasons else ""
    edges = tuple(Edge(str(upstream.task_id), dag.in_words(role)) for role, upstream in required)
    return Node(str(task.task_id), public_name(task), _state_of(planned), detail, edges, task.get_task_family())


def _state_of(planned: Planned) -> str:
    if dag.is_external(task_of(planned)):
        return "gone" if planned.reasons else "elsewhere"
    if planned.verdict is not Verdict.RUN:
        if planned.verdict is Verdict.UNKNOWN:
            return "unknown"
        return "complete"
    causes = {reason.cause for reason in planned.reasons}
    if Cause.FORCED in causes:
        return "forced"
    return "stale" if planned.reasons and all(reason.is_stale for reason in planned.reasons) else "missing"
