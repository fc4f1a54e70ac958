"""Agent Lightning over gRPC: train agents with an algorithm and runners that meet at a store.

Everything here is loaded when it is first used, so that `import agentlightning` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentlightning.algorithm import Algorithm, algo
    from agentlightning.emitter import (
        emit_reward,
        find_final_reward,
        find_reward_spans,
        get_reward_value,
        get_rewards_from_span,
        is_reward_span,
    )
    from agentlightning.env_var import (
        LightningEnvVar,
        resolve_bool_env_var,
        resolve_int_env_var,
        resolve_str_env_var,
    )
    from agentlightning.execution import (
        ClientServerExecutionStrategy,
        ExecutionEvent,
        ExecutionStrategy,
        MultiprocessingEvent,
        ThreadingEvent,
    )
    from agentlightning.litagent import LitAgent, llm_rollout, prompt_rollout, rollout
    from agentlightning.runner import LitAgentRunner, Runner
    from agentlightning.tracer import (
        OtelTracer,
        Tracer,
        clear_active_tracer,
        get_active_tracer,
        set_active_tracer,
    )
    from agentlightning.trainer import Trainer

_EXPORTS = {
    "agentlightning.algorithm": ("Algorithm", "algo"),
    "agentlightning.emitter": (
        "emit_reward",
        "find_final_reward",
        "find_reward_spans",
        "get_reward_value",
        "get_rewards_from_span",
        "is_reward_span",
    ),
    "agentlightning.env_var": (
        "LightningEnvVar",
        "resolve_bool_env_var",
        "resolve_int_env_var",
        "resolve_str_env_var",
    ),
    "agentlightning.execution": (
        "ClientServerExecutionStrategy",
        "ExecutionEvent",
        "ExecutionStrategy",
        "MultiprocessingEvent",
        "ThreadingEvent",
    ),
    "agentlightning.litagent": ("LitAgent", "llm_rollout", "prompt_rollout", "rollout"),
    "agentlightning.runner": ("LitAgentRunner", "Runner"),
    "agentlightning.tracer": (
        "OtelTracer",
        "Tracer",
        "clear_active_tracer",
        "get_active_tracer",
        "set_active_tracer",
    ),
    "agentlightning.trainer": ("Trainer",),
}
