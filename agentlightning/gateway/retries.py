"""When and how often a call is sent to a backend again."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import httpx

Failure: TypeAlias = Literal["unreachable", "dropped", "silent", "overloaded", "failed"]
"""What can go wrong before an answer begins.

`unreachable`: there is no connection. `dropped`: it was lost. `silent`: nothing came in time. `overloaded`: status 429
or 503. `failed`: another status from 500 on.
"""

_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 5.0


@dataclass(frozen=True)
class Budget:
    """How often a call is sent again after failures of one kind."""

    times: int
    """How often at most."""
    seconds: float = 30.0
    """For how long at most, counted from the first failure of the kind."""


@dataclass(frozen=True)
class GatewayRetries:
    """A budget for each kind of failure. Nothing is sent again once a part of an answer has come.

    What has no model behind it is tried again by default; what a backend answers goes to the agent, whose client has
    retries of its own.
    """

    budgets: Mapping[Failure, Budget] = field(
        default_factory=lambda: {
            "unreachable": Budget(5, 10.0),
            "dropped": Budget(3, 30.0),
            "silent": Budget(0),
            "overloaded": Budget(0, 60.0),
            "failed": Budget(0, 60.0),
        }
    )

    @classmethod
    def of_statuses(cls, times: int) -> GatewayRetries:
        """Returns the defaults, with `times` retries after statuses 429 and from 500 on."""
        retried: dict[Failure, Budget] = {"overloaded": Budget(times, 60.0), "failed": Budget(times, 60.0)}
        return cls({**cls().budgets, **retried})


class CallBudgets:
    """The budgets of one call."""

    def __init__(self, retries: GatewayRetries) -> None:
        self._budgets = retries.budgets
        self._used: Counter[Failure] = Counter()
        self._since: dict[Failure, float] = {}

    @property
    def retries(self) -> int:
        """How often the call has been sent again."""
        return self._used.total()

    def delay_after(self, failure: Failure, retry_after: float | None = None) -> float | None:
        """Returns the seconds to wait before the next try; None when the call has failed for good."""
        budget = self._budgets.get(failure, Budget(0))
        now = time.monotonic()
        left = self._since.setdefault(failure, now) + budget.seconds - now
        if self._used[failure] >= budget.times or left <= 0:
            return None
        longest = min(_FIRST_DELAY * 2.0 ** self._used[failure], _LONGEST_DELAY)
        self._used[failure] += 1
        # All the way from zero: calls that failed together must not come back together.
        delay = max(random.uniform(0.0, longest), retry_after or 0.0)
        return delay if delay <= left else None


def failure_of_error(error: httpx.TransportError) -> Failure:
    """Returns which failure it is that no answer came."""
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)):
        return "unreachable"
    if isinstance(error, httpx.TimeoutException):
        return "silent"
    return "dropped"


def failure_of_status(status: int) -> Failure | None:
    """Returns which failure a status is; None for answers and for faults of the request."""
    if status in (429, 503):
        return "overloaded"
    return "failed" if status >= 500 else None


def retry_after_of(response: httpx.Response) -> float | None:
    """Returns after how many seconds the backend says that it may be asked again."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(response.headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    return None
