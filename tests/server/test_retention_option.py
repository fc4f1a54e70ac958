from __future__ import annotations

from pathlib import Path

import pytest
from calls import enqueue, finish, following, ids, watching
from store_process import Connect, StartServer

from agentlightning.store.api import StoreApi
from agentlightning.store_grpc.options import parse


async def test_a_server_deletes_finished_rollouts_that_are_too_many(
    start_server: StartServer, connect_to: Connect, tmp_path: Path
) -> None:
    server = start_server(f"sqlite:///{tmp_path}/store.db", options=["--keep-finished-count", "2"])
    api = connect_to(server.address)
    await enqueue(api, "waits", "r1", "r2", "r3")
    await finish(api, "r1", "r2", "r3")
    await deleted(api, "r1")
    assert await ids(api) == ["waits", "r2", "r3"]


async def test_a_server_deletes_rollouts_that_finished_long_ago_those_from_before_its_start_too(
    start_server: StartServer, connect_to: Connect, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    server = start_server(store)
    api = connect_to(server.address)
    await enqueue(api, "waits", "before")
    await finish(api, "before")
    server.stop()
    server = start_server(store, options=["--keep-finished", "1s"])
    api = connect_to(server.address)
    await deleted(api, "before")
    await enqueue(api, "after")
    await finish(api, "after")
    await deleted(api, "after")
    assert await ids(api) == ["waits"]


async def deleted(api: StoreApi, rollout_id: str) -> None:
    """Return when a rollout has been deleted."""
    stream = watching(api)
    while True:
        response = await following(stream, within=30)
        if any(change.deleted_rollout_id == rollout_id for change in response.changes):
            await stream.aclose()
            return


@pytest.mark.parametrize(
    ("text", "seconds"), [("none", None), ("90s", 90), ("45m", 2700), ("36h", 129_600), ("7d", 604_800), ("1.5h", 5400)]
)
def test_a_time_to_keep_has_a_unit(text: str, seconds: float | None) -> None:
    kept = parse(["--keep-finished", text]).keep_finished
    assert kept == (None if seconds is None else seconds * 1_000_000_000)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        *(("--keep-finished", text) for text in ("7", "0s", "-1d", "d", "soon", "nand", "1e9d", "40000d", "")),
        *(("--keep-finished-count", text) for text in ("0", "-1", "many", "1.5", "")),
    ],
)
def test_what_is_no_limit_is_named(option: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([f"{option}={text}"])
    assert f"{option}: {text!r}" in capsys.readouterr().err


def test_nothing_is_deleted_by_default() -> None:
    options = parse([])
    assert (options.keep_finished, options.keep_finished_count) == (None, None)
