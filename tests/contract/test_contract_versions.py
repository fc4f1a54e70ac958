"""Clients and servers of different releases of the contract work together: old clients at newer servers as before, new
clients at older servers with all that those know; what one side does not know is said clearly, and never done by half.
"""

from __future__ import annotations

import base64
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from calls import refused
from later_contract import ADDITIONS, ContractClient, image_of, python_path, without_rpc
from postgres import SERVER
from store_process import StoreProcess
from test_contract_gates import ROOT, Contract

from agentlightning import PromptTemplate
from agentlightning.codec.errors import CodecError
from agentlightning.store.client import LightningStoreClient
from agentlightning.store.errors import InvalidArgument, StoreError, Unimplemented
from agentlightning.types import CommandedWorker

LATER_SERVER = [sys.executable, str(Path(__file__).with_name("later_server.py"))]


@pytest.fixture(scope="module")
def own_contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    """A copy of today's contract that may be changed."""
    root = tmp_path_factory.mktemp("contract")
    shutil.copytree(ROOT / "proto", root / "proto")
    shutil.copy(ROOT / "buf.yaml", root / "buf.yaml")
    return Contract(root)


@pytest.fixture(scope="module")
def today(own_contract: Contract) -> bytes:
    """Today's contract."""
    return image_of(own_contract)


@pytest.fixture(scope="module")
def later(own_contract: Contract, today: bytes) -> bytes:
    """The contract that a later release may have: the gate lets it pass."""
    for name, place, text in ADDITIONS:
        own_contract.change(name, place, f"{place}\n{text}")
    passed = own_contract.breaking()
    assert passed.returncode == 0, passed.stdout
    return image_of(own_contract)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The database that the servers of both releases share."""
    folder = tmp_path_factory.mktemp("database")
    yield SERVER.url_of(folder)
    SERVER.take_back(folder)


@pytest.fixture(scope="module")
def server(database: str) -> Iterator[StoreProcess]:
    """A server of today."""
    process = StoreProcess(database)
    process.start()
    yield process
    process.kill()


@pytest.fixture(scope="module")
def later_server(database: str, later: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    """A server of the later release."""
    folder = tmp_path_factory.mktemp("later")
    process = StoreProcess(database, command=LATER_SERVER, env=python_path(later, folder))
    process.start()
    yield process
    process.kill()


@pytest_asyncio.fixture
async def client(server: StoreProcess) -> AsyncIterator[LightningStoreClient]:
    """Today's client at today's server."""
    opened = LightningStoreClient(server.address)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def client_of_later(later_server: StoreProcess) -> AsyncIterator[LightningStoreClient]:
    """Today's client at the later server."""
    opened = LightningStoreClient(later_server.address)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def here(server: StoreProcess, later: bytes) -> AsyncIterator[ContractClient]:
    """A client of the later release at today's server."""
    opened = ContractClient(later, server.address)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def there(later_server: StoreProcess, later: bytes) -> AsyncIterator[ContractClient]:
    """A client of the later release at its own server."""
    opened = ContractClient(later, later_server.address)
    yield opened
    await opened.close()


@pytest_asyncio.fixture(params=["server", "later_server"])
async def released(request: pytest.FixtureRequest) -> AsyncIterator[ContractClient]:
    """A client of the last release, at the server of today and at the later one."""
    address = request.getfixturevalue(request.param).address
    opened = ContractClient((ROOT / "proto/baseline.binpb").read_bytes(), address)
    yield opened
    await opened.close()


@pytest.fixture
def name() -> str:
    """An id that no other test has."""
    return secrets.token_hex(6)


def as_base64(length: int) -> str:
    """Random bytes as JSON has them."""
    return base64.b64encode(secrets.token_bytes(length)).decode()


def one_span(attempt: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A request for one span."""
    key = {"rollout_id": attempt["rollout_id"], "attempt_id": attempt["attempt_id"]}
    span = {**key, "trace_id": as_base64(16), "span_id": as_base64(8), "name": "work", **fields}
    return {"resource_spans": [{"scope_spans": [{"spans": [span]}]}]}


def prompt(**fields: Any) -> list[dict[str, Any]]:
    """Resources of one prompt."""
    return [{"name": "main", "resource": {"prompt_template": {"template": "Hi", "engine": "jinja", **fields}}}]


async def test_every_call_of_the_last_release_is_still_answered(released: ContractClient) -> None:
    await released.call("AddResources", resources=prompt())  # which a watch waits for
    unknown = []
    for rpc in released.methods:
        try:
            await released.call(rpc)
        except Unimplemented:
            unknown.append(rpc)
        except StoreError:
            continue
    assert unknown == []


async def test_a_client_of_the_last_release_works_as_before(released: ContractClient, name: str) -> None:
    await released.call("EnqueueRollouts", rollouts=[{"rollout_id": name}])
    ((claim,),) = (await released.call("DequeueRollouts", limit=1, worker_id=name, claim_id=name, lease="30s")).values()
    assert claim["rollout"]["rollout_id"] == name
    attempt = claim["attempt"]
    key = {"rollout_id": name, "attempt_id": attempt["attempt_id"]}
    beaten = await released.call("UpdateWorker", worker_id=name, held_attempts=[key])
    assert beaten["worker"]["status"] == "WORKER_STATUS_BUSY"
    assert (await released.call("AddSpans", **one_span(attempt)))["sequence_ids"] == ["1"]
    await released.call("UpdateAttempt", **key, status="ATTEMPT_STATUS_SUCCEEDED")
    told = [message async for message in released.stream("WaitForRollouts", rollout_ids=[name])]
    finished = [message["finished"] for message in told if "finished" in message]
    assert [(rollout["rollout_id"], rollout["status"]) for rollout in finished] == [(name, "ROLLOUT_STATUS_SUCCEEDED")]
    assert told[-1] == {"done": {}}


async def test_what_a_later_server_adds_does_not_disturb_todays_client(
    client_of_later: LightningStoreClient, there: ContractClient, name: str
) -> None:
    started = await client_of_later.start_rollout(name, worker_id=name)
    key = (started.rollout_id, started.attempt.attempt_id)
    assert (await there.call("UpdateWorker", worker_id=name))["commands"] == [{"rest": "later"}]
    worker = await client_of_later.update_worker(name, held=[key])
    assert isinstance(worker, CommandedWorker)
    assert worker.commands == []
    await client_of_later.update_attempt(*key, status="succeeded")
    assert "progress" in await there.call("WaitForRollouts", rollout_ids=[started.rollout_id])
    (finished,) = await client_of_later.wait_for_rollouts(rollout_ids=[started.rollout_id], timeout=30)
    assert finished.status == "succeeded"
    assert (await there.call("GetRollout", rollout_id=started.rollout_id))["rollout"]["note"] == "later"
    assert await client_of_later.get_rollout_by_id(started.rollout_id) == finished


async def test_a_status_of_a_later_release_is_one_clear_error_and_touches_no_other_rollout(
    client: LightningStoreClient, client_of_later: LightningStoreClient, there: ContractClient, name: str
) -> None:
    for rollout_id in (name, f"{name}-2"):
        await there.call("StartRollout", rollout={"rollout_id": rollout_id})
    await there.call("UpdateRollout", rollout_id=name, status="ROLLOUT_STATUS_PAUSED")
    for reader in (client, client_of_later):
        with pytest.raises(CodecError, match="rollout status has the value 8, which this release does not know"):
            await reader.get_rollout_by_id(name)
        assert (await reader.get_rollout_by_id(f"{name}-2")) is not None


async def test_resources_of_a_later_kind_are_one_clear_error(
    client: LightningStoreClient, there: ContractClient, name: str
) -> None:
    await there.call("AddResources", resources_id=name, resources=[{"name": "x", "resource": {"checkpoint": "c"}}])
    with pytest.raises(CodecError, match="is of a kind that this release does not know"):
        await client.get_resources_by_id(name)
    # Such a set does not stand in the way of the next one.
    await client.add_resources({"main": PromptTemplate(template="Hi", engine="f-string")})
    assert await client.get_latest_resources() is not None


async def test_what_todays_server_could_not_carry_out_is_refused(here: ContractClient, name: str) -> None:
    await here.call("StartRollout", rollout={"rollout_id": name})
    with refused(InvalidArgument, "INVALID_STATUS"):
        await here.call("UpdateRollout", rollout_id=name, status="ROLLOUT_STATUS_PAUSED")
    with refused(InvalidArgument, "INVALID_RESOURCES"):
        await here.call("AddResources", resources=[{"name": "x", "resource": {"checkpoint": "c"}}])
    assert (await here.call("GetRollout", rollout_id=name))["rollout"]["status"] == "ROLLOUT_STATUS_PREPARING"


async def test_a_selection_is_refused_that_todays_server_would_make_too_wide(here: ContractClient, name: str) -> None:
    await here.call("StartRollout", rollout={"rollout_id": name})
    with refused(InvalidArgument, "MALFORMED_REQUEST") as caught:
        await here.call("ListRollouts", filter={"weight": 3})
    assert "older than its client" in caught.value.message
    assert "RolloutFilter" in caught.value.message
    with refused(InvalidArgument, "MALFORMED_REQUEST"):
        await here.call("DeleteRollouts", rollout_id_in={"values": [name]}, weight=3)
    assert (await here.call("GetRollout", rollout_id=name))["rollout"]["rollout_id"] == name


async def test_todays_server_keeps_what_it_does_not_know_in_spans_and_resources(
    here: ContractClient, there: ContractClient, client: LightningStoreClient, name: str
) -> None:
    started = await here.call("StartRollout", rollout={"rollout_id": name})
    await here.call("AddSpans", **one_span(started["attempt"], cost=1.5))
    await here.call("AddResources", resources_id=name, resources=prompt(language="eo"))
    for api in (here, there):
        ((group,), _) = (await api.call("ListSpans", rollout_id=name)).values()
        assert group["scope_spans"][0]["spans"][0]["cost"] == 1.5
        stored = (await api.call("GetResources", resources_id=name))["resources"]
        assert stored["resources"] == prompt(language="eo")
    assert [span.name for span in await client.query_spans(name)] == ["work"]
    update = await client.get_resources_by_id(name)
    assert update is not None
    assert update.resources == {"main": PromptTemplate(template="Hi", engine="jinja")}


async def test_a_create_is_recognised_when_it_is_repeated_at_a_server_of_another_release(
    here: ContractClient, there: ContractClient, name: str
) -> None:
    for number, (first, second) in enumerate([(here, there), (there, here)]):
        rollout = {"rollout_id": f"{name}-{number}", "weight": 3, "config": {"max_attempts": 2}}
        made = await first.call("StartRollout", rollout=rollout, lease="30s")
        again = await second.call("StartRollout", rollout=rollout, lease="30s")
        assert again["attempt"]["attempt_id"] == made["attempt"]["attempt_id"]
        request = {"resources_id": f"{name}-{number}", "resources": prompt(language="eo")}
        made = await first.call("AddResources", **request)
        assert (await second.call("AddResources", **request)) == made


async def test_a_call_that_a_server_does_not_know_is_named(
    here: ContractClient, there: ContractClient, today: bytes, tmp_path: Path
) -> None:
    assert (await there.call("GetQuota"))["storage"] == "postgres"
    with refused(Unimplemented, "UNKNOWN_METHOD") as caught:
        await here.call("GetQuota")
    assert "/lightning_store.v1.StoreService/GetQuota" in caught.value.message
    earlier = StoreProcess(env=python_path(without_rpc(today, "ReserveSpanSequenceIds"), tmp_path))
    earlier.start()
    client = LightningStoreClient(earlier.address)
    started = await client.start_rollout("x")
    with refused(Unimplemented, "UNKNOWN_METHOD") as caught:
        await client.get_next_span_sequence_id(started.rollout_id, started.attempt.attempt_id)
    assert f"The server at {earlier.address} does not know the call ReserveSpanSequenceIds" in caught.value.message
    assert "older than this client" in caught.value.message
    await client.close()
    earlier.kill()
