"""Agent Lightning over gRPC: train agents with an algorithm and runners that meet at a store.

What is named here is loaded when it is first used, so that `import agentlightning` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentlightning.algorithm import (
        Algorithm,
        algo,
    )
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
    from agentlightning.litagent import (
        LitAgent,
        llm_rollout,
        prompt_rollout,
        rollout,
    )
    from agentlightning.runner import (
        LitAgentRunner,
        Runner,
    )
    from agentlightning.store.base import (
        LightningStore,
        LightningStoreCapabilities,
        LightningStoreStatistics,
    )
    from agentlightning.store.client import (
        LightningStoreClient,
    )
    from agentlightning.store.memory import (
        InMemoryLightningStore,
    )
    from agentlightning.store.server import (
        LightningStoreServer,
    )
    from agentlightning.store.sqlite import (
        SqliteLightningStore,
    )
    from agentlightning.store.threading import (
        LightningStoreThreaded,
    )
    from agentlightning.tracer import (
        OtelTracer,
        Tracer,
        clear_active_tracer,
        get_active_tracer,
        set_active_tracer,
    )
    from agentlightning.trainer import (
        Trainer,
    )
    from agentlightning.types import (
        LLM,
        Attempt,
        AttemptedRollout,
        AttemptFailure,
        AttemptStatus,
        Attributes,
        AttributeValue,
        CancelAttempt,
        ClaimedRollouts,
        CommandedWorker,
        CustomResource,
        Dataset,
        Drain,
        EnqueueRolloutRequest,
        Event,
        FailureKind,
        FilterField,
        FilterOptions,
        GenericResponse,
        Hook,
        LateReport,
        Link,
        NamedResources,
        OtelResource,
        PaginatedResult,
        ParallelWorkerBase,
        PromptTemplate,
        ProxyLLM,
        Resource,
        ResourcesUpdate,
        ResourceUnion,
        Rollout,
        RolloutConfig,
        RolloutLegacy,
        RolloutMode,
        RolloutRawResult,
        RolloutRawResultLegacy,
        RolloutStatus,
        SortOptions,
        Span,
        SpanAttributeNames,
        SpanContext,
        SpanCoreFields,
        SpanLike,
        SpanNames,
        SpanRecordingContext,
        StatusCode,
        Task,
        TaskIfAny,
        TaskInput,
        TraceState,
        TraceStatus,
        Triplet,
        Worker,
        WorkerCommand,
        WorkerStatus,
    )

__all__ = [
    "LLM",
    "Algorithm",
    "Attempt",
    "AttemptFailure",
    "AttemptStatus",
    "AttemptedRollout",
    "AttributeValue",
    "Attributes",
    "CancelAttempt",
    "ClaimedRollouts",
    "ClientServerExecutionStrategy",
    "CommandedWorker",
    "CustomResource",
    "Dataset",
    "Drain",
    "EnqueueRolloutRequest",
    "Event",
    "ExecutionEvent",
    "ExecutionStrategy",
    "FailureKind",
    "FilterField",
    "FilterOptions",
    "GenericResponse",
    "Hook",
    "InMemoryLightningStore",
    "LateReport",
    "LightningEnvVar",
    "LightningStore",
    "LightningStoreCapabilities",
    "LightningStoreClient",
    "LightningStoreServer",
    "LightningStoreStatistics",
    "LightningStoreThreaded",
    "Link",
    "LitAgent",
    "LitAgentRunner",
    "MultiprocessingEvent",
    "NamedResources",
    "OtelResource",
    "OtelTracer",
    "PaginatedResult",
    "ParallelWorkerBase",
    "PromptTemplate",
    "ProxyLLM",
    "Resource",
    "ResourceUnion",
    "ResourcesUpdate",
    "Rollout",
    "RolloutConfig",
    "RolloutLegacy",
    "RolloutMode",
    "RolloutRawResult",
    "RolloutRawResultLegacy",
    "RolloutStatus",
    "Runner",
    "SortOptions",
    "Span",
    "SpanAttributeNames",
    "SpanContext",
    "SpanCoreFields",
    "SpanLike",
    "SpanNames",
    "SpanRecordingContext",
    "SqliteLightningStore",
    "StatusCode",
    "Task",
    "TaskIfAny",
    "TaskInput",
    "ThreadingEvent",
    "TraceState",
    "TraceStatus",
    "Tracer",
    "Trainer",
    "Triplet",
    "Worker",
    "WorkerCommand",
    "WorkerStatus",
    "algo",
    "clear_active_tracer",
    "emit_reward",
    "find_final_reward",
    "find_reward_spans",
    "get_active_tracer",
    "get_reward_value",
    "get_rewards_from_span",
    "is_reward_span",
    "llm_rollout",
    "prompt_rollout",
    "resolve_bool_env_var",
    "resolve_int_env_var",
    "resolve_str_env_var",
    "rollout",
    "set_active_tracer",
]

_EXPORTS = {
    "agentlightning.algorithm": (
        "Algorithm",
        "algo",
    ),
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
    "agentlightning.litagent": (
        "LitAgent",
        "llm_rollout",
        "prompt_rollout",
        "rollout",
    ),
    "agentlightning.runner": (
        "LitAgentRunner",
        "Runner",
    ),
    "agentlightning.store.base": (
        "LightningStore",
        "LightningStoreCapabilities",
        "LightningStoreStatistics",
    ),
    "agentlightning.store.client": ("LightningStoreClient",),
    "agentlightning.store.memory": ("InMemoryLightningStore",),
    "agentlightning.store.server": ("LightningStoreServer",),
    "agentlightning.store.sqlite": ("SqliteLightningStore",),
    "agentlightning.store.threading": ("LightningStoreThreaded",),
    "agentlightning.tracer": (
        "OtelTracer",
        "Tracer",
        "clear_active_tracer",
        "get_active_tracer",
        "set_active_tracer",
    ),
    "agentlightning.trainer": ("Trainer",),
    "agentlightning.types": (
        "Attempt",
        "AttemptFailure",
        "AttemptStatus",
        "AttemptedRollout",
        "AttributeValue",
        "Attributes",
        "CancelAttempt",
        "ClaimedRollouts",
        "CommandedWorker",
        "CustomResource",
        "Dataset",
        "Drain",
        "EnqueueRolloutRequest",
        "Event",
        "FailureKind",
        "FilterField",
        "FilterOptions",
        "GenericResponse",
        "Hook",
        "LLM",
        "LateReport",
        "Link",
        "NamedResources",
        "OtelResource",
        "PaginatedResult",
        "ParallelWorkerBase",
        "PromptTemplate",
        "ProxyLLM",
        "Resource",
        "ResourceUnion",
        "ResourcesUpdate",
        "Rollout",
        "RolloutConfig",
        "RolloutLegacy",
        "RolloutMode",
        "RolloutRawResult",
        "RolloutRawResultLegacy",
        "RolloutStatus",
        "SortOptions",
        "Span",
        "SpanAttributeNames",
        "SpanContext",
        "SpanCoreFields",
        "SpanLike",
        "SpanNames",
        "SpanRecordingContext",
        "StatusCode",
        "Task",
        "TaskIfAny",
        "TaskInput",
        "TraceState",
        "TraceStatus",
        "Triplet",
        "Worker",
        "WorkerCommand",
        "WorkerStatus",
    ),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}
_SUBPACKAGES = frozenset(module.split(".")[1] for module in _EXPORTS)


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
