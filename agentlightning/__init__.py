"""Agent Lightning over gRPC: train agents with an algorithm and runners that meet at a store.

What is named here is loaded when it is first used, so that `import agentlightning` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlightning.removed import raise_if_removed
from agentlightning.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from agentlightning.adapter import *
    from agentlightning.algorithm import *
    from agentlightning.client import AgentLightningClient as AgentLightningClient
    from agentlightning.client import DevTaskLoader as DevTaskLoader
    from agentlightning.config import lightning_cli as lightning_cli
    from agentlightning.emitter import *
    from agentlightning.env_var import *
    from agentlightning.execution import *
    from agentlightning.litagent import *
    from agentlightning.llm_proxy import LLMProxy as LLMProxy
    from agentlightning.logging import configure_logger as configure_logger
    from agentlightning.logging import setup_logging as setup_logging
    from agentlightning.logging import setup_module_logging as setup_module_logging
    from agentlightning.runner import *
    from agentlightning.server import AgentLightningServer as AgentLightningServer
    from agentlightning.store import *
    from agentlightning.tracer import *
    from agentlightning.trainer import *
    from agentlightning.types import *
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "agentlightning.adapter": (
                "Adapter",
                "LlmProxyTraceToTriplet",
                "OtelTraceAdapter",
                "TraceAdapter",
                "TraceToMessages",
                "TraceToTripletBase",
                "TracerTraceToTriplet",
            ),
            "agentlightning.algorithm": (
                "APO",
                "GRPO",
                "Algorithm",
                "Baseline",
                "FastAlgorithm",
                "FunctionalAlgorithm",
                "VERL",
                "algo",
            ),
            "agentlightning.client": (
                "AgentLightningClient",
                "DevTaskLoader",
            ),
            "agentlightning.config": ("lightning_cli",),
            "agentlightning.emitter": (
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
            ),
            "agentlightning.env_var": (
                "LightningEnvVar",
                "resolve_bool_env_var",
                "resolve_int_env_var",
                "resolve_str_env_var",
            ),
            "agentlightning.execution": (
                "AlgorithmBundle",
                "ClientServerExecutionStrategy",
                "ExecutionEvent",
                "ExecutionStrategy",
                "MultiprocessingEvent",
                "RunnerBundle",
                "SharedMemoryExecutionStrategy",
                "ThreadingEvent",
                "current_worker_name",
            ),
            "agentlightning.litagent": (
                "FunctionalLitAgent",
                "LitAgent",
                "llm_rollout",
                "prompt_rollout",
                "rollout",
            ),
            "agentlightning.llm_proxy": ("LLMProxy",),
            "agentlightning.logging": (
                "configure_logger",
                "setup_logging",
                "setup_module_logging",
            ),
            "agentlightning.runner": (
                "LegacyAgentRunner",
                "LitAgentRunner",
                "Runner",
            ),
            "agentlightning.server": ("AgentLightningServer",),
            "agentlightning.store": (
                "BlockingStore",
                "InMemoryLightningStore",
                "LightningStore",
                "LightningStoreCapabilities",
                "LightningStoreClient",
                "LightningStoreServer",
                "LightningStoreStatistics",
                "LightningStoreThreaded",
                "PostgresLightningStore",
                "SqliteLightningStore",
            ),
            "agentlightning.tracer": (
                "AgentOpsTracer",
                "DummyTracer",
                "OtelTracer",
                "Tracer",
                "clear_active_tracer",
                "get_active_tracer",
                "set_active_tracer",
            ),
            "agentlightning.trainer": (
                "Trainer",
                "build_component",
            ),
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
                "convert_timestamp",
            ),
        },
        lambda name: raise_if_removed(f"{__name__}.{name}"),
    )
