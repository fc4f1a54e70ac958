from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from calls import (
    AT_SUCCEEDED,
    CANCELLED,
    HERE,
    PREPARING,
    QUEUING,
    RUNNING,
    SUCCEEDED,
    add_spans,
    claim,
    delete,
    enqueue,
    finish,
    following,
    payload,
    refused,
    report,
    span,
    start,
    start_attempt,
    update,
    watching,
)
from stores import DAY, OpenStore, Variant

from agentlightning.store.api import StoreApi
from agentlightning.store.errors import FailedPrecondition, InvalidArgument, NotFound, OutOfRange
from lightning_store import v1


def word(change: v1.RolloutChange) -> str:
    """A change in a word."""
    if change.HasField("deleted_rollout_id"):
        return f"{change.deleted_rollout_id} deleted"
    status = v1.RolloutStatus.Name(change.rollout.status).removeprefix("ROLLOUT_STATUS_").lower()
    return f"{change.rollout.rollout_id} {status}"


async def up_to_now(api: StoreApi, cursor: str = "", **fields: object) -> tuple[list[str], str]:
    """The changes after a cursor up to now, and the cursor of now."""
    async with aclosing(watching(api, cursor, **fields)) as stream:
        return await catch_up(stream)


async def catch_up(stream: AsyncGenerator[v1.WatchRolloutsResponse, None]) -> tuple[list[str], str]:
    words: list[str] = []
    while True:
        message = await following(stream)
        words += [word(change) for change in message.changes]
        if message.caught_up:
            return words, message.cursor


async def test_a_watch_starts_with_the_current_state(api: StoreApi) -> None:
    await enqueue(api, "r1", "r2", "r3")
    await finish(api, "r1")
    await claim(api)
    words, _ = await up_to_now(api)
    assert words == ["r3 queuing", "r1 succeeded", "r2 preparing"], "in the order of their last changes"


async def test_an_empty_store_gives_a_checkpoint(api: StoreApi) -> None:
    async with aclosing(watching(api)) as stream:
        message = await following(stream)
    assert not message.changes
    assert message.caught_up
    assert message.cursor


async def test_changes_come_as_they_happen(store: OpenStore, api: StoreApi) -> None:
    async with aclosing(watching(api)) as stream:
        await following(stream)
        await store.until_waiting()
        attempt = v1.Attempt(rollout_id="r1", attempt_id="at-1")
        for happening, expected in (
            (lambda: enqueue(api, "r1"), "r1 queuing"),
            (lambda: start_attempt(api, "r1", "at-1"), "r1 preparing"),
            (lambda: add_spans(api, span(attempt)), "r1 running"),
            (lambda: update(api, "r1", status=CANCELLED), "r1 cancelled"),
            (lambda: delete(api, "r1"), "r1 deleted"),
        ):
            arriving = asyncio.ensure_future(anext(stream))
            await happening()
            (change,) = (await asyncio.wait_for(arriving, 25)).changes
            assert word(change) == expected


async def test_a_change_carries_the_latest_state(api: StoreApi) -> None:
    _, cursor = await up_to_now(api)
    attempt = await start(api, "r1")
    await report(api, attempt, AT_SUCCEEDED)
    rollout = await update(api, "r1", input=payload("new"))
    async with aclosing(watching(api, cursor)) as stream:
        (change,) = (await following(stream)).changes
    assert change.rollout == rollout
    assert change.rollout.latest_attempt.status == AT_SUCCEEDED


async def test_a_watch_goes_on_where_another_ended(api: StoreApi) -> None:
    """Goes wrong when changes between two watches are lost, or told twice."""
    await enqueue(api, "r1", "r2")
    first, cursor = await up_to_now(api)
    assert first == ["r1 queuing", "r2 queuing"]
    await claim(api)
    await enqueue(api, "r3")
    await delete(api, "r2")
    second, cursor = await up_to_now(api, cursor)
    assert second == ["r1 preparing", "r3 queuing", "r2 deleted"]
    assert (await up_to_now(api, cursor)) == ([], cursor)


async def test_a_deletion_after_a_failed_call_is_told(api: StoreApi) -> None:
    """Goes wrong when the number of the last change is looked up once its rollout is gone: the deletion reuses it."""
    await enqueue(api, "r1", "r2")
    _, cursor = await up_to_now(api)
    with refused(NotFound, "ROLLOUT_NOT_FOUND"):
        await update(api, "nobody")
    await delete(api, "r2")
    assert (await up_to_now(api, cursor))[0] == ["r2 deleted"]


async def test_no_finish_is_lost_by_a_watcher_that_comes_and_goes(api: StoreApi) -> None:
    names = [f"r{number}" for number in range(40)]

    async def run() -> None:
        for name in names:
            await enqueue(api, name)
            await finish(api, name)

    running = asyncio.create_task(run())
    finished: list[str] = []
    cursor = ""
    while not (running.done() and len(finished) >= len(names)):
        words, cursor = await up_to_now(api, cursor)
        finished += [entry for entry in words if entry.endswith("succeeded")]
    await running
    assert finished == [f"{name} succeeded" for name in names], "each once, in order"


async def test_more_changes_than_a_message_takes_come_in_several(api: StoreApi) -> None:
    names = [f"r{number}" for number in range(450)]
    await enqueue(api, *names)
    await delete(api, *names[100:350])
    cursors = []
    words: list[str] = []
    async with aclosing(watching(api)) as stream:
        while True:
            message = await following(stream)
            words += [word(change) for change in message.changes]
            cursors.append((message.cursor, len(words)))
            if message.caught_up:
                break
    kept = [f"{name} queuing" for name in names[:100] + names[350:]]
    assert words == kept + [f"{name} deleted" for name in names[100:350]]
    assert len(cursors) > 1
    for cursor, count in cursors:
        assert (await up_to_now(api, cursor))[0] == words[count:]


async def test_a_message_is_bounded_by_bytes(api: StoreApi) -> None:
    for number in range(5):
        await enqueue(api, f"r{number}", input=payload("x" * 1_000_000))
    async with aclosing(watching(api)) as stream:
        sizes = []
        count = 0
        while count < 5:
            message = await following(stream)
            sizes.append(message.ByteSize())
            count += len(message.changes)
    assert len(sizes) > 1
    assert max(sizes) < 4 << 20


async def test_only_the_asked_for_statuses_are_told_and_all_deletions(api: StoreApi) -> None:
    wanted = v1.RolloutStatusSet(values=[SUCCEEDED])
    await enqueue(api, "r1", "r2", "r3")
    await finish(api, "r1")
    await delete(api, "r2")
    assert (await up_to_now(api, status_in=wanted))[0] == ["r1 succeeded", "r2 deleted"]
    assert (await up_to_now(api, status_in=v1.RolloutStatusSet()))[0] == ["r2 deleted"]


async def test_states_in_between_may_be_skipped_and_the_cursor_passes_them(api: StoreApi) -> None:
    _, cursor = await up_to_now(api)
    await enqueue(api, "r1")
    for status in (RUNNING, QUEUING, PREPARING):
        await update(api, "r1", status=status)
    words, after = await up_to_now(api, cursor, status_in=v1.RolloutStatusSet(values=[QUEUING]))
    assert words == []
    assert (await up_to_now(api, after))[0] == []


class TestCursors:
    async def test_what_no_store_gave_is_refused(self, api: StoreApi) -> None:
        encoded = [
            b"5",
            b'["a", 1]',
            b'["a", 1, 1e999]',
            b'["a", "b", {}]',
            b'["a", 1, -5]',
            b"[" * 100_000,
            b"\xff\xfe",
        ]
        for cursor in ("nonsense", "é", *(base64.urlsafe_b64encode(data).decode() for data in encoded)):
            with refused(InvalidArgument, "CURSOR_INVALID"):
                await up_to_now(api, cursor)

    async def test_a_cursor_of_another_experiment_is_foreign(self, api: StoreApi) -> None:
        """Goes wrong when a cursor is a bare number: in another experiment it skips changes silently."""
        await enqueue(api, "r1", "r2", "r3")
        await enqueue(api, "r1", experiment="other")
        _, cursor = await up_to_now(api)
        with refused(FailedPrecondition, "CURSOR_FOREIGN"):
            await up_to_now(api, cursor, experiment="other")

    async def test_a_cursor_of_another_store_is_foreign(self, variant: Variant) -> None:
        async with variant.open() as one:
            await enqueue(one.api, "r1")
            _, cursor = await up_to_now(one.api)
        elsewhere = variant.folder / "elsewhere"
        elsewhere.mkdir()
        async with Variant(variant.kind, variant.transport, elsewhere).open() as other:
            with refused(FailedPrecondition, "CURSOR_FOREIGN"):
                await up_to_now(other.api, cursor)

    async def test_a_cursor_from_ahead_of_the_store_is_foreign(self, api: StoreApi) -> None:
        """Goes wrong when an older copy of a database is put back: changes up to the old number are skipped."""
        await enqueue(api, "r1")
        _, cursor = await up_to_now(api)
        store_id, experiment, number = json.loads(base64.urlsafe_b64decode(cursor))
        ahead = base64.urlsafe_b64encode(json.dumps([store_id, experiment, number + 10]).encode()).decode()
        with refused(FailedPrecondition, "CURSOR_FOREIGN"):
            await up_to_now(api, ahead)

    async def test_a_cursor_of_a_deleted_experiment_is_foreign_to_the_new_one(self, api: StoreApi) -> None:
        await enqueue(api, "r1", experiment="e")
        _, cursor = await up_to_now(api, experiment="e")
        await api.delete_experiment(HERE, v1.DeleteExperimentRequest(name="e"))
        await enqueue(api, "r1", experiment="e")
        with refused(FailedPrecondition, "CURSOR_FOREIGN"):
            await up_to_now(api, cursor, experiment="e")

    async def test_a_cursor_from_before_forgotten_deletions_is_expired(self, store: OpenStore, api: StoreApi) -> None:
        """Goes wrong when deletions are forgotten silently: the watcher keeps what no longer exists."""
        await enqueue(api, "r1", "r2")
        _, before = await up_to_now(api)
        await delete(api, "r1")
        _, after = await up_to_now(api)
        store.pass_time(DAY - 1)
        assert (await up_to_now(api, before))[0] == ["r1 deleted"]
        store.pass_time(2)
        with refused(OutOfRange, "CURSOR_EXPIRED"):
            await up_to_now(api, before)
        assert (await up_to_now(api, after))[0] == []
        assert (await up_to_now(api))[0] == ["r2 queuing"]

    async def test_an_unknown_experiment_is_not_found(self, api: StoreApi) -> None:
        with refused(NotFound, "EXPERIMENT_NOT_FOUND"):
            await up_to_now(api, experiment="typo")


async def test_a_watch_ends_when_its_experiment_is_deleted(store: OpenStore, api: StoreApi) -> None:
    """Goes wrong when a watch goes on in a new experiment of the name: its changes hide below the old number."""
    await enqueue(api, "r1", "r2", experiment="gone")
    async with aclosing(watching(api, experiment="gone")) as stream:
        await following(stream)
        await store.until_waiting()
        await api.delete_experiment(HERE, v1.DeleteExperimentRequest(name="gone"))
        await enqueue(api, "r1", experiment="gone")
        with refused(NotFound, "EXPERIMENT_NOT_FOUND"):
            await following(stream)


async def test_a_watcher_that_leaves_is_forgotten(store: OpenStore, api: StoreApi) -> None:
    async with aclosing(watching(api)) as stream:
        await following(stream)
        await store.until_waiting()
    await store.until_waiting(0)
    await enqueue(api, "r1")
