"""The rules of `ResourcesService`, its stream apart."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from agentlightning.store.engine import messages
from agentlightning.store.engine.paging import collect, start_query
from agentlightning.store.engine.scope import Scope
from agentlightning.store.engine.validation import check_id, check_payload
from agentlightning.store.errors import Aborted, AlreadyExists, InvalidArgument, NotFound
from agentlightning.store.storage.queries import Condition
from agentlightning.store.storage.rows import ResourcesRow
from agentlightning.store.storage.schema import RESOURCES
from lightning_store import v1

_OWN_TYPES = {"", "llm", "proxy_llm", "prompt_template"}


def find(scope: Scope, resources_id: str | None) -> ResourcesRow | None:
    """Return a set by its id, or the latest one for None."""
    if resources_id is not None:
        return scope.tx.resources(scope.experiment.key, resources_id)
    latest = scope.experiment.latest_resources
    return None if latest is None else scope.tx.resources_by_key(latest)


def latest_id(scope: Scope) -> str | None:
    """Return the id of the latest set."""
    row = find(scope, None)
    return None if row is None else row.resources_id


def add(scope: Scope, request: v1.AddResourcesRequest) -> v1.AddResourcesResponse:
    """Publish a new set."""
    resources_id = check_id(request.resources_id, "resources_id") if request.resources_id else None
    body = _checked(request.resources)
    row = None if resources_id is None else scope.tx.resources(scope.experiment.key, resources_id)
    if row is None:
        row = _publish(scope, resources_id or f"rs-{secrets.token_hex(6)}", body)
    elif row.version != 1 or row.fingerprint != messages.fingerprint(body):
        raise AlreadyExists(
            f"Resources {resources_id} exist and were published by another request.",
            reason="RESOURCES_EXIST",
            metadata={"resources_id": row.resources_id},
        )
    return v1.AddResourcesResponse(resources=messages.resources(row))


def update(scope: Scope, request: v1.UpdateResourcesRequest) -> v1.UpdateResourcesResponse:
    """Replace a set, or publish it if it does not exist."""
    resources_id = check_id(request.resources_id, "resources_id")
    body = _checked(request.resources)
    digest = messages.fingerprint(body)
    row = scope.tx.resources(scope.experiment.key, resources_id, held=True)
    is_repeated = row is not None and row.fingerprint == digest and row.key == scope.experiment.latest_resources
    if row is not None and is_repeated:
        return v1.UpdateResourcesResponse(resources=messages.resources(row))
    version = 0 if row is None else row.version
    if request.HasField("expected_version") and request.expected_version != version:
        raise Aborted(
            f"Resources {resources_id} are at version {version}, not {request.expected_version}.",
            reason="VERSION_MISMATCH",
            metadata={"resources_id": resources_id, "version": str(version)},
        )
    if row is None:
        row = _publish(scope, resources_id, body)
    else:
        scope.tx.update_resources(
            row, version=version + 1, update_time=scope.now, fingerprint=digest, body=body.SerializeToString()
        )
        _make_latest(scope, row)
    return v1.UpdateResourcesResponse(resources=messages.resources(row))


def _publish(scope: Scope, resources_id: str, body: v1.Resources) -> ResourcesRow:
    row = ResourcesRow(
        key=0,
        experiment=scope.experiment.key,
        resources_id=resources_id,
        version=1,
        create_time=scope.now,
        update_time=scope.now,
        fingerprint=messages.fingerprint(body),
        body=body.SerializeToString(),
    )
    scope.tx.add_resources(row)
    _make_latest(scope, row)
    return row


def _make_latest(scope: Scope, row: ResourcesRow) -> None:
    if scope.experiment.latest_resources != row.key:
        scope.tx.update_experiment(scope.experiment, latest_resources=row.key)
    scope.signal("resources")


def _checked(named: Iterable[v1.NamedResource]) -> v1.Resources:
    """Return the content of a set, or raise."""
    body = v1.Resources(resources=named)
    names = [entry.name for entry in body.resources]
    if len(set(names)) != len(names) or "" in names:
        raise InvalidArgument(
            "Resources must have names, each of its own.", reason="INVALID_RESOURCES", metadata={"field": "name"}
        )
    for entry in body.resources:
        kind = entry.resource.WhichOneof("kind")
        if kind is None:
            raise InvalidArgument(
                f"Resource {entry.name!r} has no kind that this store knows.",
                reason="INVALID_RESOURCES",
                metadata={"name": entry.name},
            )
        for llm in (entry.resource.llm, entry.resource.proxy_llm.llm):
            check_payload(llm, "sampling_parameters")
        if kind == "custom":
            check_payload(entry.resource.custom, "body")
            if entry.resource.custom.resource_type in _OWN_TYPES:
                raise InvalidArgument(
                    f"Resource {entry.name!r} cannot have the custom type {entry.resource.custom.resource_type!r}.",
                    reason="INVALID_RESOURCES",
                    metadata={"name": entry.name},
                )
    return body


def get(scope: Scope, request: v1.GetResourcesRequest) -> v1.GetResourcesResponse:
    """Return one set."""
    row = find(scope, request.resources_id)
    if row is None:
        raise NotFound(
            f"Resources {request.resources_id} not found",
            reason="RESOURCES_NOT_FOUND",
            metadata={"resources_id": request.resources_id},
        )
    return v1.GetResourcesResponse(resources=messages.resources(row))


def latest(scope: Scope, request: v1.GetLatestResourcesRequest) -> v1.GetLatestResourcesResponse:
    """Return the latest set."""
    row = find(scope, None)
    if row is None:
        raise NotFound("No resources have been published yet.", reason="NO_RESOURCES")
    return v1.GetLatestResourcesResponse(resources=messages.resources(row))


def list_resources(scope: Scope, request: v1.ListResourcesRequest) -> v1.ListResourcesResponse:
    """Return a page of sets."""
    must = [Condition("experiment", "equals", scope.experiment.key)]
    if request.HasField("resources_id"):
        must.append(Condition("resources_id", "equals", request.resources_id))
    if request.HasField("resources_id_contains"):
        must.append(Condition("resources_id", "contains", request.resources_id_contains))
    query = start_query(request, RESOURCES, "created", must=must)
    found, page_info = collect(request, query, scope.tx.resources_list(query), messages.resources)
    if request.page.with_total_size:
        page_info.total_size = scope.tx.total(RESOURCES, query)
    return v1.ListResourcesResponse(resources=found, page_info=page_info)
