"""Rollouts, attempts, workers, queries, and the legacy task models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    Protocol,
    SupportsIndex,
    TypedDict,
    TypeVar,
    overload,
)

from pydantic import BaseModel, Field, SerializeAsAny, model_validator
from typing_extensions import deprecated

from agentlightning.types.deprecated import DeprecatedModel
from agentlightning.types.resources import ResourcesUpdate
from agentlightning.types.tracer import Span, SpanCoreFields

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from agentlightning.litagent import LitAgent
    from agentlightning.runner import Runner
    from agentlightning.tracer import Tracer

__all__ = [
    "Attempt",
    "AttemptFailure",
    "AttemptStatus",
    "AttemptedRollout",
    "CancelAttempt",
    "ClaimedRollouts",
    "CommandedWorker",
    "Dataset",
    "Drain",
    "EnqueueRolloutRequest",
    "FailureKind",
    "FilterField",
    "FilterOptions",
    "GenericResponse",
    "Hook",
    "LateReport",
    "PaginatedResult",
    "ParallelWorkerBase",
    "Rollout",
    "RolloutConfig",
    "RolloutLegacy",
    "RolloutMode",
    "RolloutRawResult",
    "RolloutRawResultLegacy",
    "RolloutStatus",
    "SortOptions",
    "Task",
    "TaskIfAny",
    "TaskInput",
    "Triplet",
    "Worker",
    "WorkerCommand",
    "WorkerStatus",
]

T_co = TypeVar("T_co", covariant=True)
T_item = TypeVar("T_item")

TaskInput = Any
"""What an agent is asked to do: anything that JSON can carry."""

RolloutStatus = Literal["queuing", "preparing", "running", "failed", "succeeded", "cancelled", "requeuing"]
"""Where a rollout stands.

`queuing` and `requeuing` wait for a runner, `preparing` and `running` are with one, `failed`, `succeeded` and
`cancelled` are finished.
"""

AttemptStatus = Literal["preparing", "running", "failed", "succeeded", "unresponsive", "timeout"]
"""Where one try at a rollout stands. `unresponsive` may still come back to life; the last three words are final."""

RolloutMode = Literal["train", "val", "test"]
"""Which split of the data a rollout belongs to."""

WorkerStatus = Literal["idle", "busy", "unknown"]
"""What a worker was last known to do. `unknown` when it never reported or its attempt went silent."""

FailureKind = Literal["agent_error", "infrastructure", "timeout", "lease_lost", "cancelled", "missing_resources"]
"""Why an attempt did not succeed.

`agent_error`: the agent's own code raised or returned nonsense. `infrastructure`: what it ran on failed.
`timeout`: it took longer than the rollout allows. `lease_lost`: its runner went silent. `cancelled`: its runner
stopped it, because it was told to or was itself stopped. `missing_resources`: the resources that it needs were never
published.
"""


class AttemptFailure(BaseModel):
    """Why an attempt did not succeed."""

    kind: FailureKind | None = None
    """The class of the failure, if it is known; retry budgets are counted per class."""
    message: str = ""
    """What a person reads, without a traceback."""
    retryable: bool = True
    """Whether another attempt may help. `False` ends the rollout whatever budget is left."""


class LateReport(BaseModel):
    """What a runner reported about an attempt that had already ended. Kept for the record; it changed nothing."""

    status: AttemptStatus
    """The status that the report asked for."""
    report_time: float
    """When it arrived, in seconds since the epoch."""
    failure: AttemptFailure | None = None
    """The failure that the report named, if any."""


class Attempt(BaseModel):
    """One try at a rollout. Its key is `(rollout_id, attempt_id)`."""

    rollout_id: str
    """The rollout that this is a try at."""
    attempt_id: str
    """Unique within the rollout."""
    sequence_id: int
    """1 for the first try, then 2, 3, ..."""
    start_time: float
    """When it was created, in seconds since the epoch."""
    end_time: float | None = None
    """When it ended, in seconds since the epoch; `None` while it has not."""
    status: AttemptStatus = "preparing"
    """Where it stands."""
    worker_id: str | None = None
    """The worker that holds it, if that is known."""
    last_heartbeat_time: float | None = None
    """When a span or a heartbeat last showed it alive, in seconds since the epoch."""
    metadata: dict[str, Any] | None = None
    """Whatever its reporter attached."""
    failure: AttemptFailure | None = None
    """Why it did not succeed, when that was reported or found out."""
    late_report: LateReport | None = None
    """The last report that came after it had ended."""


class RolloutConfig(BaseModel):
    """How long a rollout's attempts may take and when a new one follows. The defaults: no limit, no retry."""

    timeout_seconds: float | None = None
    """How long one attempt may take, in seconds. `None` sets no limit."""
    unresponsive_seconds: float | None = None
    """How long an attempt may give no sign of life, in seconds. `None` sets no limit."""
    max_attempts: int = Field(default=1, ge=1)
    """How many attempts there may be in all, the first one included."""
    retry_condition: list[AttemptStatus] = Field(default_factory=list)
    """The attempt statuses after which the rollout goes back into the queue."""
    retry_budgets: dict[FailureKind, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    """How many further attempts failures of each kind may cause in one rollout. A kind that is named here follows its
    budget alone; one that is not follows `retry_condition` and `max_attempts`."""


class Rollout(BaseModel):
    """One task for an agent, with all that the store knows about its course."""

    rollout_id: str
    """Unique within its experiment."""
    input: TaskInput
    """What the agent is asked to do."""
    start_time: float
    """When it was created, in seconds since the epoch."""
    end_time: float | None = None
    """When it finished, in seconds since the epoch; `None` while it has not."""
    mode: RolloutMode | None = None
    """Which split of the data it belongs to."""
    resources_id: str | None = None
    """The resources to run with; `None` means the latest."""
    status: RolloutStatus = "queuing"
    """Where it stands."""
    config: RolloutConfig = Field(default_factory=RolloutConfig)
    """Its limits and retries."""
    metadata: dict[str, Any] | None = None
    """Whatever its author attached."""


class AttemptedRollout(Rollout):
    """A rollout together with its latest attempt."""

    attempt: Attempt
    """The latest attempt, or the one that was just claimed."""

    @model_validator(mode="after")
    def _attempt_belongs_to_rollout(self) -> AttemptedRollout:
        if self.attempt.rollout_id != self.rollout_id:
            raise ValueError(
                f"attempt {self.attempt.attempt_id} belongs to rollout {self.attempt.rollout_id}, not {self.rollout_id}"
            )
        return self


class ClaimedRollouts(BaseModel):
    """What a worker got when it asked for work."""

    rollouts: list[AttemptedRollout]
    """The rollouts, each with the attempt that was made for the worker; empty when there was no work."""
    resources: list[ResourcesUpdate] = Field(default_factory=list)
    """The resources that the rollouts need and the worker did not have. Where a rollout names none, the latest."""
    draining: bool = False
    """Whether the worker was asked to leave, which is why it got nothing."""


class EnqueueRolloutRequest(BaseModel):
    """One item of `LightningStore.enqueue_many_rollouts`."""

    input: TaskInput
    """What the agent is asked to do."""
    mode: RolloutMode | None = None
    """Which split of the data it belongs to."""
    resources_id: str | None = None
    """The resources to run with; `None` means those that are the latest when it is enqueued."""
    config: RolloutConfig | None = None
    """Its limits and retries; `None` means the defaults."""
    metadata: dict[str, Any] | None = None
    """Whatever its author attaches."""
    rollout_id: str | None = None
    """The id to give it; `None` lets the store's client choose one."""


class Worker(BaseModel):
    """What the store knows about one runner process. All times are seconds since the epoch."""

    worker_id: str
    """Chosen by the worker."""
    status: WorkerStatus = "unknown"
    """What it was last known to do."""
    heartbeat_stats: dict[str, Any] | None = None
    """What its last heartbeat said about its machine."""
    last_heartbeat_time: float | None = None
    """When it last sent a heartbeat."""
    last_dequeue_time: float | None = None
    """When it last asked for work."""
    last_busy_time: float | None = None
    """When it last took up work."""
    last_idle_time: float | None = None
    """When it last fell idle."""
    current_rollout_id: str | None = None
    """The rollout that it holds."""
    current_attempt_id: str | None = None
    """The attempt that it holds."""
    draining: bool = False
    """Whether it was asked to finish what it holds and to take nothing new."""


class CancelAttempt(BaseModel):
    """Tells a worker to stop one attempt: it has ended, was superseded, or its rollout is finished or gone."""

    command: Literal["cancel_attempt"] = "cancel_attempt"
    """Always `cancel_attempt`."""
    rollout_id: str
    """The rollout."""
    attempt_id: str
    """The attempt to stop."""
    reason: str = ""
    """Why, for people and logs."""


class Drain(BaseModel):
    """Tells a worker to take nothing new, finish what it holds and leave."""

    command: Literal["drain"] = "drain"
    """Always `drain`."""
    reason: str = ""
    """Why, for people and logs."""


WorkerCommand = Annotated[CancelAttempt | Drain, Field(discriminator="command")]
"""Something that a worker is told to do, told apart by `command`."""


class CommandedWorker(Worker):
    """A worker together with what it is to do now: the answer to a heartbeat."""

    commands: list[WorkerCommand] = Field(default_factory=list)
    """What to do. Repeated in every answer for as long as it applies."""


class PaginatedResult(BaseModel, Sequence[T_item], Generic[T_item]):
    """One page of a query, usable as the sequence of its items.

    It equals another page with the same fields, and any list or tuple of equal items.
    """

    # As what they are, not as what the page says: the attempts of a page of rollouts belong to its JSON.
    items: Sequence[SerializeAsAny[T_item]]
    """The items of this page."""
    limit: int
    """The most items that were asked for; -1 for all."""
    offset: int
    """How many matching items come before this page."""
    total: int
    """How many items match in all."""

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> T_item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T_item]: ...
    def __getitem__(self, index: int | slice) -> T_item | Sequence[T_item]:
        return self.items[index]

    def __iter__(self) -> Iterator[T_item]:  # type: ignore[override]
        return iter(self.items)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (list, tuple)):
            return list(self.items) == list(other)
        return super().__eq__(other)

    def __repr__(self) -> str:
        shown = ", ".join(repr(item) for item in self.items[:3])
        more = f", ... {len(self.items) - 3} more" if len(self.items) > 3 else ""
        return f"<PaginatedResult [{shown}{more}] limit={self.limit} offset={self.offset} total={self.total}>"

    __str__ = __repr__


class FilterField(TypedDict, total=False):
    """Conditions on one field; all those given must hold."""

    exact: Any
    """The field equals this."""
    within: Sequence[Any]
    """The field is one of these; none of them matches nothing."""
    contains: str
    """The field is a string that contains this."""


FilterOptions = Mapping[str, FilterField | Literal["and", "or"] | Mapping[str, FilterField]]
"""Conditions by field name. `_aggregate` joins them (`and`, the default, or `or`); those under `_must` always hold."""


class SortOptions(TypedDict):
    """How to order the result of a query."""

    name: str
    """The field to order by."""
    order: Literal["asc", "desc"]
    """Rising or falling."""


class Triplet(BaseModel):
    """One prompt, the response to it, and the reward that the response earned."""

    prompt: Any
    """What the model was given."""
    response: Any
    """What the model answered."""
    reward: float | None = None
    """What the answer was worth, if that is known."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Where it comes from."""


class Task(BaseModel):
    """A task as the legacy client and server know it, and as an agent gets it that annotates its parameter so."""

    rollout_id: str
    """Identifies the task and the rollout made of it."""
    input: TaskInput
    """What the agent is asked to do."""
    mode: RolloutMode | None = None
    """Which split of the data it belongs to."""
    resources_id: str | None = None
    """The resources to run with; `None` means the latest."""
    create_time: float | None = None
    """When it was queued, in seconds since the epoch."""
    last_claim_time: float | None = None
    """When it was last handed out, in seconds since the epoch."""
    num_claims: int | None = None
    """How often it has been handed out."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Whatever its author attached."""

    @classmethod
    def of_rollout(cls, rollout: Rollout, input: TaskInput) -> Task:
        """Returns the task that a rollout is to a client or an agent; with its claims, if it comes with its attempt.

        Args:
            rollout: The rollout.
            input: What the agent is asked to do.
        """
        attempt = rollout.attempt if isinstance(rollout, AttemptedRollout) else None
        return cls(
            rollout_id=rollout.rollout_id,
            input=input,
            mode=rollout.mode,
            resources_id=rollout.resources_id,
            create_time=rollout.start_time,
            last_claim_time=attempt and attempt.start_time,
            num_claims=attempt and attempt.sequence_id,
            metadata=rollout.metadata or {},
        )


class TaskIfAny(BaseModel):
    """The legacy server's answer to a request for a task."""

    is_available: bool
    """Whether there was one."""
    task: Task | None = None
    """The task, if there was one."""


@deprecated("RolloutLegacy is deprecated: use Rollout, and the spans of its attempts", category=None)
class RolloutLegacy(BaseModel, metaclass=DeprecatedModel):
    """What the legacy client reports of a finished task; new code works with `Rollout`."""

    rollout_id: str
    """The task that it answers."""
    task: Task | None = None
    """The task itself."""
    final_reward: float | None = None
    """The reward of the whole rollout."""
    triplets: list[Triplet] | None = None
    """Its model calls with their rewards."""
    trace: list[dict[str, Any]] | None = None
    """Its spans in OpenTelemetry's JSON form."""
    logs: list[str] | None = None
    """Lines that the agent logged."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Whatever the reporter attached."""


@deprecated("GenericResponse is deprecated: the methods of LightningStore return what they made", category=None)
class GenericResponse(BaseModel, metaclass=DeprecatedModel):
    """The legacy server's plain acknowledgement."""

    status: str = "success"
    """One word on how it went."""
    message: str | None = None
    """What a person reads."""
    data: dict[str, Any] | None = None
    """Anything more."""


RolloutRawResult = float | list["ReadableSpan"] | list[Span] | list[SpanCoreFields] | None
"""What an agent may return: nothing (the tracer has it all), the final reward, or the spans of the rollout."""

RolloutRawResultLegacy = float | list[Triplet] | list[dict[str, Any]] | list["ReadableSpan"] | RolloutLegacy | None
"""What an agent of the legacy runner may return. Deprecated: use `RolloutRawResult`."""


class ParallelWorkerBase:
    """The life of something that runs in several workers: set up once, set up in each worker, run, taken down."""

    worker_id: int | None = None
    """The worker that this instance serves; `None` before `init_worker`."""

    def __init__(self) -> None:
        self.worker_id = None

    def init(self, *args: Any, **kwargs: Any) -> None:
        """Prepares what all workers share, before any of them starts."""

    def init_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Prepares this instance inside the worker numbered `worker_id`."""
        self.worker_id = worker_id

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Does the work; subclasses say what it is."""

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Releases what `init_worker` took."""

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Releases what `init` took."""


class Dataset(Protocol, Generic[T_co]):
    """Anything that can be indexed from 0 and has a length, such as a list or a `torch.utils.data.Dataset`."""

    def __getitem__(self, index: SupportsIndex, /) -> T_co: ...

    def __len__(self) -> int: ...


class Hook(ParallelWorkerBase):
    """Callbacks of a runner around each rollout. What they raise is logged and does not fail the rollout."""

    async def on_trace_start(
        self, *, agent: LitAgent[Any], runner: Runner[Any], tracer: Tracer, rollout: Rollout
    ) -> None:
        """Called inside the trace context, before the agent runs."""

    async def on_trace_end(
        self, *, agent: LitAgent[Any], runner: Runner[Any], tracer: Tracer, rollout: Rollout
    ) -> None:
        """Called inside the trace context, after the agent ran."""

    async def on_rollout_start(self, *, agent: LitAgent[Any], runner: Runner[Any], rollout: Rollout) -> None:
        """Called before the trace context is entered."""

    async def on_rollout_end(
        self,
        *,
        agent: LitAgent[Any],
        runner: Runner[Any],
        rollout: Rollout,
        spans: list[ReadableSpan] | list[Span],
    ) -> None:
        """Called with the spans of the rollout, before the attempt's end is reported."""
