"""Questions about callables."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any


def is_coroutine_callable(call: Callable[..., Any]) -> bool:
    """Returns whether calling `call` gives a coroutine: an async function, or an object with an async `__call__`."""
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004


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
