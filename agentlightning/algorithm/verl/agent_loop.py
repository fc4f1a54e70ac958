"""The agent loop that verl's workers run: for each sample one rollout of this store. Imports verl."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput

from agentlightning.algorithm.verl.rollouts import Finished, Rollouts, serving_rollouts
from agentlightning.algorithm.verl.rows import metadata_of, mode_of, task_of
from agentlightning.algorithm.verl.sampler import EngineSampler
from agentlightning.algorithm.verl.settings import SECTION, VERLSettings
from agentlightning.algorithm.verl.sharing import Shared
from agentlightning.algorithm.verl.trajectories import Trajectory, longest, trajectories, untrained

logger = logging.getLogger(__name__)


class StoreAgentLoop(AgentLoopBase):  # type: ignore[misc]  # verl's types are not checked
    """Runs the agent of this store for one sample of verl's.

    It enqueues a rollout whose model is verl's engine, behind a gateway that this worker serves, and waits until a
    runner has finished it. What the store recorded then is the sample: token ids, log-probabilities, and the reward.
    """

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput | list[AgentLoopOutput]:
        """Returns what came of one rollout.

        Calls that do not go on from each other are an output each, of the same reward, for verl's V1 trainer. Its older
        one takes one output only and gets the one with the most tokens to learn from.

        A rollout that failed counts `failed_reward`, and its tokens do not train: most failures are of tools and
        machines, and say nothing of the tokens before them. Nor does one without model calls.

        Args:
            sampling_params: What verl asks of its engine.
            **kwargs: The row of the dataset, and what verl adds.
        """
        began = time.monotonic()
        worker = _worker_of(self)
        async with worker.rollouts.using(worker.open) as rollouts:
            finished = await rollouts.run(task_of(kwargs), mode_of(kwargs), sampling_params, metadata_of(kwargs))
        made = self._trajectories(finished, kwargs)
        if len(made) > 1 and not self.config.trainer.get("use_v1", False):
            logger.warning(
                "rollout %s: its model calls make %d sequences, of which verl's older trainer takes the longest; "
                "trainer.use_v1 takes all",
                finished.rollout_id,
                len(made),
            )
            made = [longest(made)]
        # verl counts with the steps, so that a rollout without model calls needs some, too.
        weights = finished.conversation.weights or [int(kwargs.get("global_steps", 0))]
        metrics = {"generate_sequences": finished.conversation.seconds}
        metrics["tool_calls"] = max(0.0, time.monotonic() - began - finished.conversation.seconds)
        outputs = [
            AgentLoopOutput(
                prompt_ids=each.prompt_ids,
                response_ids=each.response_ids,
                response_mask=each.response_mask,
                response_logprobs=each.response_logprobs if sampling_params.get("logprobs") else None,
                reward_score=worker.settings.failed_reward if finished.reward is None else finished.reward,
                num_turns=2 * len(finished.calls),
                metrics=metrics,
                extra_fields={
                    "min_global_steps": min(weights),
                    "max_global_steps": max(weights),
                    # verl expects these of each agent loop.
                    "turn_scores": [],
                    "tool_rewards": [],
                    "reward_extra_info": {},
                },
            )
            for each in made
        ]
        return outputs if len(outputs) > 1 else outputs[0]

    def _trajectories(self, finished: Finished, row: Mapping[str, Any]) -> list[Trajectory]:
        most_prompt, most_response = self.rollout_config.prompt_length, self.rollout_config.response_length
        if not finished.calls:
            text = self.tokenizer.apply_chat_template(
                list(row["raw_prompt"]),
                **{**self.apply_chat_template_kwargs, "add_generation_prompt": True, "tokenize": False},
            )
            prompt = self.tokenizer.encode(text, add_special_tokens=False)
            return [untrained(prompt, self.tokenizer.eos_token_id, most_prompt)]
        made, left_out = trajectories(
            finished.calls,
            most_prompt=most_prompt,
            most_response=most_response,
            trains=finished.reward is not None,
        )
        if left_out:
            logger.warning(
                "rollout %s: %d tokens do not train, for which data.max_prompt_length=%d and "
                "data.max_response_length=%d have no room",
                finished.rollout_id,
                left_out,
                most_prompt,
                most_response,
            )
        return made


class _Worker:
    """What the agent loops of one of verl's workers have in common. It makes one for each sample."""

    def __init__(self, loop: StoreAgentLoop) -> None:
        section = loop.config.get(SECTION)
        if section is None:
            raise ValueError(
                f"verl's config has no section {SECTION!r}: add +{SECTION}.store=HOST:PORT, the store server"
            )
        self.settings = VERLSettings.model_validate(OmegaConf.to_container(section, resolve=True))
        self.rollouts: Shared[Rollouts] = Shared()
        config = loop.rollout_config
        room = config.prompt_length + config.response_length
        sampler = EngineSampler(
            loop.server_manager.generate,
            loop.tokenizer,
            template_options=dict(loop.apply_chat_template_kwargs),
            max_context_tokens=min(room, config.get("max_model_len") or room),
            loop=asyncio.get_running_loop(),
        )
        self.open = partial(serving_rollouts, self.settings, sampler, config.response_length)


# By the server manager, of which each worker has one. They live as long as the process, as verl's workers do.
_WORKERS: Final[dict[Any, _Worker]] = {}


def _worker_of(loop: StoreAgentLoop) -> _Worker:
    if loop.server_manager not in _WORKERS:
        _WORKERS[loop.server_manager] = _Worker(loop)
    return _WORKERS[loop.server_manager]
