"""Two servers over one database are one store, and go on as such when one of them is lost."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from calls import (
    AT_SUCCEEDED,
    HERE,
    SUCCEEDED,
    claim,
    claimed_ids,
    context,
    delete,
    dequeue,
    enqueue,
    following,
    get,
    ids,
    publish,
    queue,
    refused,
    report,
    statistics,
    waiting_for,
    watching,
)
from postgres import SERVER
from store_process import Connect, StoreProcess

from agentlightning.store.client import LightningStoreClient
from agentlightning.store.errors import NotFound
from agentlightning.store.remote.api import RemoteApi
from agentlightning.store.remote.channels import parse_addresses
from lightning_store import v1


class Pair:
    """Two servers over one database, the first of which keeps the watch."""

    def __init__(self, url: str, folder: Path) -> None:
        self.servers = [StoreProcess(url, log=folder / f"log{number}") for number in range(2)]
        for server in self.servers:
            server.start()

    @property
    def addresses(self) -> str:
        return ",".join(server.address for server in self.servers)

    def kill(self) -> None:
        for server in self.servers:
            server.kill()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two servers that the tests of a file share; each test has an experiment of its own."""
    folder = tmp_path_factory.mktemp("shared")
    pair = Pair(SERVER.url_of(folder), folder)
    yield pair
    pair.kill()
    SERVER.take_back(folder)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two servers for one test."""
    made = Pair(SERVER.url_of(tmp_path), tmp_path)
    yield made
    made.kill()
    SERVER.take_back(tmp_path)


@pytest.fixture
def one(shared: Pair, connect_to: Connect) -> RemoteApi:
    """A client of the first server."""
    return connect_to(shared.servers[0].address)


@pytest.fixture
def other(shared: Pair, connect_to: Connect) -> RemoteApi:
    """A client of the second server."""
    return connect_to(shared.servers[1].address)


@pytest.fixture
def experiment() -> str:
    """An experiment that no other test has."""
    return secrets.token_hex(4)


async def test_both_are_one_store(one: RemoteApi, other: RemoteApi) -> None:
    said = [await api.get_server_info(HERE, v1.GetServerInfoRequest()) for api in (one, other)]
    assert said[0].store_id == said[1].store_id
    assert said[0].instance_id != said[1].instance_id
    assert said[0].storage == "postgres"


async def test_each_rollout_is_claimed_once_however_many_claim(
    one: RemoteApi, other: RemoteApi, experiment: str
) -> None:
    names = [f"r{number:03}" for number in range(200)]
    await enqueue(one, *names, experiment=experiment)

    async def run(api: RemoteApi, number: int) -> list[str]:
        taken: list[str] = []
        while claims := claimed_ids(await dequeue(api, number % 3 + 1, experiment=experiment)):
            taken += claims
        return taken

    taken = await asyncio.gather(*[run((one, other)[number % 2], number) for number in range(8)])
    assert Counter(name for part in taken for name in part) == Counter(names)
    assert (await statistics(one, experiment)).total_attempts == 200


async def test_a_held_claim_is_woken_by_the_other_server(one: RemoteApi, other: RemoteApi, experiment: str) -> None:
    await enqueue(one, "first", experiment=experiment)
    await dequeue(one, experiment=experiment)
    held = asyncio.ensure_future(dequeue(one, wait=20, experiment=experiment))
    await asyncio.sleep(0.2)
    await enqueue(other, "second", experiment=experiment)
    assert claimed_ids(await asyncio.wait_for(held, 9)) == ["second"]


async def test_one_rollout_is_taken_by_one_of_many_that_wait(one: RemoteApi, other: RemoteApi, experiment: str) -> None:
    await enqueue(one, "first", experiment=experiment)
    await dequeue(one, experiment=experiment)
    held = [asyncio.ensure_future(dequeue(api, wait=20, experiment=experiment)) for api in (one, other) * 3]
    await asyncio.sleep(0.2)
    for number in range(6):
        await enqueue((one, other)[number % 2], f"r{number}", experiment=experiment)
    taken = [claimed_ids(answer) for answer in await asyncio.wait_for(asyncio.gather(*held), 9)]
    assert sorted(taken) == [[f"r{number}"] for number in range(6)]


async def test_a_wait_hears_of_what_happens_at_the_other_server(
    one: RemoteApi, other: RemoteApi, experiment: str
) -> None:
    await enqueue(one, "ends", "goes", experiment=experiment)
    events = waiting_for(one, "ends", "goes", timeout=20, experiment=experiment)
    first = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.2)
    request = v1.UpdateRolloutRequest(rollout_id="ends", status=SUCCEEDED)
    await other.update_rollout(context(experiment), request)
    assert (await asyncio.wait_for(first, 9)).finished.rollout_id == "ends"
    await delete(other, "goes", experiment=experiment)
    assert (await following(events)).not_found_rollout_id == "goes"
    assert (await following(events)).HasField("done")


async def test_a_watch_hears_of_what_happens_at_the_other_server(
    one: RemoteApi, other: RemoteApi, experiment: str
) -> None:
    await enqueue(one, "r1", experiment=experiment)
    changes = watching(one, experiment=experiment)
    message = await following(changes)
    assert [change.rollout.rollout_id for change in message.changes] == ["r1"]
    await enqueue(other, "r2", experiment=experiment)
    message = await following(changes)
    assert [change.rollout.rollout_id for change in message.changes] == ["r2"]
    # Where one server stopped, the other one goes on.
    await changes.aclose()
    await delete(one, "r1", experiment=experiment)
    again = watching(other, message.cursor, experiment=experiment)
    assert [change.deleted_rollout_id for change in (await following(again)).changes] == ["r1"]
    await again.aclose()


async def test_new_resources_are_heard_of_at_the_other_server(
    one: RemoteApi, other: RemoteApi, experiment: str
) -> None:
    first = await publish(one, "rs-1", experiment=experiment)
    request = v1.WatchLatestResourcesRequest(known={"resources_id": "rs-1", "version": first.version})
    stream = one.watch_latest_resources(context(experiment), request)
    coming = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.2)
    await publish(other, "rs-2", experiment=experiment)
    assert (await asyncio.wait_for(coming, 9)).resources.resources_id == "rs-2"
    await stream.aclose()


async def test_experiments_are_apart(one: RemoteApi, other: RemoteApi, experiment: str) -> None:
    second = f"{experiment}-2"
    await enqueue(one, "r1", experiment=experiment)
    await enqueue(other, "r1", "r2", experiment=second)
    assert claimed_ids(await dequeue(other, 10, experiment=experiment)) == ["r1"]
    assert claimed_ids(await dequeue(one, 10, experiment=second)) == ["r1", "r2"]
    await other.delete_experiment(HERE, v1.DeleteExperimentRequest(name=experiment))
    with refused(NotFound, "EXPERIMENT_NOT_FOUND"):
        await get(one, "r1", experiment)
    assert (await get(one, "r1", second)).rollout_id == "r1"


async def test_a_call_held_at_one_server_ends_when_the_other_deletes_the_experiment(
    one: RemoteApi, other: RemoteApi, experiment: str
) -> None:
    await enqueue(one, "r1", experiment=experiment)
    await dequeue(one, experiment=experiment)
    held = asyncio.ensure_future(dequeue(one, wait=20, experiment=experiment))
    await asyncio.sleep(0.2)
    await other.delete_experiment(HERE, v1.DeleteExperimentRequest(name=experiment))
    with refused(NotFound, "EXPERIMENT_NOT_FOUND"):
        await asyncio.wait_for(held, 9)


async def test_clients_go_on_at_the_other_server_when_theirs_is_killed(pair: Pair, connect_to: Connect) -> None:
    """Goes wrong when a client with two addresses fails although one of its servers lives."""
    client = LightningStoreClient(pair.addresses)
    made = [(await client.enqueue_rollout(input=number)).rollout_id for number in range(3)]
    waiting = asyncio.ensure_future(client.wait_for_rollouts(rollout_ids=made, timeout=30))
    held = connect_to(pair.addresses)
    await queue(held)
    victim = next(
        server for server in pair.servers if server.address == client.otlp_traces_endpoint()[len("http://") :]
    )
    (survivor,) = [server for server in pair.servers if server is not victim]
    victim.kill()
    for _ in range(3):
        attempt = await claim(held, claim_id=secrets.token_hex(8))
        await report(held, attempt, AT_SUCCEEDED)
    assert sorted(rollout.rollout_id for rollout in await asyncio.wait_for(waiting, 20)) == sorted(made)
    # A call that must not be sent twice finds the living one too.
    await client.enqueue_rollout(input="x")
    assert claimed_ids(await dequeue(held)) != []
    assert len(await ids(connect_to(survivor.address))) == 4
    await client.close()


async def test_a_client_needs_but_one_living_server(pair: Pair, connect_to: Connect) -> None:
    pair.servers[1].kill()
    for _ in range(4):  # whichever they try first
        api = connect_to(pair.addresses)
        assert await queue(api) == []
        assert (await api.get_server_info(HERE, v1.GetServerInfoRequest())).storage == "postgres"


async def test_the_survivor_takes_the_watch_over(pair: Pair, connect_to: Connect) -> None:
    api = connect_to(pair.servers[1].address)
    await enqueue(api, "r1")
    assert claimed_ids(await dequeue(api, lease=1)) == ["r1"]
    pair.servers[0].kill()
    assert claimed_ids(await asyncio.wait_for(dequeue(api, wait=20), 10)) == ["r1"], "the lost lease was noticed"


async def test_the_watch_is_kept_for_all_servers(pair: Pair, connect_to: Connect) -> None:
    """Goes wrong when the server that keeps the watch knows the deadlines of its own clients only."""
    api = connect_to(pair.servers[1].address)
    await enqueue(api, "r1")
    assert claimed_ids(await dequeue(api, lease=1)) == ["r1"]
    assert claimed_ids(await asyncio.wait_for(dequeue(api, wait=20), 10)) == ["r1"]


@pytest.mark.parametrize(
    ("addresses", "targets"),
    [
        ("a:1", ["a:1"]),
        ("a:1,b:2", ["a:1", "b:2"]),
        ("grpc://a:1, http://[::1]:2", ["a:1", "[::1]:2"]),
        ("a:1,a:1", ["a:1"]),
    ],
)
def test_addresses_are_parted_by_commas(addresses: str, targets: list[str]) -> None:
    assert parse_addresses(addresses) == targets


@pytest.mark.parametrize("addresses", ["a:1,", "a:1,b", ",a:1", ""])
def test_each_address_must_be_one(addresses: str) -> None:
    with pytest.raises(ValueError, match="Cannot connect"):
        parse_addresses(addresses)
