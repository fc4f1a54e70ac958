"""The client libraries of model providers, instrumented by OpenInference when an agent imports them."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Collection, Iterator
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

logger = logging.getLogger(__name__)


class Instrumentor(Protocol):
    """What OpenTelemetry's `BaseInstrumentor` offers, which comes without types."""

    is_instrumented_by_opentelemetry: bool

    def instrument(self, **kwargs: Any) -> None:
        """Starts to make spans."""

    def uninstrument(self) -> None:
        """Stops to make spans."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Returns the requirements, as pip writes them, of what is instrumented."""


class Library(NamedTuple):
    """A client library, and what instruments it."""

    distribution: str
    """What is installed to have it."""
    module: str
    """What every use of it imports; no namespace package, those are never loaded."""
    instrumentor_module: str
    """Where the instrumentor stands."""
    instrumentor_class: str
    """What it is called there."""

    @property
    def instrumentor_distribution(self) -> str:
        """What is installed to have the instrumentor."""
        return self.instrumentor_module.replace(".", "-").replace("_", "-")


# Libraries of providers only. Frameworks on top of them (LangChain, LiteLLM) would record each call a second time, and
# without what the endpoint answered beyond OpenAI's schema: the token ids.
LIBRARIES: Final = (
    Library("openai", "openai", "openinference.instrumentation.openai", "OpenAIInstrumentor"),
    Library("anthropic", "anthropic", "openinference.instrumentation.anthropic", "AnthropicInstrumentor"),
    Library("google-genai", "google.genai", "openinference.instrumentation.google_genai", "GoogleGenAIInstrumentor"),
    Library("mistralai", "mistralai.client", "openinference.instrumentation.mistralai", "MistralAIInstrumentor"),
    Library("groq", "groq", "openinference.instrumentation.groq", "GroqInstrumentor"),
)
"""What `instrument_all` instruments."""

_LONGEST_IMAGE = 1 << 30


class Instrumentation:
    """Whether the libraries of this process are instrumented: each once, while anybody needs it."""

    def __init__(self) -> None:
        self._users = 0
        self._provider: TracerProvider | None = None
        self._active: dict[Library, Instrumentor | None] = {}
        self._hooked: set[Library] = set()
        # Two locks: `_state` is taken by hooks inside an import, so nobody may import while holding it.
        self._switch = threading.Lock()
        self._state = threading.Lock()

    @property
    def in_use(self) -> bool:
        """Whether somebody needs it now."""
        return self._users > 0

    @property
    def libraries(self) -> list[str]:
        """The libraries, by distribution, that are instrumented from here now."""
        with self._state:
            return [library.distribution for library, instrumentor in self._active.items() if instrumentor is not None]

    def acquire(self, provider: TracerProvider | None) -> None:
        """Has each library instrumented, now or when it is imported, until `release` has been called as often.

        Args:
            provider: What makes the spans, if nobody needs them yet; None for OpenTelemetry's global provider.
        """
        with self._switch:
            with self._state:
                self._users += 1
                if self._users > 1:
                    return
                self._provider = provider
            for library in LIBRARIES:
                self._instrument_when_imported(library)

    def release(self) -> None:
        """Takes one `acquire` back."""
        with self._switch:
            with self._state:
                self._users -= 1
                if self._users > 0:
                    return
                active, self._active = self._active, {}
                self._provider = None
            for instrumentor in active.values():
                if instrumentor is not None:
                    instrumentor.uninstrument()

    def _instrument_when_imported(self, library: Library) -> None:
        if library.module in sys.modules:
            self._instrument(library)
        elif library not in self._hooked:
            try:
                from wrapt import register_post_import_hook
            except ImportError:
                # All instrumentors need wrapt: none is installed.
                return
            self._hooked.add(library)
            register_post_import_hook(partial(self._on_import, library), library.module)

    def _on_import(self, library: Library, module: object) -> None:
        self._hooked.discard(library)
        self._instrument(library)

    def _instrument(self, library: Library) -> None:
        with self._state:
            if not self._users or library in self._active:
                return
            self._active[library] = None
            provider = self._provider
        instrumentor = _start(library, provider)
        with self._state:
            if self._users and instrumentor is not None:
                self._active[library] = instrumentor
                return
            self._active.pop(library, None)
        if instrumentor is not None:
            # The last user left in between.
            instrumentor.uninstrument()


INSTRUMENTATION: Final = Instrumentation()
"""That of this process."""

_by_hand = False
_by_hand_lock = threading.Lock()


def instrument_all(tracer_provider: TracerProvider | None = None) -> None:
    """Has the calls of each client library recorded whose instrumentor is installed: openai, anthropic and so on.

    Nothing is imported for it: a library is instrumented when the agent imports it, and left alone if somebody else
    instruments it already. Prompts and answers are recorded in full, whatever `OPENINFERENCE_*` variables say. Calling
    it again changes nothing. `OtelTracer` does all this by itself.

    Args:
        tracer_provider: What makes the spans; OpenTelemetry's global provider unless given.
    """
    global _by_hand
    with _by_hand_lock:
        if not _by_hand:
            _by_hand = True
            INSTRUMENTATION.acquire(tracer_provider)


def uninstrument_all() -> None:
    """Takes `instrument_all` back. What an `OtelTracer` of a worker needs stays instrumented until it is torn down."""
    global _by_hand
    with _by_hand_lock:
        if _by_hand:
            _by_hand = False
            INSTRUMENTATION.release()


def _start(library: Library, provider: TracerProvider | None) -> Instrumentor | None:
    """Instruments `library`; returns None, and logs why, where that does not come about."""
    try:
        module = importlib.import_module(library.instrumentor_module)
        others = [f"{type(other).__module__}.{type(other).__name__}" for other in _instrumentors_of(library)]
        if others:
            logger.info("%s is instrumented by %s already, and left alone", library.distribution, ", ".join(others))
            return None
        instrumentor: Instrumentor = getattr(module, library.instrumentor_class)()
        instrumentor.instrument(tracer_provider=provider, config=_everything())
    except ModuleNotFoundError as error:
        logger.warning(
            "calls of %s are not recorded: %s; install %s, or say OtelTracer(instrument=False)",
            library.distribution,
            error,
            library.instrumentor_distribution,
        )
        return None
    except Exception as error:  # noqa: BLE001 - this may run inside the agent's import of the library, which must work
        logger.warning("calls of %s are not recorded: %s: %s", library.distribution, type(error).__name__, error)
        return None
    # It logs an error of its own where it does not fit the release of the library.
    return instrumentor if instrumentor.is_instrumented_by_opentelemetry else None


def _instrumentors_of(library: Library) -> Iterator[Instrumentor]:
    """Yields the instrumentors, whoever wrote them, that instrument `library` now."""
    from packaging.requirements import Requirement

    kinds = [importlib.import_module("opentelemetry.instrumentation.instrumentor").BaseInstrumentor]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        # Each is a singleton, kept by its class.
        instrumentor = vars(kind).get("_instance")
        if instrumentor is not None and instrumentor.is_instrumented_by_opentelemetry:
            names = {Requirement(said).name for said in instrumentor.instrumentation_dependencies()}
            if library.distribution in names:
                yield instrumentor


def _everything() -> Any:
    """Returns the configuration of an instrumentor that leaves nothing out; by default environment variables decide."""
    from openinference.instrumentation import TraceConfig

    shown: dict[str, Any] = {field.name: False for field in fields(TraceConfig) if field.name.startswith("hide_")}
    return TraceConfig(**shown, base64_image_max_length=_LONGEST_IMAGE)
