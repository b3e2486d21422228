"""From what happened in a run to the events of OpenLineage, in the classes of the official client.

Runs in the thread that sends, and is imported only when there is somebody to send to. The invariant: what is said of
an output is what its own lineage record says, if that is of this very run; nothing is read of the data themselves.
"""

from __future__ import annotations

import netrc  # noqa: F401  (`requests` imports it when it first sends; a process forked meanwhile finds it locked)
import os
import stat
import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import luigi
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    RunFacet,
    dataset_version_dataset,
    datasource_dataset,
    documentation_job,
    error_message_run,
    execution_parameters_run,
    input_statistics_input_dataset,
    job_type_job,
    output_statistics_output_dataset,
    parent_run,
    processing_engine_run,
    source_code_job,
    source_code_location_job,
)
from openlineage.client.uuid import generate_new_uuid

from superluigi.provenance import masked
from superluigi.records import inputs_of, is_followable
from superluigi.running.openlineage_facts import dataset_at, dataset_of
from superluigi.targets.foreign import own_target
from superluigi.targets.metadata import output_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from superluigi.running.openlineage import Attempt, Happened
    from superluigi.running.openlineage_facts import Code, DatasetName, Facts
    from superluigi.targets.metadata import Metadata

_VERSION: str = sys.modules["superluigi"].__version__
PRODUCER = f"pkg:pypi/superluigi@{_VERSION}"
_BY: dict[str, Any] = {"producer": PRODUCER}


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What is known of the data of a dataset."""

    version: str | None = None
    size_bytes: int | None = None
    files: int | None = None
    rows: int | None = None


class Builder:
    """Builds the events of one run."""

    def __init__(self, whole: Attempt, run_id: str, folder: str) -> None:
        self._whole = whole
        self._run_id = run_id
        self._folder = folder  # to which the paths of targets are relative; a task may change that of the process
        self._namespace = os.environ.get("OPENLINEAGE_NAMESPACE") or "default"
        self._made: dict[DatasetName, DataFacts] = {}  # in this run

    @staticmethod
    def new_id() -> str:
        """Give an id for a run of a job."""
        return str(generate_new_uuid())

    @staticmethod
    def id_of(run_id: str) -> str:
        """Give the id of a call of `run_task` as OpenLineage takes it: with the hyphens that records leave out."""
        return str(uuid.UUID(run_id))

    def event(self, happened: Happened, secrets: Collection[str]) -> RunEvent:
        """Give the event; of what a task has made its lineage record is read."""
        attempt, facts = happened.attempt, happened.attempt.facts
        inputs: dict[DatasetName, DataFacts] = {}
        outputs: dict[DatasetName, DataFacts] = {}
        if attempt.is_task:
            inputs = self._known([*facts.inputs, *happened.also_read])
            outputs = dict.fromkeys(self._names(facts.outputs), DataFacts())
            if happened.kind == "COMPLETE":
                self._read(facts, inputs, outputs)
                self._made.update(outputs)
        return RunEvent(
            eventType=RunState[happened.kind],
            eventTime=happened.at.isoformat(),
            run=Run(attempt.run_id, facets=self._of_run(happened, secrets)),
            job=Job(self._namespace, facts.code.job, facets=_of_job(facts, is_task=attempt.is_task)),
            inputs=[_input(dataset, told) for dataset, told in inputs.items()],
            outputs=[_output(dataset, told) for dataset, told in outputs.items()],
            producer=PRODUCER,
        )

    def _of_run(self, happened: Happened, secrets: Collection[str]) -> dict[str, Any]:
        attempt, facts = happened.attempt, happened.attempt.facts
        secrets = {*secrets, *facts.secrets}
        facets: dict[str, Any] = {
            "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
                version=_VERSION, name="superluigi", openlineageAdapterVersion=_VERSION, **_BY
            )
        }
        if attempt.is_task:
            whole = self._whole
            facets["parent"] = parent_run.ParentRunFacet(
                run=parent_run.Run(whole.run_id), job=parent_run.Job(self._namespace, whole.facts.code.job), **_BY
            )
            facets["executionParameters"] = execution_parameters_run.ExecutionParametersRunFacet(
                [execution_parameters_run.ExecutionParameter(key, value=text) for key, text in facts.params.items()],
                **_BY,
            )
            facets["superluigi_task"] = RunFacet(**_BY).with_additional_properties(
                task_id=facts.task_id,
                params=facts.params,
                version=facts.code.version,
                code=facts.code.fingerprint,
                luigi=luigi.__version__,
            )
        if happened.kind == "FAIL":
            trace = masked(happened.trace, secrets)
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(
                masked(happened.message, secrets), "PYTHON", stackTrace=trace or None, **_BY
            )
        return facets

    # Data

    def _names(self, targets: Iterable[Any]) -> Iterator[DatasetName]:
        for target in targets:
            dataset = dataset_of(target, self._folder)
            if dataset is not None:
                yield dataset

    def _known(self, targets: Iterable[Any]) -> dict[DatasetName, DataFacts]:
        return {dataset: self._made.get(dataset) or _seen(dataset) for dataset in self._names(targets)}

    def _read(self, facts: Facts, inputs: dict[DatasetName, DataFacts], outputs: dict[DatasetName, DataFacts]) -> None:
        """Add what the records beside the outputs say, of them and of what was read for them."""
        for target in facts.outputs:
            dataset = dataset_of(target, self._folder)
            if dataset is None:
                continue
            record = self._record(target, facts)
            made = output_in(record)
            if record is None or not made:
                outputs[dataset] = _seen(dataset)
                continue
            rows = record.get("row_count") if len(facts.outputs) == 1 else None
            outputs[dataset] = DataFacts(
                made.get("fingerprint"), made.get("size_bytes"), made.get("files", 1), _whole_number(rows)
            )
            for found, version in self._read_for(record):
                known = self._made.get(found) or _seen(found)
                inputs[found] = DataFacts(version, known.size_bytes, known.files, known.rows)

    def _record(self, target: Any, facts: Facts) -> Metadata | None:
        """Give the record of an output, if this task has written it in this run."""
        own = own_target(target)
        record = None if own is None else own.store.stored_record()
        is_own = record is not None and (record.get("run_id"), record.get("task_id")) == (self._run_id, facts.task_id)
        return record if is_own else None

    def _read_for(self, record: Metadata) -> Iterator[tuple[DatasetName, str | None]]:
        for given in inputs_of(record) if is_followable(record) else ():
            # Of what is no target of ours, nor a file of Luigi's, the path may be anything: a table, a value.
            folder = self._folder if given.metadata_path else None
            dataset = dataset_at(given.path, folder)
            if dataset is not None:
                yield dataset, given.fingerprint


def _seen(dataset: DatasetName) -> DataFacts:
    """Give what the system tells of a local file."""
    namespace, name = dataset
    if namespace == "file":
        try:
            facts = os.stat(name)
        except (OSError, ValueError):
            return DataFacts()
        if stat.S_ISREG(facts.st_mode):
            return DataFacts(size_bytes=facts.st_size, files=1)
    return DataFacts()


def _whole_number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _of_data(dataset: DatasetName, told: DataFacts) -> dict[str, Any]:
    namespace, _ = dataset
    uri = "file:///" if namespace == "file" else namespace
    facets: dict[str, Any] = {"dataSource": datasource_dataset.DatasourceDatasetFacet(namespace, uri, **_BY)}
    if told.version is not None:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(str(told.version), **_BY)
    return facets


def _input(dataset: DatasetName, told: DataFacts) -> InputDataset:
    facets: dict[str, Any] = {}
    if told.size_bytes is not None or told.rows is not None:
        facets["inputStatistics"] = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
            told.rows, told.size_bytes, told.files, **_BY
        )
    return InputDataset(*dataset, facets=_of_data(dataset, told), inputFacets=facets)


def _output(dataset: DatasetName, told: DataFacts) -> OutputDataset:
    facets: dict[str, Any] = {}
    if told.size_bytes is not None or told.rows is not None:
        facets["outputStatistics"] = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            told.rows, told.size_bytes, told.files, **_BY
        )
    return OutputDataset(*dataset, facets=_of_data(dataset, told), outputFacets=facets)


# Jobs


def _of_job(facts: Facts, *, is_task: bool) -> dict[str, Any]:
    code: Code = facts.code
    facets: dict[str, Any] = {
        "jobType": job_type_job.JobTypeJobFacet("BATCH", "SUPERLUIGI", "TASK" if is_task else "DAG", **_BY)
    }
    if code.source is not None and masked(code.source, facts.secrets) == code.source:  # a default may be the secret
        facets["sourceCode"] = source_code_job.SourceCodeJobFacet("python", code.source, **_BY)
    if code.doc:
        facets["documentation"] = documentation_job.DocumentationJobFacet(masked(code.doc, facts.secrets), **_BY)
    if code.location is not None:
        where = code.location
        facets["sourceCodeLocation"] = source_code_location_job.SourceCodeLocationJobFacet(
            "git", where.url, repoUrl=where.url, path=where.path, version=where.version, branch=where.branch, **_BY
        )
    return facets
