from __future__ import annotations

import asyncio
import re
from contextlib import aclosing

import pytest
from calls import HERE, following, named, payload, prompt, publish, refused, statistics
from stores import FakeClock, OpenStore

from agentlightning.store.api import StoreApi
from agentlightning.store.errors import Aborted, AlreadyExists, InvalidArgument, NotFound
from lightning_store import v1


async def replace(
    api: StoreApi, resources_id: str, text: str = "Hello", expected_version: int | None = None
) -> v1.Resources:
    request = v1.UpdateResourcesRequest(
        resources_id=resources_id, resources=named(main=prompt(text)), expected_version=expected_version
    )
    return (await api.update_resources(HERE, request)).resources


async def fetch(api: StoreApi, resources_id: str) -> v1.Resources:
    return (await api.get_resources(HERE, v1.GetResourcesRequest(resources_id=resources_id))).resources


async def latest(api: StoreApi) -> v1.Resources:
    return (await api.get_latest_resources(HERE, v1.GetLatestResourcesRequest())).resources


async def ids(api: StoreApi, page: v1.Page | None = None, **conditions: str) -> list[str]:
    request = v1.ListResourcesRequest(page=page or v1.Page(), **conditions)
    return [found.resources_id for found in (await api.list_resources(HERE, request)).resources]


async def test_a_published_set_comes_back_in_the_publisher_s_order(api: StoreApi, clock: FakeClock) -> None:
    llm = v1.LLM(endpoint="http://model/v1", model="m", sampling_parameters=payload({"temperature": 0.7}))
    given = named(
        zebra=v1.Resource(llm=llm),
        apple=v1.Resource(proxy_llm=v1.ProxyLLM(llm=v1.LLM(endpoint="e", model="p", api_key="k"))),
        mango=prompt("Hello {name}"),
        other=v1.Resource(custom=v1.CustomResource(resource_type="mine", body=payload({"a": [1]}))),
    )
    request = v1.AddResourcesRequest(resources_id="rs-1", resources=given)
    stored = (await api.add_resources(HERE, request)).resources
    assert list(stored.resources) == given
    assert (stored.resources_id, stored.version) == ("rs-1", 1)
    assert stored.create_time.ToNanoseconds() == stored.update_time.ToNanoseconds() == clock.time
    assert await fetch(api, "rs-1") == stored
    assert await latest(api) == stored


async def test_a_set_may_be_empty(api: StoreApi) -> None:
    await api.add_resources(HERE, v1.AddResourcesRequest(resources_id="rs-1"))
    assert not (await latest(api)).resources


async def test_the_server_chooses_an_id_when_none_is_given(api: StoreApi) -> None:
    first, second = await publish(api), await publish(api)
    assert re.fullmatch("rs-[0-9a-f]{12}", first.resources_id)
    assert first.resources_id != second.resources_id


async def test_an_update_replaces_the_set_as_a_whole(api: StoreApi, clock: FakeClock) -> None:
    request = v1.AddResourcesRequest(resources_id="rs-1", resources=named(a=prompt("1"), b=prompt("2")))
    first = (await api.add_resources(HERE, request)).resources
    clock.advance(5)
    second = await replace(api, "rs-1", "new")
    assert list(second.resources) == named(main=prompt("new"))
    assert (second.version, second.create_time) == (2, first.create_time)
    assert second.update_time.ToNanoseconds() == clock.time
    assert await fetch(api, "rs-1") == second


async def test_an_update_creates_a_set_that_does_not_exist(api: StoreApi) -> None:
    assert (await replace(api, "rs-new")).version == 1
    assert await ids(api) == ["rs-new"]


async def test_the_latest_is_what_was_added_or_updated_last(api: StoreApi) -> None:
    """Goes wrong when the latest is found by comparing times: two sets of one moment tie."""
    with refused(NotFound, "NO_RESOURCES"):
        await latest(api)
    await publish(api, "rs-1")
    await publish(api, "rs-2")
    assert (await latest(api)).resources_id == "rs-2"
    await replace(api, "rs-1", "newer")
    assert ((await latest(api)).resources_id, (await latest(api)).version) == ("rs-1", 2)
    await replace(api, "rs-2", "Hello")
    assert ((await latest(api)).resources_id, (await latest(api)).version) == ("rs-2", 2)


async def test_publishing_what_is_the_latest_already_changes_nothing(api: StoreApi, clock: FakeClock) -> None:
    first = await publish(api, "rs-1", "same")
    clock.advance(1)
    assert await replace(api, "rs-1", "same") == first


async def test_an_update_may_name_the_version_that_it_saw(api: StoreApi) -> None:
    assert (await replace(api, "rs-1", "1", expected_version=0)).version == 1
    assert (await replace(api, "rs-1", "2", expected_version=1)).version == 2
    for wrong in (0, 1, 3):
        with refused(Aborted, "VERSION_MISMATCH") as caught:
            await replace(api, "rs-1", "3", expected_version=wrong)
        assert caught.value.metadata["version"] == "2"
    with refused(Aborted, "VERSION_MISMATCH"):
        await replace(api, "rs-2", "1", expected_version=1)
    assert (await fetch(api, "rs-1")).resources[0].resource == prompt("2")
    assert await ids(api) == ["rs-1"]


async def test_of_many_updates_of_one_version_one_wins(api: StoreApi) -> None:
    await publish(api, "rs-1")
    outcomes = await asyncio.gather(
        *[replace(api, "rs-1", f"try {number}", expected_version=1) for number in range(10)], return_exceptions=True
    )
    won = [outcome for outcome in outcomes if isinstance(outcome, v1.Resources)]
    assert len(won) == 1
    assert sum(isinstance(outcome, Aborted) for outcome in outcomes) == 9
    assert await fetch(api, "rs-1") == won[0]


async def test_a_used_id_is_not_published_again_with_another_body(api: StoreApi) -> None:
    first = await publish(api, "rs-1", "one")
    with refused(AlreadyExists, "RESOURCES_EXIST"):
        await publish(api, "rs-1", "two")
    await replace(api, "rs-1", "three")
    with refused(AlreadyExists, "RESOURCES_EXIST"):
        await publish(api, "rs-1", "one")
    assert first.version == 1
    assert (await fetch(api, "rs-1")).version == 2


async def test_an_unknown_set_is_not_found_and_named(api: StoreApi) -> None:
    with refused(NotFound, "RESOURCES_NOT_FOUND") as caught:
        await fetch(api, "rs-1")
    assert caught.value.metadata == {"resources_id": "rs-1"}


@pytest.mark.parametrize(
    "bad",
    [
        [v1.NamedResource(resource=prompt("no name"))],
        [*named(a=prompt("1")), *named(a=prompt("twice"))],
        named(a=v1.Resource()),
        named(a=v1.Resource(custom=v1.CustomResource(body=payload({})))),
        named(a=v1.Resource(custom=v1.CustomResource(resource_type="llm", body=payload({})))),
    ],
    ids=["no name", "a name twice", "no kind", "no type", "a type of ours"],
)
async def test_a_set_that_cannot_be_used_is_refused(api: StoreApi, bad: list[v1.NamedResource]) -> None:
    with refused(InvalidArgument, "INVALID_RESOURCES"):
        await api.add_resources(HERE, v1.AddResourcesRequest(resources=bad))
    with refused(InvalidArgument, "INVALID_RESOURCES"):
        await api.update_resources(HERE, v1.UpdateResourcesRequest(resources_id="rs-1", resources=bad))
    assert await ids(api) == []


async def test_sets_are_listed_filtered_and_sorted(api: StoreApi, clock: FakeClock) -> None:
    for name in ("rs-b", "rs-C", "rs-a"):
        await publish(api, name)
        clock.advance(1)
    await replace(api, "rs-C", "1")
    clock.advance(1)
    await replace(api, "rs-b", "1")
    await replace(api, "rs-b", "2")
    expected = {
        "": ["rs-b", "rs-C", "rs-a"],
        "created": ["rs-b", "rs-C", "rs-a"],
        "resources_id": ["rs-C", "rs-a", "rs-b"],
        "create_time": ["rs-b", "rs-C", "rs-a"],
        "update_time": ["rs-a", "rs-C", "rs-b"],
        "version": ["rs-a", "rs-C", "rs-b"],
    }
    for order, names in expected.items():
        assert await ids(api, v1.Page(order_by=order)) == names, order
        assert await ids(api, v1.Page(order_by=order, descending=True)) == names[::-1], order
    assert await ids(api, resources_id="rs-a") == ["rs-a"]
    assert await ids(api, resources_id_contains="s-") == ["rs-b", "rs-C", "rs-a"]
    assert await ids(api, resources_id_contains="c") == []
    assert await ids(api, resources_id="rs-a", resources_id_contains="b") == []
    request = v1.ListResourcesRequest(page=v1.Page(page_size=1, with_total_size=True), resources_id_contains="rs")
    assert (await api.list_resources(HERE, request)).page_info.total_size == 3
    assert (await statistics(api)).total_resources == 3


class TestWatching:
    def watch(self, api: StoreApi, known: v1.Resources | None = None):  # type: ignore[no-untyped-def]
        version = None if known is None else v1.ResourcesVersion(resources_id=known.resources_id, version=known.version)
        return api.watch_latest_resources(HERE, v1.WatchLatestResourcesRequest(known=version))

    async def test_the_latest_set_comes_at_once_then_each_that_takes_its_place(self, api: StoreApi) -> None:
        first = await publish(api, "rs-1")
        async with aclosing(self.watch(api)) as stream:
            assert (await following(stream)).resources == first
            second = await publish(api, "rs-2")
            assert (await following(stream)).resources == second
            third = await replace(api, "rs-1", "newer")
            assert (await following(stream)).resources == third

    async def test_what_the_client_knows_is_not_sent(self, store: OpenStore, api: StoreApi) -> None:
        first = await publish(api, "rs-1")
        async with aclosing(self.watch(api, known=first)) as stream:
            arriving = asyncio.ensure_future(anext(stream))
            await store.until_waiting()
            await replace(api, "rs-1", "Hello")
            await asyncio.sleep(0.02)
            assert not arriving.done()
            second = await replace(api, "rs-1", "newer")
            assert (await asyncio.wait_for(arriving, 25)).resources == second

    async def test_a_store_without_resources_waits_for_the_first(self, store: OpenStore, api: StoreApi) -> None:
        async with aclosing(self.watch(api)) as stream:
            arriving = asyncio.ensure_future(anext(stream))
            await store.until_waiting()
            first = await publish(api, "rs-1")
            assert (await asyncio.wait_for(arriving, 25)).resources == first

    async def test_the_newest_set_is_never_skipped(self, api: StoreApi) -> None:
        await publish(api, "rs-1")
        async with aclosing(self.watch(api)) as stream:
            await following(stream)
            for number in range(30):
                await replace(api, "rs-1", str(number))
            while (await following(stream)).resources.version < 31:
                continue

    async def test_watchers_leave_no_trace(self, store: OpenStore, api: StoreApi) -> None:
        await publish(api, "rs-1")
        for _ in range(3):
            async with aclosing(self.watch(api)) as stream:
                await following(stream)
        await store.until_waiting(0)
