"""`agl workers`: who runs the agents."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, get_args

from agentlightning.cli.connection import run_connected, tell
from agentlightning.cli.exit_codes import ExitCode
from agentlightning.cli.output import ago, print_json, print_table, span_of
from agentlightning.cli.parsing import CommandGroup
from agentlightning.store.client import LightningStoreClient
from agentlightning.types import Worker, WorkerStatus

_HEADINGS: Final = ("WORKER", "STATUS", "FOR", "SEEN", "HOST", "LOAD", "ROLLOUT", "ATTEMPT")
_LIST_EXAMPLES: Final = """\
  agl workers list                         who is at work, and on what
  agl workers list --status unknown        whose attempts fell silent"""
_DRAIN_EXAMPLES: Final = """\
  agl workers drain Worker-3               it finishes what it holds, takes nothing new and leaves"""
_RESUME_EXAMPLES: Final = """\
  agl workers resume Worker-3              takes a drain back"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `agl workers` with the words that follow it, and returns the exit code."""
    group = CommandGroup("agl workers", "Workers (runners) that a running store knows. Without a command: list.")
    listing = group.add(
        "list",
        "list them",
        text="List workers: what each does and for how long, and when it was last heard of.",
        examples=_LIST_EXAMPLES,
        work=_list,
        json="one JSON object a line, with all fields",
    )
    listing.add_argument(
        "--status", action="append", choices=get_args(WorkerStatus), help="May be given several times."
    )
    listing.add_argument("--contains", metavar="TEXT", help="part of the id")
    drain = group.add(
        "drain",
        "ask them to leave",
        text="Ask workers to finish what they hold, to take nothing new and to leave.",
        examples=_DRAIN_EXAMPLES,
        work=partial(_set_draining, draining=True),
        json="one JSON object a line for each",
    )
    resume = group.add(
        "resume",
        "take that back",
        text="Let workers that were asked to leave work again, unless they have left.",
        examples=_RESUME_EXAMPLES,
        work=partial(_set_draining, draining=False),
        json="one JSON object a line for each",
    )
    for parser in (drain, resume):
        parser.add_argument("ids", nargs="+", metavar="WORKER", help="ids of workers")
    return run_connected(group.parse(argv, default="list"))


async def _list(store: LightningStoreClient, options: argparse.Namespace) -> int:
    workers = await store.query_workers(
        status_in=options.status, worker_id_contains=options.contains, sort_by="worker_id"
    )
    if options.json:
        for worker in workers:
            print_json(worker)
    else:
        print_table(_HEADINGS, [_row(worker) for worker in workers])
    return ExitCode.OK


async def _set_draining(store: LightningStoreClient, options: argparse.Namespace, *, draining: bool) -> int:
    code = ExitCode.OK
    for worker_id in options.ids:
        # An update would make a worker of a misspelt id.
        if await store.get_worker_by_id(worker_id) is None:
            tell(options, f"there is no worker {worker_id} in experiment {options.experiment}")
            code = ExitCode.ERROR
            continue
        worker = await store.update_worker(worker_id, draining=draining)
        if options.json:
            print_json({"worker_id": worker_id, "draining": worker.draining})
        else:
            print(worker_id, "draining" if worker.draining else "resumed")
    return code


def _row(worker: Worker) -> tuple[object, ...]:
    since = {"busy": worker.last_busy_time, "idle": worker.last_idle_time}.get(worker.status)
    seen = max(filter(None, (worker.last_heartbeat_time, worker.last_dequeue_time)), default=None)
    load = _stat(worker, "cpu", "load")
    return (
        worker.worker_id,
        f"{worker.status}, draining" if worker.draining else worker.status,
        None if since is None else span_of(time.time() - since),
        ago(seen),
        _stat(worker, "host", "hostname"),
        load[0] if isinstance(load, list) and load else None,
        worker.current_rollout_id,
        worker.current_attempt_id,
    )


def _stat(worker: Worker, group: str, name: str) -> Any:
    """Returns what a heartbeat said of its machine, if it is one of our own runners'."""
    stats = (worker.heartbeat_stats or {}).get(group)
    return stats.get(name) if isinstance(stats, dict) else None
