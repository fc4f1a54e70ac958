"""The runner of agents."""

from __future__ import annotations

import asyncio
import copy
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from agentlightning.litagent.litagent import LitAgent
from agentlightning.runner.attempt import AttemptRun
from agentlightning.runner.base import Runner
from agentlightning.runner.claims import EVENT_POLL_SECONDS, Claims
from agentlightning.runner.heartbeat import Heartbeat, HeldAttempts
from agentlightning.runner.resources import ResourcesCache
from agentlightning.runner.results import is_object
from agentlightning.store.api import MOST_ITEMS
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
    from typing_extensions import Self

    from agentlightning.execution.events import ExecutionEvent
    from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LEASE_INTERVALS = 3
_SHORTEST_LEASE = 5.0
# What the store's contract allows.
_LONGEST_LEASE = 86_400.0


class LitAgentRunner(Runner[T]):
    """Takes rollouts from a store, runs the agent on them, and reports.

    Work is claimed by long poll and under a lease, which heartbeats renew; no more than there are free slots for. See
    `Claims` for what happens while there is no store to ask.
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
        *,
        max_concurrency: int = 1,
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
            max_concurrency: How many rollouts to run at once, 1 to 1,000: async ones on the event loop, plain ones each
                in a thread of its own.

        Raises:
            ValueError: `max_concurrency` is out of range.
        """
        if not 1 <= max_concurrency <= MOST_ITEMS:
            raise ValueError(f"max_concurrency must be from 1 to {MOST_ITEMS}, not {max_concurrency}")
        super().__init__()
        self._tracer = tracer
        self._max_rollouts = max_rollouts
        self._poll_interval = poll_interval
        self._heartbeat_interval = heartbeat_interval
        self._interval_jitter = interval_jitter
        self._heartbeat_launch_mode = heartbeat_launch_mode
        self._heartbeat_include_gpu = heartbeat_include_gpu
        self._max_concurrency = max_concurrency
        self._forget()

    def _forget(self) -> None:
        self.worker_id = None
        self._agent: LitAgent[T] | None = None
        self._hooks: list[Hook] = []
        self._store: LightningStore | None = None
        self._worker_name: str | None = None
        self._draining = False
        self._told_of_missing_rewards = False

    @property
    def tracer(self) -> Tracer:
        """What records the agent."""
        return self._tracer

    def for_worker(self) -> Self:
        """Returns a runner like this one, not set up and with a copy of the tracer; see `Runner.for_worker`."""
        worker = super().for_worker()
        worker._tracer = copy.copy(self._tracer)  # noqa: SLF001 - one of its own kind
        worker._forget()  # noqa: SLF001
        return worker

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
            event: Ends the loop when it is set; rollouts at work are finished first.

        Raises:
            StoreError: The store refused work, or could not be reached for `STORE_PATIENCE_SECONDS`; rollouts at work
                have been finished.
            asyncio.CancelledError: The call was cancelled; rollouts at work were reported as cancelled.
        """
        held = HeldAttempts()
        resources = ResourcesCache()

        def stopping() -> bool:
            return self._draining or (event is not None and event.is_set())

        claims = Claims(
            self.get_store(),
            self.get_worker_id(),
            poll_interval=self._poll_interval,
            lease=self._lease(),
            resources=resources,
            on_draining=self._drain,
            stopping=stopping,
        )
        with nowhere():
            async with self._heartbeat(held):
                done = await self._work(claims, resources, held, stopping)
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
                attempt = self._attempt(rollout, ResourcesCache(), held)
                await self._perform_until(event, attempt, held)
            if attempt.failure is not None:
                raise attempt.error or RuntimeError(attempt.failure.message)
            finished = await store.get_rollout_by_id(rollout.rollout_id)
        if finished is None:
            raise RuntimeError(f"rollout {rollout.rollout_id} was deleted while it ran")
        return finished

    async def _work(
        self, claims: Claims, resources: ResourcesCache, held: HeldAttempts, stopping: Callable[[], bool]
    ) -> int:
        """Fills the free slots until it is told to leave, lets the rest finish, and returns the number of rollouts."""
        most = sys.maxsize if self._max_rollouts is None else self._max_rollouts
        running: set[asyncio.Task[None]] = set()
        taken = 0
        refusal: Exception | None = None
        try:
            while True:
                free = 0 if refusal or stopping() else min(self._max_concurrency - len(running), most - taken)
                if free > 0:
                    try:
                        rollouts = await claims.take(free)
                    except Exception as error:  # noqa: BLE001 - raised when what runs has ended
                        refusal = error
                        continue
                    taken += len(rollouts)
                    # A task of its own has a context of its own, so that one attempt's trace never shows in another.
                    running.update(
                        asyncio.create_task(self._perform(self._attempt(rollout, resources, held), held))
                        for rollout in rollouts
                    )
                elif running:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                else:
                    break
                for task in [task for task in running if task.done()]:
                    running.remove(task)
                    task.result()
        except BaseException:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            raise
        if refusal is not None:
            raise refusal
        return taken

    def _attempt(self, rollout: AttemptedRollout, resources: ResourcesCache, held: HeldAttempts) -> AttemptRun:
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
        return attempt

    async def _perform(self, attempt: AttemptRun, held: HeldAttempts) -> None:
        held.add(attempt.key, attempt.stop)
        try:
            await attempt.run()
        finally:
            held.discard(attempt.key)
        if is_object(attempt.result) and attempt.reward is None and not self._told_of_missing_rewards:
            self._told_of_missing_rewards = True
            logger.warning(
                "the agent returned a %s and no reward: what it returns is kept with its spans as an object. Where an "
                "algorithm is to learn from it, return a number or call emit_reward",
                type(attempt.result).__name__,
            )

    async def _perform_until(self, event: ExecutionEvent | None, attempt: AttemptRun, held: HeldAttempts) -> None:
        running = asyncio.create_task(self._perform(attempt, held))
        try:
            while not running.done():
                await asyncio.wait({running}, timeout=None if event is None else EVENT_POLL_SECONDS)
                if event is not None and event.is_set():
                    attempt.stop("the stop event was set")
        except asyncio.CancelledError:
            running.cancel()
            await asyncio.wait({running})
            raise
        running.result()

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
            self._drain()

    def _drain(self) -> None:
        self._draining = True
