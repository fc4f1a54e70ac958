"""A client of a store that writes down what it asks and what it is answered.

Run as `fault_client.py ROLE NAME ADDRESS JOURNAL SEED BATCHES`. An `algorithm` enqueues that many batches of rollouts,
prints `done` when all have ended and leaves. A `runner` works off the queue and a `watcher` follows the changes, both
until a line comes on standard input; the watcher then hears everything that is left to hear.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from contextlib import aclosing, suppress
from pathlib import Path

from calls import (
    AT_FAILED,
    AT_SUCCEEDED,
    AT_TIMEOUT,
    AT_UNRESPONSIVE,
    add_spans,
    beat,
    config,
    dequeue,
    enqueue,
    report,
    span,
    waiting_for,
    watching,
)
from history import Journal
from history_checker import status_name

from agentlightning.store.errors import StoreError
from agentlightning.store.remote.api import connect
from agentlightning.store.remote.retries import RetryPolicy
from lightning_store import v1

LEASE = 1.5
SPANS_EACH = 3
_CONFIG = config(max_attempts=20, retry_on=[AT_FAILED, AT_TIMEOUT, AT_UNRESPONSIVE])


class FaultClient:
    """One client, of any role."""

    def __init__(self, role: str, name: str, address: str, journal: Path, seed: int, batches: int) -> None:
        self._role = role
        self._name = name
        self._batches = batches
        self._chance = random.Random(f"{seed}/{name}")
        self._journal = Journal(journal, name)
        self._api = connect(address, request_timeout=3.0, retries=RetryPolicy(connect_seconds=30, longest_delay=0.3))
        self._is_over = asyncio.Event()
        self._held: dict[str, v1.Attempt] = {}
        self._cursor = ""

    async def work(self) -> None:
        """Do everything that the role has to do."""
        if self._role == "algorithm":
            await self._enqueue()
            print("done", flush=True)
        else:
            roles = [self._watch()] if self._role == "watcher" else [self._run("a"), self._run("b"), self._beat()]
            tasks = [asyncio.ensure_future(role) for role in roles]
            await asyncio.to_thread(sys.stdin.readline)
            self._is_over.set()
            await asyncio.gather(*tasks)
        await self._api.close()

    async def _enqueue(self) -> None:
        waiting = []
        for batch in range(self._batches):
            names = [f"{self._name}-{batch:03}-{number}" for number in range(self._chance.randint(1, 4))]
            with self._journal.call("enqueue", names=names):
                await enqueue(self._api, *names, config=_CONFIG)
            waiting.append(asyncio.ensure_future(self._see_the_end_of(names)))
            await asyncio.sleep(self._chance.uniform(0, 0.1))
        await asyncio.gather(*waiting)

    async def _see_the_end_of(self, names: list[str]) -> None:
        left = set(names)
        while left:
            with suppress(StoreError):
                async for event in waiting_for(self._api, *left):
                    if event.HasField("finished"):
                        ended = event.finished
                        with self._journal.call("wait") as answer:
                            answer.noted = {ended.rollout_id: status_name(ended.status)}
                        left.discard(ended.rollout_id)
                    assert not event.not_found_rollout_id, f"{event.not_found_rollout_id} is lost"

    async def _run(self, slot: str) -> None:
        number = 0
        while not self._is_over.is_set():
            number += 1
            claims: list[v1.Attempt] = []
            with suppress(StoreError), self._journal.call("claim", claim=f"{self._name}-{slot}-{number}") as answer:
                response = await dequeue(
                    self._api, 2, wait=0.3, lease=LEASE, claim_id=f"{self._name}-{slot}-{number}", worker_id=self._name
                )
                claims = [claim.attempt for claim in response.claims]
                answer.noted = [(attempt.rollout_id, attempt.attempt_id) for attempt in claims]
            self._held |= {attempt.attempt_id: attempt for attempt in claims}
            for attempt in claims:
                await self._work_on(attempt)
                del self._held[attempt.attempt_id]

    async def _work_on(self, attempt: v1.Attempt) -> None:
        name = attempt.rollout_id
        with suppress(StoreError):
            for _ in range(SPANS_EACH):
                made = span(attempt, trace_id=self._chance.randbytes(16), span_id=self._chance.randbytes(8))
                with self._journal.call("spans", name=name, spans=[made.span_id.hex()]) as taken:
                    taken.noted = list((await add_spans(self._api, made)).sequence_ids)
                await asyncio.sleep(self._chance.uniform(0, 0.02))
            outcome = AT_SUCCEEDED if self._chance.random() < 0.9 else AT_FAILED
            with self._journal.call("report", name=name, attempt=attempt.attempt_id) as answer:
                reported = await report(self._api, attempt, outcome)
                answer.noted = v1.AttemptStatus.Name(reported.status).removeprefix("ATTEMPT_STATUS_")

    async def _beat(self) -> None:
        while not self._is_over.is_set():
            with suppress(StoreError):
                await beat(self._api, self._name, *self._held.values())
            await asyncio.sleep(LEASE / 4)

    async def _watch(self) -> None:
        following = asyncio.ensure_future(self._follow(to_the_end=True))
        await self._is_over.wait()
        following.cancel()
        await asyncio.wait({following})
        await self._follow(to_the_end=False)

    async def _follow(self, *, to_the_end: bool) -> None:
        """Hear of changes, for ever or until there is nothing left to hear."""
        while True:
            with suppress(StoreError):
                async with aclosing(watching(self._api, self._cursor)) as messages:
                    async for message in messages:
                        with self._journal.call("watch") as answer:
                            answer.noted = [_told(change.rollout) for change in message.changes]
                        self._cursor = message.cursor
                        if message.caught_up and not to_the_end:
                            return
            await asyncio.sleep(0.05)


def _told(rollout: v1.Rollout) -> tuple[str, str, str]:
    digest = hashlib.blake2b(rollout.SerializeToString(deterministic=True), digest_size=8)
    return rollout.rollout_id, status_name(rollout.status), digest.hexdigest()


if __name__ == "__main__":
    asyncio.run(
        FaultClient(*sys.argv[1:4], Path(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6])).work()  # type: ignore[call-arg,misc]
    )
