"""Automatic prompt optimisation: a language model reads how an agent fares and rewrites its prompt."""

from __future__ import annotations

from agentlightning.algorithm.apo.apo import APO
from agentlightning.algorithm.apo.candidates import BeamRound, Candidate

__all__ = ["APO", "BeamRound", "Candidate"]
