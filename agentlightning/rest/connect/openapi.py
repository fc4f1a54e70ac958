"""The contract in the application's OpenAPI description, made from the descriptors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from fastapi import FastAPI
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from agentlightning.store.methods import EXPERIMENT_KEY, METHODS, Method

_SCHEMAS: Final = "#/components/schemas/"
_ERROR: Final = "connect.Error"
_INT32: Final = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
_UINT32: Final = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
_INT64: Final = {"type": "string", "pattern": "^-?[0-9]{1,19}$", "description": "A 64-bit integer."}
_UINT64: Final = {"type": "string", "pattern": "^[0-9]{1,20}$", "description": "A 64-bit integer."}
_FLOAT: Final = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
_SCALARS: Final[dict[int, dict[str, Any]]] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "format": "byte", "description": "In base64."},
    FieldDescriptor.TYPE_DOUBLE: _FLOAT,
    FieldDescriptor.TYPE_FLOAT: _FLOAT,
    FieldDescriptor.TYPE_INT32: _INT32,
    FieldDescriptor.TYPE_SINT32: _INT32,
    FieldDescriptor.TYPE_SFIXED32: _INT32,
    FieldDescriptor.TYPE_UINT32: _UINT32,
    FieldDescriptor.TYPE_FIXED32: _UINT32,
    FieldDescriptor.TYPE_INT64: _INT64,
    FieldDescriptor.TYPE_SINT64: _INT64,
    FieldDescriptor.TYPE_SFIXED64: _INT64,
    FieldDescriptor.TYPE_UINT64: _UINT64,
    FieldDescriptor.TYPE_FIXED64: _UINT64,
}
_WELL_KNOWN: Final[dict[str, dict[str, Any]]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$"},
}
_PARAMETERS: Final = [
    {
        "name": EXPERIMENT_KEY,
        "in": "header",
        "description": "The experiment to work on.",
        "schema": {"type": "string"},
    },
    {
        "name": "connect-timeout-ms",
        "in": "header",
        "description": "Milliseconds until the caller stops waiting.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,10}$"},
    },
]
_ERROR_SCHEMA: Final = {
    "type": "object",
    "required": ["code"],
    "properties": {
        "code": {"type": "string"},
        "message": {"type": "string"},
        "details": {"type": "array", "items": {"type": "object"}},
    },
}


def describe(app: FastAPI) -> None:
    """Adds the methods that are answered with one message to an application's description."""
    of_the_others = app.openapi

    def openapi() -> dict[str, Any]:
        description = of_the_others()
        methods = [method for method in METHODS if not method.streams]
        description["paths"].update({method.path: {"post": _operation(method)} for method in methods})
        schemas = description.setdefault("components", {}).setdefault("schemas", {})
        schemas[_ERROR] = _ERROR_SCHEMA
        schemas.update(_schemas(kind.DESCRIPTOR for method in methods for kind in (method.request, method.response)))
        return description

    app.openapi = openapi  # type: ignore[method-assign]


def _operation(method: Method) -> dict[str, Any]:
    service = method.service.rpartition(".")[2]
    return {
        "tags": [service],
        "summary": method.rpc,
        "operationId": f"{service}_{method.rpc}",
        "parameters": _PARAMETERS,
        "requestBody": {"required": True, "content": _content(method.request.DESCRIPTOR.full_name)},
        "responses": {
            "200": {"description": "The answer.", "content": _content(method.response.DESCRIPTOR.full_name)},
            "default": {"description": "The call failed.", "content": _content(_ERROR)},
        },
    }


def _content(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _SCHEMAS + schema}}}


def _schemas(messages: Iterable[Descriptor]) -> dict[str, Any]:
    """Returns the schemas of messages and of all that they hold."""
    found: dict[str, Any] = {}
    left = list(messages)
    while left:
        message = left.pop()
        if message.full_name in found or message.full_name in _WELL_KNOWN:
            continue
        left += [field.message_type for field in message.fields if field.message_type is not None]
        found[message.full_name] = {
            "type": "object",
            "properties": {field.json_name: _field(field) for field in message.fields},
            "additionalProperties": False,
        }
    return found


def _field(field: FieldDescriptor) -> dict[str, Any]:
    if field.message_type is not None:
        name = field.message_type.full_name
        schema = _WELL_KNOWN.get(name) or {"$ref": _SCHEMAS + name}
    elif field.enum_type is not None:
        schema = {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    else:
        schema = _SCALARS[field.type]
    # The newest protobuf has no `label`, the oldest no `is_repeated`.
    return {"type": "array", "items": schema} if field.default_value == [] else schema
