"""The legacy server: tasks in, reports out, over the legacy REST API."""

from __future__ import annotations

import logging
import uuid
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentlightning.emitter.reward import find_final_reward
from agentlightning.rest import require_packages
from agentlightning.store.base import is_finished
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import NamedResources, Rollout, RolloutConfig, RolloutLegacy, RolloutMode, Span
from agentlightning.utils.hosts import url_of

if TYPE_CHECKING:
    from agentlightning.rest.serving import RestServer

__all__ = ["AgentLightningServer"]

logger = logging.getLogger(__name__)

# What a client lost is handed out for as long as it takes, as older releases did.
_HANDED_OUT_AGAIN = RolloutConfig(max_attempts=2**31 - 1, retry_condition=["unresponsive"])


class AgentLightningServer:
    """Serves tasks to legacy clients, and gives what they report to an algorithm in this process.

    Deprecated: new code works with `LightningStoreServer`. It is the legacy REST API in front of a store in memory.

    Attributes:
        host: Host name or address that it listens on.
        port: Port that it listens on; with 0 known once started.
        endpoint: URL that clients connect to.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        task_timeout_seconds: float = 300.0,
        *,
        insecure: bool = False,
    ) -> None:
        """Prepares the server.

        Args:
            host: Host name or address to listen on.
            port: Port to listen on; 0 takes a free one.
            task_timeout_seconds: Seconds until a task that was handed out and not reported on is handed out again, 1
                to 86400.
            insecure: True allows a host that others can reach, though nothing is encrypted and nobody is asked who he
                is.
        """
        warnings.warn(
            f"{type(self).__name__} is deprecated; use LightningStoreServer", DeprecationWarning, stacklevel=2
        )
        self.host = host
        self.port = port
        self._task_timeout_seconds = task_timeout_seconds
        self._insecure = insecure
        self._store: InMemoryLightningStore | None = None
        self._server: RestServer | None = None

    @property
    def endpoint(self) -> str:
        """URL that clients connect to."""
        return url_of(self.host, self.port)

    @property
    def store(self) -> InMemoryLightningStore:
        """Where tasks, resources and reports are.

        Raises:
            RuntimeError: The server was never started.
        """
        if self._store is None:
            raise RuntimeError("the server has not been started: await start() first")
        return self._store

    async def start(self) -> None:
        """Listens; returns when clients can connect.

        Raises:
            ImportError: A package that it needs is not installed.
            OSError: The address cannot be listened on.
            RuntimeError: It is running already.
            ValueError: Others can reach the host and `insecure` is not set, or the time for a task is out of range.
        """
        require_packages()
        from agentlightning.rest.app import create_app
        from agentlightning.rest.serving import RestServer

        if self._server is not None:
            raise RuntimeError(f"the server is running already, at {self.endpoint}")
        store = self._store or InMemoryLightningStore()
        app = create_app(store, task_timeout_seconds=self._task_timeout_seconds)
        server = RestServer(app, self.host, self.port, insecure=self._insecure)
        await server.start()
        self._store, self._server, self.port = store, server, server.port

    async def stop(self) -> None:
        """Listens no more. What is there stays: reports can still be fetched, and `start` goes on with it."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop()

    async def run_forever(self) -> None:
        """Serves until `stop` is called or this task is cancelled."""
        if self._server is None:
            await self.start()
        assert self._server is not None
        try:
            await self._server.wait()
        finally:
            await self.stop()

    async def queue_task(
        self,
        sample: Any,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Puts a task at the end of the queue.

        Args:
            sample: What the agent is asked to do.
            mode: Which split of the data it belongs to.
            resources_id: What to run with; those that are the latest now, if None.
            metadata: Whatever is to go with it.

        Returns:
            The id of its rollout.

        Raises:
            RuntimeError: The server was never started.
            TypeError: JSON cannot express the sample or the metadata.
        """
        rollout = await self.store.enqueue_rollout(
            sample, mode, resources_id, _HANDED_OUT_AGAIN, metadata, rollout_id=f"rollout-{uuid.uuid4()}"
        )
        return rollout.rollout_id

    async def update_resources(self, resources: NamedResources) -> str:
        """Publishes resources, which become the latest.

        Returns:
            Their id.

        Raises:
            RuntimeError: The server was never started.
        """
        return (await self.store.update_resources(f"res-{uuid.uuid4()}", resources)).resources_id

    async def get_completed_rollout(self, rollout_id: str) -> RolloutLegacy | None:
        """Returns the report on a task, and forgets the task with all that belongs to it.

        Returns:
            The report; None if there is none yet, or it has been taken.

        Raises:
            RuntimeError: The server was never started.
        """
        rollout = await self.store.get_rollout_by_id(rollout_id)
        return await self._take(rollout) if rollout is not None and is_finished(rollout) else None

    async def poll_completed_rollout(self, rollout_id: str, timeout: float | None = None) -> RolloutLegacy | None:
        """Waits for the report on a task; see `get_completed_rollout`.

        Args:
            rollout_id: The task's rollout.
            timeout: Longest wait, in seconds; 0 does not wait, None waits for ever.

        Returns:
            The report; None if the time was up, or there is no such task.

        Raises:
            RuntimeError: The server was never started.
        """
        await self.store.wait_for_rollouts(rollout_ids=[rollout_id], timeout=timeout)
        return await self.get_completed_rollout(rollout_id)

    async def retrieve_completed_rollouts(self) -> list[RolloutLegacy]:
        """Returns all reports that there are, in the order of their arrival, and forgets their tasks.

        Raises:
            RuntimeError: The server was never started.
        """
        finished = await self.store.query_rollouts(status_in=["succeeded", "failed", "cancelled"], sort_by="end_time")
        taken = [await self._take(rollout) for rollout in finished]
        return [report for report in taken if report is not None]

    async def _take(self, rollout: Rollout) -> RolloutLegacy | None:
        """Returns the report on a finished rollout and deletes that; None if somebody else was faster."""
        from agentlightning.rest.translate import report_in

        spans: Sequence[Span] = []
        try:
            spans = await self.store.query_spans(rollout.rollout_id, "latest")
        except RuntimeError as error:  # the store has dropped them
            logger.warning("the report on rollout %s is lost: %s", rollout.rollout_id, error)
        deleted = await self.store.delete_rollouts(rollout_ids=[rollout.rollout_id])
        if not deleted:
            return None
        # A runner of the new kind, or an operator, may have ended it.
        return report_in(spans) or RolloutLegacy(
            rollout_id=rollout.rollout_id,
            final_reward=find_final_reward(spans),
            trace=[span.model_dump(mode="json") for span in spans],
            metadata=rollout.metadata or {},
        )
