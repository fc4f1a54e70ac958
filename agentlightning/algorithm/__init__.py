"""Algorithms: what enqueues rollouts, learns from their spans, and publishes better resources."""

from __future__ import annotations

from agentlightning.algorithm.base import Algorithm
from agentlightning.algorithm.decorator import algo

__all__ = ["Algorithm", "algo"]
