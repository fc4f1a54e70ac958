"""How a run goes: the algorithm works for as long as there are runners, and then the runners are sent home."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from agentlightning.execution.runner_pool import RunnerPool
from agentlightning.execution.side import Order, within
from agentlightning.types import PaginatedResult, Rollout

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)

CANCEL_SECONDS: Final = 5.0
"""What an algorithm gets to clean up when it is cancelled."""
STALL_SECONDS: Final = 15.0
"""How long rollouts that nobody can take may wait, with nothing else happening in the store, before the run ends."""
_LOOK_SECONDS: Final = 1.0


class DismissOthers(Protocol):
    """Sends runners home that are not of this pool."""

    def __call__(self, timeout: float, *, cancel: bool) -> Awaitable[bool]:
        """Has them abort or finish their work, waits, and returns whether they have left."""


async def run_algorithm(
    algorithm: Coroutine[Any, Any, None],
    pool: RunnerPool,
    store: LightningStore,
    *,
    tell: Callable[[], None],
    others_may_come: bool,
) -> None:
    """Runs the algorithm to its end, with the runners of the pool.

    Args:
        algorithm: The algorithm.
        pool: The runners, started.
        store: Where they meet.
        tell: Tells the algorithm that the runners have left.
        others_may_come: Whether runners from elsewhere may take the place of those that have left.

    Raises:
        RuntimeError: No runner is left, and one of them died or rollouts wait for one.
        Exception: What the algorithm raised.
    """
    working = asyncio.create_task(algorithm)
    left = asyncio.create_task(pool.wait_until_left())
    try:
        await asyncio.wait({working, left}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            left.result()
            tell()
            if failures := pool.failures():
                raise RuntimeError(
                    f"no runner is left to run rollouts: {pool.describe_failures()}. What the runners printed says more"
                ) from failures[0].error
            # An algorithm that looks at the event ends now.
            await asyncio.wait({working}, timeout=_LOOK_SECONDS)
            if not working.done():
                logger.warning(
                    "all runners have left, as they do after max_rollouts; the algorithm goes on without them"
                )
                if not others_may_come:
                    await _until_done_or_stalled(working, store)
        await working
    finally:
        left.cancel()
        working.cancel()
        await asyncio.wait({working}, timeout=CANCEL_SECONDS)


async def _until_done_or_stalled(working: asyncio.Task[None], store: LightningStore) -> None:
    """Returns when the algorithm has ended; raises when it waits for what nobody will do."""
    seen: tuple[int, int] | None = None
    since = time.monotonic()
    while not working.done():
        waiting = _total(await store.query_rollouts(status_in=["queuing", "requeuing"], limit=1))
        now = (waiting, _total(await store.query_rollouts(limit=1)))
        if now != seen or not waiting:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since >= STALL_SECONDS:
            raise RuntimeError(
                f"{waiting} rollouts wait for a runner, and all runners have left, as they do after max_rollouts. "
                "Raise max_rollouts or n_runners"
            )
        await asyncio.wait({working}, timeout=_LOOK_SECONDS)


def _total(page: Sequence[Rollout]) -> int:
    # A store of the user's own may answer with a plain list.
    return page.total if isinstance(page, PaginatedResult) else len(page)


@asynccontextmanager
async def dismissing(
    pool: RunnerPool, *, graceful: float, terminate: float, others: DismissOthers | None = None
) -> AsyncIterator[None]:
    """Has the runners leave after the block: in peace if that ended well, else at once.

    Args:
        pool: The runners.
        graceful: Seconds that they get to finish the rollouts at work.
        terminate: Seconds that they get, after that, to abort them.
        others: Does the same with runners that are not of the pool.
    """

    async def leave(order: Order, seconds: float) -> bool:
        pool.order(order)
        left: list[Awaitable[bool]] = [within(pool.wait_until_left(), seconds)]
        if others is not None:
            left.append(others(seconds, cancel=order == "abort"))
        return all(await asyncio.gather(*left))

    try:
        yield
    except BaseException:
        await leave("abort", terminate)
        raise
    if not await leave("finish", graceful):
        logger.warning("runners are still at work after %.0f s; aborting their rollouts", graceful)
        await leave("abort", terminate)
