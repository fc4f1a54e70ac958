from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from calls import (
    CANCELLED,
    HERE,
    QUEUING,
    add_spans,
    beat,
    context,
    delete,
    enqueue,
    flat,
    ids,
    list_rollouts,
    list_spans,
    payload,
    publish,
    refused,
    span,
    start,
    start_attempt,
    update,
)

from agentlightning.store.api import StoreApi
from agentlightning.store.errors import InvalidArgument
from lightning_store import v1

TWO_MIB = 2 << 20

Lister = Callable[[StoreApi, v1.Page], Awaitable[tuple[list[str], v1.PageInfo]]]


async def _rollouts(api: StoreApi, page: v1.Page) -> tuple[list[str], v1.PageInfo]:
    response = await list_rollouts(api, page)
    return [found.rollout_id for found in response.rollouts], response.page_info


async def _attempts(api: StoreApi, page: v1.Page) -> tuple[list[str], v1.PageInfo]:
    response = await api.list_attempts(HERE, v1.ListAttemptsRequest(rollout_id="r0", page=page))
    return [found.attempt_id for found in response.attempts], response.page_info


async def _spans(api: StoreApi, page: v1.Page) -> tuple[list[str], v1.PageInfo]:
    response = await list_spans(api, "r0", page=page)
    return [found.name for found in flat(response.resource_spans)], response.page_info


async def _resources(api: StoreApi, page: v1.Page) -> tuple[list[str], v1.PageInfo]:
    response = await api.list_resources(HERE, v1.ListResourcesRequest(page=page))
    return [found.resources_id for found in response.resources], response.page_info


async def _workers(api: StoreApi, page: v1.Page) -> tuple[list[str], v1.PageInfo]:
    response = await api.list_workers(HERE, v1.ListWorkersRequest(page=page))
    return [found.worker_id for found in response.workers], response.page_info


async def _experiments(api: StoreApi, page: v1.Page) -> tuple[list[str], v1.PageInfo]:
    response = await api.list_experiments(HERE, v1.ListExperimentsRequest(page=page))
    return [found.name for found in response.experiments], response.page_info


LISTERS = [_rollouts, _attempts, _spans, _resources, _workers, _experiments]


async def fill(api: StoreApi) -> None:
    """Five of everything."""
    await enqueue(api, *[f"r{number}" for number in range(5)])
    for number in range(5):
        attempt = await start_attempt(api, "r0", f"at-{number}")
        await add_spans(api, span(attempt, f"s{number}"))
        await publish(api, f"rs-{number}")
        await beat(api, f"w{number}")
        if number:
            await enqueue(api, "r1", experiment=f"e{number}")


async def pages(api: StoreApi, lister: Lister, **fields: Any) -> list[list[str]]:
    """All pages of a list."""
    found: list[list[str]] = []
    token = ""
    while True:
        items, info = await lister(api, v1.Page(page_token=token, **fields))
        found.append(items)
        token = info.next_page_token
        if not token:
            return found


async def test_pages_follow_each_other_without_gaps(api: StoreApi) -> None:
    await fill(api)
    for lister in LISTERS:
        await check_pages(api, lister)


async def check_pages(api: StoreApi, lister: Lister) -> None:
    (whole,) = await pages(api, lister)
    assert len(whole) == 5
    assert await pages(api, lister, page_size=2) == [whole[:2], whole[2:4], whole[4:]]
    assert await pages(api, lister, page_size=5) == [whole]
    assert await pages(api, lister, page_size=4, skip=1) == [whole[1:]]
    assert await pages(api, lister, page_size=2, skip=2) == [whole[2:4], whole[4:]]
    assert await pages(api, lister, skip=9) == [[]]
    assert await pages(api, lister, page_size=3, descending=True) == [whole[:1:-1], whole[1::-1]]


async def test_totals_do_not_depend_on_the_page(api: StoreApi) -> None:
    await fill(api)
    for lister in LISTERS:
        await check_totals(api, lister)


async def check_totals(api: StoreApi, lister: Lister) -> None:
    for page in (v1.Page(), v1.Page(page_size=2), v1.Page(skip=4), v1.Page(skip=9)):
        page.with_total_size = True
        assert (await lister(api, page))[1].total_size == 5
    first = (await lister(api, v1.Page(page_size=2)))[1]
    assert not first.HasField("total_size")
    second = v1.Page(page_size=2, page_token=first.next_page_token, with_total_size=True)
    assert (await lister(api, second))[1].total_size == 5


async def test_negative_numbers_are_refused(api: StoreApi) -> None:
    for lister in LISTERS:
        for page in (v1.Page(page_size=-1), v1.Page(skip=-1)):
            with refused(InvalidArgument, "INVALID_PAGE"):
                await lister(api, page)


async def test_an_unknown_order_is_refused_and_the_known_ones_are_named(api: StoreApi) -> None:
    for lister in LISTERS:
        with refused(InvalidArgument, "UNKNOWN_ORDER") as caught:
            await lister(api, v1.Page(order_by="rowid; DROP TABLE rollouts"))
        assert caught.value.metadata == {"order_by": "rowid; DROP TABLE rollouts"}
        assert "known are" in caught.value.message


async def test_a_page_has_a_hundred_items_unless_told_and_a_thousand_at_most(api: StoreApi) -> None:
    for turn in range(3):
        await enqueue(api, *[f"r{turn}-{number}" for number in range(350)])
    assert len(await ids(api)) == 100
    assert len(await ids(api, v1.Page(page_size=1000))) == 1000
    sizes = [len(page) for page in await pages(api, _rollouts, page_size=2_000_000_000)]
    assert sizes == [1000, 50]
    response = await api.list_rollouts(HERE, v1.ListRolloutsRequest())
    following = v1.ListRolloutsRequest(page=v1.Page(page_token=response.page_info.next_page_token))
    assert len((await api.list_rollouts(HERE, following)).rollouts) == 100, "a first call without a page has a next one"


async def test_a_page_of_spans_has_a_thousand_unless_told_and_ten_thousand_at_most(api: StoreApi) -> None:
    attempt = await start(api, "r0")
    for _ in range(3):
        await add_spans(api, *[span(attempt) for _ in range(3500)])
    assert [len(page) for page in await pages(api, _spans, page_size=20_000)] == [10_000, 500]
    assert len((await _spans(api, v1.Page()))[0]) == 1000


async def test_pages_are_bounded_by_bytes(api: StoreApi) -> None:
    """Goes wrong when a page of large items is larger than any message may be."""
    for number in range(10):
        await enqueue(api, f"r{number}", input=payload("x" * 600_000))
    found = await pages(api, _rollouts, page_size=1000)
    assert [name for page in found for name in page] == [f"r{number}" for number in range(10)]
    assert max(len(page) for page in found) <= 4
    attempt = await start_attempt(api, "r0")
    for number in range(5):
        large = v1.KeyValue(key="x", value=v1.AnyValue(bytes_value=bytes(TWO_MIB)))
        await add_spans(api, span(attempt, f"s{number}", attributes=[large]))
    assert [len(page) for page in await pages(api, _spans)] == [1] * 5


async def test_a_list_that_changes_between_its_pages_gives_each_item_once(api: StoreApi) -> None:
    """Goes wrong when a token is an offset: what is deleted before it shifts the rest past the reader."""
    await enqueue(api, *[f"r{number}" for number in range(6)])
    first = await list_rollouts(api, v1.Page(page_size=3))
    await delete(api, "r0", "r4")
    await enqueue(api, "r6")
    token = first.page_info.next_page_token
    assert await ids(api, v1.Page(page_size=9, page_token=token)) == ["r3", "r5", "r6"]


async def test_the_skip_of_a_later_page_is_ignored(api: StoreApi) -> None:
    await enqueue(api, *[f"r{number}" for number in range(6)])
    token = (await list_rollouts(api, v1.Page(page_size=2))).page_info.next_page_token
    assert await ids(api, v1.Page(page_size=2, page_token=token, skip=3)) == ["r2", "r3"]


async def test_a_token_goes_with_the_arguments_that_gave_it(api: StoreApi) -> None:
    await enqueue(api, *[f"r{number}" for number in range(6)])
    wanted = {"status_in": v1.RolloutStatusSet(values=[QUEUING])}
    token = (await list_rollouts(api, v1.Page(page_size=2), **wanted)).page_info.next_page_token
    assert await ids(api, v1.Page(page_size=2, page_token=token), **wanted) == ["r2", "r3"]
    for page, conditions in (
        (v1.Page(page_token=token), {}),
        (v1.Page(page_token=token), {"status_in": v1.RolloutStatusSet(values=[CANCELLED])}),
        (v1.Page(page_token=token, order_by="status"), wanted),
        (v1.Page(page_token=token, descending=True), wanted),
    ):
        with refused(InvalidArgument, "PAGE_TOKEN_MISMATCH"):
            await ids(api, page, **conditions)
    attempt = await start_attempt(api, "r0")
    await add_spans(api, span(attempt), span(attempt))
    spans_token = (await list_spans(api, "r0", page=v1.Page(page_size=1))).page_info.next_page_token
    with refused(InvalidArgument, "PAGE_TOKEN_MISMATCH"):
        await list_spans(api, "r1", page=v1.Page(page_token=spans_token))
    with refused(InvalidArgument, "PAGE_TOKEN_MISMATCH"):
        await ids(api, v1.Page(page_token=spans_token))


async def test_a_token_of_another_experiment_shows_nothing_of_it(api: StoreApi) -> None:
    await enqueue(api, "r1", "r2", "r3")
    await enqueue(api, "secret", experiment="other")
    token = (await list_rollouts(api, v1.Page(page_size=1))).page_info.next_page_token
    request = v1.ListRolloutsRequest(page=v1.Page(page_size=1, page_token=token))
    found = (await api.list_rollouts(context("other"), request)).rollouts
    assert [rollout.rollout_id for rollout in found] in ([], ["secret"])
    assert await ids(api, v1.Page(page_token=token)) == ["r2", "r3"]


def forged(position: object) -> str:
    """A token of the right request with a wrong position."""
    bare = v1.ListRolloutsRequest(page=v1.Page()).SerializeToString(deterministic=True)
    digest = hashlib.blake2b(bare, digest_size=16).hexdigest()
    return base64.urlsafe_b64encode(json.dumps([digest, position]).encode()).decode()


async def test_a_token_that_no_store_gave_is_refused(api: StoreApi) -> None:
    await enqueue(api, "r1")
    encoded = [base64.urlsafe_b64encode(data).decode() for data in (b"5", b"[" * 100_000, b"\xff")]
    positions = ["text", [], [1, 2], [[1]], [2**70], [None], [1.5]]
    for token in ("nonsense", "é", *encoded, *map(forged, positions)):
        with refused(InvalidArgument, "PAGE_TOKEN_INVALID"):
            await ids(api, v1.Page(page_token=token))


async def test_a_sorted_list_is_paged_over_equal_and_unset_values(api: StoreApi) -> None:
    names = [f"r{number}" for number in range(7)]
    await enqueue(api, *names)
    await update(api, "r3", status=CANCELLED)
    await update(api, "r1", status=CANCELLED)
    for order in ("status", "end_time", "mode", "start_time", "resources_id"):
        for descending in (False, True):
            whole = (await pages(api, _rollouts, order_by=order, descending=descending))[0]
            small = await pages(api, _rollouts, order_by=order, descending=descending, page_size=2)
            assert [name for page in small for name in page] == whole
            assert sorted(whole) == names
