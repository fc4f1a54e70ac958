"""Questions about callables."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, get_type_hints


def is_coroutine_callable(call: Callable[..., Any]) -> bool:
    """Returns whether calling `call` gives a coroutine: an async function, or an object with an async `__call__`."""
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004


def evaluated_annotation(call: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Returns the annotation of one parameter of `call`, evaluated where it is text.

    The other parameters are left alone: their annotations may name what exists for type checkers only.

    Raises:
        Exception: Whatever evaluating the text raises, such as a NameError.
    """

    def holder() -> None: ...

    holder.__annotations__ = {"it": parameter.annotation}
    return get_type_hints(holder, globalns=_globals_of(call), include_extras=True)["it"]


def _globals_of(call: Callable[..., Any]) -> dict[str, Any]:
    while isinstance(call, functools.partial):
        call = call.func
    call = inspect.unwrap(call)
    function = call if hasattr(call, "__globals__") else getattr(call, "__call__", None)  # noqa: B004
    return getattr(function, "__globals__", {})


def importable_as(thing: object) -> str | None:
    """Returns the qualified name under which another process finds `thing` in its module, or None."""
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    name = getattr(thing, "__qualname__", None)
    if module is None or not name:
        return None
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return name if found is thing else None
