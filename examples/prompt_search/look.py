"""Looks into the database of a finished prompt search: what each prompt scored, and what the model answered."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from agentlightning import Rollout, Span, SqliteLightningStore, find_reward_spans, get_reward_value
from agentlightning.store.errors import StoreError


async def look(database: Path, answers: int) -> None:
    """Prints a table of the rollouts, and as many answers for each row as asked for."""
    store = SqliteLightningStore(database)
    try:
        groups: dict[tuple[str, str], list[tuple[Rollout, Span]]] = defaultdict(list)
        for rollout in await store.query_rollouts(status_in=["succeeded"]):
            reward_span = find_reward_spans(await store.query_spans(rollout.rollout_id))[-1]
            groups[str(rollout.mode), (rollout.metadata or {})["prompt"]].append((rollout, reward_span))
    finally:
        await store.close()
    print(f"{'split':<6} {'prompt':<16} {'rollouts':>8} {'mean reward':>12}")
    for (mode, prompt), group in groups.items():
        mean = fmean(get_reward_value(span) or 0.0 for _, span in group)
        print(f"{mode:<6} {prompt:<16} {len(group):>8} {mean:>12.2f}")
        for rollout, span in group[:answers]:
            print(f"  {get_reward_value(span):.1f}  {rollout.input['sentence']}")
            print(f"       {span.attributes['answer']!r}")


def main() -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", type=Path)
    parser.add_argument("--answers", type=int, default=2, help="answers to show for each prompt and split")
    options = parser.parse_args()
    if not options.database.is_file():
        print(f"look: there is no file {options.database}", file=sys.stderr)
        return 1
    try:
        asyncio.run(look(options.database, options.answers))
    except StoreError as error:
        print(f"look: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
