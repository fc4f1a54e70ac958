"""Emitters: functions that an agent calls to put a span of its own into the trace of its rollout."""

from __future__ import annotations

from agentlightning.emitter.annotation import OperationContext, emit_annotation, operation
from agentlightning.emitter.exception import emit_exception
from agentlightning.emitter.message import emit_message, get_message_value
from agentlightning.emitter.object import emit_object, encode_object, get_object_value
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
    "OperationContext",
    "emit_annotation",
    "emit_exception",
    "emit_message",
    "emit_object",
    "emit_reward",
    "encode_object",
    "find_final_reward",
    "find_reward_spans",
    "get_message_value",
    "get_object_value",
    "get_reward_value",
    "get_rewards_from_span",
    "is_reward_span",
    "operation",
    "reward",
]
