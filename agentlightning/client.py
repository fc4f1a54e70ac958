"""The legacy client: polls a server of the legacy REST API for tasks and posts what became of them."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Final, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from agentlightning.types import NamedResources, ResourcesUpdate, RolloutLegacy, Task, TaskIfAny, TaskInput
from agentlightning.utils.threads import run_in_thread

__all__ = ["AgentLightningClient", "DevTaskLoader", "RequestRefusedError"]

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)

_HEADERS: Final = {"X-AgentLightning-Client": "true", "Content-Type": "application/json"}
# Besides the 5xx: what another try may well change.
_TRANSIENT: Final = frozenset({408, 425, 429})
_TRIES: Final = 3
_LONGEST_PAUSE: Final = 2.0


class RequestRefusedError(RuntimeError):
    """The server answered in a way that another try would not change.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _Acknowledgement(BaseModel):
    """What a server says of a report: something as an object."""

    model_config = ConfigDict(extra="allow")


class _NoAnswerError(Exception):
    """There was no answer, or one that another try may change."""


class AgentLightningClient:
    """Polls a legacy server for tasks, and posts what became of them.

    Deprecated: new code works with `LightningStoreClient`. Faults that may pass (no connection, no answer in time, a
    server that fails) are logged and tried again. What the server refuses for good raises `RequestRefusedError`.
    Proxies named in the environment are not used.

    Attributes:
        endpoint: Base URL of the server.
        poll_interval: Seconds between two requests for a task while there is none.
        timeout: Seconds to wait for each answer.
        task_count: How many tasks this client has been given.
    """

    _next_task_uri: ClassVar = "/task"
    _latest_resources_uri: ClassVar = "/resources/latest"
    _resources_uri: ClassVar = "/resources/"
    _report_rollout_uri: ClassVar = "/rollout"
    _successor: ClassVar = "LightningStoreClient"

    def __init__(self, endpoint: str, poll_interval: float = 5.0, timeout: float = 10.0) -> None:
        """Makes the client; nothing is connected yet.

        Args:
            endpoint: Base URL of the server, such as `http://localhost:8000`.
            poll_interval: Seconds between two requests for a task while there is none.
            timeout: Seconds to wait for each answer.
        """
        # The line to change is the one that makes the object, below the constructor of a subclass.
        depth = 2 if type(self) is AgentLightningClient else 3
        warnings.warn(
            f"{type(self).__name__} is deprecated; use {self._successor}", DeprecationWarning, stacklevel=depth
        )
        self.endpoint = endpoint
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.task_count = 0
        self._claimed: dict[str, Task] = {}

    async def poll_next_task_async(self) -> Task | None:
        """Asks for a task until there is one; see `poll_next_task`."""
        while (task := await run_in_thread(self._ask_for_task)) is None:  # noqa: ASYNC110  the server cannot tell
            await asyncio.sleep(self.poll_interval)
        return self._taken(task)

    def poll_next_task(self) -> Task | None:
        """Asks for a task until there is one.

        Returns:
            The task.

        Raises:
            RequestRefusedError: The server refused the request for good.
        """
        while (task := self._ask_for_task()) is None:
            time.sleep(self.poll_interval)
        return self._taken(task)

    async def get_resources_by_id_async(self, resource_id: str) -> ResourcesUpdate | None:
        """Fetches one published set of resources; see `get_resources_by_id`."""
        return await run_in_thread(self.get_resources_by_id, resource_id)

    def get_resources_by_id(self, resource_id: str) -> ResourcesUpdate | None:
        """Fetches one published set of resources.

        Args:
            resource_id: Which.

        Returns:
            The resources; None if there are none of that id, or the server did not answer.

        Raises:
            RequestRefusedError: The server refused the request for good.
        """
        return self._find(self._resources_uri + quote(resource_id, safe=""))

    async def get_latest_resources_async(self) -> ResourcesUpdate | None:
        """Fetches the resources that were published last; see `get_latest_resources`."""
        return await run_in_thread(self.get_latest_resources)

    def get_latest_resources(self) -> ResourcesUpdate | None:
        """Fetches the resources that were published last.

        Returns:
            The resources; None if nothing was published yet, or the server did not answer.

        Raises:
            RequestRefusedError: The server refused the request for good.
        """
        return self._find(self._latest_resources_uri)

    async def post_rollout_async(self, rollout: RolloutLegacy) -> dict[str, Any] | None:
        """Reports what became of a task; see `post_rollout`."""
        return await run_in_thread(self.post_rollout, rollout)

    def post_rollout(self, rollout: RolloutLegacy) -> dict[str, Any] | None:
        """Reports what became of a task.

        Args:
            rollout: The report. One without the task that it answers is sent with the task that this client was given.

        Returns:
            What the server said; None if it did not answer, and then the task will be handed out again.

        Raises:
            RequestRefusedError: The server refused the report for good.
            ValueError: The report holds something that JSON cannot express.
        """
        task = self._claimed.get(rollout.rollout_id)
        if rollout.task is None and task is not None:
            # It tells the server which attempt at the rollout this is about.
            rollout = rollout.model_copy(update={"task": task})
        body = json.dumps(rollout.model_dump(mode="json"), allow_nan=False).encode()
        try:
            answer = self._ask_patiently(self._report_rollout_uri, body)
        except _NoAnswerError:
            return None
        self._claimed.pop(rollout.rollout_id, None)
        return _read(_Acknowledgement, answer, self.endpoint).model_dump()

    def _ask_for_task(self) -> Task | None:
        try:
            return _read(TaskIfAny, self._ask(self._next_task_uri), self.endpoint).task
        except _NoAnswerError as fault:
            logger.warning("%s; asking again in %s s", fault, self.poll_interval)
            return None

    def _taken(self, task: Task) -> Task:
        self.task_count += 1
        self._claimed[task.rollout_id] = task
        return task

    def _find(self, path: str) -> ResourcesUpdate | None:
        try:
            return _read(ResourcesUpdate, self._ask_patiently(path), self.endpoint)
        except _NoAnswerError:
            return None
        except RequestRefusedError as refused:
            if refused.status == 404:
                return None
            raise

    def _ask_patiently(self, path: str, body: bytes | None = None) -> bytes:
        for _ in range(_TRIES - 1):
            try:
                return self._ask(path, body)
            except _NoAnswerError as fault:
                pause = min(self.poll_interval, _LONGEST_PAUSE)
                logger.warning("%s; trying again in %s s", fault, pause)
                time.sleep(pause)
        try:
            return self._ask(path, body)
        except _NoAnswerError as fault:
            logger.error("%s; giving up", fault)
            raise

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        url = self.endpoint.rstrip("/") + path
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"endpoint must begin with http:// or https://, not {self.endpoint!r}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(urllib.request.Request(url, body, _HEADERS), timeout=self.timeout) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            message = f"{url} answered {error.code}: {_said(error)}"
            if error.code >= 500 or error.code in _TRANSIENT:
                raise _NoAnswerError(message) from None
            raise RequestRefusedError(message, error.code) from None
        except (OSError, http.client.HTTPException) as error:
            raise _NoAnswerError(f"{url} does not answer: {error or type(error).__name__}") from error


class DevTaskLoader(AgentLightningClient):
    """Stands in for a client and its server: hands out a fixed list of tasks, over and over, and keeps the reports.

    Deprecated: new code debugs with `Trainer.dev`.
    """

    _successor: ClassVar = "Trainer.dev"

    def __init__(
        self,
        tasks: Sequence[TaskInput] | Sequence[Task],
        resources: NamedResources | ResourcesUpdate,
        **kwargs: Any,
    ) -> None:
        """Takes the tasks.

        Args:
            tasks: The tasks, or their inputs; not both.
            resources: What they run with.
            **kwargs: `poll_interval` and `timeout`, which have no effect.

        Raises:
            ValueError: There are no tasks, tasks and inputs are mixed, or a task names other resources.
        """
        super().__init__(endpoint="local://", **kwargs)
        if not tasks:
            raise ValueError("tasks must not be empty")
        whole = [isinstance(task, Task) for task in tasks]
        if any(whole) and not all(whole):
            raise ValueError("tasks must all be of type Task, or all be inputs")
        self._resources = (
            resources
            if isinstance(resources, ResourcesUpdate)
            else ResourcesUpdate(resources_id="local", resources=resources)
        )
        self._tasks = [
            task
            if isinstance(task, Task)
            else Task(rollout_id=f"local_task_{number:03d}", input=task, resources_id=self._resources.resources_id)
            for number, task in enumerate(tasks, start=1)
        ]
        for task in self._tasks:
            if task.resources_id is not None:
                self.get_resources_by_id(task.resources_id)
        self._rollouts: list[RolloutLegacy] = []

    @property
    def rollouts(self) -> list[RolloutLegacy]:
        """What has been posted, in order."""
        return self._rollouts

    def get_resources_by_id(self, resource_id: str) -> ResourcesUpdate | None:
        """Returns the resources.

        Raises:
            ValueError: They have another id.
        """
        if resource_id != self._resources.resources_id:
            raise ValueError(f"there are no resources {resource_id!r} here, only {self._resources.resources_id!r}")
        return self._resources

    def get_latest_resources(self) -> ResourcesUpdate | None:
        """Returns the resources."""
        return self._resources

    def post_rollout(self, rollout: RolloutLegacy) -> dict[str, Any] | None:
        """Keeps a report."""
        self._rollouts.append(rollout)
        return {"status": "received", "rollout_id": rollout.rollout_id}

    def _ask_for_task(self) -> Task | None:
        task = self._tasks[self.task_count % len(self._tasks)]
        return task.model_copy(update={"last_claim_time": time.time(), "num_claims": (task.num_claims or 0) + 1})


def _said(error: urllib.error.HTTPError) -> str:
    """Returns what stands in an answer, as far as it arrives."""
    with error:
        try:
            return error.read(1000).decode(errors="replace")
        except (OSError, http.client.HTTPException) as fault:
            return f"(the answer breaks off: {fault or type(fault).__name__})"


def _read(model: type[M], answer: bytes, endpoint: str) -> M:
    try:
        return model.model_validate_json(answer)
    except ValidationError as error:
        raise RequestRefusedError(
            f"what answers at {endpoint} is no server of tasks: {error.errors()[0]['msg']}", 200
        ) from error
