"""How far a run is, for people: one line on a terminal, or a line in the log now and then."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TextIO

from agentlightning.emitter.reward import find_final_reward
from agentlightning.store.errors import NotFound
from agentlightning.types import PaginatedResult, Rollout, RolloutStatus

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)

TERMINAL_SECONDS: Final = 1.0
"""How often the line on a terminal is written anew."""
LOG_SECONDS: Final = 10.0
"""How often there is a line in the log."""
LOOK_SECONDS = 2.0
"""How long a run waits, at its beginning and its end, for a look at a store that is slow to answer."""
# What one look costs at most, whatever the store holds.
_MOST_REWARDS = 16
_MOST_SPANS = 16
# Looks take one part in so many of the time, however long the store takes to answer.
_LOOK_SHARE: Final = 20


@asynccontextmanager
async def showing_progress(
    store: LightningStore, shown: bool | None = None, *, stream: TextIO | None = None, every: float | None = None
) -> AsyncIterator[None]:
    """Shows how the rollouts of a store get on during the block, and sums up after it. It never raises.

    Args:
        store: The store.
        shown: Whether to show anything; None means on a terminal only.
        stream: Where to; stderr unless given. A terminal gets one line that is written anew, anything else means
            lines of the level INFO in the log.
        every: Seconds between two looks at the store.
    """
    stream = stream or sys.stderr
    on_terminal = _is_terminal(stream)
    if not (on_terminal if shown is None else shown):
        yield
        return
    display = _Line(stream) if on_terminal else _Log()
    progress = _Progress(store, display, every or (TERMINAL_SECONDS if on_terminal else LOG_SECONDS))
    showing = asyncio.create_task(progress.show())
    # What is in the store before the run begins is not part of it.
    first_look = asyncio.create_task(progress.looked.wait())
    try:
        await asyncio.wait({first_look}, timeout=LOOK_SECONDS)
        yield
    finally:
        first_look.cancel()
        showing.cancel()
        await asyncio.wait({showing})
        await progress.sum_up()


async def find_rollouts(store: LightningStore, **query: Any) -> Sequence[Rollout]:
    """Returns what `query_rollouts` does; none of an experiment that has not begun."""
    try:
        return await store.query_rollouts(**query)
    except NotFound:
        return []


async def count_rollouts(store: LightningStore, status_in: Sequence[RolloutStatus] | None = None) -> int:
    """Returns how many rollouts of these statuses a store holds; of any, if None."""
    return _total(await find_rollouts(store, status_in=status_in, limit=0))


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False


class _Log:
    def show(self, text: str) -> None:
        logger.info("%s", text)

    end = show


class _Line:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, text: str) -> None:
        # A line that wraps could not be written over. The cursor goes back to its start, where other output may begin.
        width = shutil.get_terminal_size().columns - 1
        self._write(f"\r{text[:width]}\x1b[K\r")

    def end(self, text: str) -> None:
        self._write(f"\r\x1b[K{text}\n")

    def _write(self, text: str) -> None:
        # It may be closed, or be read no more.
        with suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


class _Progress:
    def __init__(self, store: LightningStore, display: _Log | _Line, every: float) -> None:
        self._store = store
        self._display = display
        self._every = every
        self._began = time.monotonic()
        self.looked = asyncio.Event()
        # Of earlier runs on the same store.
        self._succeeded_before: int | None = None
        self._failed_before = 0
        self._queued = 0
        self._running = 0
        self._succeeded = 0
        self._failed = 0
        self._looked_at: set[str] = set()
        self._n_looked_at = 0
        self._n_rewards = 0
        self._mean = 0.0

    async def show(self) -> None:
        while True:
            began = time.monotonic()
            if await self._look():
                self._display.show(self._line())
            self.looked.set()
            await asyncio.sleep(max(self._every, _LOOK_SHARE * (time.monotonic() - began)))

    async def sum_up(self) -> None:
        looking = asyncio.ensure_future(self._look())
        try:
            await asyncio.wait({looking}, timeout=LOOK_SECONDS)
        finally:
            looking.cancel()
        if self._succeeded_before is not None:
            self._display.end(self._summary())

    async def _look(self) -> bool:
        """Brings the figures up to date; returns whether that worked."""
        try:
            self._queued = await count_rollouts(self._store, ["queuing", "requeuing"])
            self._running = await count_rollouts(self._store, ["preparing", "running"])
            failed = await count_rollouts(self._store, ["failed", "cancelled"])
            newest = await find_rollouts(self._store, status_in=["succeeded"], sort_order="desc", limit=_MOST_REWARDS)
            if self._succeeded_before is None:
                self._succeeded_before, self._failed_before = _total(newest), failed
                self._looked_at = {rollout.rollout_id for rollout in newest}
            self._succeeded = _total(newest) - self._succeeded_before
            self._failed = failed - self._failed_before
            await self._read_rewards(newest)
        except Exception as error:  # noqa: BLE001 - the run is not to suffer from its display
            logger.debug("no figures: %s", error)
            return False
        return True

    async def _read_rewards(self, newest: Sequence[Rollout]) -> None:
        ids = [rollout.rollout_id for rollout in newest]
        for rollout_id in ids:
            if rollout_id not in self._looked_at:
                spans = await self._store.query_spans(rollout_id, "latest", sort_order="desc", limit=_MOST_SPANS)
                reward = find_final_reward(list(reversed(spans)))
                self._n_looked_at += 1
                if reward is not None:
                    self._n_rewards += 1
                    self._mean += (reward - self._mean) / self._n_rewards
        # What is not among the newest any more does not come back.
        self._looked_at = set(ids)

    def _line(self) -> str:
        done = self._succeeded + self._failed
        return (
            f"{self._queued} queued, {self._running} running, {self._succeeded} succeeded, {self._failed} failed, "
            f"{self._reward()}, {done / self._seconds():.1f} rollouts/s"
        )

    def _summary(self) -> str:
        done = self._succeeded + self._failed
        seconds = self._seconds()
        left = self._queued + self._running
        return (
            f"{done} rollout{'' if done == 1 else 's'} in {seconds:.1f} s ({done / seconds:.1f}/s): "
            f"{self._succeeded} succeeded, {self._failed} failed, {self._reward()}"
            + (f"; {left} not finished" if left else "")
        )

    def _reward(self) -> str:
        if self._n_rewards == 0:
            return "no reward"
        sampled = f" (of {self._n_rewards} sampled)" if self._n_looked_at < self._succeeded else ""
        return f"mean reward {self._mean:.3f}{sampled}"

    def _seconds(self) -> float:
        return max(time.monotonic() - self._began, 1e-3)


def _total(rollouts: Sequence[Rollout]) -> int:
    return rollouts.total if isinstance(rollouts, PaginatedResult) else len(rollouts)
