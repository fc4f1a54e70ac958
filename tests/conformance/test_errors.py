from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from calls import (
    HERE,
    add_spans,
    beat,
    dequeue,
    enqueue,
    get,
    ids,
    named,
    payload,
    publish,
    refused,
    report,
    seconds,
    span,
    start,
    start_attempt,
    update,
)
from stores import OpenStore

from agentlightning.store.api import CallContext, StoreApi
from agentlightning.store.engine import rollouts
from agentlightning.store.errors import Internal, InvalidArgument, NotFound, StoreError
from lightning_store import v1

BAD_IDS = ["a b", "a/b", "x" * 201, "tab\t", "line\n", "\x00", "\u200b", "nbsp\u00a0"]


async def test_ids_that_are_none_are_refused_wherever_something_is_named(api: StoreApi) -> None:
    await enqueue(api, "r1")
    attempt = await start(api, "r2")
    for bad in BAD_IDS:
        for call in naming(api, attempt, bad):
            with refused(InvalidArgument, "INVALID_ID") as caught:
                await call()
            assert caught.value.metadata["field"]
    assert await ids(api) == ["r1", "r2"]


def naming(api: StoreApi, attempt: v1.Attempt, bad: str) -> list[Callable[[], Awaitable[object]]]:
    """Calls that name something new by an id."""
    return [
        lambda: enqueue(api, bad),
        lambda: start(api, bad),
        lambda: start(api, "r3", worker_id=bad),
        lambda: enqueue(api, "r3", resources_id=bad),
        lambda: update(api, "r1", resources_id=bad),
        lambda: start_attempt(api, "r1", bad),
        lambda: start_attempt(api, "r1", worker_id=bad),
        lambda: dequeue(api, worker_id=bad),
        lambda: dequeue(api, claim_id=bad),
        lambda: report(api, attempt, worker_id=bad),
        lambda: beat(api, bad),
        lambda: publish(api, bad),
        lambda: api.update_resources(HERE, v1.UpdateResourcesRequest(resources_id=bad)),
    ]


async def test_any_printable_word_is_an_id(api: StoreApi) -> None:
    for good in ("x", "x" * 200, "Ünïcode-名前", "a.b:c@d#e%f+g?h&i=j", "-", "latest"):
        await enqueue(api, good)
        assert (await get(api, good)).rollout_id == good


async def test_empty_ids_where_one_is_needed_are_refused(api: StoreApi) -> None:
    with refused(InvalidArgument, "INVALID_ID"):
        await beat(api, "")
    with refused(InvalidArgument, "INVALID_ID"):
        await api.update_resources(HERE, v1.UpdateResourcesRequest())


async def test_looking_for_what_cannot_exist_is_not_finding_it(api: StoreApi) -> None:
    with refused(NotFound, "ROLLOUT_NOT_FOUND"):
        await get(api, "a b")
    with refused(NotFound, "ROLLOUT_NOT_FOUND"):
        await get(api, "")


async def test_a_payload_without_a_content_type_is_refused_everywhere(api: StoreApi) -> None:
    bare = v1.Payload(data=b"1")
    attempt = await start(api, "r1")
    llm = v1.LLM(endpoint="e", model="m", sampling_parameters=bare)
    resources = (
        v1.Resource(llm=llm),
        v1.Resource(proxy_llm=v1.ProxyLLM(llm=llm)),
        v1.Resource(custom=v1.CustomResource(resource_type="mine", body=bare)),
    )
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: enqueue(api, "r2", input=bare),
        lambda: enqueue(api, "r2", metadata=bare),
        lambda: start(api, "r2", input=bare),
        lambda: update(api, "r1", input=bare),
        lambda: update(api, "r1", metadata=bare),
        lambda: report(api, attempt, metadata=bare),
        lambda: beat(api, "w1", heartbeat_stats=bare),
        lambda: add_spans(api, span(attempt, extra=bare)),
        *(
            lambda resource=resource: api.add_resources(  # type: ignore[misc]
                HERE, v1.AddResourcesRequest(resources=named(main=resource))
            )
            for resource in resources
        ),
    ]
    for call in calls:
        with refused(InvalidArgument, "PAYLOAD_WITHOUT_CONTENT_TYPE"):
            await call()
    assert await ids(api) == ["r1"]


async def test_other_content_types_are_kept_without_being_looked_at(api: StoreApi) -> None:
    given = v1.Payload(content_type="application/octet-stream", data=bytes(range(256)))
    await enqueue(api, "r1", input=given)
    assert (await get(api, "r1")).input == given


async def test_values_that_this_release_does_not_know_are_refused(api: StoreApi) -> None:
    """Goes wrong when a value is stored that a reader cannot read back."""
    await enqueue(api, "r1")
    odd_mode = v1.NewRollout.FromString(bytes([3 << 3, 99]))
    retry_on_unknown = v1.RolloutConfig.FromString(bytes([4 << 3 | 2, 1, 99]))
    budget_of_unknown = v1.RolloutConfig(retry_budgets=[v1.RetryBudget.FromString(bytes([1 << 3, 99]))])
    for request in (
        v1.EnqueueRolloutsRequest(rollouts=[odd_mode]),
        v1.EnqueueRolloutsRequest(rollouts=[v1.NewRollout(config=retry_on_unknown)]),
        v1.EnqueueRolloutsRequest(rollouts=[v1.NewRollout(config=budget_of_unknown)]),
    ):
        with refused(InvalidArgument, "INVALID_STATUS"):
            await api.enqueue_rollouts(HERE, request)
    odd_update = v1.UpdateRolloutRequest(rollout_id="r1")
    odd_update.MergeFrom(v1.UpdateRolloutRequest.FromString(bytes([3 << 3, 99])))
    with refused(InvalidArgument, "INVALID_STATUS"):
        await api.update_rollout(HERE, odd_update)
    assert await ids(api) == ["r1"]


async def test_an_error_tells_what_and_where(api: StoreApi) -> None:
    with pytest.raises(StoreError) as caught:
        await get(api, "r1")
    error = caught.value
    assert (error.code, error.reason, error.message) == ("NOT_FOUND", "ROLLOUT_NOT_FOUND", "Rollout r1 not found")
    assert error.metadata == {"rollout_id": "r1"}
    assert error.retry_after is None
    assert str(error) == error.message


async def test_unknown_fields_of_a_newer_client_do_no_harm(api: StoreApi) -> None:
    request = v1.EnqueueRolloutsRequest.FromString(
        v1.EnqueueRolloutsRequest(rollouts=[v1.NewRollout(rollout_id="r1")]).SerializeToString() + b"\xf2\x06\x03new"
    )
    assert (await api.enqueue_rollouts(HERE, request)).rollouts[0].rollout_id == "r1"


@pytest.mark.parametrize("wait", [-1e10, float(2**33), 1e11], ids=["negative", "long", "for ever"])
async def test_a_wait_out_of_its_range_is_cut_not_refused(api: StoreApi, wait: float) -> None:
    await enqueue(api, "r1")
    request = v1.DequeueRolloutsRequest(limit=1, wait=seconds(wait))
    assert len((await api.dequeue_rollouts(CallContext(timeout=5), request)).claims) == 1


class Odd(RuntimeError):
    """A fault of the store's own."""


async def test_a_fault_of_the_store_leaves_nothing_behind_and_tells_nothing(
    store: OpenStore, api: StoreApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Goes wrong when a work is cut in the middle: popped from the queue, and no attempt made."""
    await enqueue(api, "r1", "r2", input=payload("secret"))
    real = rollouts.begin_attempt
    begun = []

    def breaks_at_the_second(*arguments: object, **fields: object) -> object:
        if begun:
            raise Odd("secret details")
        begun.append(1)
        return real(*arguments, **fields)

    monkeypatch.setattr(rollouts, "begin_attempt", breaks_at_the_second)
    with pytest.raises((Odd, Internal)) as caught:
        await dequeue(api, 2, worker_id="w1")
    monkeypatch.undo()
    if isinstance(caught.value, Internal):
        assert caught.value.reason == "INTERNAL"
        assert "secret" not in caught.value.message
        assert "secret details" in caplog.text, "the log says how"
    with refused(NotFound, "WORKER_NOT_FOUND"):
        await api.get_worker(HERE, v1.GetWorkerRequest(worker_id="w1"))
    assert len((await dequeue(api, 5)).claims) == 2
