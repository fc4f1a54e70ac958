"""What agent-lightning 0.2 and 0.3 have and this release leaves out on purpose, with what takes its place.

A module of this table is a stub that refuses to be imported, a name is refused by the package that had it, an argument
by what takes it, and a command or an option by `agl`: each with the same words, which say what to use instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ["REMOVED", "Removed", "describe_removed", "raise_if_removed"]


class Removed(NamedTuple):
    """Why something is not there, and what is there instead."""

    reason: str
    """Half a sentence that begins with a small letter."""
    successor: str
    """What to use; completes "Use ..."."""


_SERVER = "`python -m agentlightning.store_grpc`"
_COLLECTIONS = Removed(
    "stores do not differ by collections here but by their storage, behind one engine",
    "InMemoryLightningStore, SqliteLightningStore or LightningStoreClient",
)
_METRICS = Removed("stores keep no metrics of their own", "`await store.statistics()`")
_LAUNCHER = Removed(
    "servers speak gRPC and need neither gunicorn nor uvicorn",
    f"{_SERVER} for a server in a process of its own, LightningStoreServer for one in a thread",
)
_FRAMEWORKS = Removed(
    "model calls are recorded where they leave the process, with their token ids",
    "`agentlightning.instrumentation.instrument_all`, which OtelTracer calls by itself",
)
_PROCESSOR = Removed(
    "tracers hand spans over to the store themselves",
    "OtelTracer, and its `trace_context` for spans of a rollout that you run yourself",
)

_ONE_PROXY = Removed(
    "a process may have several gateways", "the `LLMProxy` that you made, or `llm_proxy` of the trainer"
)
_BROWSERS = Removed(
    "browsers do not speak gRPC", "the store over HTTP, `python -m agentlightning.rest --cors-origin ORIGIN`"
)
_MANY_SERVERS = Removed(
    "one server process serves calls concurrently",
    "several servers over one PostgreSQL database, `--store postgresql://...`, where one is not enough",
)
_LITELLM = Removed("the gateway needs no LiteLLM", "the arguments of `LLMProxy`")

REMOVED: Final[Mapping[str, Removed]] = {
    "agentlightning.CollectionBasedLightningStore": _COLLECTIONS,
    "agentlightning.instrumentation.agentops_langchain": _FRAMEWORKS,
    "agentlightning.instrumentation.litellm": _FRAMEWORKS,
    "agentlightning.instrumentation.vllm": Removed(
        "vLLM returns token ids by itself since 0.10.2",
        "`return_token_ids` in the request's extra body",
    ),
    "agentlightning.instrumentation.weave": _FRAMEWORKS,
    "agentlightning.llm_proxy.get_active_llm_proxy": _ONE_PROXY,
    "agentlightning.llm_proxy.initialize_llm_callbacks": _LITELLM,
    "agentlightning.llm_proxy.set_active_llm_proxy": _ONE_PROXY,
    "agentlightning.store.CollectionBasedLightningStore": _COLLECTIONS,
    "agentlightning.store.collection": _COLLECTIONS,
    "agentlightning.store.collection_based": _COLLECTIONS,
    "agentlightning.store.mongo": Removed(
        "no store is kept in MongoDB",
        f"SqliteLightningStore or PostgresLightningStore, or {_SERVER} over either with LightningStoreClient",
    ),
    "agentlightning.store.utils": Removed(
        "the rules of the rollout's life are the engine's alone",
        "the methods of LightningStore; a timer in the store looks after attempts",
    ),
    "agentlightning.tracer.agentops.LightningSpanProcessor": _PROCESSOR,
    "agentlightning.tracer.http": Removed("agents are not run in subprocesses to record their traffic", "OtelTracer"),
    "agentlightning.tracer.otel.LightningSpanProcessor": _PROCESSOR,
    "agentlightning.tracer.weave": Removed("no Weave server is run beside the agent", "OtelTracer"),
    "agentlightning.utils.id": Removed("ids come from the store", "`secrets.token_hex` for ids of your own"),
    "agentlightning.utils.metrics": _METRICS,
    "agentlightning.utils.otlp": Removed(
        "stores take OTLP over gRPC, which OpenTelemetry's own exporter speaks",
        "OTLPSpanExporter of opentelemetry-exporter-otlp-proto-grpc with `store.otlp_traces_endpoint()`",
    ),
    "agentlightning.utils.server_launcher": _LAUNCHER,
    "agl prometheus": Removed("stores keep no metrics of their own", "`agl stats --json`"),
    "agl store --backend": Removed(
        "a store is named by one URL",
        "`--store memory://`, which is the default, `--store sqlite:///PATH` or `--store postgresql://...`",
    ),
    "agl store --cors-origin": _BROWSERS,
    "agl store --mongo-uri": Removed(
        "no store is kept in MongoDB", "`--store sqlite:///PATH` or `--store postgresql://...`"
    ),
    "agl store --n-workers": _MANY_SERVERS,
    "agl store --tracker": Removed("stores keep no metrics of their own", "`agl stats --json`"),
    "InMemoryLightningStore(tracker=)": _METRICS,
    "LLMProxy(callbacks=)": _LITELLM,
    "LLMProxy(launcher_args=)": _LITELLM,
    "LLMProxy(litellm_config=)": _LITELLM,
    "LightningStoreServer(cors_allow_origins=)": _BROWSERS,
    "LightningStoreServer(launch_mode='mp')": _LAUNCHER,
    "LightningStoreServer(launcher_args=)": _LAUNCHER,
    "LightningStoreServer(n_workers=)": _MANY_SERVERS,
    "LightningStoreServer(tracker=)": _METRICS,
    "VERL(daemon_cls=)": Removed("nothing stands between verl and the store", '`docs/verl.md`, section "What happens"'),
    "VERL(trainer_cls=)": Removed("verl's trainer runs as it is", "verl's own config, `trainer.v1.trainer_mode`"),
}
"""By full name; an argument stands in the parentheses of what took it."""


def describe_removed(name: str) -> str:
    """Returns the sentences that say what takes the place of `name`, a key of `REMOVED`."""
    removed = REMOVED[name]
    return (
        f"{name} of agent-lightning 0.2 and 0.3 is not supported: {removed.reason}. Use {removed.successor}; "
        "see docs/migration.md."
    )


def raise_if_removed(name: str) -> None:
    """Does nothing unless the module or name, given in full, is left out.

    Raises:
        ImportError: It is, and this says what to use instead. No AttributeError: `from ... import` would drop its text.
    """
    if name in REMOVED:
        raise ImportError(describe_removed(name), name=name)
