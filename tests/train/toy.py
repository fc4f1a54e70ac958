"""The toy task as an agent and a training, and a script that trains until it is killed or done."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from tiny import DEVICE, TASKS, load_tiny_model

import agentlightning as agl
from agentlightning.algorithm.grpo import GRPO, GRPOConfig, Step

CONFIG = GRPOConfig(
    steps=16,
    tasks_per_step=2,
    group_size=12,
    learning_rate=2e-2,
    max_grad_norm=0.3,
    lora=None,
    # Rounding, which depends on what is answered at the same time, decides nothing then.
    dtype="float64",
    device=DEVICE,
    max_response_tokens=1,
    validate_every=4,
    seed=1,
)
SHORT = replace(CONFIG, steps=8)
"""The same, up to the half."""


@agl.rollout
async def answer_colour(task: dict[str, str], llm: agl.LLM) -> float:
    """Says the colour to the model; the reward is 1 for the word that belongs to it."""
    return float(await ask(llm, task["colour"]) == task["answer"])


async def ask(llm: agl.LLM, question: str, *, model: str | None = None) -> str:
    """Returns what a model behind the gateway says; that of the `llm` unless told otherwise."""
    # Reading the certificates would take longer than all the rest.
    async with httpx.AsyncClient(verify=False, timeout=60) as client:
        request = {"model": model or llm.model, "messages": [{"role": "user", "content": question}]}
        answer = await client.post(f"{llm.endpoint}/chat/completions", json=request)
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])


def trainer_of(algorithm: GRPO, store: agl.LightningStore, **options: Any) -> agl.Trainer:
    """Returns a trainer of one runner that runs many rollouts at once."""
    runner = agl.LitAgentRunner(agl.OtelTracer(), max_concurrency=32)
    return agl.Trainer(algorithm=algorithm, store=store, runner=runner, **options)


def report(step: Step) -> None:
    """Writes a line of JSON for a step."""
    figures = {"version": step.version, "reward": step.reward, "validation": step.validation, "loss": step.loss}
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    address, folder = sys.argv[1:]
    algorithm = GRPO(load_tiny_model, SHORT, run="toy", folder=Path(folder), on_step=report)
    trainer_of(algorithm, agl.LightningStoreClient(address)).fit(answer_colour, TASKS, val_dataset=TASKS)
