"""Runners: what takes rollouts from a store, runs an agent on them, and reports."""

from __future__ import annotations

from agentlightning.runner.agent import LitAgentRunner
from agentlightning.runner.base import Runner
from agentlightning.runner.legacy import LegacyAgentRunner

__all__ = ["LegacyAgentRunner", "LitAgentRunner", "Runner"]
