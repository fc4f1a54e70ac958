"""Which rollouts a command is about: by id, or by what they are like."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Final, get_args

from agentlightning.codec.enums import ROLLOUT_STATUS
from agentlightning.store import statuses
from agentlightning.store.api import MOST_IDS
from agentlightning.store.client import LightningStoreClient
from agentlightning.types import Rollout, RolloutMode, RolloutStatus

STATUSES: Final[tuple[RolloutStatus, ...]] = get_args(RolloutStatus)
FINISHED: Final = tuple(status for status in STATUSES if ROLLOUT_STATUS.number(status) in statuses.FINISHED)
UNFINISHED: Final = tuple(status for status in STATUSES if status not in FINISHED)

_GROUPS: Final = {"finished": FINISHED, "unfinished": UNFINISHED, "any": STATUSES}


def add_selection(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds ids and filters.

    Args:
        parser: Where to add them.
        what: What the command does to those that are selected.
    """
    parser.add_argument("ids", nargs="*", metavar="ROLLOUT", help=f"ids of the rollouts to {what}")
    add_filters(parser)


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Adds filters; all that are given must hold."""
    group = parser.add_argument_group("filters")
    group.add_argument(
        "--status",
        action="append",
        metavar="STATUS",
        choices=[*STATUSES, *_GROUPS],
        help=f"{', '.join(STATUSES)}; or {', '.join(_GROUPS)}. May be given several times.",
    )
    group.add_argument(
        "--mode",
        action="append",
        metavar="MODE",
        choices=[*get_args(RolloutMode), "none"],
        help=f"{', '.join(get_args(RolloutMode))}, or none for rollouts without one. May be given several times.",
    )
    group.add_argument("--contains", metavar="TEXT", help="part of the id")


def has_filters(options: argparse.Namespace) -> bool:
    """Returns whether any filter was given."""
    return any(value is not None for value in (options.status, options.mode, options.contains))


def filter_of(options: argparse.Namespace, meant: Sequence[RolloutStatus] | None = None) -> dict[str, Any]:
    """Returns the filters as arguments of `StoreFace.iter_rollouts`.

    Args:
        options: With those of `add_filters`.
        meant: The statuses to match where none was given; None matches all.
    """
    words = options.status
    return {
        "status_in": meant if words is None else [status for word in words for status in _GROUPS.get(word, (word,))],
        "mode_in": None if options.mode is None else [None if word == "none" else word for word in options.mode],
        "rollout_id_contains": options.contains,
    }


async def rollouts_by_id(store: LightningStoreClient, ids: Sequence[str]) -> dict[str, Rollout | None]:
    """Returns rollouts in the order of their ids; None for those that do not exist."""
    found: dict[str, Rollout | None] = dict.fromkeys(ids)
    for start in range(0, len(ids), MOST_IDS):
        some = await store.query_rollouts(rollout_id_in=ids[start : start + MOST_IDS])
        found |= {rollout.rollout_id: rollout for rollout in some}
    return found
