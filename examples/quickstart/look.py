"""Looks into the database of a quickstart: what the model answered to the held-out tasks before and after."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from agentlightning import Span, SqliteLightningStore, find_final_reward
from agentlightning.store.errors import StoreError


async def look(database: Path, tasks: int) -> None:
    """Prints some held-out tasks, with the answer to each and its reward, for every time that they were tried."""
    store = SqliteLightningStore(database)
    try:
        rollouts = [each for each in await store.query_rollouts(status_in=["succeeded"]) if each.mode == "val"]
        for sentence in list(dict.fromkeys(each.input["sentence"] for each in rollouts))[:tasks]:
            print(sentence)
            for rollout in rollouts:
                if rollout.input["sentence"] == sentence:
                    spans = await store.query_spans(rollout.rollout_id, "latest")
                    when = (rollout.metadata or {})["batch"].removeprefix("val-").lstrip("0") or "0"
                    print(f"  after {when:>2} steps  {find_final_reward(spans):.1f}  {answer_of(spans)!r}")
    finally:
        await store.close()


def answer_of(spans: list[Span]) -> str:
    """Returns what the model wrote, from the span that the gateway recorded of its call."""
    messages = [
        span.attributes["gen_ai.output.messages"] for span in spans if "gen_ai.output.messages" in span.attributes
    ]
    return "".join(part["content"] for part in json.loads(messages[-1])[0]["parts"]) if messages else ""


def main() -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", type=Path)
    parser.add_argument("--tasks", type=int, default=5, help="tasks to show")
    options = parser.parse_args()
    if not options.database.is_file():
        print(f"look: there is no file {options.database}", file=sys.stderr)
        return 1
    try:
        asyncio.run(look(options.database, options.tasks))
    except StoreError as error:
        print(f"look: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
