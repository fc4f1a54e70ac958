"""The legacy runner: what it makes of tasks, and what it reports."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from legacy_agents import AsyncAgent, DoublingAgent

from agentlightning.client import AgentLightningClient, DevTaskLoader
from agentlightning.emitter import emit_reward
from agentlightning.execution.events import ThreadingEvent
from agentlightning.litagent.litagent import LitAgent
from agentlightning.runner.legacy import LegacyAgentRunner
from agentlightning.server import AgentLightningServer
from agentlightning.tracer import OtelTracer
from agentlightning.types import PromptTemplate, Rollout, RolloutLegacy, Span, Task, Triplet

PROMPT = PromptTemplate(template="{x}", engine="f-string")


def loader(*tasks: Any) -> DevTaskLoader:
    """Tasks without a server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return DevTaskLoader(list(tasks), {"prompt": PROMPT})


class Exporter:
    """Makes a triplet of each span."""

    def adapt(self, spans: list[Span]) -> list[Triplet]:
        return [Triplet(prompt=span.name, response=index) for index, span in enumerate(spans)]


def runner_of(agent: LitAgent[Any], client: AgentLightningClient, **settings: Any) -> LegacyAgentRunner:
    """A runner."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return LegacyAgentRunner(agent, client, OtelTracer(), Exporter(), **settings)


def test_it_names_its_successor_to_the_line_that_makes_it() -> None:
    client = loader(1)
    with pytest.warns(DeprecationWarning, match="use LitAgentRunner with a store") as said:
        LegacyAgentRunner(DoublingAgent(), client, OtelTracer(), None)
    assert [warning.filename for warning in said] == [__file__]


class Returning(LitAgent[Any]):
    """Returns what a function of the arguments returns."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        super().__init__()
        self.answer = answer

    def rollout(self, task: Any, resources: Any, rollout: Any) -> Any:
        return self.answer(task, resources, rollout)


def report_on(answer: Callable[..., Any], task: Any = 1) -> RolloutLegacy:
    """What is reported when an agent answers so."""
    client = loader(task)
    assert runner_of(Returning(answer), client).run() is True
    return client.rollouts[0]


@pytest.mark.parametrize("agent", [DoublingAgent(), AsyncAgent()], ids=["sync", "async"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_it_runs_the_agent_on_each_task_and_posts_the_report(agent: LitAgent[Any], asynchronous: bool) -> None:
    client = loader(1, 2, 3)
    runner = runner_of(agent, client, max_tasks=3)
    done = asyncio.run(runner.iter_async()) if asynchronous else runner.iter()
    assert done == 3
    assert [report.final_reward for report in client.rollouts] == [2.0, 4.0, 6.0]
    for number, report in enumerate(client.rollouts, start=1):
        assert report.rollout_id == f"local_task_{number:03d}"
        assert report.task is not None
        assert (report.task.input, report.task.num_claims) == (number, 1)
        assert report.trace is not None
        assert [span["name"] for span in report.trace] == ["agentlightning.annotation"]
        assert report.triplets == [Triplet(prompt="agentlightning.annotation", response=0)]


def test_the_agent_gets_the_input_the_resources_and_the_rollout() -> None:
    seen: list[Any] = []
    report_on(lambda *arguments: seen.extend(arguments), {"question": 1})
    task, resources, rollout = seen
    assert (task, resources) == ({"question": 1}, {"prompt": PROMPT})
    assert isinstance(rollout, Rollout)
    assert (rollout.rollout_id, rollout.input) == ("local_task_001", {"question": 1})


def test_training_and_validation_are_told_apart() -> None:
    class Telling(LitAgent[Any]):
        def training_rollout(self, task: Any, resources: Any, rollout: Any) -> float:
            return 1.0

        def validation_rollout(self, task: Any, resources: Any, rollout: Any) -> float:
            return 2.0

    client = loader(*(Task(rollout_id=f"t{mode}", input=0, mode=mode) for mode in ("train", "val", "test", None)))
    runner_of(Telling(), client, max_tasks=4).iter()
    assert [report.final_reward for report in client.rollouts] == [1.0, 2.0, 2.0, 2.0]


class OldAgent(LitAgent[Any]):
    """Of release 0.1, by its way to validate."""

    def validation_rollout(self, task: Any, rollout_id: str, resources: Any) -> Any:  # type: ignore[override]
        assert "prompt" in resources
        return RolloutLegacy.model_validate({"rollout_id": rollout_id, "logs": [rollout_id]})


class OldestAgent(LitAgent[Any]):
    """Of release 0.1, whatever it is asked."""

    def rollout(self, task: Any, rollout_id: str, resources: Any) -> Any:  # type: ignore[override]
        return RolloutLegacy.model_validate({"rollout_id": rollout_id, "logs": [rollout_id]})


@pytest.mark.parametrize("agent", [OldAgent(), OldestAgent()])
def test_an_agent_of_release_0_1_gets_the_id_of_its_rollout(agent: LitAgent[Any]) -> None:
    client = loader(1)
    runner_of(agent, client).run()
    assert client.rollouts[0].logs == ["local_task_001"]


def test_what_an_agent_emits_is_its_reward_if_it_returns_none() -> None:
    assert report_on(lambda *_: emit_reward(0.25) and None).final_reward == 0.25
    assert report_on(lambda *_: None).final_reward is None


@pytest.mark.parametrize(("result", "reward"), [(1, 1.0), (True, 1.0), (0.0, 0.0)])
def test_every_number_is_a_reward(result: Any, reward: float) -> None:
    assert report_on(lambda *_: result).final_reward == reward


def test_triplets_spans_and_whole_reports_are_reported_as_they_are() -> None:
    triplets = [Triplet(prompt="p", response="r", reward=1.0)]
    assert report_on(lambda *_: triplets).triplets == triplets
    assert report_on(lambda *_: [{"my": "span"}]).trace == [{"my": "span"}]
    spans = [Span.from_attributes(attributes={}, name="made")]
    trace = report_on(lambda *_: spans).trace
    assert trace is not None
    assert [span["name"] for span in trace] == ["made"]
    given = RolloutLegacy.model_validate({"rollout_id": "other", "final_reward": 3.0, "metadata": {"a": 1}})
    report = report_on(lambda *_: given)
    assert (report.rollout_id, report.final_reward, report.metadata) == ("local_task_001", 3.0, {"a": 1})


def test_anything_else_is_kept_as_an_object() -> None:
    trace = report_on(lambda *_: "an answer").trace
    assert trace is not None
    assert trace[0]["attributes"]["agentlightning.object.literal"] == "an answer"


def test_an_agent_that_fails_is_reported_to_have_failed(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any) -> None:
        emit_reward(1.0)
        raise KeyError("missing")

    report = report_on(fail)
    assert report.metadata == {"agentlightning.failure": "KeyError: 'missing'"}
    assert (report.final_reward, len(report.trace or ())) == (None, 1)
    assert "local_task_001 failed" in caplog.text

    def leave(*_: Any) -> None:
        raise SystemExit(3)

    assert report_on(leave).metadata == {"agentlightning.failure": "SystemExit: 3"}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (asyncio.CancelledError(), "RuntimeError: the agent raised CancelledError"),
        (SystemExit(3), "RuntimeError: the agent tried to end the process: SystemExit(3)"),
    ],
)
def test_an_async_agent_that_would_end_its_runner_is_reported_to_have_failed(error: BaseException, said: str) -> None:
    class Raising(LitAgent[Any]):
        async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> Any:
            raise error

    client = loader(1, 2)
    assert runner_of(Raising(), client, max_tasks=2).iter() == 2
    assert [report.metadata for report in client.rollouts] == [{"agentlightning.failure": said}] * 2


def test_a_plain_agent_that_raises_cancelled_error_is_reported_to_have_failed() -> None:
    def cancel(*_: Any) -> None:
        raise asyncio.CancelledError

    assert report_on(cancel).metadata == {"agentlightning.failure": "RuntimeError: the agent raised CancelledError"}


async def test_an_async_agent_may_clean_up_when_its_runner_is_cancelled() -> None:
    begun, cleaned_up = asyncio.Event(), asyncio.Event()

    class Waiting(LitAgent[Any]):
        async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> Any:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                cleaned_up.set()

    running = asyncio.create_task(runner_of(Waiting(), loader(1)).iter_async())
    await asyncio.wait_for(begun.wait(), 20)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert cleaned_up.is_set()


def test_the_hooks_of_the_agent_are_called_around_each_task_and_may_fail() -> None:
    called: list[Any] = []

    class Hooked(DoublingAgent):
        def on_rollout_start(self, task: Any, runner: Any, tracer: Any) -> None:
            called.append(("start", task.rollout_id, runner, tracer))
            raise RuntimeError("a bad hook")

        def on_rollout_end(self, task: Any, rollout: Any, runner: Any, tracer: Any) -> None:
            called.append(("end", rollout.final_reward, runner, tracer))

    agent = Hooked()
    runner = runner_of(agent, loader(5))
    runner.run()
    assert called == [("start", "local_task_001", runner, runner.tracer), ("end", 10.0, runner, runner.tracer)]
    assert agent.get_runner() is runner  # type: ignore[comparison-overlap]
    assert agent.get_tracer() is runner.tracer


async def test_it_ends_when_it_is_told_also_while_it_waits_for_a_task() -> None:
    client = loader(1)
    never: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    asked = asyncio.Event()

    async def poll() -> Any:
        asked.set()
        return await never

    client.poll_next_task_async = poll  # type: ignore[method-assign]
    event = ThreadingEvent()
    running = asyncio.create_task(runner_of(DoublingAgent(), client).iter_async(event))
    await asked.wait()
    event.set()
    assert await asyncio.wait_for(running, 10) == 0
    assert never.cancelled()


@pytest_asyncio.fixture
async def server() -> AsyncIterator[AgentLightningServer]:
    """A legacy server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made = AgentLightningServer(port=0)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def client(server: AgentLightningServer) -> AgentLightningClient:
    """A client of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return AgentLightningClient(server.endpoint, poll_interval=0.01)


async def test_a_server_gets_what_the_agent_has_done(
    server: AgentLightningServer, client: AgentLightningClient
) -> None:
    await server.update_resources({"prompt": PROMPT})
    ids = [await server.queue_task(number, "train") for number in (1, 2)]
    assert await runner_of(DoublingAgent(), client, max_tasks=2).iter_async() == 2
    spans = await server.store.query_spans(ids[0], "latest")
    assert "agentlightning.annotation" in [span.name for span in spans]
    reports = await server.retrieve_completed_rollouts()
    assert [(report.rollout_id, report.final_reward) for report in reports] == [(ids[0], 2.0), (ids[1], 4.0)]


async def test_resources_that_do_not_exist_are_a_failure_and_no_endless_loop(
    server: AgentLightningServer, client: AgentLightningClient
) -> None:
    first = await server.queue_task(1)
    await server.update_resources({})
    second = await server.queue_task(2, resources_id="res-gone")
    # The first was queued when nothing was published; it runs with what is the latest then.
    assert await runner_of(DoublingAgent(), client, max_tasks=2).iter_async() == 2
    reports = {report.rollout_id: report for report in await server.retrieve_completed_rollouts()}
    assert reports[first].final_reward == 2.0
    assert reports[second].metadata["agentlightning.failure"] == "LookupError: the server has no resources res-gone"


async def test_a_report_that_cannot_be_posted_fails_its_task(
    server: AgentLightningServer, client: AgentLightningClient
) -> None:
    await server.update_resources({})
    rollout_id = await server.queue_task(1)
    assert await runner_of(Returning(lambda *_: float("nan")), client).run_async() is True
    report = await server.get_completed_rollout(rollout_id)
    assert report is not None
    assert report.metadata["agentlightning.failure"].startswith("its report cannot be posted: ")


async def test_a_task_that_was_deleted_meanwhile_does_not_stop_the_runner(
    server: AgentLightningServer, client: AgentLightningClient
) -> None:
    await server.update_resources({})
    gone = await server.queue_task(1)
    kept = await server.queue_task(2)
    loop = asyncio.get_running_loop()

    def delete(task: Any, resources: Any, rollout: Any) -> float:
        deleting = server.store.delete_rollouts(rollout_ids=[gone])
        asyncio.run_coroutine_threadsafe(deleting, loop).result()
        return 1.0

    assert await runner_of(Returning(delete), client, max_tasks=2).iter_async() == 2
    assert [report.rollout_id for report in await server.retrieve_completed_rollouts()] == [kept]
