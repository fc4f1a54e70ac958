"""`agl wait`: returns when rollouts have finished."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

from agentlightning.cli.connection import run_connected, tell
from agentlightning.cli.exit_codes import ExitCode
from agentlightning.cli.output import to_json
from agentlightning.cli.parsing import store_command
from agentlightning.cli.selection import UNFINISHED, add_selection, filter_of, has_filters, rollouts_by_id
from agentlightning.store.base import is_finished
from agentlightning.store.client import LightningStoreClient

_EXAMPLES: Final = """\
  agl wait                                       until all that are unfinished now have finished
  agl wait ro-1f3c9a0b7d52 --timeout 600 || echo still at it
  agl wait --mode val --succeeded && ./deploy    only if every one of them succeeded"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `agl wait` with the words that follow it, and returns the exit code."""
    parser = store_command(
        "agl wait",
        "Wait until rollouts have finished, and print each as it does. Nothing is polled. Without ids and filters, all "
        "that are unfinished at the start are waited for. The exit code is 3 if the time is up before.",
        _EXAMPLES,
        _wait,
        json="one JSON object a line for each, with all fields",
    )
    add_selection(parser, "wait for")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="longest wait; without it there is no limit")
    parser.add_argument("--succeeded", action="store_true", help="exit with 1 unless every one has succeeded")
    options = parser.parse_args(argv)
    if options.ids and has_filters(options):
        parser.error("name rollouts, or say which by --status, --mode or --contains; not both")
    return run_connected(options)


async def _wait(store: LightningStoreClient, options: argparse.Namespace) -> int:
    ids = list(dict.fromkeys(options.ids)) or await _selected(store, options)
    awaited = set(ids)
    all_succeeded = True
    finished = store.wait_iter(rollout_ids=ids, timeout=options.timeout)
    async with aclosing(finished):
        async for rollout in finished:
            awaited.discard(rollout.rollout_id)
            all_succeeded &= rollout.status == "succeeded"
            print(to_json(rollout) if options.json else f"{rollout.rollout_id} {rollout.status}", flush=True)
    if not awaited:
        return ExitCode.ERROR if options.succeeded and not all_succeeded else ExitCode.OK
    return await _explain(store, options, sorted(awaited))


async def _selected(store: LightningStoreClient, options: argparse.Namespace) -> list[str]:
    selected = store.iter_rollouts(**filter_of(options, UNFINISHED))
    async with aclosing(selected):
        return [rollout.rollout_id async for rollout in selected]


async def _explain(store: LightningStoreClient, options: argparse.Namespace, ids: Sequence[str]) -> ExitCode:
    """Tells why rollouts were not reported: they do not exist, or the time was up."""
    found = await rollouts_by_id(store, ids)
    missing = [rollout_id for rollout_id, rollout in found.items() if rollout is None]
    for rollout_id in missing:
        tell(options, f"there is no rollout {rollout_id} in experiment {options.experiment}")
    if missing:
        return ExitCode.ERROR
    unfinished = [rollout for rollout in found.values() if rollout is not None and not is_finished(rollout)]
    tell(options, f"the time is up, and {len(unfinished)} have not finished")
    return ExitCode.TIMEOUT
