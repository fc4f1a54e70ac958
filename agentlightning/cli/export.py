"""`agl export`: rollouts with all that belongs to them, as JSON lines."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from agentlightning.cli.connection import run_connected, tell
from agentlightning.cli.exit_codes import ExitCode
from agentlightning.cli.output import document_of, to_json
from agentlightning.cli.parsing import store_command
from agentlightning.cli.selection import add_filters, filter_of
from agentlightning.store.api import LATEST
from agentlightning.store.client import LightningStoreClient
from agentlightning.types import Attempt, AttemptedRollout, Rollout, Span

_EXAMPLES: Final = """\
  agl export --output run.jsonl                          all of an experiment
  agl export --status succeeded --attempt latest | gzip > good.jsonl.gz
  agl export --no-spans | jq -c '[.rollout_id, .status]'

A line is a rollout, with all its fields, `attempts` and `spans`:
  python -c 'import json; print(sum(len(json.loads(line)["spans"]) for line in open("run.jsonl")))'"""


@dataclass
class _Count:
    rollouts: int = 0
    spans: int = 0
    dropped: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `agl export` with the words that follow it, and returns the exit code."""
    parser = store_command(
        "agl export",
        "Write rollouts in the order of their creation, one JSON object a line, each with its attempts and spans. "
        "However many there are, few are held in memory at a time. `spans_dropped` is true where a memory store has "
        "dropped some.",
        _EXAMPLES,
        _export,
        json=None,
    )
    add_filters(parser)
    parser.add_argument(
        "-o",
        "--output",
        default="-",
        metavar="FILE",
        help="file to write, complete or not at all; - is stdout, the default",
    )
    parser.add_argument("--attempt", default="all", choices=("all", LATEST), help="whose spans (default: %(default)s)")
    parser.add_argument("--no-spans", action="store_true", help="leave spans out")
    return run_connected(parser.parse_args(argv))


async def _export(store: LightningStoreClient, options: argparse.Namespace) -> int:
    count = _Count()
    rollouts = store.iter_rollouts(**filter_of(options))
    with _opened(options.output) as file:
        async with aclosing(rollouts):
            async for rollout in rollouts:
                document = document_of(rollout, await _attempts(store, rollout))
                file.write(to_json(document).removesuffix("}"))
                if not options.no_spans:
                    await _write_spans(store, rollout, options.attempt, file, count)
                file.write("}\n")
                count.rollouts += 1
        file.flush()
    tell(options, f"{count.rollouts} rollouts with {count.spans} spans")
    if count.dropped:
        tell(options, f"the store has dropped the spans of {count.dropped} of them, to keep its bound of memory")
    return ExitCode.OK


async def _attempts(store: LightningStoreClient, rollout: Rollout) -> Sequence[Attempt]:
    if not isinstance(rollout, AttemptedRollout):
        return []
    if rollout.attempt.sequence_id == 1:
        return [rollout.attempt]
    return list(await store.query_attempts(rollout.rollout_id))


async def _write_spans(
    store: LightningStoreClient, rollout: Rollout, attempt: str, file: TextIO, count: _Count
) -> None:
    """Writes the spans of a rollout as further fields, each as it comes: one rollout may have very many."""
    file.write(', "spans": [')
    separator = ""
    was_dropped = False
    try:
        async for span in _spans(store, rollout, attempt):
            file.write(separator + to_json(span))
            separator = ", "
            count.spans += 1
    except RuntimeError:  # what the memory store had to drop, before or meanwhile
        was_dropped = True
        count.dropped += 1
    file.write(f'], "spans_dropped": {to_json(was_dropped)}')


async def _spans(store: LightningStoreClient, rollout: Rollout, attempt: str) -> AsyncIterator[Span]:
    if not isinstance(rollout, AttemptedRollout):
        return
    spans = store.iter_spans(rollout.rollout_id, None if attempt == "all" else attempt)
    async with aclosing(spans):
        async for span in spans:
            yield span


@contextlib.contextmanager
def _opened(output: str) -> Iterator[TextIO]:
    """Opens what is written to. A file takes its name when it is complete, so that no half of one is taken for it."""
    if output == "-":
        yield sys.stdout
        return
    path = Path(output)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
