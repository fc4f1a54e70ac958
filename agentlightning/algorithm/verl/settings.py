"""The section `agentlightning` of verl's config, by which verl's workers find the store."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from agentlightning.store.api import DEFAULT_EXPERIMENT
from agentlightning.types import RolloutConfig

SECTION: Final = "agentlightning"
"""The name of the section."""
AGENT_LOOP: Final = "agentlightning"
"""The name by which verl knows our agent loop."""
AGENT_LOOPS: Final = Path(__file__).with_name("agent_loops.yaml")
"""The file that tells verl which class that is, for `actor_rollout_ref.rollout.agent.agent_loop_config_path`."""


class VERLSettings(BaseModel):
    """What the agent loop needs to know, beside verl's own config."""

    model_config = ConfigDict(extra="forbid")

    store: str
    """The address of the store server, `host:port`. `VERL` fills it in."""
    experiment: str = DEFAULT_EXPERIMENT
    """The experiment to work in. `VERL` fills it in."""
    run: str = "verl"
    """Begins the ids of the rollouts and resources."""
    resources_id: str | None = None
    """Resources that agents get besides the model. `VERL` fills it in."""
    gateway_host: str = "127.0.0.1"
    """Where the gateway of each agent loop worker listens; 0.0.0.0 lets runners of other machines call it."""
    insecure: bool = False
    """True allows a `gateway_host` that others can reach, though nothing is encrypted."""
    rollout: RolloutConfig = Field(default_factory=lambda: RolloutConfig(timeout_seconds=600.0))
    """Limits and retries of each rollout."""
    failed_reward: float = 0.0
    """What a rollout counts that failed or reported no reward. Its tokens are not trained on."""
