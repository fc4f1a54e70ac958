"""A program that works with a store as a training run does, and prints what the store answered.

Run as `busy_client.py NAME ADDRESS BATCHES SEED`: enqueues that many batches of rollouts, runs whatever is in the
queue, waits until all of its own are finished, prints `done`, runs on until it reads a line, and prints a record as
JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from dataclasses import asdict, dataclass, field

from calls import AT_SUCCEEDED, add_spans, dequeue, enqueue, report, span

from agentlightning.store.client import LightningStoreClient
from agentlightning.store.remote.api import connect

SPANS_EACH = 3


@dataclass
class Record:
    """What the store answered."""

    enqueued: list[str] = field(default_factory=list)
    claimed: list[tuple[str, str, str]] = field(default_factory=list)
    """Rollout, attempt and claim."""
    spans: dict[str, list[int]] = field(default_factory=dict)
    """Numbers of the spans of each rollout."""
    reported: list[str] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)
    """Status of each rollout that was waited for."""


class BusyClient:
    """Enqueues, runs and waits."""

    def __init__(self, name: str, address: str, seed: int) -> None:
        self.record = Record()
        self._name = name
        self._random = random.Random(seed)
        self._api = connect(address)
        self._store = LightningStoreClient(address)
        self._is_over = False

    async def work(self, batches: int) -> None:
        """Do everything."""
        runners = [asyncio.ensure_future(self._run(f"{self._name}-{number}")) for number in range(2)]
        await self._enqueue(batches)
        print("done", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        self._is_over = True
        await asyncio.gather(*runners)
        await self._api.close()
        await self._store.close()

    async def _enqueue(self, batches: int) -> None:
        waiting = []
        for batch in range(batches):
            names = [f"{self._name}-{batch:04}-{number}" for number in range(self._random.randint(1, 4))]
            await enqueue(self._api, *names)
            self.record.enqueued += names
            waiting.append(asyncio.ensure_future(self._see_the_end_of(names)))
            await asyncio.sleep(self._random.uniform(0, 0.05))
        await asyncio.gather(*waiting)

    async def _see_the_end_of(self, names: list[str]) -> None:
        for rollout in await self._store.wait_for_rollouts(rollout_ids=names):
            self.record.seen[rollout.rollout_id] = rollout.status

    async def _run(self, worker_id: str) -> None:
        number = 0
        while not self._is_over:
            number += 1
            claim_id = f"{worker_id}-{number}"
            claims = (await dequeue(self._api, 2, wait=0.5, lease=60, claim_id=claim_id, worker_id=worker_id)).claims
            for claim in claims:
                attempt = claim.attempt
                self.record.claimed.append((attempt.rollout_id, attempt.attempt_id, claim_id))
                for at in range(SPANS_EACH):
                    stored = await add_spans(self._api, span(attempt, f"{attempt.rollout_id}/{at}"))
                    self.record.spans.setdefault(attempt.rollout_id, []).extend(stored.sequence_ids)
                await report(self._api, attempt, AT_SUCCEEDED)
                self.record.reported.append(attempt.rollout_id)


if __name__ == "__main__":
    busy = BusyClient(sys.argv[1], sys.argv[2], int(sys.argv[4]))
    asyncio.run(busy.work(int(sys.argv[3])))
    print(json.dumps(asdict(busy.record)), flush=True)
