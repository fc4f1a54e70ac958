"""Environment variables that this library reads, and how their values are understood."""

from __future__ import annotations

import os
from enum import Enum
from typing import overload

__all__ = ["LightningEnvVar", "resolve_bool_env_var", "resolve_int_env_var", "resolve_str_env_var"]

_TRUTHY = frozenset({"1", "true", "yes", "on"})
_FALSY = frozenset({"0", "false", "no", "off"})


class LightningEnvVar(Enum):
    """Names of the environment variables."""

    AGL_EMITTER_DEBUG = "AGL_EMITTER_DEBUG"
    """Log every span that an emitter writes."""
    AGL_MANAGED_STORE = "AGL_MANAGED_STORE"
    """Whether an execution strategy wraps the store for its runners; true unless set."""
    AGL_CURRENT_ROLE = "AGL_CURRENT_ROLE"
    """What this process is in the client-server strategy: `algorithm`, `runner` or `both`."""
    AGL_SERVER_HOST = "AGL_SERVER_HOST"
    """Host of the store server."""
    AGL_SERVER_PORT = "AGL_SERVER_PORT"
    """Port of the store server."""


@overload
def resolve_bool_env_var(env_var: LightningEnvVar, override: bool, fallback: bool | None = None) -> bool: ...
@overload
def resolve_bool_env_var(env_var: LightningEnvVar, override: bool | None = None, *, fallback: bool) -> bool: ...
@overload
def resolve_bool_env_var(
    env_var: LightningEnvVar, override: bool | None = None, fallback: bool | None = None
) -> bool | None: ...
def resolve_bool_env_var(
    env_var: LightningEnvVar, override: bool | None = None, fallback: bool | None = None
) -> bool | None:
    """Returns `override` if given, else the variable, else `fallback`.

    Raises:
        ValueError: The variable is set to none of 1, true, yes, on, 0, false, no, off (in any case).
    """
    if override is not None:
        return override
    text = os.environ.get(env_var.value)
    if text is None:
        return fallback
    word = text.strip().lower()
    if word in _TRUTHY:
        return True
    if word in _FALSY:
        return False
    raise ValueError(f"{env_var.value}={text!r} is neither true (1, true, yes, on) nor false (0, false, no, off)")


@overload
def resolve_int_env_var(env_var: LightningEnvVar, override: int, fallback: int | None = None) -> int: ...
@overload
def resolve_int_env_var(env_var: LightningEnvVar, override: int | None = None, *, fallback: int) -> int: ...
@overload
def resolve_int_env_var(
    env_var: LightningEnvVar, override: int | None = None, fallback: int | None = None
) -> int | None: ...
def resolve_int_env_var(
    env_var: LightningEnvVar, override: int | None = None, fallback: int | None = None
) -> int | None:
    """Returns `override` if given, else the variable, else `fallback`.

    Raises:
        ValueError: The variable is set to something that is not a whole number.
    """
    if override is not None:
        return override
    text = os.environ.get(env_var.value)
    if text is None:
        return fallback
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{env_var.value}={text!r} is not a whole number") from None


@overload
def resolve_str_env_var(env_var: LightningEnvVar, override: str, fallback: str | None = None) -> str: ...
@overload
def resolve_str_env_var(env_var: LightningEnvVar, override: str | None = None, *, fallback: str) -> str: ...
@overload
def resolve_str_env_var(
    env_var: LightningEnvVar, override: str | None = None, fallback: str | None = None
) -> str | None: ...
def resolve_str_env_var(
    env_var: LightningEnvVar, override: str | None = None, fallback: str | None = None
) -> str | None:
    """Returns `override` if given, else the variable, else `fallback`."""
    if override is not None:
        return override
    return os.environ.get(env_var.value, fallback)
