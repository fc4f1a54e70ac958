"""Token ids for the OpenAI spans of the AgentOps SDK, which leaves them out."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from agentlightning.instrumentation.token_ids import token_attributes

__all__ = ["instrument_agentops", "uninstrument_agentops"]

logger = logging.getLogger(__name__)

_MODULE: Final = "agentops.instrumentation.providers.openai.stream_wrapper"
_STREAMS: Final = ("OpenaiStreamWrapper", "OpenAIAsyncStreamWrapper")


def instrument_agentops() -> None:
    """Has the `openai.chat.completion` spans of AgentOps carry the token ids that the endpoint sent, streamed or not.

    Calling it again changes nothing. `AgentOpsTracer` does it by itself.

    Raises:
        ImportError: AgentOps is not installed.
    """
    from wrapt import FunctionWrapper, wrap_function_wrapper

    module = importlib.import_module(_MODULE)
    if isinstance(getattr(module, "handle_chat_attributes", None), FunctionWrapper):
        return
    try:
        wrap_function_wrapper(module, "handle_chat_attributes", _of_answer)
        for stream in _STREAMS:
            wrap_function_wrapper(module, f"{stream}._process_chunk", _keep_chunk)
            wrap_function_wrapper(module, f"{stream}._finalize_stream", _of_stream)
    except AttributeError as error:
        logger.warning("this release of AgentOps is not known, its spans may lack token ids: %s", error)


def uninstrument_agentops() -> None:
    """Takes `instrument_agentops` back."""
    from opentelemetry.instrumentation.utils import unwrap

    module = importlib.import_module(_MODULE)
    unwrap(module, "handle_chat_attributes")
    for stream in _STREAMS:
        unwrap(getattr(module, stream), "_process_chunk")
        unwrap(getattr(module, stream), "_finalize_stream")


def _of_answer(call: Callable[..., Any], _: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    attributes = call(*args, **kwargs)
    answer: Any = kwargs.get("return_value")
    if hasattr(answer, "model_dump"):
        attributes.update(token_attributes([answer.model_dump()]))
    return attributes


def _keep_chunk(call: Callable[..., Any], stream: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    vars(stream).setdefault("_agentlightning_chunks", []).append(args[0].model_dump())
    return call(*args, **kwargs)


def _of_stream(call: Callable[..., Any], stream: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    stream._span.set_attributes(token_attributes(vars(stream).pop("_agentlightning_chunks", ())))  # noqa: SLF001
    return call(*args, **kwargs)
