"""One attempt at one rollout, from the claim to the report."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentlightning.emitter.reward import find_final_reward
from agentlightning.litagent.litagent import LitAgent, MissingResourceError, working_for
from agentlightning.litagent.task import task_argument
from agentlightning.runner.results import spans_of_result
from agentlightning.tracer.recording import nowhere, staying_open
from agentlightning.types import (
    AttemptedRollout,
    AttemptFailure,
    FailureKind,
    Hook,
    NamedResources,
    Span,
)
from agentlightning.utils.threads import run_in_thread

if TYPE_CHECKING:
    from agentlightning.runner.base import Runner
    from agentlightning.store.base import LightningStore
    from agentlightning.tracer.base import Tracer

logger = logging.getLogger(__name__)

STOP_GRACE_SECONDS: Final = 5.0
"""What an agent that is stopped gets to clean up, and a runner that is stopped for its report to arrive."""

_MESSAGE_CHARACTERS: Final = 2000


@dataclass
class _Outcome:
    value: Any = None
    error: BaseException | None = None


class AttemptRun:
    """Runs an agent on one claimed rollout and reports the end, whatever it is.

    The attempt is reported as succeeded only if the agent returned, was not told to stop, and all its spans have been
    acknowledged by the store.
    """

    def __init__(
        self,
        rollout: AttemptedRollout,
        *,
        agent: LitAgent[Any],
        runner: Runner[Any],
        store: LightningStore,
        tracer: Tracer,
        hooks: Sequence[Hook],
        resources: Callable[[], Awaitable[NamedResources]],
        on_ending: Callable[[], None],
    ) -> None:
        """Prepares the run; to be called on the event loop that will `run` it.

        Args:
            rollout: The rollout with the attempt to work on.
            agent: Who works.
            runner: On whose behalf, for hooks.
            store: Whom to report to.
            tracer: What records the agent.
            hooks: Whom to call on the way.
            resources: Fetches the resources of the rollout.
            on_ending: Called when the agent has ended, before that is reported.
        """
        self.rollout = rollout
        self.key = (rollout.rollout_id, rollout.attempt.attempt_id)
        self.failure: AttemptFailure | None = None
        self.error: BaseException | None = None
        self.result: object = None
        self.reward: float | None = None
        self._agent = agent
        self._runner = runner
        self._store = store
        self._tracer = tracer
        self._hooks = hooks
        self._resources = resources
        self._on_ending = on_ending
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[str] = self._loop.create_future()
        self._blame: FailureKind = "infrastructure"
        self._traced = False
        self._unrecorded: list[Span] = []
        self._started = time.monotonic()

    async def run(self) -> None:
        """Runs the agent and reports; afterwards `failure`, `error`, `result` and `reward` say how it went.

        Raises:
            asyncio.CancelledError: This call was cancelled. The attempt has been reported as cancelled, unless the
                store did not answer within `STOP_GRACE_SECONDS`.
            KeyboardInterrupt: The agent raised it. The attempt has been reported as cancelled.
        """
        try:
            with working_for(self._runner):
                await self._execute()
        except asyncio.CancelledError as error:
            self._fail("cancelled", "the runner was stopped", error)
            await asyncio.wait({asyncio.create_task(self._finish())}, timeout=STOP_GRACE_SECONDS)
            raise
        finishing = asyncio.create_task(self._finish())
        try:
            await asyncio.shield(finishing)
        except asyncio.CancelledError:
            # The agent has done its part, and the report says so.
            await asyncio.wait({finishing}, timeout=STOP_GRACE_SECONDS)
            raise
        if isinstance(self.error, KeyboardInterrupt):
            raise self.error

    def stop(self, reason: str) -> None:
        """Has the agent stopped and the attempt reported as cancelled. May be called from any thread, repeatedly.

        An async agent is cancelled; a plain one is asked nothing. One that has not ended after `STOP_GRACE_SECONDS`
        is left to itself.
        """
        self._loop.call_soon_threadsafe(self._stop, reason)

    def _stop(self, reason: str) -> None:
        if not self._stopped.done():
            self._stopped.set_result(reason)
            logger.info("stopping rollout %s, attempt %s: %s", *self.key, reason)

    async def _execute(self) -> None:
        try:
            resources = await self._resources()
            await self._call_hooks("on_rollout_start")
            async with self._tracer.trace_context(
                name=self.key[0], store=self._store, rollout_id=self.key[0], attempt_id=self.key[1]
            ):
                self._traced = True
                await self._call_hooks("on_trace_start", tracer=self._tracer)
                try:
                    self._blame = "agent_error"
                    await self._record(await self._call_agent(resources))
                    self._blame = "infrastructure"
                finally:
                    await self._call_hooks("on_trace_end", tracer=self._tracer)
        except _Stopped as stopped:
            self._fail("cancelled", str(stopped), asyncio.CancelledError(str(stopped)))
        except (KeyboardInterrupt, _AgentCancelled) as error:
            cause = error.__cause__ if isinstance(error, _AgentCancelled) else error
            self._fail("cancelled", f"the agent ended with {type(cause).__name__}", cause)
        except MissingResourceError as error:
            self._fail("missing_resources", str(error), error)
        except Exception as error:
            self._fail(self._blame, f"{type(error).__name__}: {error}", error)
            logger.warning("rollout %s, attempt %s failed", *self.key, exc_info=error)

    async def _call_agent(self, resources: NamedResources) -> object:
        if self._stopped.done():
            raise _Stopped(self._stopped.result())
        working = self._start_agent(resources)
        ends: set[asyncio.Future[Any]] = {working, self._stopped}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # A thread hears nothing of it, so there is nothing to wait for.
            if isinstance(working, asyncio.Task):
                await self._stop_agent(working)
            raise
        if self._stopped.done():
            await self._stop_agent(working)
            raise _Stopped(self._stopped.result())
        outcome = _Outcome(error=asyncio.CancelledError()) if working.cancelled() else working.result()
        if isinstance(outcome.error, asyncio.CancelledError):
            raise _AgentCancelled from outcome.error
        if isinstance(outcome.error, SystemExit):
            raise RuntimeError(f"the agent tried to end the process: SystemExit({outcome.error.code!r})")
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def _start_agent(self, resources: NamedResources) -> asyncio.Future[_Outcome]:
        agent, rollout = self._agent, self.rollout
        training = rollout.mode == "train"
        if agent.is_async():
            method = agent.training_rollout_async if training else agent.validation_rollout_async
            task = task_argument(method, rollout.input, rollout)
            return asyncio.create_task(_outcome_of_async(method, task, resources, rollout))
        call = agent.training_rollout if training else agent.validation_rollout
        return run_in_thread(_outcome_of, call, task_argument(call, rollout.input, rollout), resources, rollout)

    async def _stop_agent(self, working: asyncio.Future[_Outcome]) -> None:
        if isinstance(working, asyncio.Task):
            working.cancel()
        await asyncio.wait({working}, timeout=STOP_GRACE_SECONDS)
        if not working.done():
            logger.warning("the agent goes on with rollout %s, attempt %s, and is left to itself", *self.key)

    async def _record(self, result: object) -> None:
        trace = self._tracer.get_last_trace()
        spans = spans_of_result(result, self.rollout, trace[0].trace_id if trace else None)
        if spans and not self._tracer.record_spans(spans):
            self._unrecorded = spans
        self.result = result

    async def _finish(self) -> None:
        self._on_ending()
        with nowhere():
            spans: list[Span] = []
            try:
                if self._unrecorded:
                    await self._store.add_many_spans(self._unrecorded)
                if self._traced:
                    await self._tracer.flush()
                    spans = [*self._tracer.get_last_trace(), *self._unrecorded]
            except Exception as error:  # noqa: BLE001 - becomes the failure of the attempt
                self._fail("infrastructure", f"its spans could not be stored: {error}", error)
            await self._call_hooks("on_rollout_end", spans=spans)
            self.reward = find_final_reward(spans)
            await self._report()

    async def _report(self) -> None:
        seconds = time.monotonic() - self._started
        try:
            if self.failure is None:
                await self._store.update_attempt(*self.key, status="succeeded")
                logger.info("rollout %s, attempt %s succeeded in %.2f s, reward %s", *self.key, seconds, self.reward)
            else:
                await self._store.update_attempt(*self.key, status="failed", failure=self.failure)
                logger.info(
                    "rollout %s, attempt %s failed in %.2f s (%s): %s",
                    *self.key,
                    seconds,
                    self.failure.kind,
                    self.failure.message,
                )
        except Exception as error:  # noqa: BLE001 - the lease will run out, and the store decides what follows
            logger.error("the end of rollout %s, attempt %s could not be reported: %s", *self.key, error)

    def _fail(self, kind: FailureKind, message: str, error: BaseException | None) -> None:
        # The first reason is the reason; what follows from it is not.
        if self.failure is None:
            self.failure = AttemptFailure(kind=kind, message=message[:_MESSAGE_CHARACTERS])
            self.error = error

    async def _call_hooks(self, name: str, **arguments: Any) -> None:
        for hook in self._hooks:
            try:
                await getattr(hook, name)(agent=self._agent, runner=self._runner, rollout=self.rollout, **arguments)
            except Exception:
                logger.exception("%s.%s raised; the rollout goes on", type(hook).__name__, name)


class _Stopped(Exception):
    """Somebody called `stop`."""


class _AgentCancelled(Exception):
    """The agent raised CancelledError by itself, which is not the same as this runner being cancelled."""


def _outcome_of(call: Callable[..., Any], task: Any, resources: NamedResources, rollout: AttemptedRollout) -> _Outcome:
    try:
        with staying_open():
            return _Outcome(value=call(task, resources=resources, rollout=rollout))
    except BaseException as error:  # noqa: BLE001 - handed over
        return _Outcome(error=error)


async def _outcome_of_async(
    call: Callable[..., Coroutine[Any, Any, Any]], task: Any, resources: NamedResources, rollout: AttemptedRollout
) -> _Outcome:
    # SystemExit and KeyboardInterrupt would leave a task by way of the event loop, and stop that.
    try:
        with staying_open():
            return _Outcome(value=await call(task, resources=resources, rollout=rollout))
    except BaseException as error:  # noqa: BLE001 - handed over
        return _Outcome(error=error)
