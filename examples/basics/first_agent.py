"""A first agent: a function, two candidate prompts, and the rewards that tell them apart.

Run: python examples/basics/first_agent.py
"""

from __future__ import annotations

import agentlightning as agl


@agl.rollout
def greeter(task: dict[str, str], prompt_template: agl.PromptTemplate) -> float:
    """Greets somebody; polite greetings are worth more. The number that an agent returns is its reward."""
    greeting = prompt_template.format(name=task["name"])
    return 1.0 if greeting.endswith("!") else 0.25


@agl.algo
def try_prompts(store, train_dataset) -> None:
    """Runs every task with every prompt and prints the mean rewards."""
    for template in ("Hello, {name}", "Hello, {name}!"):
        prompt = agl.PromptTemplate(template=template, engine="f-string")
        resources_id = store.add_resources({"greeting": prompt}).resources_id
        rollouts = [store.enqueue_rollout(task, resources_id=resources_id) for task in train_dataset]
        finished = store.wait_for_rollouts(rollout_ids=[rollout.rollout_id for rollout in rollouts])
        rewards = [agl.find_final_reward(store.query_spans(rollout.rollout_id)) for rollout in finished]
        print(f"{template!r}: mean reward {sum(rewards) / len(rewards):.2f}")


if __name__ == "__main__":
    trainer = agl.Trainer(algorithm=try_prompts, n_runners=2, strategy="shm")
    trainer.fit(greeter, [{"name": "Ada"}, {"name": "Alan"}, {"name": "Grace"}])
