"""What a gateway is told when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from agentlightning.gateway.apis.base import EXTRAS, Extra
from agentlightning.gateway.backends import Backend
from agentlightning.gateway.retries import GatewayRetries
from agentlightning.utils.attempt_keys import new_run_key

OnStoreFailure: TypeAlias = Literal["fail", "serve"]
"""What becomes of a call that cannot be recorded: `fail` refuses it, `serve` answers it and loses the record."""

MAX_BODY_BYTES: Final = 32 << 20
"""Most bytes of a request. What is recorded of it must fit into messages to the store."""


HTTP_SETTINGS: Final[dict[str, Any]] = {
    "lifespan": "on",
    "date_header": False,
}
"""How gateways differ from other HTTP servers of this library."""


@dataclass(frozen=True)
class GatewaySettings:
    """The settings of a gateway, the same in all its processes."""

    run_key: str = field(default_factory=new_run_key, repr=False)
    """Opens every attempt; the keys of attempts are made of it."""
    require_keys: bool = False
    """Whether calls must show the key of the run or of their attempt."""
    on_store_failure: OnStoreFailure = "fail"
    """What becomes of a call that cannot be recorded."""
    retries: GatewayRetries = field(default_factory=GatewayRetries)
    """When calls are sent to a backend again."""
    extras: tuple[Extra, ...] = EXTRAS
    """What backends are asked for beside what agents ask for, as far as a backend may be asked at all."""
    middlewares: tuple[Any, ...] = ()
    """ASGI middleware classes around the application, the outermost first."""


@dataclass(frozen=True)
class GatewayState:
    """What changes while a gateway runs, the same in all its processes."""

    backends: tuple[Backend, ...] = ()
    """The backends."""
    paused: frozenset[str | None] = frozenset()
    """The models whose calls are held; None stands for all."""
    versions: tuple[tuple[str | None, str], ...] = ()
    """Versions of weights by model, in the order in which they were told; None stands for all."""
