"""Runners: what takes rollouts from a store, runs an agent on them, and reports."""

from __future__ import annotations

from agentlightning.runner.agent import LitAgentRunner
from agentlightning.runner.base import Runner

__all__ = ["LitAgentRunner", "Runner"]
