"""What verl trains on: the model calls of a rollout, within the lengths that verl has room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentlightning.algorithm.policies.calls import JoinedCalls, ModelCall, join_calls


@dataclass(frozen=True)
class Trajectory:
    """One sequence, in the terms of verl's `AgentLoopOutput`."""

    prompt_ids: list[int]
    """Token ids before the first that the policy chose."""
    response_ids: list[int]
    """Token ids from there on."""
    response_mask: list[int]
    """1 for each token of the response that trains, 0 for what an environment wrote or is not to be learned from."""
    response_logprobs: list[float]
    """For each token of the response its log-probability when it was chosen; 0 where it was not."""


def trajectories(
    calls: Sequence[ModelCall], *, most_prompt: int, most_response: int, trains: bool
) -> tuple[list[Trajectory], int]:
    """Returns what the calls of a rollout make, and how many of their chosen tokens verl has no room for.

    Calls that go on from each other, token by token, are one trajectory. Of a response that is too long the end is cut
    off, which leaves the probabilities of the rest as they were. A prompt that is too long loses its beginning, and the
    trajectory does not train: its tokens were chosen after another prompt.

    Args:
        calls: The calls, in the order in which they were made.
        most_prompt: How many tokens a prompt may have.
        most_response: How many tokens a response may have.
        trains: Whether the tokens are to be learned from.
    """
    joined = join_calls(calls)
    made = [_fitted(each, most_prompt, most_response, trains) for each in joined]
    # verl reads the advantage of a rollout off the last one.
    made.sort(key=lambda each: any(each.response_mask))
    chosen = sum(sum(each.chosen) for each in joined)
    return made, chosen - sum(sum(each.response_mask) for each in made) if trains else 0


def untrained(prompt: Sequence[int], end_token: int, most_prompt: int) -> Trajectory:
    """Returns a trajectory that teaches nothing, for a rollout without model calls.

    Args:
        prompt: Token ids that stand for the task.
        end_token: The only token of the response, since verl expects one.
        most_prompt: How many tokens a prompt may have.
    """
    return Trajectory(list(prompt)[-most_prompt:], [end_token], [0], [0.0])


def longest(made: Sequence[Trajectory]) -> Trajectory:
    """Returns the trajectory with the most tokens that train, the last of equal ones."""
    return max(reversed(made), key=lambda each: sum(each.response_mask))


def _fitted(joined: JoinedCalls, most_prompt: int, most_response: int, trains: bool) -> Trajectory:
    trains = trains and len(joined.prompt) <= most_prompt
    return Trajectory(
        prompt_ids=joined.prompt[-most_prompt:],
        response_ids=joined.completion[:most_response],
        response_mask=[int(trains and chosen) for chosen in joined.chosen[:most_response]],
        response_logprobs=joined.logprobs[:most_response],
    )
