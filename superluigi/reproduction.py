"""Do the data bear out their record: are they the bytes that it tells of, and does its task make the same ones again.

The invariant: neither writes to an output, whatever happens: `verify` reads, and `reproduce` lets the task write to a
temporary folder.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luigi.parameter import MissingParameterException, ParameterVisibility
from luigi.task_register import Register

from superluigi import markup, visuals
from superluigi.comparison import Change, changes_of, field_of
from superluigi.errors import (
    AccessDeniedError,
    MissingParameterError,
    StorageError,
    TargetNotFoundError,
    TargetShapeError,
    TaskTypeError,
    public_name,
)
from superluigi.records import Found, State, absolute, find, inputs_of, nothing_at, shown
from superluigi.rehearsal import rehearsed, run_alone
from superluigi.storage import files, transfers, workplace
from superluigi.storage.s3 import etag_of
from superluigi.targets import S3ObjectTarget, S3PrefixTarget, Shape
from superluigi.targets.foreign import own_targets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import luigi

    from superluigi.records import Output
    from superluigi.targets import Target
    from superluigi.targets.metadata import Metadata


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether data are those that their record tells of: true if they are, else `mismatches` say what differs.

    Each is a `Change` from what is recorded to what was found: `fingerprint`, `size_bytes`, `files` (how many), or
    `contents.<name>` (the digest of one file).
    """

    path: str
    record_path: str | None
    mismatches: tuple[Change, ...]

    def __bool__(self) -> bool:
        """Say whether the data are those of the record."""
        return not self.mismatches

    def __str__(self) -> str:
        """Give a line for each thing that differs."""
        return "\n".join([self._title(), *(f"  {mismatch}" for mismatch in self.mismatches)])

    def __repr__(self) -> str:
        """Give these lines: it is asked for to be read."""
        return str(self)

    def _repr_html_(self) -> str:
        return visuals.table(self._title(), ("what", "recorded", "found"), _cells(self.mismatches))

    def _title(self) -> str:
        path = markup.clean(self.path)
        return f"{path} is what its record tells of." if self else f"{path} is not what its record tells of:"


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Whether a task made the same bytes again: true if it did, else `mismatches` say what differs, see `Verification`.

    `changes` say what is other now than when the output was made: code, version, packages, Python, parameters, and the
    fingerprints of inputs as `input.<role>`. They explain a mismatch, and without one they are harmless. `sizes_bytes`
    are those of the record and of what was made now. `alterations` say what of the data that lie there is other than
    their record tells: they were altered since, and are neither what was made then nor what is made now.
    """

    path: str
    task: str
    sizes_bytes: tuple[int | None, int]
    mismatches: tuple[Change, ...]
    changes: tuple[Change, ...]
    alterations: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        """Say whether the bytes are the same."""
        return not self.mismatches

    def __str__(self) -> str:
        """Give a line for each thing that differs."""
        lines = [self._title(), *(f"  {mismatch}" for mismatch in self.mismatches)]
        if self.changes:
            lines += ["Since the output was made this has changed:", *(f"  {change}" for change in self.changes)]
        if self.alterations:
            lines += [_ALTERED, *(f"  {alteration}" for alteration in self.alterations)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Give these lines: it is asked for to be read."""
        return str(self)

    def _repr_html_(self) -> str:
        rows = [*_cells(self.mismatches), *_cells(self.changes)]
        rows += [(f"what lies there: {what}", before, now) for what, before, now in _cells(self.alterations)]
        title = f"{self._title()} {_ALTERED}" if self.alterations else self._title()
        return visuals.table(title, ("what", "recorded", "now"), rows)

    def _title(self) -> str:
        before, after = self.sizes_bytes
        differs = f"makes other bytes than before ({before} bytes then, {after} bytes now):"
        said = "makes the same bytes again." if self else differs
        return f"{markup.clean(self.path)}: {markup.clean(self.task)} {said}"


_ALTERED = "What lies there now is not what the record tells of:"


def _cells(changes: tuple[Change, ...]) -> list[tuple[str, str, str]]:
    return [(change.field, *change.told()) for change in changes]


# Verifying


@dataclass(frozen=True, slots=True)
class _Facts:
    """What data are, by their bytes; `names` holds the digests of a folder's files."""

    size_bytes: int
    fingerprint: str
    names: Mapping[str, str] | None = None


def verify(path_or_target: Output) -> Verification:
    """Give whether the data are the bytes that their record tells of. Reads all of them.

    Takes what `lineage` takes. Data in S3 are downloaded anew to a temporary place, whatever copies there are. Of a
    prefix the record holds a digest over names, sizes and ETags: every object is compared with its ETag, where that is
    a digest of the bytes, and the files that the record names with theirs.

    Raises:
        TargetNotFoundError: there are no data, or no record that can be read.
        InvalidNameError, TaskTypeError: as for `lineage`.
    """
    found = _recorded(path_or_target, "verify")
    recorded = (found.record or {}).get("output") or {}
    facts = _facts_of(found.as_target(), recorded)
    return Verification(found.path, found.record_path, tuple(_mismatches(recorded, facts, found.path)))


def _recorded(path_or_target: Output, function: str) -> Found:
    found = find(path_or_target, function)
    if found.state is State.MISSING:
        raise nothing_at(found.path)
    if found.record is None:
        reason = f"its record cannot be read: {found.error}" if found.error else "there is no record of it"
        message = (
            f"{found.path} cannot be compared with a record: {reason}. Give the target if its record has a path of its "
            "own; a task with metadata writes one."
        )
        raise TargetNotFoundError(message)
    return found


def _facts_of(target: Target, recorded: Mapping[str, Any]) -> _Facts:
    """Give what the present data are, without what is remembered of them; the record inside a folder is left out."""
    with workplace.private_folder() as folder:
        if isinstance(target, S3ObjectTarget):
            return _facts_of_object(target, recorded, folder / target.name)
        store = target.store
        if isinstance(target, S3PrefixTarget):
            store = dataclasses.replace(target.store, local_root=folder)
        with store.reading() as present, files.translated("read", present.path):
            if target.shape is Shape.FILE:
                return _Facts(os.stat(present.path).st_size, files.digest(present.path))
            entries = [entry for entry in files.listing(present.path) if entry.name != target.record_inside]
            is_remote = isinstance(target, S3PrefixTarget)
            return _of_entries(entries, present.fingerprint() if is_remote else files.digest_of_entries(entries))


def _facts_of_object(target: S3ObjectTarget, recorded: Mapping[str, Any], path: Path) -> _Facts:
    """Give what the bytes are that S3 sends, whatever digest was put with them; the ETag, if that is what is recorded.

    Two HEADs, of which the first says what is there instead, and the GET.
    """
    target.fingerprint()
    bucket = target.store.bucket
    present = bucket.head(target.store.key)
    if present is None or not transfers.download(bucket, [(dataclasses.replace(present, metadata={}), path)]):
        problem, way_out = "the object changes while it is read", "Wait until nobody writes it, and verify it again."
        raise StorageError("GetObject", str(target), problem, way_out)
    told = str(recorded.get("fingerprint"))
    return _Facts(path.stat().st_size, f"etag:{present.etag}" if told.startswith("etag:") else files.digest(path))


def _of_entries(entries: list[files.Entry], fingerprint: str) -> _Facts:
    names = {entry.name: entry.digest for entry in entries}
    return _Facts(sum(entry.size_bytes for entry in entries), fingerprint, names)


def _mismatches(recorded: Mapping[str, Any], facts: _Facts, where: str) -> Iterator[Change]:
    """Give what of the `output` in a record is not so. What a record leaves out, but for the fingerprint, is passed."""
    if recorded.get("fingerprint") != facts.fingerprint:
        yield Change(where, "fingerprint", recorded.get("fingerprint"), facts.fingerprint)
    if "size_bytes" in recorded and recorded["size_bytes"] != facts.size_bytes:
        yield Change(where, "size_bytes", recorded["size_bytes"], facts.size_bytes)
    if facts.names is None:
        return
    if "files" in recorded and recorded["files"] != len(facts.names):
        yield Change(where, "files", recorded["files"], len(facts.names))
    told = _contents(recorded)
    for name, digest in told.items():
        if facts.names.get(name) != digest:
            yield Change(where, f"contents.{name}", digest, facts.names.get(name))
    if _tells_all(recorded):
        for name in facts.names.keys() - told.keys():
            yield Change(where, f"contents.{name}", None, facts.names[name])


def _contents(recorded: Mapping[str, Any]) -> dict[str, Any]:
    contents = recorded.get("contents")
    listed = contents if isinstance(contents, list) else []
    return {str(item.get("name")): item.get("digest") for item in listed if isinstance(item, dict)}


def _tells_all(recorded: Mapping[str, Any]) -> bool:
    """Say whether the record names every file of a folder."""
    return "files" in recorded and recorded["files"] == len(_contents(recorded))


# Reproducing


def reproduce(path_or_target: Output) -> Reproduction:
    """Run the task that made an output once more, in a temporary folder, and give whether the bytes are the same.

    Takes what `lineage` takes; data that were removed with their record kept will do. The task is built from the
    record: its class is the registered one of that family, else `task_module` is imported, so do this with records
    that you trust. Its parameters are those of the record; private and hidden ones, which no record holds, come from
    the configuration or their defaults.

    The task reads its inputs as ever, in private copies, and writes what it promises into a temporary folder, by
    `output_path` or `self.output()`: outputs and records stay as they are, also if it fails. What it writes anywhere
    else, it does write. Nothing upstream is run: what is not there has to be made before. Values in memory are gone
    with the run that held them, so a task that needs one cannot be reproduced. Only the output that is given is
    compared: what is made with the record, and so is what lies there, by its fingerprint, which costs what
    `target.fingerprint()` does.

    Raises:
        TargetNotFoundError: there is no record, or an input is not there.
        TaskTypeError: the record names no task whose class can be found; the task is not atomic, and so writes to its
            outputs itself; an output of it is no file or folder; or it does not name the path any more.
        MissingParameterError: the record lacks a parameter that has neither default nor configuration.
        Exception: whatever the task raises.
    """
    found = _recorded(path_or_target, "reproduce")
    record = found.record or {}
    task = _task_of(record, found.path)
    alterations = tuple(_alterations(found))
    with rehearsed(task, needs_all=True) as scratch:
        real = _real_output(task, scratch.outputs, found)
        run_alone(task)
        made = scratch.target_for(real)
        made_record = made.read_metadata()
        recorded = record.get("output") or {}
        facts = _facts_as_in(real, recorded, made)
    return Reproduction(
        found.path,
        public_name(task),
        (recorded.get("size_bytes"), facts.size_bytes),
        tuple(_mismatches(recorded, facts, found.path)),
        (*changes_of(record, made_record, found.path), *_changed_inputs(record, made_record, found.path)),
        alterations,
    )


def _alterations(found: Found) -> Iterator[Change]:
    """Give what tells that data are not those of their record; nothing of data that are gone or may not be read."""
    recorded = ((found.record or {}).get("output") or {}).get("fingerprint")
    try:
        present = found.as_target().fingerprint()
    except (TargetNotFoundError, AccessDeniedError):
        return
    except TargetShapeError:
        present = None
    if present != recorded:
        yield Change(found.path, "fingerprint", recorded, present)


def _real_output(task: luigi.Task, outputs: list[Any], found: Found) -> Target:
    """Give the output that was asked for.

    Raises:
        TaskTypeError: the task does not promise it.
    """
    recorded = ((found.record or {}).get("output") or {}).get("path")
    own = own_targets(outputs)
    for path in (found.path, recorded):
        for target in own:
            if path in (str(target.path), absolute(str(target.path))):
                return target
    if len(own) == 1:  # it was moved
        return own[0]
    message = (
        f"{public_name(task)} does not promise {found.path}, but {', '.join(map(str, own)) or 'nothing'}. "
        "Its output() has changed since; give one of these, or run the code of that time."
    )
    raise TaskTypeError(message)


def _task_of(record: Mapping[str, Any], path: str) -> Any:
    task_cls = _task_cls_of(record, path)
    told = record.get("params") or {}
    values = {}
    for name, param in task_cls.get_params():
        if name in told and param.visibility == ParameterVisibility.PUBLIC:
            try:
                values[name] = param.parse(told[name])
            except Exception as error:
                message = (
                    f"The record of {path} has the parameter {name} = {shown(told[name])}, which the "
                    f"{type(param).__name__} of {task_cls.__name__} cannot read ({error}). Reproduce it with the code "
                    "of that time."
                )
                raise TaskTypeError(message) from error
    try:
        return task_cls(**values)
    except MissingParameterException as error:
        message = (
            f"The record of {path} does not hold every parameter of {task_cls.__name__}: {error}. Private and hidden "
            f"ones stand in no record: set them in the configuration, section [{task_cls.get_task_family()}]."
        )
        raise MissingParameterError(message) from error


def _task_cls_of(record: Mapping[str, Any], path: str) -> Any:
    family, module = record.get("task_family"), record.get("task_module")
    if not family:
        message = (
            f"The record of {path} names no task: it was written by hand. Only outputs of tasks can be reproduced."
        )
        raise TaskTypeError(message)
    cause = None
    candidates = _registered(family, module)
    if not candidates and module and module != "__main__":
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001  (a module may fail in whatever way when it is imported)
            cause = error
        candidates = _registered(family, module)
    candidates = candidates or _registered(family, None)
    if len(candidates) != 1:
        several = ", ".join(f"{known.__module__}.{known.__qualname__}" for known in candidates)
        problem = f"there are several: {several}" if several else "no such class is defined here"
        problem += f", and {module} cannot be imported ({cause})" if cause else ""
        message = (
            f"{path} was made by the task {family} of the module {module}, but {problem}. Import the module that "
            "defines it, or run that script or notebook, and reproduce the output there."
        )
        raise TaskTypeError(message) from cause
    task_cls: Any = candidates[0]
    if "output_path" not in getattr(task_cls, "offered_arguments", ()):
        message = (
            f"{task_cls.__name__} is not atomic: it writes to its outputs itself, so that its run cannot be redirected "
            "to a temporary folder. Derive it from AtomicTaskWithMetadata, and let it write to output_path."
        )
        raise TaskTypeError(message)
    return task_cls


def _registered(family: str, module: str | None) -> list[Any]:
    """Give the known classes of a family, those of the module alone if there is one."""
    known = [task_cls for task_cls in Register._reg if task_cls.get_task_family() == family]  # noqa: SLF001  (as in dag)
    return [task_cls for task_cls in known if module is None or task_cls.__module__ == module]


def _facts_as_in(real: Target, recorded: Mapping[str, Any], made: Target) -> _Facts:
    """Give what was made as the record of the real output tells of it: of a prefix by the ETags that S3 would give."""
    facts = _facts_of(made, recorded)
    if not isinstance(real, S3PrefixTarget) or facts.names is None:
        return facts
    if _tells_all(recorded) and facts.names == _contents(recorded):  # under SSE-KMS and SSE-C an ETag tells nothing
        return dataclasses.replace(facts, fingerprint=str(recorded.get("fingerprint")))
    listed = files.files_in(Path(made.path))
    etags = [files.Entry(name, path.stat().st_size, etag_of(path)) for name, path in listed]
    return dataclasses.replace(facts, fingerprint=files.digest_of_entries(etags))


def _changed_inputs(before: Mapping[str, Any], after: Metadata, where: str) -> Iterator[Change]:
    """Give the inputs whose bytes are other than those that were read, by their role.

    Where the bytes of one of the two are not known the tasks are compared: like with like.
    """
    sides = [{(given.is_dynamic, given.role): given for given in inputs_of(record)} for record in (before, after)]
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        one, other = (side.get(key) for side in sides)
        there = [given for given in (one, other) if given is not None]
        is_read = all(given.fingerprint is not None for given in there)  # of values, and what is not read, no bytes
        told = [None if given is None else given.fingerprint if is_read else given.task_id for given in (one, other)]
        if told[0] != told[1]:
            yield Change(where, field_of(key[1]), told[0], told[1])
