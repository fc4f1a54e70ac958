"""`agl spans`: what an agent did."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

from agentlightning.cli.connection import run_connected, tell
from agentlightning.cli.exit_codes import ExitCode
from agentlightning.cli.output import print_json, print_table, span_of
from agentlightning.cli.parsing import store_command
from agentlightning.codec.generation import PROMPT_TOKEN_IDS, RESPONSE_TOKEN_IDS
from agentlightning.emitter.reward import get_reward_value
from agentlightning.store.api import LATEST
from agentlightning.store.client import LightningStoreClient
from agentlightning.types import Span

_HEADINGS: Final = ("SEQ", "ATTEMPT", "AT", "TOOK", "STATUS", "TOKENS", "REWARD", "NAME")
_EXAMPLES: Final = """\
  agl spans ro-1f3c9a0b7d52                   the latest attempt, children below their parents
  agl spans ro-1f3c9a0b7d52 --attempt all     the earlier attempts too
  agl spans ro-1f3c9a0b7d52 --json | jq -c .attributes"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `agl spans` with the words that follow it, and returns the exit code."""
    parser = store_command(
        "agl spans",
        "Show the spans of a rollout in their order. TOKENS are those of the prompt and of the response, where the "
        "model's endpoint sent token ids.",
        _EXAMPLES,
        _spans,
        json="one JSON object a line, with all fields",
    )
    parser.add_argument("rollout", metavar="ROLLOUT", help="id of the rollout")
    parser.add_argument(
        "--attempt", default=LATEST, metavar="ID", help="id of an attempt, latest, or all (default: %(default)s)"
    )
    parser.add_argument("--contains", metavar="TEXT", help="only spans whose name contains this")
    return run_connected(parser.parse_args(argv))


async def _spans(store: LightningStoreClient, options: argparse.Namespace) -> int:
    if await store.get_rollout_by_id(options.rollout) is None:
        tell(options, f"there is no rollout {options.rollout} in experiment {options.experiment}")
        return ExitCode.ERROR
    rows: list[tuple[object, ...]] = []
    depths: dict[str, int] = {}
    began: float | None = None
    spans = store.iter_spans(options.rollout, None if options.attempt == "all" else options.attempt)
    async with aclosing(spans):
        async for span in spans:
            depths[span.span_id] = depths.get(span.parent_id or "", -1) + 1
            if options.contains is not None and options.contains not in span.name:
                continue
            if options.json:
                print_json(span)
                continue
            began = span.start_time if began is None else began
            rows.append(_row(span, depths[span.span_id], began))
    if not options.json:
        print_table(_HEADINGS, rows)
    return ExitCode.OK


def _row(span: Span, depth: int, began: float | None) -> tuple[object, ...]:
    prompt, response = (span.attributes.get(key) for key in (PROMPT_TOKEN_IDS, RESPONSE_TOKEN_IDS))
    start, end = span.start_time, span.end_time
    return (
        span.sequence_id,
        span.attempt_id,
        None if start is None or began is None else f"+{span_of(start - began)}",
        None if start is None or end is None else span_of(end - start),
        span.status.status_code,
        f"{_count(prompt)}+{_count(response)}" if prompt or response else None,
        get_reward_value(span),
        "  " * depth + span.name,
    )


def _count(token_ids: object) -> int:
    return len(token_ids) if isinstance(token_ids, Sequence) else 0
