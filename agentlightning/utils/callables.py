"""Questions about callables."""

from __future__ import annotations

import importlib
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


def load_by_name(path: str) -> Any:
    """Returns what `package.module.Name` names.

    Raises:
        ImportError: There is no such module, or it has no such name.
    """
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise ImportError(f"{path!r} names no module; write package.module.Name")
    try:
        return getattr(importlib.import_module(module_name), name)
    except AttributeError:
        raise ImportError(f"module {module_name!r} has no {name!r}") from None
