"""`agl rollouts`: what became of each, and the operator's word on it."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

from agentlightning.cli.connection import run_connected, tell
from agentlightning.cli.exit_codes import ExitCode
from agentlightning.cli.output import ago, document_of, print_fields, print_json, print_table, span_of, to_json
from agentlightning.cli.parsing import CommandGroup
from agentlightning.cli.rollout_changes import add_changes
from agentlightning.cli.selection import add_filters, filter_of
from agentlightning.emitter.reward import find_final_reward
from agentlightning.store.base import is_running
from agentlightning.store.client import LightningStoreClient
from agentlightning.types import Attempt, AttemptedRollout, Rollout

_LONGEST_SHOWN: Final = 2000
_FIELDS: Final = ("created", "rollout_id", "status", "start_time", "end_time", "mode", "resources_id")
_HEADINGS: Final = ("ROLLOUT", "STATUS", "MODE", "ATTEMPT", "WORKER", "CREATED", "RAN", "SEEN", "FAILURE")
_ATTEMPT_HEADINGS: Final = ("ATTEMPT", "ID", "STATUS", "WORKER", "STARTED", "RAN", "SEEN", "FAILURE")

_LIST_EXAMPLES: Final = """\
  agl rollouts list                                     the newest 50
  agl rollouts list --status failed --limit 5           why did the last ones fail? (column FAILURE)
  agl rollouts list --status running --sort start_time --order asc
                                                        what has been going on for longest?
  agl rollouts list --status unfinished --json | jq -r .rollout_id"""
_SHOW_EXAMPLES: Final = """\
  agl rollouts show ro-1f3c9a0b7d52                     input, config, attempts and their failures
  agl rollouts show ro-1f3c9a0b7d52 --json | jq .input"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `agl rollouts` with the words that follow it, and returns the exit code."""
    group = CommandGroup("agl rollouts", "Rollouts of a running store.")
    listing = group.add(
        "list",
        "list them, newest first",
        text="List rollouts, newest first.",
        examples=_LIST_EXAMPLES,
        work=_list,
        json="one JSON object a line, with all fields",
    )
    add_filters(listing)
    listing.add_argument("--limit", type=int, default=50, metavar="N", help="most to list; 0 lists all (default: 50)")
    listing.add_argument("--sort", default="created", choices=_FIELDS, help="default: created")
    listing.add_argument("--order", default="desc", choices=("asc", "desc"), help="default: desc")
    show = group.add(
        "show",
        "all about one",
        text="Show all that the store knows about a rollout.",
        examples=_SHOW_EXAMPLES,
        work=_show,
        json="one JSON object: the rollout with its attempts",
    )
    show.add_argument("id", metavar="ROLLOUT", help="id of the rollout")
    add_changes(group)
    return run_connected(group.parse(argv))


async def _list(store: LightningStoreClient, options: argparse.Namespace) -> int:
    rollouts = store.iter_rollouts(**filter_of(options), sort_by=options.sort, sort_order=options.order)
    shown: list[Rollout] = []
    most = options.limit or math.inf
    number = 0
    async with aclosing(rollouts):
        async for rollout in rollouts:
            number += 1
            if number > most:
                break
            if options.json:
                print_json(rollout)
            else:
                shown.append(rollout)
    if not options.json:
        print_table(_HEADINGS, [_row(rollout) for rollout in shown])
    if number > most:
        tell(options, f"there are more than these {options.limit}; --limit 0 lists all")
    return ExitCode.OK


async def _show(store: LightningStoreClient, options: argparse.Namespace) -> int:
    rollout = await store.get_rollout_by_id(options.id)
    if rollout is None:
        tell(options, f"there is no rollout {options.id} in experiment {options.experiment}")
        return ExitCode.ERROR
    attempts = await store.query_attempts(options.id)
    if options.json:
        print_json(document_of(rollout, attempts))
        return ExitCode.OK
    config = {name: value for name, value in rollout.config if value not in (None, [], {})}
    print_fields(
        {
            "rollout": rollout.rollout_id,
            "status": rollout.status,
            "mode": rollout.mode,
            "created": ago(rollout.start_time),
            "finished": ago(rollout.end_time),
            "resources": rollout.resources_id,
            "config": to_json(config),
            "metadata": to_json(rollout.metadata) if rollout.metadata else None,
            "input": _shortened(to_json(rollout.input)),
            "spans": await _spans_of_latest(store, rollout),
        }
    )
    if attempts:
        print()
        print_table(_ATTEMPT_HEADINGS, [_attempt_row(attempt) for attempt in attempts])
    return ExitCode.OK


def _row(rollout: Rollout) -> tuple[object, ...]:
    attempt = rollout.attempt if isinstance(rollout, AttemptedRollout) else None
    at_work = attempt is not None and is_running(rollout)
    return (
        rollout.rollout_id,
        rollout.status,
        rollout.mode,
        f"{attempt.sequence_id} of {max(attempt.sequence_id, rollout.config.max_attempts)}" if attempt else None,
        attempt and attempt.worker_id,
        ago(rollout.start_time),
        _ran(attempt) if attempt and (at_work or attempt.end_time) else None,
        ago(attempt.last_heartbeat_time) if attempt and at_work else None,
        _failure(attempt) if attempt else None,
    )


def _attempt_row(attempt: Attempt) -> tuple[object, ...]:
    return (
        attempt.sequence_id,
        attempt.attempt_id,
        attempt.status,
        attempt.worker_id,
        ago(attempt.start_time),
        _ran(attempt),
        ago(attempt.last_heartbeat_time),
        _failure(attempt),
    )


def _ran(attempt: Attempt) -> str:
    return span_of((attempt.end_time or time.time()) - attempt.start_time)


def _failure(attempt: Attempt) -> str | None:
    if attempt.failure is None:
        return None
    return ": ".join(part for part in (attempt.failure.kind, attempt.failure.message) if part)


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST_SHOWN:
        return text
    return f"{text[:_LONGEST_SHOWN]}... ({len(text)} characters; --json shows all)"


async def _spans_of_latest(store: LightningStoreClient, rollout: Rollout) -> str | None:
    if not isinstance(rollout, AttemptedRollout):
        return None
    try:
        spans = await store.query_spans(rollout.rollout_id, "latest")
    except RuntimeError:
        return "dropped by the store, to keep its bound of memory"
    reward = find_final_reward(spans)
    return f"{len(spans)} in the latest attempt" + ("" if reward is None else f", final reward {reward:g}")
