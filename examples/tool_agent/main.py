"""Trains an agent that uses tools: both its choice of a tool and what it makes of the tool's answer.

pip install 'agentlightning-grpc[train]' openai-agents
python examples/tool_agent/main.py
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile

from agent import shopkeeper
from shop import TASKS
from tiny_model import load_tiny_model

from agentlightning import InMemoryLightningStore, LightningStore, Trainer, find_final_reward
from agentlightning.algorithm.grpo import GRPO, GRPOConfig, Step

RUN = "shopkeeper"


def main() -> None:
    """Trains, and shows the calls of a rollout in the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=30, help="how often the model is changed")
    steps = parser.parse_args().steps
    config = GRPOConfig(
        steps=steps,
        tasks_per_step=len(TASKS),
        group_size=8,
        learning_rate=2e-2,
        max_grad_norm=0.3,
        lora=None,
        dtype="float64",
        device="cpu",
        max_response_tokens=1,
        validate_every=0,
    )
    store = InMemoryLightningStore()
    with tempfile.TemporaryDirectory() as folder:
        algorithm = GRPO(load_tiny_model, config, run=RUN, folder=folder, on_step=show)
        trainer = Trainer(
            algorithm=algorithm,
            runner={"type": "agentlightning.LitAgentRunner", "max_concurrency": 32},
            store=store,
        )
        trainer.fit(shopkeeper, TASKS)
    asyncio.run(show_best(store, f"{RUN}-step-{steps - 1:06}-"))


def show(step: Step) -> None:
    """Prints what a step brought."""
    print(f"step {step.version}: mean reward {step.reward:.2f}", flush=True)


async def show_best(store: LightningStore, prefix: str) -> None:
    """Prints what the gateway recorded of the best rollout of a step: every model call, with its tokens."""
    rollouts = await store.query_rollouts(rollout_id_contains=prefix)
    spans_of = {rollout.rollout_id: await store.query_spans(rollout.rollout_id, "latest") for rollout in rollouts}
    best = max(spans_of, key=lambda rollout_id: find_final_reward(spans_of[rollout_id]) or 0.0)
    print(f"\n{best}: reward {find_final_reward(spans_of[best])}")
    for span in spans_of[best]:
        if "response_token_ids" in span.attributes:
            (said,) = json.loads(span.attributes["gen_ai.output.messages"])
            print(f"  {said['parts']} tokens {span.attributes['response_token_ids']}")


if __name__ == "__main__":
    main()
