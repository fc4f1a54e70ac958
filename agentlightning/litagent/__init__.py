"""Agents: classes and decorated functions that a runner runs."""

from __future__ import annotations

from agentlightning.litagent.decorator import llm_rollout, prompt_rollout, rollout
from agentlightning.litagent.litagent import LitAgent

__all__ = ["LitAgent", "llm_rollout", "prompt_rollout", "rollout"]
