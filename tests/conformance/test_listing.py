"""Lists are what sorting and filtering all rollouts by hand would give, however they are read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import product
from typing import Any

import pytest
import pytest_asyncio
from calls import (
    AT_SUCCEEDED,
    CANCELLED,
    FAILED,
    QUEUING,
    RUNNING,
    SUCCEEDED,
    claim,
    enqueue,
    get,
    list_rollouts,
    publish,
    report,
    update,
)
from stores import OpenStore

from agentlightning.store.api import StoreApi
from lightning_store import v1

TRAIN, VAL, TEST = v1.ROLLOUT_MODE_TRAIN, v1.ROLLOUT_MODE_VAL, v1.ROLLOUT_MODE_TEST
UNSET = 1 << 63
"""Unset times stand behind all others."""


def word(enum: Any, value: int) -> str:
    """The last word of an enum value's name, as lists are sorted by it; none for an unspecified one."""
    return enum.Name(value).split("_", 2)[2].lower() if value else ""


KEYS: dict[str, Callable[[v1.Rollout], Any]] = {
    "created": lambda rollout: 0,
    "rollout_id": lambda rollout: rollout.rollout_id,
    "status": lambda rollout: word(v1.RolloutStatus, rollout.status),
    "mode": lambda rollout: word(v1.RolloutMode, rollout.mode),
    "start_time": lambda rollout: rollout.start_time.ToNanoseconds(),
    "end_time": lambda rollout: rollout.end_time.ToNanoseconds() if rollout.HasField("end_time") else UNSET,
    "resources_id": lambda rollout: rollout.resources_id,
}
STATUSES = [v1.RolloutStatusSet(values=values) for values in ([], [FAILED], [QUEUING, SUCCEEDED, RUNNING, CANCELLED])]
MODES = [v1.RolloutModeSet(values=values) for values in ([VAL], [v1.ROLLOUT_MODE_UNSPECIFIED, TEST])]
IDS = v1.StringSet(values=["r3", "r14", "r15", "r9", "r26", "nobody"])
FILTERS: list[dict[str, Any]] = [
    {},
    *({"status_in": statuses} for statuses in STATUSES),
    *({"mode_in": modes} for modes in MODES),
    *({"status_in": statuses, "mode_in": modes} for statuses, modes in product(STATUSES[1:], MODES)),
    {"status_in": STATUSES[2], "mode_in": MODES[0], "logic": v1.FILTER_LOGIC_OR},
    {"rollout_id_in": IDS},
    {"rollout_id_in": IDS, "status_in": STATUSES[2]},
    {"rollout_id_in": IDS, "mode_in": MODES[0], "logic": v1.FILTER_LOGIC_OR},
    {"rollout_id_contains": "2", "status_in": STATUSES[2]},
]


def matches(rollout: v1.Rollout, wanted: v1.RolloutFilter) -> bool:
    """Tell whether a filter lets a rollout through."""
    found = []
    if wanted.HasField("status_in"):
        found.append(rollout.status in wanted.status_in.values)
    if wanted.HasField("mode_in"):
        found.append(rollout.mode in wanted.mode_in.values)
    if wanted.HasField("rollout_id_in"):
        found.append(rollout.rollout_id in wanted.rollout_id_in.values)
    if wanted.HasField("rollout_id_contains"):
        found.append(wanted.rollout_id_contains in rollout.rollout_id)
    return not found or (any(found) if wanted.logic == v1.FILTER_LOGIC_OR else all(found))


@pytest_asyncio.fixture
async def rollouts(store: OpenStore) -> list[v1.Rollout]:
    """Rollouts of all kinds, in the order of their creation."""
    api = store.api
    await enqueue(api, "elsewhere", experiment="other")
    for number in range(30):
        if number % 8 == 1:
            await publish(api, f"set{9 - number // 8}")
        mode = (v1.ROLLOUT_MODE_UNSPECIFIED, TRAIN, VAL, TEST, TRAIN)[number % 5]
        await enqueue(api, f"r{number}", mode=mode)
        store.pass_time(number % 2)
    for status in (AT_SUCCEEDED, v1.ATTEMPT_STATUS_FAILED, v1.ATTEMPT_STATUS_RUNNING, None) * 4:
        attempt = await claim(api)
        if status is not None:
            await report(api, attempt, status)
        store.pass_time(1)
    for number in (20, 22, 25):
        await update(api, f"r{number}", status=CANCELLED)
    return [await get(api, f"r{number}") for number in range(30)]


@pytest.mark.parametrize("order", KEYS)
async def test_every_filter_in_every_order_page_by_page(rollouts: list[v1.Rollout], api: StoreApi, order: str) -> None:
    for conditions, (descending, skip) in product(FILTERS, ((False, 0), (True, 2))):
        wanted = [rollout for rollout in rollouts if matches(rollout, v1.RolloutFilter(**conditions))]
        wanted.sort(key=lambda rollout: (KEYS[order](rollout), rollouts.index(rollout)), reverse=descending)
        page = v1.Page(order_by=order, descending=descending, page_size=4, skip=skip)
        found = [rollout_id async for rollout_id in listed(api, page, conditions)]
        assert found == [rollout.rollout_id for rollout in wanted[skip:]], (conditions, descending)


async def listed(api: StoreApi, page: v1.Page, conditions: dict[str, Any]) -> AsyncIterator[str]:
    """The ids of a list, read to its end."""
    while True:
        response = await list_rollouts(api, page, **conditions)
        for rollout in response.rollouts:
            yield rollout.rollout_id
        page.page_token = response.page_info.next_page_token
        if not page.page_token:
            return
