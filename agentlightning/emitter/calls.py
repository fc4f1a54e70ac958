"""Functions of every kind with an operation around each call."""

from __future__ import annotations

import contextvars
import functools
import inspect
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from agentlightning.utils.callables import is_coroutine_callable

if TYPE_CHECKING:
    from agentlightning.emitter.annotation import OperationContext

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def with_operation(fn: F, new_operation: Callable[[], OperationContext]) -> F:
    """Returns `fn` with an operation around each call, whose input are the arguments and whose output is the result.

    The span of a generator begins when it is first asked for an item and ends with it; its output is the list of the
    items. The generator runs in a copy of the context of that moment: what it makes the current span is not the
    current span of its consumer.

    Args:
        fn: A plain or async function, or a plain or async generator.
        new_operation: Makes an operation that is not entered yet.
    """
    signature = inspect.signature(fn)

    def inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        named = dict(call.arguments)
        for index, (name, parameter) in enumerate(signature.parameters.items()):
            if index == 0 and name in ("self", "cls"):
                del named[name]
            elif parameter.kind is parameter.VAR_POSITIONAL:
                named[name] = dict(enumerate(named[name]))
        return named

    def call(*args: Any, **kwargs: Any) -> Any:
        with new_operation() as operation:
            operation.set_input(**inputs(args, kwargs))
            output = fn(*args, **kwargs)
            operation.set_output(output)
            return output

    async def call_async(*args: Any, **kwargs: Any) -> Any:
        with new_operation() as operation:
            operation.set_input(**inputs(args, kwargs))
            output = await fn(*args, **kwargs)
            operation.set_output(output)
            return output

    def generate(*args: Any, **kwargs: Any) -> Any:
        inside = contextvars.copy_context()
        items: list[Any] = []
        with _entered_in(inside, new_operation()) as operation:
            operation.set_input(**inputs(args, kwargs))
            try:
                return (yield from _GeneratorInside(inside, fn(*args, **kwargs), items))
            finally:
                operation.set_output(items)

    async def generate_async(*args: Any, **kwargs: Any) -> Any:
        inside = contextvars.copy_context()
        items: list[Any] = []
        with _entered_in(inside, new_operation()) as operation:
            operation.set_input(**inputs(args, kwargs))
            generator = fn(*args, **kwargs)
            step = generator.asend(None)
            try:
                while True:
                    try:
                        item = await _await_inside(inside, step)
                    except StopAsyncIteration:
                        return
                    items.append(item)
                    try:
                        sent = yield item
                    except GeneratorExit:
                        await _await_inside(inside, generator.aclose())
                        raise
                    except BaseException as error:  # noqa: BLE001 - thrown in by the consumer, for the generator
                        step = generator.athrow(error)
                    else:
                        step = generator.asend(sent)
            finally:
                operation.set_output(items)

    if inspect.isasyncgenfunction(fn):
        wrapper: Callable[..., Any] = generate_async
    elif inspect.isgeneratorfunction(fn):
        wrapper = generate
    elif is_coroutine_callable(fn):
        wrapper = call_async
    else:
        wrapper = call
    return cast("F", functools.wraps(fn)(wrapper))


@contextmanager
def _entered_in(inside: contextvars.Context, operation: OperationContext) -> Iterator[OperationContext]:
    inside.run(operation.__enter__)
    try:
        yield operation
    except GeneratorExit:
        # The consumer has enough: no failure of the operation.
        inside.run(operation.__exit__, None, None, None)
        raise
    except BaseException as error:
        inside.run(operation.__exit__, type(error), error, error.__traceback__)
        raise
    else:
        inside.run(operation.__exit__, None, None, None)


class _GeneratorInside(Generator[Any, Any, Any]):
    """A generator whose code runs in a context of its own, with a list of what it yields."""

    def __init__(self, inside: contextvars.Context, generator: Generator[Any, Any, Any], items: list[Any]) -> None:
        self._inside = inside
        self._generator = generator
        self._items = items

    def send(self, value: Any) -> Any:
        self._items.append(self._inside.run(self._generator.send, value))
        return self._items[-1]

    def throw(self, *error: Any) -> Any:
        self._items.append(self._inside.run(self._generator.throw, *error))
        return self._items[-1]


@types.coroutine
def _await_inside(inside: contextvars.Context, awaitable: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Awaits in the context `inside`, which may be left and entered again between two steps."""
    steps = awaitable.__await__()
    step: Callable[[], Any] = functools.partial(steps.send, None)
    while True:
        try:
            waited_for = inside.run(step)
        except StopIteration as done:
            return cast("T", done.value)
        try:
            value = yield waited_for
        except BaseException as error:  # noqa: BLE001 - thrown in by the event loop, for the awaitable
            step = functools.partial(steps.throw, error)
        else:
            step = functools.partial(steps.send, value)
