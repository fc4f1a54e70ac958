"""The tracer for agents that use the AgentOps SDK."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.instrumentation.agentops import instrument_agentops
from agentlightning.instrumentation.libraries import INSTRUMENTATION
from agentlightning.removed import raise_if_removed
from agentlightning.tracer.otel import OtelTracer

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = ["AgentOpsTracer"]

logger = logging.getLogger(__name__)


class AgentOpsTracer(OtelTracer):
    """An `OtelTracer` that also records what the AgentOps SDK makes: its decorators' spans and its model calls.

    The SDK runs offline. Its own start, which asks for a token, opens exporters and catches `print`, is left out, and
    `agentops.init` of an agent finds the SDK started: nothing is sent to AgentOps, with or without a key.

    Model calls are the SDK's spans, `openai.chat.completion` and so on, with the token ids that an endpoint sent. The
    SDK never stops to record them, so a process stays with one kind of tracer.
    """

    def __init__(self, *, agentops_managed: bool = True, instrument_managed: bool = True, daemon: bool = True) -> None:
        """Makes the tracer.

        Args:
            agentops_managed: Start the SDK, offline. If not, you call `agentops.init` before the trainer starts; its
                spans are recorded here too, and go to AgentOps as ever.
            instrument_managed: Have the SDK record model calls. If not, you instrument what you want recorded.
            daemon: Without effect; releases 0.2 and 0.3 ran a server.

        Raises:
            ImportError: AgentOps is not installed.
        """
        super().__init__(instrument=False)
        if find_spec("agentops") is None:
            raise ImportError("AgentOpsTracer needs the AgentOps SDK: pip install 'agentlightning-grpc[agentops]'")
        self._agentops_managed = agentops_managed
        self._instrument_managed = instrument_managed

    def init_worker(self, worker_id: int, store: LightningStore | None = None, *args: Any, **kwargs: Any) -> None:
        super().init_worker(worker_id, store)
        # Workers may be threads, and neither step of the SDK looks whether another is at it.
        with _starting:
            if self._agentops_managed:
                _start_offline(self.tracer_provider)
            if self._instrument_managed:
                _instrument_sdk()

    def get_langchain_handler(self, tags: Sequence[str] | None = None) -> Any:
        """Returns AgentOps' callback handler for LangChain; its spans become children of the one that is open now.

        Args:
            tags: Noted by the handler.

        Raises:
            ImportError: LangChain is not installed.
        """
        from agentops.integration.callbacks.langchain import LangchainCallbackHandler

        # A session of its own would end never, and be entered in whichever context comes by.
        handler = LangchainCallbackHandler(tags=list(tags or ()), auto_session=False)
        handler.session_span = trace_api.get_current_span()
        return handler


_starting = threading.Lock()
_started_with: TracerProvider | None = None


def _start_offline(provider: TracerProvider) -> None:
    global _started_with
    import agentops
    from agentops.sdk.core import tracer as sdk

    if sdk.initialized:
        if sdk.provider is not _started_with:
            logger.warning(
                "AgentOps was started before and may send what it records: leave its start to AgentOpsTracer, "
                "or say agentops_managed=False"
            )
        return
    # What `agentops.init` would do, less everything that leaves the process.
    sdk.provider = _started_with = provider
    sdk._initialized = True  # noqa: SLF001
    agentops.get_client().initialized = True


def _instrument_sdk() -> None:
    from agentops import instrumentation

    if INSTRUMENTATION.in_use:
        raise RuntimeError(
            "another tracer of this process has model calls recorded, and AgentOps would record each a second time: "
            "use AgentOpsTracer alone, or OtelTracer(instrument=False) beside it"
        )
    instrument_agentops()
    instrumentation.instrument_all()


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        raise_if_removed(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
