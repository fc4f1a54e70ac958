"""A training script as users write it: agent and algorithm in the main module, the training under the guard."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import agentlightning as agl
from agentlightning.execution import SharedMemoryExecutionStrategy


def say(line: str) -> None:
    # In one piece, between the lines that the runner processes log.
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def begin(task: dict[str, Any]) -> None:
    Path(task["mark"]).write_text("begun")


@agl.rollout
def agent(task: dict[str, Any], prompt_template: Any) -> float:
    if "seconds" in task:
        begin(task)
        time.sleep(task["seconds"])
    return float(prompt_template.format(n=task["n"]))


@agl.rollout
async def async_agent(task: dict[str, Any], prompt_template: Any) -> float:
    begin(task)
    await asyncio.sleep(task["seconds"])
    return 1.0


@agl.algo
async def algorithm(*, store: Any, train_dataset: Any, initial_resources: Any) -> None:
    await store.add_resources(initial_resources)
    rollouts = [await store.enqueue_rollout(sample, mode="train") for sample in train_dataset]
    done = await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id for rollout in rollouts])
    for rollout in done:
        spans = await store.query_spans(rollout.rollout_id, "latest")
        say(f"reward {agl.find_final_reward(spans)}")


@agl.rollout
async def crash(task: dict[str, Any], prompt_template: Any) -> float:
    begin(task)
    os._exit(3)


@agl.rollout
async def stuck(task: dict[str, Any], prompt_template: Any) -> float:
    begin(task)
    threading.Event().wait(60)
    return 1.0


AGENTS = {"train": agent, "block": agent, "await": async_agent, "crash": crash, "stuck": stuck}


def strategy(kind: str) -> agl.ExecutionStrategy:
    if kind == "shm":
        return SharedMemoryExecutionStrategy(n_runners=2, graceful_delay=1.0)
    method: Any = kind
    return agl.ClientServerExecutionStrategy(n_runners=2, start_method=method)


def main(what: str, address: str, mark: str, kind: str = "spawn") -> None:
    logging.basicConfig(level=logging.INFO)
    trainer = agl.Trainer(
        strategy=strategy(kind),
        algorithm=algorithm,
        store=agl.LightningStoreClient(address) if address else None,
        initial_resources={"prompt": agl.PromptTemplate(template="{n}", engine="f-string")},
    )
    samples = [{"n": n} for n in range(4)] if what == "train" else [{"n": 1, "seconds": 60, "mark": mark}]
    trainer.fit(AGENTS[what], samples)
    say("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
