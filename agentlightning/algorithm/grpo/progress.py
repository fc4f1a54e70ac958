"""How a training goes: figures for each step, kept in the store with the resources of the step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from agentlightning.types import CustomResource

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

STEP_RESOURCE: Final = "training_step"
"""The name of the resource with the figures, and its type."""


@dataclass(frozen=True)
class Step:
    """What is known of the policy of one version, and of the step that led to it."""

    version: int
    """How many steps led to the policy; 0 is the policy as it was loaded."""
    validation: float | None = None
    """Mean reward of the policy on the validation set, where that was measured."""
    reward: float | None = None
    """Mean reward of the step's rollouts, which the policy before made. None for version 0, as are all that follow."""
    reward_spread: float | None = None
    """Standard deviation of these rewards."""
    rollouts: int = 0
    """How many rollouts that was."""
    lost: int = 0
    """How many more there were that could not be used."""
    uneven_groups: int = 0
    """How many groups had rewards that differ; the others teach nothing."""
    response_tokens: float = 0.0
    """Tokens that the policy chose in a rollout, on average."""
    stale_calls: int = 0
    """Model calls that an older policy answered."""
    rollout_seconds: float = 0.0
    """How long the rollouts took."""
    update_seconds: float = 0.0
    """How long the update took."""
    loss: float = 0.0
    """See `UpdateMetrics` for this one and those that follow."""
    kl: float = 0.0
    entropy: float = 0.0
    clipped: float = 0.0
    drift: float = 0.0
    grad_norm: float = 0.0
    trained_tokens: int = 0


@dataclass(frozen=True)
class BatchProgress:
    """How far the rollouts are that run together."""

    label: str
    """Which they are: `step-7`, `val-10`."""
    done: int
    """How many have finished."""
    total: int
    """How many there are."""
    mean_reward: float | None
    """Mean reward of those that have one."""


def step_resource(step: Step) -> CustomResource:
    """Returns the figures of a step as a resource."""
    return CustomResource(resource_type=STEP_RESOURCE, **asdict(step))


async def read_history(store: LightningStore, run: str) -> list[Step]:
    """Returns the figures of a run that a store has, in the order of the steps.

    Args:
        store: The store.
        run: The name of the run.
    """
    steps: dict[int, Step] = {}
    for update in await store.query_resources(resources_id_contains=f"{run}-"):
        kept = update.resources.get(STEP_RESOURCE)
        if isinstance(kept, CustomResource) and update.resources_id.startswith(f"{run}-"):
            step = _step(kept)
            steps[step.version] = step
    return [steps[version] for version in sorted(steps)]


def _step(resource: CustomResource) -> Step:
    known: dict[str, Any] = resource.model_dump()
    return Step(**{each.name: known[each.name] for each in fields(Step) if each.name in known})
