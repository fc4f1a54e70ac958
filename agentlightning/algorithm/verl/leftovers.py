"""Rollouts that verl does not wait for any more."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)

_UNFINISHED: Final = ("queuing", "preparing", "running", "requeuing")


async def cancel_rest(store: LightningStore, run: str) -> None:
    """Cancels the rollouts of a run that have not finished. What hinders that is logged.

    Args:
        store: Where the rollouts are.
        run: The name of the run.
    """
    try:
        found = await store.query_rollouts(status_in=_UNFINISHED, rollout_id_contains=f"{run}-")
    except Exception:
        logger.exception("%s: rollouts that verl does not wait for may be left in the store", run)
        return
    # The name may be part of those of other runs.
    left = [rollout.rollout_id for rollout in found if (rollout.metadata or {}).get("run") == run]
    await asyncio.gather(*(cancel(store, rollout_id) for rollout_id in left))
    if left:
        logger.info("%s: %d rollouts that verl does not wait for are cancelled", run, len(left))


async def cancel(store: LightningStore, rollout_id: str) -> None:
    """Cancels a rollout. What hinders that is logged: it may have finished, or never have come to the store."""
    try:
        await store.update_rollout(rollout_id, status="cancelled")
    except Exception as error:  # noqa: BLE001 - whoever cancels has something else to report
        logger.warning("rollout %s is not cancelled: %s", rollout_id, error)
