"""A training script that lacks the main guard."""

from typing import Any

import agentlightning as agl


@agl.rollout
def agent(task: Any, prompt_template: Any) -> float:
    return 1.0


@agl.algo
async def algorithm(*, store: Any) -> None:
    await store.add_resources({})
    rollout = await store.enqueue_rollout({})
    await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id])


agl.Trainer(algorithm=algorithm, strategy=agl.ClientServerExecutionStrategy(max_restarts=0)).fit(agent)
