"""The runner of agents that get their tasks from a legacy server."""

from __future__ import annotations

import asyncio
import logging
import numbers
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from agentlightning.client import AgentLightningClient, RequestRefusedError
from agentlightning.emitter.reward import find_final_reward
from agentlightning.litagent.litagent import LitAgent, is_v0_1_rollout_api, working_for
from agentlightning.rest.translate import FAILURE
from agentlightning.runner.attempt import STOP_GRACE_SECONDS
from agentlightning.runner.results import spans_of_result
from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    NamedResources,
    ParallelWorkerBase,
    Rollout,
    RolloutLegacy,
    Span,
    Task,
    Triplet,
)
from agentlightning.utils.deprecation import warn_of_use
from agentlightning.utils.threads import run_in_thread

if TYPE_CHECKING:
    from agentlightning.execution.events import ExecutionEvent
    from agentlightning.runner.base import Runner
    from agentlightning.tracer.base import Tracer

logger = logging.getLogger(__name__)

_EVENT_POLL_SECONDS: Final = 0.1


class LegacyAgentRunner(ParallelWorkerBase):
    """Polls a legacy server for tasks, runs an agent on them, and posts what became of each.

    Deprecated: new code works with `LitAgentRunner` and a store. An agent that raises, resources that do not exist and
    results that cannot be posted are reported as failures, so that a task never goes round for ever.
    """

    def __init__(
        self,
        agent: LitAgent[Any],
        client: AgentLightningClient,
        tracer: Tracer,
        triplet_exporter: Any,
        worker_id: int | None = None,
        max_tasks: int | None = None,
    ) -> None:
        """Makes the runner.

        Args:
            agent: The agent to run.
            client: Where tasks come from and reports go to.
            tracer: What records the agent.
            triplet_exporter: What makes triplets of the spans, an adapter such as `TracerTraceToTriplet`; None makes
                none.
            worker_id: Number of this runner among others.
            max_tasks: How many tasks `iter` runs before it ends; None sets no limit.
        """
        warn_of_use(f"{type(self).__name__} is deprecated; use LitAgentRunner with a store")
        super().__init__()
        self.agent = agent
        self.client = client
        self.tracer = tracer
        self.triplet_exporter = triplet_exporter
        self.worker_id = worker_id
        self.max_tasks = max_tasks
        agent.set_runner(self._as_runner())

    def run(self, *args: Any, **kwargs: Any) -> bool:
        """Runs the agent on the next task; see `run_async`. Not to be called on a running event loop."""
        return asyncio.run(self.run_async())

    def iter(self) -> int:
        """Runs the agent on one task after the other; see `iter_async`. Not to be called on a running event loop."""
        return asyncio.run(self.iter_async())

    async def run_async(self) -> bool:
        """Waits for the next task, runs the agent on it, and posts the report.

        Returns:
            Whether there was a task.

        Raises:
            RequestRefusedError: The server has no tasks to give, now or ever.
        """
        task = await self.client.poll_next_task_async()
        if task is None:
            return False
        await self._work(task)
        return True

    async def iter_async(self, event: ExecutionEvent | None = None) -> int:
        """Runs the agent on one task after the other, until `max_tasks` have been run.

        Args:
            event: Ends the loop when it is set; a task at work is finished first.

        Returns:
            How many tasks have been run.

        Raises:
            RequestRefusedError: The server has no tasks to give, now or ever.
        """
        done = 0
        while self.max_tasks is None or done < self.max_tasks:
            task = await self._next_task(event)
            if task is not None:
                await self._work(task)
                done += 1
            elif event is not None and event.is_set():
                break
        return done

    async def _next_task(self, event: ExecutionEvent | None) -> Task | None:
        polling = asyncio.ensure_future(self.client.poll_next_task_async())
        try:
            # The event may be of another thread or process, which no asyncio.Event is.
            while not polling.done() and not (event is not None and event.is_set()):
                await asyncio.wait({polling}, timeout=_EVENT_POLL_SECONDS)
        finally:
            if not polling.done():
                polling.cancel()
        return polling.result() if polling.done() else None

    async def _work(self, task: Task) -> None:
        began = time.monotonic()
        self._call_hook("on_rollout_start", task)
        report = await self._run_agent(task)
        self._call_hook("on_rollout_end", task, report)
        await self._post(report)
        seconds = time.monotonic() - began
        logger.info("worker %s: rollout %s done in %.2f s", self.worker_id, task.rollout_id, seconds)

    async def _run_agent(self, task: Task) -> RolloutLegacy:
        spans: list[Span] = []
        try:
            resources = await self._resources_of(task)
            with working_for(self._as_runner()):
                async with self.tracer.trace_context(name=f"rollout_{task.rollout_id}"):
                    try:
                        result = await self._call_agent(task, resources)
                    finally:
                        spans = self.tracer.get_last_trace()
            return self._report_of(task, result, spans)
        except (Exception, SystemExit) as error:
            logger.exception("worker %s: rollout %s failed", self.worker_id, task.rollout_id)
            failure = {FAILURE: f"{type(error).__name__}: {error}"}
            return RolloutLegacy(rollout_id=task.rollout_id, task=task, trace=_dumped(spans), metadata=failure)

    async def _resources_of(self, task: Task) -> NamedResources:
        if task.resources_id is None:
            update = await self.client.get_latest_resources_async()
        else:
            update = await self.client.get_resources_by_id_async(task.resources_id)
        if update is None:
            raise LookupError(f"the server has no resources {task.resources_id or 'at all'}")
        return update.resources

    async def _call_agent(self, task: Task, resources: NamedResources) -> Any:
        suffix = "_async" if self.agent.is_async() else ""
        method = getattr(self.agent, f"{'training' if task.mode == 'train' else 'validation'}_rollout{suffix}")
        rollout = getattr(self.agent, f"rollout{suffix}")
        if is_v0_1_rollout_api(rollout) and not is_v0_1_rollout_api(method):
            method = rollout  # what the agent inherits would call it in today's way
        last = {"rollout_id": task.rollout_id} if is_v0_1_rollout_api(method) else {"rollout": _rollout_of(task)}
        call = partial(method, task.input, resources=resources, **last)
        # Beside this task, so that an agent that raises CancelledError is told from a runner that is cancelled.
        working = asyncio.create_task(_without_exit(call)) if suffix else run_in_thread(call)
        try:
            await asyncio.wait({working})
        except asyncio.CancelledError:
            working.cancel()
            await asyncio.wait({working}, timeout=STOP_GRACE_SECONDS)
            raise
        try:
            return working.result()
        except asyncio.CancelledError as error:
            raise RuntimeError("the agent raised CancelledError") from error

    def _report_of(self, task: Task, result: Any, spans: list[Span]) -> RolloutLegacy:
        """Returns the report on a result: what the agent says itself, and the rest from its spans."""
        if isinstance(result, RolloutLegacy):
            report = result.model_copy(update={"rollout_id": task.rollout_id, "task": task})
        else:
            report = RolloutLegacy(rollout_id=task.rollout_id, task=task)
            if isinstance(result, numbers.Real):
                report.final_reward = float(result)
            elif _is_list_of(result, Triplet):
                report.triplets = result
            elif _is_list_of(result, dict):
                report.trace = result
            else:
                spans = [*spans, *spans_of_result(result, _attempted(task), spans[0].trace_id if spans else None)]
        if report.final_reward is None:
            report.final_reward = find_final_reward(spans)
        if report.triplets is None and self.triplet_exporter is not None and spans:
            report.triplets = list(self.triplet_exporter.adapt(spans))
        if report.trace is None:
            report.trace = _dumped(spans)
        return report

    async def _post(self, report: RolloutLegacy) -> None:
        try:
            await self.client.post_rollout_async(report)
        except (RequestRefusedError, ValueError) as error:
            logger.error("worker %s: the report on rollout %s: %s", self.worker_id, report.rollout_id, error)
            failure = {FAILURE: f"its report cannot be posted: {error}"}
            bare = RolloutLegacy(rollout_id=report.rollout_id, task=report.task, metadata=failure)
            try:
                await self.client.post_rollout_async(bare)
            except RequestRefusedError as refused:  # the rollout is gone, and nobody waits for it
                logger.error("worker %s: %s", self.worker_id, refused)

    def _call_hook(self, name: str, *arguments: Any) -> None:
        try:
            getattr(self.agent, name)(*arguments, self, self.tracer)
        except Exception:
            logger.exception("worker %s: %s raised; the rollout goes on", self.worker_id, name)

    def _as_runner(self) -> Runner[Any]:
        # Agents know it by the attributes that runners share.
        return cast("Runner[Any]", self)


async def _without_exit(call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    # SystemExit would leave a task by way of the event loop, and stop that.
    try:
        return await call()
    except SystemExit as error:
        raise RuntimeError(f"the agent tried to end the process: SystemExit({error.code!r})") from error


def _dumped(spans: list[Span]) -> list[dict[str, Any]]:
    return [span.model_dump(mode="json") for span in spans]


def _rollout_of(task: Task) -> Rollout:
    return Rollout(
        rollout_id=task.rollout_id,
        input=task.input,
        start_time=task.create_time or time.time(),
        mode=task.mode,
        resources_id=task.resources_id,
        status="running",
        metadata=task.metadata,
    )


def _attempted(task: Task) -> AttemptedRollout:
    attempt = Attempt(
        rollout_id=task.rollout_id,
        attempt_id="",  # the server knows it by its number
        sequence_id=task.num_claims or 1,
        start_time=task.last_claim_time or time.time(),
    )
    return AttemptedRollout(**dict(_rollout_of(task)), attempt=attempt)


def _is_list_of(result: Any, kind: type[Any]) -> bool:
    return isinstance(result, list) and bool(result) and all(isinstance(item, kind) for item in result)
