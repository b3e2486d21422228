"""The schema of OpenLineage's events, as far as the official client holds it, and what it finds wrong with an event.

The project generates the classes of its client from the JSON Schema of the specification, which no package ships. Here
that is gone the way back: each class gives the schema of an object again, with its fields, types, required ones,
enumerations and formats. Which class a facet is of is said by its `_schemaURL`, so an address that the client does not
know is an error, too.
"""

import enum
import functools
import importlib
import pkgutil
import re
import types
import typing
import uuid
from datetime import datetime
from typing import Any

import attr
import jsonschema
import openlineage.client.generated
from openlineage.client.generated import base

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}
_FORMATS = {"runId": "uuid", "eventTime": "date-time", "producer": "uri", "schemaURL": "uri"}
_FORMATS |= {"_producer": "uri", "_schemaURL": "uri", "uri": "uri", "url": "uri"}
_ALWAYS = {"_producer", "_schemaURL", "producer", "schemaURL"}  # the client fills them in, so they have defaults there

_formats = jsonschema.FormatChecker(formats=())


@_formats.checks("uuid", raises=(ValueError, AttributeError))
def _is_uuid(value: Any) -> bool:
    return str(uuid.UUID(value)) == value


@_formats.checks("date-time", raises=(ValueError, TypeError))
def _is_time(value: Any) -> bool:
    return datetime.fromisoformat(value).tzinfo is not None


@_formats.checks("uri", raises=TypeError)
def _is_uri(value: Any) -> bool:
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+", value) is not None


@functools.cache
def _facets() -> dict[str, type]:
    """The classes of facets by the address of their schema."""
    names = [module.name for module in pkgutil.iter_modules(openlineage.client.generated.__path__)]
    modules = [importlib.import_module(f"openlineage.client.generated.{name}") for name in names]
    classes = [item for module in modules for item in vars(module).values() if isinstance(item, type)]
    return {cls._get_schema(): cls for cls in classes if issubclass(cls, base.BaseFacet)}


def _schema_of(hint: Any, name: str = "") -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema_of(item, name) for item in arguments if item is not type(None)]}
    if origin is list:
        return {"type": "array", "items": _schema_of(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema_of(arguments[1])}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint], **({"format": _FORMATS[name]} if name in _FORMATS else {})}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    return {} if hint is Any else {"$ref": f"#/$defs/{hint.__module__}.{hint.__qualname__}"}


def _of_class(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in attr.fields(cls)}
    return {
        "type": "object",
        "properties": {name: _schema_of(hints[name], name) for name in fields},
        "required": [name for name, field in fields.items() if field.default is attr.NOTHING or name in _ALWAYS],
        "additionalProperties": issubclass(cls, base.BaseFacet),  # a facet may hold more, nothing else may
    }


@functools.cache
def _schema() -> dict[str, Any]:
    classes, pending = {}, [base.RunEvent, *_facets().values()]
    while pending:
        cls = pending.pop()
        name = f"{cls.__module__}.{cls.__qualname__}"
        if name not in classes:
            classes[name] = _of_class(cls)
            for hint in typing.get_type_hints(cls).values():
                pending += [item for item in _inner(hint) if attr.has(item)]
    return {"$schema": jsonschema.Draft202012Validator.META_SCHEMA["$id"], "$defs": classes}


def _inner(hint: Any) -> list[Any]:
    arguments = typing.get_args(hint)
    return [item for argument in arguments for item in _inner(argument)] if arguments else [hint]


def problems(event: dict[str, Any]) -> list[str]:
    """What is wrong with an event by the schema."""
    found = _wrong(event, base.RunEvent)
    for name, facet in facets_of(event):
        cls = _facets().get(facet.get("_schemaURL", ""))
        found += [f"{name}: unknown schema {facet.get('_schemaURL')}"] if cls is None else _wrong(facet, cls, name)
    return found


def facets_of(event: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Each facet of an event with its name."""
    holders = [event["run"], event["job"], *event["inputs"], *event["outputs"]]
    kinds = ("facets", "inputFacets", "outputFacets")
    return [item for holder in holders for kind in kinds for item in holder.get(kind, {}).items()]


def _wrong(value: dict[str, Any], cls: type, name: str = "event") -> list[str]:
    schema = {**_schema(), "$ref": f"#/$defs/{cls.__module__}.{cls.__qualname__}"}
    checked = jsonschema.Draft202012Validator(schema, format_checker=_formats)
    return [f"{name}{error.json_path[1:]}: {error.message}" for error in checked.iter_errors(value)]
