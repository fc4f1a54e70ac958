"""OTLP over HTTP: spans of any OpenTelemetry exporter, in Protocol Buffers or JSON."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from fastapi import APIRouter, HTTPException, Request, Response
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from agentlightning.codec.payload import JSON
from agentlightning.rest.compression import unpack
from agentlightning.rest.errors import fault_of, sentence
from agentlightning.store.face import StoreFace
from agentlightning.store.methods import EXPERIMENT_KEY
from agentlightning.store.server.otlp import ingest
from lightning_store import v1

PROTOBUF: Final = "application/x-protobuf"
"""The content type of the bytes of a message."""


def otlp_routes(store: StoreFace) -> APIRouter:
    """Makes the route that exporters send spans to. They are stored by the very rule of OTLP over gRPC.

    Args:
        store: Where they go. The header `agl-experiment` names another of its experiments, `agl-rollout-id` and
            `agl-attempt-id` the place of spans that do not name it themselves.
    """
    router = APIRouter(tags=["OpenTelemetry"])

    @router.post("/v1/traces")
    async def export_traces(request: Request) -> Response:
        """Takes spans. Those that cannot be stored are named in the answer, and hold up no others."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            export = await _export_in(request, media_type)
            context = store.context
            context = replace(context, experiment=request.headers.get(EXPERIMENT_KEY, context.experiment))
            return _answer(await ingest(store.api, context, export, dict(request.headers)), media_type)
        except Exception as error:  # noqa: BLE001  the one place where errors leave for exporters
            # As exporters expect it: a status in the type of what they sent.
            fault = fault_of(error)
            return _answer(Status(message=sentence(fault.detail)), media_type, fault.status, fault.headers)

    return router


async def _export_in(request: Request, media_type: str) -> bytes:
    """Returns an export in the encoding of Protocol Buffers. What takes long is done beside the event loop."""
    body = await request.body()
    encoding = request.headers.get("content-encoding", "")
    if encoding:
        body = await asyncio.to_thread(unpack, body, encoding)
    if media_type == PROTOBUF:
        return body
    if media_type == JSON:
        return await asyncio.to_thread(_from_json, body)
    raise HTTPException(415, f"The body must be {PROTOBUF} or {JSON}, not {media_type or 'of no type'}.")


def _from_json(body: bytes) -> bytes:
    export = v1.AddSpansRequest()
    try:
        json_format.Parse(body, export, ignore_unknown_fields=True)
    except (json_format.ParseError, AttributeError, RecursionError, TypeError, ValueError) as error:
        raise HTTPException(400, f"The body is no export of spans: {error}") from error
    for resource in export.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                span.trace_id, span.span_id = _id_of(span.trace_id), _id_of(span.span_id)
                span.parent_span_id = _id_of(span.parent_span_id)
                for link in span.links:
                    link.trace_id, link.span_id = _id_of(link.trace_id), _id_of(link.span_id)
    return export.SerializeToString()


def _id_of(data: bytes) -> bytes:
    """Returns an id as it was meant: OTLP has ids in hex, and they were read as the base64 that other bytes have."""
    try:
        return bytes.fromhex(base64.b64encode(data).decode())
    except ValueError:
        return data


def _answer(message: Message, media_type: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    if media_type == JSON:
        return Response(json_format.MessageToJson(message, indent=None), status, headers, JSON)
    return Response(message.SerializeToString(), status, headers, PROTOBUF)
