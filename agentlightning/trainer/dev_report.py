"""What `Trainer.dev` says at its end: what became of each rollout, and why."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

from agentlightning.emitter.reward import find_final_reward
from agentlightning.trainer.progress import count_rollouts, find_rollouts
from agentlightning.types import Attempt, Rollout, Span, Triplet

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)

MOST_ROLLOUTS: Final = 100
"""How many rollouts the report describes one by one."""
_MOST_CHARACTERS: Final = 60


@asynccontextmanager
async def reporting(store: LightningStore, adapter: Any | None) -> AsyncIterator[None]:
    """Prints, after the block, what became of the rollouts that came into the store during it.

    Args:
        store: The store.
        adapter: Turns spans into what an algorithm would learn from; None leaves that out.
    """
    before = await count_rollouts(store)
    try:
        yield
    finally:
        try:
            print(await _report(store, adapter, before), flush=True)
        except Exception as error:  # noqa: BLE001 - how the run ended matters more
            logger.warning("the rollouts of this run cannot be reported on: %s", error)


async def _report(store: LightningStore, adapter: Any | None, skip: int) -> str:
    rollouts = await find_rollouts(store, offset=skip, limit=MOST_ROLLOUTS)
    if not rollouts:
        return "dev: no rollout was enqueued"
    count = await count_rollouts(store) - skip
    statuses = Counter(rollout.status for rollout in rollouts)
    lines = [
        f"dev: {_counted(count, 'rollout')}"
        + (f", the first {len(rollouts)} of which: " if count > len(rollouts) else ": ")
        + ", ".join(f"{number} {status}" for status, number in statuses.most_common())
    ]
    remarks: Counter[str] = Counter()
    for rollout in rollouts:
        lines.extend(await _describe(store, adapter, rollout, remarks))
    lines.extend(f"{_counted(number, 'rollout')}: {remark}" for remark, number in remarks.most_common())
    return "\n".join(lines)


async def _describe(store: LightningStore, adapter: Any | None, rollout: Rollout, remarks: Counter[str]) -> list[str]:
    attempts = await store.query_attempts(rollout.rollout_id)
    try:
        spans = list(await store.query_spans(rollout.rollout_id, "latest"))
    except RuntimeError as error:  # the store has dropped them
        remarks[str(error)] += 1
        spans = []
    reward = find_final_reward(spans)
    facts = [
        rollout.rollout_id,
        rollout.status,
        _counted(len(attempts), "attempt"),
        _counted(len(spans), "span"),
        "no reward" if reward is None else f"reward {reward:g}",
    ]
    if rollout.status == "succeeded":
        # Imported here because it takes a while, and runner processes have no use for it.
        from agentlightning.adapter.diagnosis import diagnose

        remarks.update(diagnose(spans))
        if adapter is not None:
            facts.append(_adapted(adapter, spans, remarks))
    facts.append(f"mode {rollout.mode}, input {_short(rollout.input)}")
    return ["  " + "  ".join(facts), *(f"    {_failure(each)}" for each in attempts if each.failure is not None)]


def _adapted(adapter: Any, spans: Sequence[Span], remarks: Counter[str]) -> str:
    """Returns what an algorithm would get, in a word or two."""
    try:
        with _quiet_adapters():
            items = adapter.adapt(spans) if spans else []
    except Exception as error:  # noqa: BLE001 - this report is for finding out
        remarks[f"{type(adapter).__name__} raised {type(error).__name__}: {error}"] += 1
        return "nothing adapted"
    if not isinstance(items, (list, tuple)):
        return f"adapted to a {type(items).__name__}"
    if items and not isinstance(items[0], Triplet):
        return f"adapted to {_counted(len(items), type(items[0]).__name__)}"
    return _counted(len(items), "triplet")


@contextmanager
def _quiet_adapters() -> Iterator[None]:
    # They warn, trace by trace, about what the report says once.
    log = logging.getLogger("agentlightning.adapter")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _failure(attempt: Attempt) -> str:
    assert attempt.failure is not None
    return f"attempt {attempt.sequence_id} {attempt.status}: {attempt.failure.kind}: {attempt.failure.message}"


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."
