"""Code written for agent-lightning 0.2 and 0.3 finds every name where it was."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import agentlightning

PATHS = {
    "adapter": """Adapter LlmProxyTraceToTriplet OtelTraceAdapter TraceAdapter TraceToMessages TraceToTripletBase
        TracerTraceToTriplet""",
    "adapter.base": "Adapter OtelTraceAdapter TraceAdapter",
    "adapter.messages": "OpenAIMessages TraceToMessages",
    "adapter.triplet": """LlmProxyTraceToTriplet RewardMatchPolicy TraceToTripletBase TraceTree
        TracerTraceToTriplet""",
    "algorithm": "APO Algorithm Baseline FastAlgorithm algo",
    "algorithm.apo": "APO",
    "algorithm.base": "Algorithm",
    "algorithm.decorator": "FunctionalAlgorithm algo",
    "algorithm.fast": "Baseline FastAlgorithm",
    "algorithm.utils": "batch_iter_over_dataset with_llm_proxy with_store",
    "cli": "main",
    "cli.agentops_server": "main",
    "cli.store": "main",
    "cli.vllm": "main",
    "client": "AgentLightningClient DevTaskLoader",
    "config": "lightning_cli",
    "emitter": """emit_annotation emit_exception emit_message emit_object emit_reward find_final_reward
        find_reward_spans get_message_value get_object_value get_reward_value get_rewards_from_span is_reward_span
        operation reward""",
    "emitter.annotation": "OperationContext emit_annotation operation",
    "emitter.exception": "emit_exception",
    "emitter.message": "emit_message get_message_value",
    "emitter.object": "emit_object encode_object get_object_value",
    "emitter.reward": """emit_reward find_final_reward find_reward_spans get_reward_value get_rewards_from_span
        is_reward_span reward""",
    "env_var": "LightningEnvVar resolve_bool_env_var resolve_int_env_var resolve_str_env_var",
    "execution": """ClientServerExecutionStrategy ExecutionEvent ExecutionStrategy MultiprocessingEvent
        SharedMemoryExecutionStrategy ThreadingEvent""",
    "execution.base": "AlgorithmBundle ExecutionStrategy RunnerBundle",
    "execution.client_server": "ClientServerExecutionStrategy",
    "execution.events": "ExecutionEvent MultiprocessingEvent ThreadingEvent",
    "execution.shared_memory": "SharedMemoryExecutionStrategy",
    "instrumentation": "instrument_all uninstrument_all",
    "litagent": "LitAgent llm_rollout prompt_rollout rollout",
    "litagent.decorator": "FunctionalLitAgent llm_rollout prompt_rollout rollout",
    "litagent.litagent": "LitAgent is_v0_1_rollout_api",
    "llm_proxy": "LLMProxy ModelConfig",
    "logging": "configure_logger setup setup_module",
    "reward": "emit_reward find_final_reward find_reward_spans get_reward_value is_reward_span reward",
    "runner": "LegacyAgentRunner LitAgentRunner Runner",
    "runner.agent": "LitAgentRunner",
    "runner.base": "Runner",
    "runner.legacy": "LegacyAgentRunner",
    "semconv": """AGL_ANNOTATION AGL_EXCEPTION AGL_MESSAGE AGL_OBJECT AGL_OPERATION AGL_REWARD AGL_VIRTUAL
        LightningResourceAttributes LightningSpanAttributes LinkAttributes LinkPydanticModel RewardAttributes
        RewardPydanticModel""",
    "server": "AgentLightningServer",
    "store": """InMemoryLightningStore LightningStore LightningStoreCapabilities LightningStoreClient
        LightningStoreServer LightningStoreStatistics LightningStoreThreaded""",
    "store.base": """LightningStore LightningStoreCapabilities LightningStoreStatistics UNSET Unset is_finished
        is_queuing is_running""",
    "store.client_server": "LightningStoreClient LightningStoreServer",
    "store.memory": "InMemoryLightningStore",
    "store.threading": "LightningStoreThreaded",
    "tracer": "AgentOpsTracer DummyTracer OtelTracer Tracer clear_active_tracer get_active_tracer set_active_tracer",
    "tracer.agentops": "AgentOpsTracer",
    "tracer.base": "Tracer clear_active_tracer get_active_tracer set_active_tracer",
    "tracer.dummy": "DummyTracer",
    "tracer.otel": "OtelTracer",
    "trainer": "Trainer build_component",
    "trainer.init_utils": "build_component instantiate_component instantiate_from_spec load_class",
    "trainer.trainer": "Trainer",
    "types.core": """Attempt AttemptStatus AttemptedRollout Dataset EnqueueRolloutRequest FilterField FilterOptions
        GenericResponse Hook PaginatedResult ParallelWorkerBase Rollout RolloutConfig RolloutLegacy RolloutMode
        RolloutRawResult RolloutRawResultLegacy RolloutStatus SortOptions Task TaskIfAny TaskInput Triplet Worker
        WorkerStatus""",
    "types.resources": "LLM NamedResources PromptTemplate ProxyLLM Resource ResourceUnion ResourcesUpdate",
    "types.tracer": """AttributeValue Attributes Event Link OtelResource Span SpanAttributeNames SpanContext
        SpanCoreFields SpanLike SpanNames SpanRecordingContext StatusCode TraceState TraceStatus convert_timestamp""",
    "utils.otel": """check_attributes_sanity extract_links_from_attributes extract_tags_from_attributes
        filter_and_unflatten_attributes filter_attributes flatten_attributes format_exception_attributes
        full_qualified_name get_tracer get_tracer_provider make_link_attributes make_tag_attributes
        query_linked_spans sanitize_attribute_value sanitize_attributes unflatten_attributes""",
    "utils.system_snapshot": "system_snapshot",
}
"""Module below `agentlightning`, and the names of older releases in it."""

IN_THE_TOP_PACKAGE = (
    *("adapter", "algorithm", "client", "config", "emitter", "env_var", "execution", "litagent", "runner", "server"),
    *("store", "tracer", "trainer", "types.core", "types.resources", "types.tracer"),
)
"""Modules whose names the top package has as well."""
NOT_IN_IT = {"convert_timestamp"}
MODULE_TOO = {"reward"}
LOGGING = ("configure_logger", "setup_logging", "setup_module_logging")


@pytest.mark.parametrize("module", PATHS)
def test_a_module_has_the_names_of_older_releases(module: str) -> None:
    loaded = importlib.import_module(f"agentlightning.{module}")
    assert [name for name in PATHS[module].split() if not hasattr(loaded, name)] == []


def test_types_are_found_without_their_module() -> None:
    from agentlightning import types

    for module in ("types.core", "types.resources", "types.tracer"):
        assert set(PATHS[module].split()) <= set(types.__all__)


@pytest.mark.parametrize("module", IN_THE_TOP_PACKAGE)
def test_the_top_package_has_them_as_well_and_they_are_the_same(module: str) -> None:
    loaded = importlib.import_module(f"agentlightning.{module}")
    names = [name for name in PATHS[module].split() if name not in NOT_IN_IT]
    assert [name for name in names if name not in agentlightning.__all__] == []
    assert [
        name for name in set(names) - MODULE_TOO if getattr(agentlightning, name) is not getattr(loaded, name)
    ] == []


def test_reward_is_a_decorator_whether_its_module_was_imported_or_not() -> None:
    code = """
from agentlightning import emitter, reward
assert reward is emitter.reward
import agentlightning.reward
assert agentlightning.reward(len)
assert agentlightning.reward.emit_reward is emitter.emit_reward
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", LOGGING)
def test_the_top_package_sets_logging_up(name: str) -> None:
    assert callable(getattr(agentlightning, name))
    assert name in agentlightning.__all__


@pytest.mark.parametrize("module", ["store.client_server", "algorithm.apo", "trainer.trainer", "client", "config"])
def test_a_module_can_be_the_first_to_be_imported(module: str) -> None:
    code = f"import agentlightning.{module}"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
