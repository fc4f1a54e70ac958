"""The names of `agentlightning.emitter.reward` under the path of old releases."""

from __future__ import annotations

import sys
from types import ModuleType

from agentlightning.emitter.reward import (
    emit_reward,
    find_final_reward,
    find_reward_spans,
    get_reward_value,
    get_rewards_from_span,
    is_reward_span,
    reward,
)

__all__ = [
    "emit_reward",
    "find_final_reward",
    "find_reward_spans",
    "get_reward_value",
    "get_rewards_from_span",
    "is_reward_span",
    "reward",
]


class _CallableModule(ModuleType):
    # `agentlightning.reward` is the decorator until somebody imports this module: then it is both.
    __call__ = staticmethod(reward)


sys.modules[__name__].__class__ = _CallableModule
