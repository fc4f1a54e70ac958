"""Which backend a call goes to, and when."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from agentlightning.gateway.apis.base import Extra, Protocol
from agentlightning.gateway.backends import Backend
from agentlightning.gateway.errors import GatewayError

_FIRST_COOLDOWN: Final = 1.0
_LONGEST_COOLDOWN: Final = 30.0


@dataclass
class BackendState:
    """What the gateway has learned about a backend."""

    backend: Backend
    in_flight: int = 0
    """Calls at work."""
    failures: int = 0
    """How often in a row it could not be reached."""
    resting_until: float = 0.0
    """When it may be tried again, by `time.monotonic()`."""
    understood: dict[str, tuple[Extra, ...]] = field(default_factory=dict)
    """By name of an API: the extras that it took there; missing as long as none was tried with success."""

    def failed(self) -> None:
        """Notes that it could not be reached: it rests, ever longer."""
        self.failures += 1
        pause = min(_FIRST_COOLDOWN * 2.0 ** (self.failures - 1), _LONGEST_COOLDOWN)
        self.resting_until = time.monotonic() + pause

    def worked(self) -> None:
        """Notes that it answered."""
        self.failures = 0
        self.resting_until = 0.0


class Admission(NamedTuple):
    """What a call gets that may go on."""

    version: str | None
    """Version of the model's weights, if it was told."""
    held_seconds: float
    """How long the call waited for the model to be resumed."""


class _Lane:
    """The calls of one model."""

    def __init__(self, *, paused: bool) -> None:
        self.open = asyncio.Event()
        if not paused:
            self.open.set()
        self.idle = asyncio.Event()
        self.in_flight = 0
        self.version: str | None = None


class Router:
    """Knows the backends and the calls at work. It belongs to one event loop.

    Args:
        backends: The backends.
    """

    def __init__(self, backends: Iterable[Backend]) -> None:
        self._paused = False
        self._stopping = False
        self._lanes: defaultdict[str, _Lane] = defaultdict(lambda: _Lane(paused=self._paused))
        self._states: dict[str, list[BackendState]] = {}
        self.replace(backends)

    @property
    def models(self) -> list[str]:
        """The names of the models, in the order of the list."""
        return list(self._states)

    @property
    def in_flight(self) -> int:
        """Calls at work."""
        return sum(lane.in_flight for lane in self._lanes.values())

    def replace(self, backends: Iterable[Backend]) -> None:
        """Takes other backends from the next call on; calls at work end where they are."""
        known = [state for states in self._states.values() for state in states]
        states: defaultdict[str, list[BackendState]] = defaultdict(list)
        for backend in backends:
            learned = next((state for state in known if state.backend == backend), None)
            states[backend.model_name].append(learned or BackendState(backend))
        self._states = dict(states)

    def pause(self, model: str | None = None) -> None:
        """Holds calls of a model, or of all, from the next one on."""
        self._paused = self._paused or model is None
        for lane in self._lanes_of(model):
            lane.open.clear()

    def resume(self, model: str | None = None) -> None:
        """Lets the calls of a model, or of all, go on."""
        self._paused = self._paused and model is not None
        for lane in self._lanes_of(model):
            lane.open.set()

    def set_version(self, model: str | None, version: str) -> None:
        """Notes the version of the weights of a model, or of all, for calls that are admitted from now on."""
        for lane in self._lanes_of(model):
            lane.version = version

    def refuse_held(self) -> None:
        """Refuses the calls that wait for a model to be resumed, for good."""
        self._stopping = True
        for lane in self._lanes.values():
            lane.open.set()

    async def drain(self, model: str | None = None) -> None:
        """Returns when no call of a model, or of any, is at work."""
        for lane in self._lanes_of(model):
            while lane.in_flight:
                lane.idle.clear()
                await lane.idle.wait()

    @asynccontextmanager
    async def admitted(self, model: str) -> AsyncIterator[Admission]:
        """Waits while the model is paused, and counts a call for the length of the block.

        Raises:
            GatewayError: There is no such model, or the gateway stopped meanwhile.
        """
        self._expect(model)
        lane = self._lanes[model]
        arrived = time.monotonic()
        held = not lane.open.is_set()
        while not lane.open.is_set():
            await lane.open.wait()
            if self._stopping:
                raise GatewayError(503, "The gateway is stopping.", "stopping", retry_after=1.0)
        lane.in_flight += 1
        try:
            yield Admission(lane.version, time.monotonic() - arrived if held else 0.0)
        finally:
            lane.in_flight -= 1
            if not lane.in_flight:
                lane.idle.set()

    def pick(self, model: str, protocols: Iterable[Protocol], key: str | None) -> BackendState:
        """Returns the backend for a call: the same for the same key as long as it is well, so that it has the prefix.

        Args:
            model: The model.
            protocols: Whose API it may speak, the best first.
            key: What belongs together, such as a rollout. None takes the backend with the fewest calls.

        Raises:
            GatewayError: There is no such model, or none that speaks the protocol.
        """
        states = self._expect(model)
        speaking = next(
            (found for each in protocols if (found := [it for it in states if it.backend.protocol == each])), None
        )
        if speaking is None:
            raise GatewayError(404, f"The backends of the model {model!r} do not speak this API.", "unsupported_api")
        now = time.monotonic()
        well = [state for state in speaking if state.resting_until <= now]
        if not well:
            # Nothing is better than the one that may be back first.
            return min(speaking, key=lambda state: state.resting_until)
        if key is None:
            return min(well, key=lambda state: state.in_flight)
        return max(well, key=lambda state: _weight(key, state.backend))

    def _expect(self, model: str) -> list[BackendState]:
        states = self._states.get(model)
        if states is None:
            known = ", ".join(self._states) or "none"
            raise GatewayError(404, f"The model {model!r} does not exist; there are: {known}.", "model_not_found")
        return states

    def _lanes_of(self, model: str | None) -> list[_Lane]:
        if model is not None:
            self._expect(model)
            return [self._lanes[model]]
        # Those of the list that had no call yet, too.
        return [self._lanes[each] for each in dict.fromkeys([*self._states, *self._lanes])]


def _weight(key: str, backend: Backend) -> bytes:
    """Rendezvous hashing: when a backend comes or goes, only the keys that it has or had move."""
    return hashlib.blake2b(f"{backend.url}\0{backend.model}\0{key}".encode(), digest_size=8).digest()
