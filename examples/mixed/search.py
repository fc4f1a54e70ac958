"""The algorithm of the example: a search for the number that earns most, which knows nothing of languages."""

from __future__ import annotations

import agentlightning as agl
from agentlightning.types import EnqueueRolloutRequest, RolloutConfig

TARGETS = (6.0, 7.0, 7.5)
# A runner that dies costs an attempt of what it had begun.
_CONFIG = RolloutConfig(max_attempts=5, retry_condition=["unresponsive"])


async def search_round(
    store: agl.LightningStore, best: float, step: float, *, repeats: int, seconds: float
) -> tuple[float, float]:
    """Tries the best number so far and its two neighbours at a distance.

    Args:
        store: Where runners of any language wait for work.
        best: The best number so far.
        step: The distance.
        repeats: How often each number is tried on each target.
        seconds: How long agents are to think.

    Returns:
        The new best number, and what it earned on average.
    """
    questions = [{"target": target, "seconds": seconds} for target in TARGETS] * repeats
    candidates: dict[str, float] = {}
    for number in (best - step, best, best + step):
        prompt = agl.PromptTemplate(template=str(number), engine="f-string")
        resources = await store.add_resources({"number": prompt})
        rollouts = await store.enqueue_many_rollouts(
            [
                EnqueueRolloutRequest(input=question, mode="train", resources_id=resources.resources_id, config=_CONFIG)
                for question in questions
            ]
        )
        candidates |= {rollout.rollout_id: number for rollout in rollouts}
    earned: dict[float, float] = dict.fromkeys(candidates.values(), 0.0)
    async for rollout in store.wait_iter(rollout_ids=list(candidates)):
        spans = await store.query_spans(rollout.rollout_id, attempt_id="latest")
        earned[candidates[rollout.rollout_id]] += agl.find_final_reward(spans) or 0.0
    winner = max(earned, key=earned.__getitem__)
    return winner, earned[winner] / len(questions)
