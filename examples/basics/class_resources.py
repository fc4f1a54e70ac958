"""Resources in a class-based agent: several by name, and one of a type of your own.

Run: python examples/basics/class_resources.py
"""

from __future__ import annotations

from typing import Any

import agentlightning as agl


class Knobs(agl.CustomResource):
    """What this agent can be tuned by, beside its prompts and models."""

    resource_type: str = "knobs"
    temperature: float
    tools: list[str]


class Planner(agl.LitAgent[str]):
    """Reads its resources by name, as a class-based agent does."""

    def rollout(self, task: str, resources: agl.NamedResources, rollout: agl.Rollout) -> float:
        planner, critic = resources["planner_prompt"], resources["critic_prompt"]
        assert isinstance(planner, agl.PromptTemplate)
        assert isinstance(critic, agl.PromptTemplate)
        knobs = Knobs.model_validate(resources["knobs"].model_dump())
        agl.emit_message(f"{planner.format(task=task)} | {critic.format()} | tools: {', '.join(knobs.tools)}")
        return 1.0 - knobs.temperature


@agl.algo
async def publish_twice(store: agl.LightningStore, train_dataset: Any, initial_resources: agl.NamedResources) -> None:
    """Runs the first task with the initial resources and the second with cooler ones."""
    for task, temperature in zip(train_dataset, (0.5, 0.0), strict=True):
        update = await store.add_resources(
            {**initial_resources, "knobs": Knobs(temperature=temperature, tools=["search", "shell"])}
        )
        rollout = await store.enqueue_rollout(task, resources_id=update.resources_id)
        await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id])
        spans = await store.query_spans(rollout.rollout_id)
        print(agl.get_message_value(spans[0]), "->", agl.find_final_reward(spans))


if __name__ == "__main__":
    trainer = agl.Trainer(
        algorithm=publish_twice,
        strategy="shm",
        initial_resources={
            "planner_prompt": agl.PromptTemplate(template="Plan: {task}", engine="f-string"),
            "critic_prompt": agl.PromptTemplate(template="Be strict.", engine="f-string"),
        },
    )
    trainer.fit(Planner(), ["buy milk", "write a poem"])
