"""Annotations, and operations: spans that cover a function call or a block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from agentlightning.emitter.calls import with_operation
from agentlightning.emitter.emission import emit_span, log_if_debugging, recorder
from agentlightning.semconv import AGL_ANNOTATION, AGL_OPERATION, LightningSpanAttributes
from agentlightning.types import SpanCoreFields, SpanRecordingContext
from agentlightning.utils.attributes import flatten_attributes, sanitize_attributes

if TYPE_CHECKING:
    from typing_extensions import Self

F = TypeVar("F", bound=Callable[..., Any])

_NAME = LightningSpanAttributes.OPERATION_NAME.value
_INPUT = LightningSpanAttributes.OPERATION_INPUT.value
_OUTPUT = LightningSpanAttributes.OPERATION_OUTPUT.value


def emit_annotation(annotation: Mapping[str, Any], propagate: bool = True) -> SpanCoreFields:
    """Puts a note about the rollout that is running into its trace.

    Args:
        annotation: What to note; nested values are flattened with dots. `make_tag_attributes` and
            `make_link_attributes` of `agentlightning.utils.otel` make tags and links.
        propagate: Hand the span to the active tracer. Without it the span is only returned.

    Returns:
        The span, without the ids that its trace gives it.

    Raises:
        RuntimeError: There is no active tracer to hand the span to.
    """
    return emit_span(AGL_ANNOTATION, {}, annotation, propagate=propagate)


class OperationContext:
    """A span around a block (`with operation(...) as op:`), or around every call of a function (`@operation(...)`).

    Spans made inside become its children. An exception is recorded, gives the span the status ERROR, and goes on its
    way.
    """

    def __init__(self, name: str | None, attributes: Mapping[str, Any], propagate: bool = True) -> None:
        """Prepares the span; entering the block starts it.

        Args:
            name: What the operation is called; a function that it decorates gives its own unless told.
            attributes: What to note on the span; nested values are flattened with dots.
            propagate: Hand the span to the active tracer. Without it the span is only returned by `span`.
        """
        self._name = name
        self._attributes = attributes
        self._propagate = propagate
        self._block: AbstractContextManager[SpanRecordingContext] | None = None
        self._recording: SpanRecordingContext | None = None

    def __enter__(self) -> Self:
        """Starts the span.

        Raises:
            RuntimeError: The block is entered already, or there is no active tracer to hand the span to.
        """
        if self._block is not None:
            raise RuntimeError("this operation is open already; every block needs an operation() of its own")
        named = {} if self._name is None else {_NAME: self._name}
        attributes = sanitize_attributes({**named, **flatten_attributes(self._attributes)})
        block = recorder(self._propagate).operation_context(AGL_OPERATION, attributes)
        self._recording = block.__enter__()
        self._block = block
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._block is not None
        try:
            self._block.__exit__(kind, error, trace)
        finally:
            self._block = None
            log_if_debugging(self.span())

    def __call__(self, fn: F) -> F:
        """Returns `fn` with a span around every call; see `operation`."""
        name = getattr(fn, "__name__", type(fn).__name__) if self._name is None else self._name
        return with_operation(fn, lambda: OperationContext(name, self._attributes, self._propagate))

    def set_input(self, /, *args: Any, **kwargs: Any) -> None:
        """Notes what the operation works on: `args` by number, `kwargs` by name.

        Raises:
            RuntimeError: The block is not entered.
        """
        # Numbered whatever they are, so that one list among them is told from several arguments.
        inputs = {"args": dict(enumerate(args)), **kwargs}
        self._note({f"{_INPUT}.{name}": value for name, value in inputs.items()})

    def set_output(self, output: Any) -> None:
        """Notes what came out; nested values are flattened with dots.

        Raises:
            RuntimeError: The block is not entered.
        """
        self._note({_OUTPUT: output})

    def span(self) -> SpanCoreFields:
        """Returns the span as it was when the block was left.

        Raises:
            RuntimeError: The block has not been left yet.
        """
        if self._recording is None or self._block is not None:
            raise RuntimeError("the span is complete when the block of the operation has been left")
        return self._recording.get_recorded_span()

    def _note(self, nested: Mapping[str, Any]) -> None:
        if self._recording is None or self._block is None:
            raise RuntimeError("an operation takes inputs and outputs only inside its block")
        self._recording.record_attributes(sanitize_attributes(flatten_attributes(nested)))


@overload
def operation(fn: F, *, propagate: bool = ..., name: str | None = ..., **additional_attributes: Any) -> F: ...
@overload
def operation(
    fn: None = ..., *, propagate: bool = ..., name: str | None = ..., **additional_attributes: Any
) -> OperationContext: ...
def operation(
    fn: Callable[..., Any] | None = None,
    *,
    propagate: bool = True,
    name: str | None = None,
    **additional_attributes: Any,
) -> Any:
    """Records a function or a block as a span: what went in, what came out, how long it took, and how it failed.

    As a decorator, bare or with arguments, it takes plain and async functions, and plain and async generators, whose
    output is the list of what they yielded. The arguments are noted by the names of the parameters, defaults
    included, without `self` and `cls`. As a context manager it takes a block, which says what went in and out:

        with operation(name="search") as op:
            op.set_input(query)
            op.set_output(search(query))

    Values are flattened with dots. What a span cannot hold becomes JSON, and what JSON cannot express its `str`:
    recording never fails a call.

    Args:
        fn: The function, when used as a bare decorator.
        propagate: Hand the span to the active tracer. Without it only `OperationContext.span` has it.
        name: What the operation is called; the name of the function unless given.
        **additional_attributes: What else to note on the span.

    Raises:
        RuntimeError: On a call: there is no active tracer to hand the span to.
    """
    context = OperationContext(name, additional_attributes, propagate)
    return context if fn is None else context(fn)
