"""`agl rollouts cancel`, `requeue` and `delete`: the operator's word, on some rollouts or on very many."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final

from agentlightning.cli.connection import tell
from agentlightning.cli.exit_codes import ExitCode
from agentlightning.cli.output import confirmed, print_json
from agentlightning.cli.parsing import CommandGroup
from agentlightning.cli.selection import FINISHED, UNFINISHED, add_selection, filter_of, has_filters, rollouts_by_id
from agentlightning.store.base import is_finished, is_queuing
from agentlightning.store.client import LightningStoreClient
from agentlightning.types import Rollout, RolloutStatus

_CHANGED_AT_ONCE: Final = 32
_DELETED_AT_ONCE: Final = 1000
_NAMED: Final = 3

_CANCEL_EXAMPLES: Final = """\
  agl rollouts cancel ro-1f3c9a0b7d52                   its runner stops with its next heartbeat
  agl rollouts cancel --status queuing --mode val       asks first; --yes does not
  agl rollouts cancel --status unfinished --yes         call the whole run off"""
_REQUEUE_EXAMPLES: Final = """\
  agl rollouts requeue ro-1f3c9a0b7d52                  a finished one, or one whose runner is stuck
  agl rollouts requeue --status failed --yes            after what broke them was mended"""
_DELETE_EXAMPLES: Final = """\
  agl rollouts delete ro-1f3c9a0b7d52 --yes
  agl rollouts delete --status succeeded                make room; export them first"""

_JSON: Final = "one JSON object a line for each"


@dataclass(frozen=True)
class _Change:
    """What a command does to the status of rollouts."""

    verb: str
    to: RolloutStatus
    meant: tuple[RolloutStatus, ...]
    """The statuses that a filter means which names none."""
    is_needless: Callable[[Rollout], bool]


_CANCEL: Final = _Change("cancel", "cancelled", UNFINISHED, is_finished)
_REQUEUE: Final = _Change("requeue", "requeuing", ("failed", "cancelled"), is_queuing)


def add_changes(group: CommandGroup) -> None:
    """Adds the commands that change rollouts."""
    cancel = group.add(
        "cancel",
        "call them off",
        text="Call rollouts off. Queued ones are not handed out any more, and runners are told to stop; finished ones "
        "stay as they are.",
        examples=_CANCEL_EXAMPLES,
        work=partial(_change, change=_CANCEL),
        json=_JSON,
    )
    requeue = group.add(
        "requeue",
        "run them once more",
        text="Put rollouts at the end of the queue, whatever became of them and however many attempts they had. A "
        "filter without --status means those that failed or were cancelled.",
        examples=_REQUEUE_EXAMPLES,
        work=partial(_change, change=_REQUEUE),
        json=_JSON,
    )
    delete = group.add(
        "delete",
        "delete them for good",
        text="Delete rollouts with their attempts and spans. Their ids cannot be used again for 24 hours. A filter "
        "without --status means those that are finished.",
        examples=_DELETE_EXAMPLES,
        work=_delete,
        json=_JSON,
    )
    for verb, parser in (("cancel", cancel), ("requeue", requeue), ("delete", delete)):
        add_selection(parser, verb)
        parser.add_argument("--yes", action="store_true", help="do not ask")


async def _change(store: LightningStoreClient, options: argparse.Namespace, *, change: _Change) -> int:
    chosen, code = await _chosen(store, options, change.meant)
    for rollout in filter(change.is_needless, chosen):
        tell(options, f"{rollout.rollout_id} is {rollout.status} already")
    rollouts = [rollout for rollout in chosen if not change.is_needless(rollout)]
    is_certain = options.yes or bool(options.ids) or not rollouts
    refused = confirmed(options.prog, _question(change.verb, rollouts), is_certain=is_certain)
    if refused is not None:
        return refused
    for start in range(0, len(rollouts), _CHANGED_AT_ONCE):
        part = rollouts[start : start + _CHANGED_AT_ONCE]
        calls = [store.update_rollout(rollout.rollout_id, status=change.to) for rollout in part]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(outcome, Rollout):
                _print_changed(options, outcome.rollout_id, outcome.status)
            elif isinstance(outcome, ValueError):  # deleted meanwhile; the others are still to be changed
                tell(options, str(outcome))
                code = ExitCode.ERROR
            else:
                raise outcome
    return code


async def _delete(store: LightningStoreClient, options: argparse.Namespace) -> int:
    rollouts, code = await _chosen(store, options, FINISHED)
    refused = confirmed(options.prog, _question("delete", rollouts), is_certain=options.yes or not rollouts)
    if refused is not None:
        return refused
    for start in range(0, len(rollouts), _DELETED_AT_ONCE):
        ids = [rollout.rollout_id for rollout in rollouts[start : start + _DELETED_AT_ONCE]]
        for rollout_id in await store.delete_rollouts(rollout_ids=ids):
            _print_changed(options, rollout_id, "deleted")
    return code


async def _chosen(
    store: LightningStoreClient, options: argparse.Namespace, meant: Sequence[RolloutStatus]
) -> tuple[list[Rollout], ExitCode]:
    """Returns the rollouts that a command is about, and the exit code so far: ERROR if one does not exist."""
    if bool(options.ids) == has_filters(options):
        tell(options, "name rollouts, or say which by --status, --mode or --contains; not both")
        return [], ExitCode.USAGE
    if not options.ids:
        selected = store.iter_rollouts(**filter_of(options, meant))
        async with aclosing(selected):
            rollouts = [rollout async for rollout in selected]
        if not rollouts:
            tell(options, "there are none")
        return rollouts, ExitCode.OK
    found = await rollouts_by_id(store, options.ids)
    missing = [rollout_id for rollout_id, rollout in found.items() if rollout is None]
    for rollout_id in missing:
        tell(options, f"there is no rollout {rollout_id} in experiment {options.experiment}")
    there = [rollout for rollout in found.values() if rollout is not None]
    return there, ExitCode.ERROR if missing else ExitCode.OK


def _print_changed(options: argparse.Namespace, rollout_id: str, status: str) -> None:
    if options.json:
        print_json({"rollout_id": rollout_id, "status": status})
    else:
        print(rollout_id, status)


def _question(verb: str, rollouts: Sequence[Rollout]) -> str:
    some = ", ".join(rollout.rollout_id for rollout in rollouts[:_NAMED])
    more = ", ..." if len(rollouts) > _NAMED else ""
    plural = "" if len(rollouts) == 1 else "s"
    return f"About to {verb} {len(rollouts)} rollout{plural} ({some}{more})."
