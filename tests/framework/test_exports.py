"""What each public module exports is decided here, so that nothing appears or goes by accident."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

from agentlightning import store, tracer

EXPORTS = {
    "agentlightning": """APO Adapter AgentLightningClient AgentLightningServer AgentOpsTracer Algorithm
        AlgorithmBundle Attempt AttemptFailure AttemptStatus AttemptedRollout AttributeValue Attributes
        Baseline BlockingStore CancelAttempt ClaimedRollouts ClientServerExecutionStrategy CommandedWorker
        CustomResource Dataset DevTaskLoader Drain DummyTracer EnqueueRolloutRequest Event ExecutionEvent
        ExecutionStrategy FailureKind FastAlgorithm FilterField FilterOptions FunctionalAlgorithm
        FunctionalLitAgent GRPO GenericResponse Hook InMemoryLightningStore LLM LLMProxy LateReport
        LegacyAgentRunner LightningEnvVar LightningStore LightningStoreCapabilities LightningStoreClient
        LightningStoreServer LightningStoreStatistics LightningStoreThreaded Link LitAgent LitAgentRunner
        LlmProxyTraceToTriplet MultiprocessingEvent NamedResources OperationContext OtelResource
        OtelTraceAdapter OtelTracer PaginatedResult ParallelWorkerBase PostgresLightningStore PromptTemplate
        ProxyLLM Resource ResourceUnion ResourcesUpdate Rollout RolloutConfig RolloutLegacy RolloutMode
        RolloutRawResult RolloutRawResultLegacy RolloutStatus Runner RunnerBundle SharedMemoryExecutionStrategy
        SortOptions Span SpanAttributeNames SpanContext SpanCoreFields SpanLike SpanNames SpanRecordingContext
        SqliteLightningStore StatusCode Task TaskIfAny TaskInput ThreadingEvent TraceAdapter TraceState
        TraceStatus TraceToMessages TraceToTripletBase Tracer TracerTraceToTriplet Trainer Triplet VERL Worker
        WorkerCommand WorkerStatus algo build_component clear_active_tracer configure_logger convert_timestamp
        current_worker_name emit_annotation emit_exception emit_message emit_object emit_reward encode_object
        find_final_reward find_reward_spans get_active_tracer get_message_value get_object_value
        get_reward_value get_rewards_from_span is_reward_span lightning_cli llm_rollout operation prompt_rollout
        resolve_bool_env_var resolve_int_env_var resolve_str_env_var reward rollout
        set_active_tracer setup_logging setup_module_logging""",
    "agentlightning.adapter": """Adapter LlmProxyTraceToTriplet OtelTraceAdapter TraceAdapter TraceToMessages
        TraceToTripletBase TracerTraceToTriplet""",
    "agentlightning.adapter.base": "Adapter OtelTraceAdapter TraceAdapter TraceToTripletBase",
    "agentlightning.adapter.messages": "OpenAIMessages TraceToMessages",
    "agentlightning.adapter.triplet": """LlmProxyTraceToTriplet RewardMatchPolicy TraceToTripletBase TraceTree
        TracerTraceToTriplet diagnose""",
    "agentlightning.algorithm": "APO Algorithm Baseline FastAlgorithm FunctionalAlgorithm GRPO VERL algo",
    "agentlightning.algorithm.apo": "APO BeamRound Candidate",
    "agentlightning.algorithm.grpo": "BatchProgress GRPO GRPOConfig LoRA Step read_history",
    "agentlightning.algorithm.verl": "VERL VERLSettings",
    "agentlightning.client": "AgentLightningClient DevTaskLoader RequestRefusedError",
    "agentlightning.config": "lightning_cli",
    "agentlightning.emitter": """OperationContext emit_annotation emit_exception emit_message emit_object
        emit_reward encode_object find_final_reward find_reward_spans get_message_value get_object_value
        get_reward_value get_rewards_from_span is_reward_span operation reward""",
    "agentlightning.env_var": "LightningEnvVar resolve_bool_env_var resolve_int_env_var resolve_str_env_var",
    "agentlightning.execution": """AlgorithmBundle ClientServerExecutionStrategy ExecutionEvent ExecutionStrategy
        MultiprocessingEvent RunnerBundle SharedMemoryExecutionStrategy ThreadingEvent current_worker_name""",
    "agentlightning.instrumentation": "instrument_all uninstrument_all",
    "agentlightning.litagent": "FunctionalLitAgent LitAgent llm_rollout prompt_rollout rollout",
    "agentlightning.llm_proxy": "Backend LLMProxy ModelConfig",
    "agentlightning.logging": "configure_logger setup setup_logging setup_module setup_module_logging",
    "agentlightning.reward": """emit_reward find_final_reward find_reward_spans get_reward_value
        get_rewards_from_span is_reward_span reward""",
    "agentlightning.runner": "LegacyAgentRunner LitAgentRunner Runner",
    "agentlightning.semconv": """AGL_ANNOTATION AGL_EXCEPTION AGL_MESSAGE AGL_OBJECT AGL_OPERATION AGL_REWARD
        AGL_VIRTUAL LightningResourceAttributes LightningSpanAttributes LinkAttributes LinkPydanticModel
        RewardAttributes RewardPydanticModel""",
    "agentlightning.server": "AgentLightningServer",
    "agentlightning.store": """BlockingStore InMemoryLightningStore LightningStore LightningStoreCapabilities
        LightningStoreClient LightningStoreServer LightningStoreStatistics LightningStoreThreaded
        PostgresLightningStore SqliteLightningStore""",
    "agentlightning.store.base": """LightningStore LightningStoreCapabilities LightningStoreStatistics UNSET Unset
        is_finished is_queuing is_running""",
    "agentlightning.store.client_server": "LightningStoreClient LightningStoreServer",
    "agentlightning.tracer": """AgentOpsTracer DummyTracer OtelTracer Tracer clear_active_tracer get_active_tracer
        set_active_tracer""",
    "agentlightning.trainer": "Trainer build_component",
    "agentlightning.types": """Attempt AttemptFailure AttemptStatus AttemptedRollout AttributeValue Attributes
        CancelAttempt ClaimedRollouts CommandedWorker CustomResource Dataset Drain EnqueueRolloutRequest Event
        FailureKind FilterField FilterOptions GenericResponse Hook LLM LateReport Link NamedResources OtelResource
        PaginatedResult ParallelWorkerBase PromptTemplate ProxyLLM Resource ResourceUnion ResourcesUpdate Rollout
        RolloutConfig RolloutLegacy RolloutMode RolloutRawResult RolloutRawResultLegacy RolloutStatus SortOptions
        Span SpanAttributeNames SpanContext SpanCoreFields SpanLike SpanNames SpanRecordingContext StatusCode Task
        TaskIfAny TaskInput TraceState TraceStatus Triplet Worker WorkerCommand WorkerStatus convert_timestamp""",
    "agentlightning.types.core": """Attempt AttemptFailure AttemptStatus AttemptedRollout CancelAttempt
        ClaimedRollouts CommandedWorker Dataset Drain EnqueueRolloutRequest FailureKind FilterField FilterOptions
        GenericResponse Hook LateReport PaginatedResult ParallelWorkerBase Rollout RolloutConfig RolloutLegacy
        RolloutMode RolloutRawResult RolloutRawResultLegacy RolloutStatus SortOptions Task TaskIfAny TaskInput
        Triplet Worker WorkerCommand WorkerStatus""",
    "agentlightning.types.resources": """CustomResource LLM NamedResources PromptTemplate ProxyLLM Resource
        ResourceUnion ResourcesUpdate""",
    "agentlightning.types.tracer": """AttributeValue Attributes Event Link OtelResource Span SpanAttributeNames
        SpanContext SpanCoreFields SpanLike SpanNames SpanRecordingContext StatusCode TraceState TraceStatus
        convert_timestamp""",
    "agentlightning.utils.otel": """check_attributes_sanity extract_links_from_attributes
        extract_tags_from_attributes filter_and_unflatten_attributes filter_attributes flatten_attributes
        format_exception_attributes full_qualified_name get_tracer get_tracer_provider make_link_attributes
        make_tag_attributes query_linked_spans sanitize_attribute_value sanitize_attributes unflatten_attributes""",
}


@pytest.mark.parametrize("module", EXPORTS)
def test_a_module_exports_these_names_and_no_others(module: str) -> None:
    exported = importlib.import_module(module).__all__
    assert sorted(exported) == EXPORTS[module].split()


@pytest.mark.parametrize("module", EXPORTS)
def test_every_name_that_a_module_exports_can_be_had(module: str) -> None:
    loaded = importlib.import_module(module)
    for name in loaded.__all__:
        assert getattr(loaded, name) is not None


@pytest.mark.parametrize("package", [store, tracer])
def test_type_checkers_see_what_a_package_loads_when_it_is_used(package: ModuleType) -> None:
    block = next(node for node in ast.parse(Path(str(package.__file__)).read_text()).body if isinstance(node, ast.If))
    imports = [statement for statement in block.body if isinstance(statement, ast.ImportFrom)]
    assert sorted(each.names[0].name for each in imports) == sorted(package.__all__)
    for each in imports:
        (alias,) = each.names
        assert alias.asname == alias.name
        assert getattr(package, alias.name) is getattr(importlib.import_module(str(each.module)), alias.name)


def test_the_table_is_in_order() -> None:
    assert list(EXPORTS) == sorted(EXPORTS)
    for names in EXPORTS.values():
        assert names.split() == sorted(names.split())
