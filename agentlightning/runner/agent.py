"""The runner of agents."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from agentlightning.codec.errors import CodecError
from agentlightning.litagent.litagent import LitAgent
from agentlightning.runner.attempt import AttemptRun
from agentlightning.runner.base import Runner
from agentlightning.runner.heartbeat import Heartbeat, HeldAttempts
from agentlightning.runner.resources import ResourcesCache
from agentlightning.store.errors import Aborted, DeadlineExceeded, Internal, ResourceExhausted, Unavailable
from agentlightning.tracer.base import Tracer
from agentlightning.tracer.recording import nowhere
from agentlightning.types import (
    AttemptedRollout,
    CancelAttempt,
    Hook,
    NamedResources,
    Rollout,
    RolloutMode,
    TaskInput,
    WorkerCommand,
)

if TYPE_CHECKING:
    from agentlightning.execution.events import ExecutionEvent
    from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)

T = TypeVar("T")

EVENT_POLL_SECONDS: Final = 0.1
"""How often a waiting runner looks at its stop event."""
STORE_PATIENCE_SECONDS: Final = 300.0
"""How long a runner goes on asking a store that does not answer."""
_LEASE_INTERVALS = 3
_SHORTEST_LEASE = 5.0
# What the store's contract allows.
_LONGEST_LEASE = 86_400.0
_LONGEST_WAIT = 60.0
_TRANSIENT = (Unavailable, DeadlineExceeded, ResourceExhausted, Aborted, Internal)


class LitAgentRunner(Runner[T]):
    """Takes rollouts from a store, one at a time, runs the agent on them, and reports.

    Work is claimed by long poll and under a lease, which heartbeats renew. A store that cannot be reached is asked
    again for up to `STORE_PATIENCE_SECONDS`.
    """

    def __init__(
        self,
        tracer: Tracer,
        max_rollouts: int | None = None,
        poll_interval: float = 5.0,
        heartbeat_interval: float = 10.0,
        interval_jitter: float = 0.5,
        heartbeat_launch_mode: Literal["thread", "asyncio"] = "thread",
        heartbeat_include_gpu: bool = False,
    ) -> None:
        """Makes the runner.

        Args:
            tracer: What records the agent.
            max_rollouts: How many rollouts to run before leaving; None sets no limit.
            poll_interval: How long, in seconds, one request for work waits at the store, which answers as soon as
                there is some; at most 60.
            heartbeat_interval: Seconds between two heartbeats. Claims are leased for three of them. With 0 there
                are no heartbeats and no leases.
            interval_jitter: Most seconds by which an interval is made longer or shorter.
            heartbeat_launch_mode: `thread` beats beside the event loop, where an agent that blocks the loop does not
                stop it; `asyncio` beats on the loop, as does any runner whose store is not thread-safe.
            heartbeat_include_gpu: Whether heartbeats report the GPUs.
        """
        super().__init__()
        self._tracer = tracer
        self._max_rollouts = max_rollouts
        self._poll_interval = poll_interval
        self._heartbeat_interval = heartbeat_interval
        self._interval_jitter = interval_jitter
        self._heartbeat_launch_mode = heartbeat_launch_mode
        self._heartbeat_include_gpu = heartbeat_include_gpu
        self._agent: LitAgent[T] | None = None
        self._hooks: list[Hook] = []
        self._store: LightningStore | None = None
        self._worker_name: str | None = None
        self._draining = False

    @property
    def tracer(self) -> Tracer:
        """What records the agent."""
        return self._tracer

    def init(self, agent: LitAgent[T], *, hooks: Sequence[Hook] | None = None, **kwargs: Any) -> None:
        """Takes the agent, and the hooks to call around each rollout."""
        self._agent = agent
        self._hooks = list(hooks or ())
        agent.set_runner(self)
        self._tracer.init()
        for name in ("on_rollout_start", "on_rollout_end"):
            if getattr(type(agent), name) is not getattr(LitAgent, name):
                logger.warning("%s.%s is not called: pass a Hook to the trainer instead", type(agent).__name__, name)

    def init_worker(
        self, worker_id: int, store: LightningStore, *, worker_name: str | None = None, **kwargs: Any
    ) -> None:
        """Takes the store.

        Args:
            worker_id: Number of this runner among those of its trainer.
            store: Where the rollouts come from and the spans go.
            worker_name: What the store is to call this runner; `Worker-N` unless given. Runners that share a store
                need different names.
            **kwargs: Ignored.
        """
        self.worker_id = worker_id
        self._worker_name = worker_name or f"Worker-{worker_id}"
        self._store = store
        self._draining = False
        self._tracer.init_worker(worker_id, store)

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Lets go of the store."""
        self._tracer.teardown_worker(worker_id)
        self._store = None
        self.worker_id = None
        self._worker_name = None

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Lets go of the agent."""
        self._tracer.teardown()
        self._agent = None
        self._hooks = []

    def get_agent(self) -> LitAgent[T]:
        """Returns the agent.

        Raises:
            ValueError: `init` has not been called.
        """
        if self._agent is None:
            raise ValueError("Agent has not been set for this runner: call init first.")
        return self._agent

    def get_store(self) -> LightningStore:
        """Returns the store.

        Raises:
            ValueError: `init_worker` has not been called.
        """
        if self._store is None:
            raise ValueError("Store has not been set for this runner: call init_worker first.")
        return self._store

    def get_worker_id(self) -> str:
        """Returns what the store calls this runner, `Worker-N`; `Worker-Unknown` before `init_worker`."""
        return self._worker_name or "Worker-Unknown"

    async def iter(self, *, event: ExecutionEvent | None = None) -> None:
        """Takes rollouts and runs them, until told to stop, told to leave by the store, or `max_rollouts` are done.

        What an agent raises fails its attempt and not the runner.

        Args:
            event: Ends the loop when it is set; a rollout at work is finished first.

        Raises:
            StoreError: The store refused, or could not be reached for `STORE_PATIENCE_SECONDS`.
            asyncio.CancelledError: The call was cancelled; a rollout at work was reported as cancelled.
        """
        held = HeldAttempts()
        resources = ResourcesCache()
        done = 0
        with nowhere():
            async with self._heartbeat(held):
                while not self._stopping(event) and (self._max_rollouts is None or done < self._max_rollouts):
                    rollout = await self._claim(resources, event)
                    if rollout is not None:
                        await self._run_attempt(rollout, resources, held)
                        done += 1
        logger.info("%s leaves after %d rollouts", self.get_worker_id(), done)

    async def step(
        self,
        input: TaskInput,
        *,
        resources: NamedResources | None = None,
        mode: RolloutMode | None = None,
        event: ExecutionEvent | None = None,
    ) -> Rollout:
        """Runs the agent on one input, at once and without the queue; see `Runner.step`."""
        store = self.get_store()
        held = HeldAttempts()
        with nowhere():
            resources_id = (await store.add_resources(resources)).resources_id if resources is not None else None
            rollout = await store.start_rollout(
                input, mode, resources_id, worker_id=self.get_worker_id(), lease=self._lease()
            )
            async with self._heartbeat(held):
                attempt = await self._run_attempt(rollout, ResourcesCache(), held, event)
            if attempt.failure is not None:
                raise attempt.error or RuntimeError(attempt.failure.message)
            finished = await store.get_rollout_by_id(rollout.rollout_id)
        if finished is None:
            raise RuntimeError(f"rollout {rollout.rollout_id} was deleted while it ran")
        return finished

    async def _run_attempt(
        self,
        rollout: AttemptedRollout,
        resources: ResourcesCache,
        held: HeldAttempts,
        event: ExecutionEvent | None = None,
    ) -> AttemptRun:
        store = self.get_store()
        attempt = AttemptRun(
            rollout,
            agent=self.get_agent(),
            runner=self,
            store=store,
            tracer=self._tracer,
            hooks=self._hooks,
            resources=lambda: resources.resources_for(rollout, store),
            on_ending=lambda: held.mark_ending(attempt.key),
        )
        held.add(attempt.key, attempt.stop)
        # A task of its own has a context of its own, so that one attempt's trace never shows in the next.
        running = asyncio.create_task(attempt.run())
        try:
            while not running.done():
                await asyncio.wait({running}, timeout=None if event is None else EVENT_POLL_SECONDS)
                if event is not None and event.is_set():
                    attempt.stop("the stop event was set")
        except asyncio.CancelledError:
            running.cancel()
            await asyncio.wait({running})
            raise
        finally:
            held.discard(attempt.key)
        running.result()
        return attempt

    async def _claim(self, resources: ResourcesCache, event: ExecutionEvent | None) -> AttemptedRollout | None:
        """Waits for work for up to `poll_interval`, and no longer than until the runner is to stop."""
        asked = time.monotonic()
        claiming = asyncio.create_task(self._claim_patiently(resources))
        try:
            while not claiming.done() and not self._stopping(event):
                await asyncio.wait({claiming}, timeout=EVENT_POLL_SECONDS)
        finally:
            claiming.cancel()
        await asyncio.wait({claiming})
        if claiming.cancelled():
            return None
        rollout = claiming.result()
        if rollout is not None and self._stopping(event):
            await self.get_store().release_attempts([(rollout.rollout_id, rollout.attempt.attempt_id)])
            return None
        if rollout is None and not self._stopping(event):
            # A store that does not wait must not be asked without pause.
            await asyncio.sleep(min(0.5, max(0.0, asked + self._poll_interval - time.monotonic())))
        return rollout

    async def _claim_patiently(self, resources: ResourcesCache) -> AttemptedRollout | None:
        deadline = time.monotonic() + STORE_PATIENCE_SECONDS
        pause = 1.0
        while True:
            try:
                claimed = await self.get_store().claim_rollouts(
                    limit=1,
                    worker_id=self.get_worker_id(),
                    wait=min(self._poll_interval, _LONGEST_WAIT),
                    lease=self._lease(),
                    known_resources=resources.known(),
                )
            except _TRANSIENT as error:
                if time.monotonic() + pause > deadline:
                    raise
                logger.warning(
                    "%s cannot reach the store, trying again in %.0f s: %s", self.get_worker_id(), pause, error
                )
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))
                pause = min(2 * pause, 15.0)
                continue
            except CodecError as error:  # the store has been told; the next rollout may be one that can be read
                logger.error("%s got a rollout that it cannot read: %s", self.get_worker_id(), error)
                continue
            self._draining = self._draining or claimed.draining
            resources.take(claimed.resources)
            return claimed.rollouts[0] if claimed.rollouts else None

    def _stopping(self, event: ExecutionEvent | None) -> bool:
        return self._draining or (event is not None and event.is_set())

    def _lease(self) -> float | None:
        if self._heartbeat_interval <= 0:
            return None
        return min(max(_LEASE_INTERVALS * self._heartbeat_interval, _SHORTEST_LEASE), _LONGEST_LEASE)

    def _heartbeat(self, held: HeldAttempts) -> AbstractAsyncContextManager[None]:
        if self._heartbeat_interval <= 0:
            return nullcontext()
        return Heartbeat(
            self.get_store(),
            self.get_worker_id(),
            interval=self._heartbeat_interval,
            jitter=self._interval_jitter,
            held=held,
            on_command=lambda command: self._obey(command, held),
            include_gpu=self._heartbeat_include_gpu,
            own_thread=self._heartbeat_launch_mode == "thread",
        ).beating()

    def _obey(self, command: WorkerCommand, held: HeldAttempts) -> None:
        if isinstance(command, CancelAttempt):
            held.stop((command.rollout_id, command.attempt_id), command.reason)
        elif not self._draining:
            logger.info("%s was asked to leave: %s", self.get_worker_id(), command.reason)
            self._draining = True
