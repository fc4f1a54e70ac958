"""`agl stats`: how a run is doing."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentlightning.cli.connection import run_connected
from agentlightning.cli.exit_codes import ExitCode
from agentlightning.cli.output import print_fields, print_json, size_of, span_of
from agentlightning.cli.parsing import store_command
from agentlightning.cli.selection import FINISHED, STATUSES, UNFINISHED
from agentlightning.codec.enums import ROLLOUT_STATUS
from agentlightning.codec.times import from_duration, from_timestamp
from agentlightning.store.client import LightningStoreClient
from lightning_store import v1

_RECENT: Final = 100
_EXAMPLES: Final = """\
  agl stats                                      how far is it, how fast, and when will it be done?
  watch -n 10 agl stats                          the same, again and again
  agl stats --json | jq .rollouts.failed         for an alert"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `agl stats` with the words that follow it, and returns the exit code."""
    parser = store_command(
        "agl stats",
        f"Show the totals of an experiment and of its server. The pace is that of the last {_RECENT} rollouts that "
        "finished.",
        _EXAMPLES,
        _stats,
        json="one JSON object",
    )
    return run_connected(parser.parse_args(argv))


async def _stats(store: LightningStoreClient, options: argparse.Namespace) -> int:
    server = await store.api.get_server_info(store.context, v1.GetServerInfoRequest())
    totals = await store.api.get_statistics(store.context, v1.GetStatisticsRequest())
    workers = Counter(worker.status for worker in await store.query_workers())
    rollouts = dict.fromkeys(STATUSES, 0)
    rollouts |= {ROLLOUT_STATUS.word(count.status): count.count for count in totals.rollouts_by_status}
    unfinished = sum(rollouts[status] for status in UNFINISHED)
    uptime = from_duration(totals.uptime)
    pace = await _finished_per_second(store, now=from_timestamp(server.start_time) + uptime)
    facts: dict[str, Any] = {
        "address": store.server_address,
        "experiment": options.experiment,
        "store_id": server.store_id,
        "storage": server.storage,
        "server_version": server.server_version,
        "uptime_seconds": uptime,
        "rollouts": {"total": totals.total_rollouts, **rollouts},
        "finished_per_minute": None if pace is None else pace * 60,
        "seconds_left": unfinished / pace if pace and unfinished else None,
        "attempts": totals.total_attempts,
        "spans": totals.total_spans,
        "span_bytes": totals.total_span_bytes,
        "evicted_spans": totals.evicted_spans,
        "resources": totals.total_resources,
        "workers": dict(sorted(workers.items())),
    }
    if options.json:
        print_json(facts)
    else:
        print_fields(_in_words(facts))
    return ExitCode.OK


async def _finished_per_second(store: LightningStoreClient, now: float) -> float | None:
    """Returns how fast rollouts have finished lately, by the clock of the server; None if fewer than two have."""
    recent = await store.query_rollouts(status_in=FINISHED, sort_by="end_time", sort_order="desc", limit=_RECENT)
    ends = [rollout.end_time for rollout in recent if rollout.end_time is not None]
    return len(ends) / max(now - ends[-1], 1e-3) if len(ends) > 1 else None


def _in_words(facts: Mapping[str, Any]) -> dict[str, object]:
    rollouts = facts["rollouts"]
    finished = sum(rollouts[status] for status in FINISHED)
    share = f" ({finished / rollouts['total']:.0%})" if rollouts["total"] else ""
    pace = facts["finished_per_minute"]
    left = "" if facts["seconds_left"] is None else f", about {span_of(facts['seconds_left'])} left"
    dropped = f", and {facts['evicted_spans']} dropped to keep the bound of memory" if facts["evicted_spans"] else ""
    return {
        "store": f"{facts['address']}, {facts['storage']} {facts['store_id']}, up {span_of(facts['uptime_seconds'])}, "
        f"release {facts['server_version']}",
        "experiment": facts["experiment"],
        "rollouts": f"{finished} of {rollouts['total']} finished{share}",
        **{f"  {status}": rollouts[status] or None for status in STATUSES},
        "pace": None if pace is None else f"{pace:.3g} rollouts a minute{left}",
        "attempts": facts["attempts"],
        "spans": f"{facts['spans']} in {size_of(facts['span_bytes'])}{dropped}",
        "resources": facts["resources"],
        "workers": ", ".join(f"{number} {status}" for status, number in facts["workers"].items()) or "none",
    }
