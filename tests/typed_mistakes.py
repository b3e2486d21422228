"""Mistakes that strict mypy and strict pyright find, each on the line that says by which rule.

`test_typing.py` compares. A line is marked `mypy: rule; pyright: rule`.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import superluigi
from superluigi import AtomicTaskWithMetadata, DateParameter, IntParameter, LocalFileTarget, graph, run_task, typed, why


class Unchecked(AtomicTaskWithMetadata):
    day = DateParameter()

    def output(self) -> LocalFileTarget:
        self.dya  # mypy: attr-defined; pyright: reportAttributeAccessIssue
        return LocalFileTarget("a.csv")

    def run(self, output_path: Path, metadata: dict[str, Any]) -> None:
        output_path.write_text(self.day)  # mypy: arg-type; pyright: reportArgumentType
        metadata[1] = 2  # mypy: index; pyright: reportArgumentType


class Checked(typed.AtomicTaskWithMetadata):
    day: DateParameter = DateParameter()
    depth: IntParameter = IntParameter(default=3)

    def output(self) -> LocalFileTarget:
        return LocalFileTarget("a", metadata="b")  # mypy: call-arg; pyright: reportCallIssue

    def complete(self) -> str:  # mypy: override; pyright: reportIncompatibleMethodOverride
        return "yes"


class Below(Checked):
    def output(self) -> str:  # mypy: override; pyright: reportIncompatibleMethodOverride
        return "a"


Unchecked(dya="2022-12-15")  # a parameter without an annotation: nobody looks at the constructor
Checked()  # mypy: call-arg; pyright: reportCallIssue
Checked(day="2022-12-15")  # mypy: arg-type; pyright: reportArgumentType
Checked(day=date(2022, 12, 15), depth="3")  # mypy: arg-type; pyright: reportArgumentType
Checked(dya=date(2022, 12, 15))  # mypy: call-arg; pyright: reportCallIssue
Checked(day=date(2022, 12, 15)).depth.upper()  # mypy: attr-defined; pyright: reportAttributeAccessIssue
run_task(3)  # mypy: call-overload; pyright: reportArgumentType, reportCallIssue
run_task(Checked(day=date(2022, 12, 15)), num_worker=2)  # mypy: call-overload; pyright: reportCallIssue
run_task(Checked(day=date(2022, 12, 15))).bucket  # mypy: attr-defined; pyright: reportAttributeAccessIssue
graph(Unchecked)  # mypy: arg-type; pyright: reportArgumentType
why(Checked)  # mypy: arg-type; pyright: reportArgumentType
superluigi.run_tasks  # mypy: attr-defined; pyright: reportAttributeAccessIssue
