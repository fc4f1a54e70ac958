"""Agents: what they are made of, what is injected, and how they travel to other processes."""

from __future__ import annotations

import asyncio
import functools
import pickle
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional

import pytest
import sample_agents
from runners import finish, make_runner, ready, reward_of, running

from agentlightning import (
    LLM,
    Attempt,
    AttemptedRollout,
    LitAgent,
    PromptTemplate,
    ProxyLLM,
    Rollout,
    RolloutConfig,
    Task,
    llm_rollout,
    prompt_rollout,
    rollout,
)
from agentlightning.litagent import FunctionalLitAgent
from agentlightning.litagent.litagent import MissingResourceError, is_v0_1_rollout_api

LLM_A = LLM(endpoint="http://a", model="a")
LLM_B = LLM(endpoint="http://b", model="b")
PROMPT = PromptTemplate(template="{x}", engine="f-string")
PLAIN = Rollout(rollout_id="ro-1", input="in", start_time=0.0)
ATTEMPTED = AttemptedRollout(
    rollout_id="ro-1",
    input="in",
    start_time=0.0,
    attempt=Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=0.0),
)


def test_llm_rollout_injects_the_first_llm_by_name(caplog: pytest.LogCaptureFixture) -> None:
    @llm_rollout
    def agent(task: Any, llm: Any, rollout: Any) -> Any:
        return task, llm.model, rollout.rollout_id

    resources = {"prompt": PROMPT, "b": LLM_B, "a": LLM_A}
    assert agent.rollout("in", resources, ATTEMPTED) == ("in", "b", "ro-1")
    assert "the first LLM of ['b', 'a']" in caplog.text


def test_prompt_rollout_injects_the_prompt_template() -> None:
    @prompt_rollout
    def agent(task: Any, prompt_template: Any) -> Any:
        return prompt_template.format(x=task)

    assert agent.rollout("in", {"p": PROMPT}, ATTEMPTED) == "in"


def test_rollout_takes_both_kinds_of_resources() -> None:
    @rollout
    def agent(task: Any, prompt_template: Any, llm: Any) -> Any:
        return prompt_template.template + llm.model

    assert agent.rollout("in", {"p": PROMPT, "m": LLM_A}, ATTEMPTED) == "{x}a"


def test_calling_a_decorated_agent_calls_the_function() -> None:
    @rollout
    def agent(task: Any, llm: Any, extra: int = 3) -> Any:
        """Adds."""
        return task + extra

    assert agent(1, None) == 4
    assert agent(1, None, extra=1) == 2
    assert agent.__name__ == "agent"
    assert agent.__doc__ == "Adds."
    assert isinstance(agent, FunctionalLitAgent)
    assert not agent.is_async()


async def test_async_functions_make_async_agents() -> None:
    @llm_rollout
    async def agent(task: Any, llm: Any) -> Any:
        return llm.model

    assert agent.is_async()
    assert await agent.rollout_async("in", {"m": LLM_A}, ATTEMPTED) == "a"
    assert await agent.training_rollout_async("in", {"m": LLM_A}, ATTEMPTED) == "a"
    with pytest.raises(RuntimeError, match="await rollout_async"):
        agent.rollout("in", {"m": LLM_A}, ATTEMPTED)


async def test_sync_agents_refuse_to_be_awaited() -> None:
    @llm_rollout
    def agent(task: Any, llm: Any) -> Any:
        return None

    with pytest.raises(RuntimeError, match="call rollout"):
        await agent.rollout_async("in", {"m": LLM_A}, ATTEMPTED)


def test_proxies_are_stripped_unless_told_otherwise() -> None:
    proxy = ProxyLLM(endpoint="http://gate/v1", model="m")

    @llm_rollout
    def stripped(task: Any, llm: Any) -> Any:
        return llm

    @llm_rollout(strip_proxy=False)
    def kept(task: Any, llm: Any) -> Any:
        return llm

    given = stripped.rollout("in", {"m": proxy}, ATTEMPTED)
    assert type(given) is LLM
    assert given.endpoint == "http://gate/rollout/ro-1/attempt/at-1/v1"
    assert kept.rollout("in", {"m": proxy}, ATTEMPTED) is proxy
    with pytest.raises(ValueError, match="with its attempt"):
        stripped.rollout("in", {"m": proxy}, PLAIN)


def test_missing_resource_is_a_value_error_that_says_what_there_is() -> None:
    @llm_rollout
    def agent(task: Any, llm: Any) -> Any:
        return None

    with pytest.raises(MissingResourceError, match=r"needs a resource of type LLM.*p \(PromptTemplate\)"):
        agent.rollout("in", {"p": PROMPT}, ATTEMPTED)
    assert issubclass(MissingResourceError, ValueError)


def test_wrong_parameters_are_refused_at_decoration() -> None:
    def too_few(task: Any) -> Any: ...
    def wrong_first(sample: Any, llm: Any) -> Any: ...
    def wrong_second(task: Any, prompt_template: Any) -> Any: ...
    def unknown(task: Any, llm: Any, database: Any) -> Any: ...

    with pytest.raises(ValueError, match="at least `task` and `llm`"):
        llm_rollout(too_few)
    with pytest.raises(ValueError, match="first parameter of wrong_first must be `task`"):
        llm_rollout(wrong_first)
    with pytest.raises(ValueError, match="second parameter of wrong_second must be `llm`"):
        llm_rollout(wrong_second)
    with pytest.raises(ValueError, match="nothing fills the parameter `database`"):
        llm_rollout(unknown)
    with pytest.raises(NotImplementedError, match="neither `llm` nor `prompt_template`"):
        rollout(too_few)


def test_class_agents_are_async_when_they_override_an_async_method() -> None:
    class Sync(LitAgent[Any]):
        def rollout(self, task: Any, resources: Any, rollout: Any) -> Any:
            return 1.0

    class Async(LitAgent[Any]):
        async def training_rollout_async(self, task: Any, resources: Any, rollout: Any) -> Any:
            return 1.0

    assert not Sync().is_async()
    assert Async().is_async()
    assert Sync(trained_agents="writer").trained_agents == "writer"
    assert Sync().training_rollout("in", {}, ATTEMPTED) == Sync().validation_rollout("in", {}, ATTEMPTED) == 1.0


def test_an_agent_that_overrides_nothing_says_so() -> None:
    class Empty(LitAgent[Any]):
        pass

    with pytest.raises(NotImplementedError, match="Empty overrides neither"):
        Empty().rollout("in", {}, ATTEMPTED)


def test_agents_that_skip_init_have_no_trainer_yet() -> None:
    class Bare(LitAgent[Any]):
        def __init__(self) -> None:
            pass

    agent = Bare()
    with pytest.raises(ValueError, match="Trainer has not been set"):
        agent.get_trainer()
    with pytest.raises(ValueError, match="Runner has not been set"):
        _ = agent.runner
    with pytest.raises(ValueError, match="Trainer has not been set"):
        _ = agent.tracer


@pytest.mark.parametrize("name", ["greet", "greet_async", "kept_under_another_name"])
def test_decorated_agents_travel_by_reference(name: str) -> None:
    agent = getattr(sample_agents, name)
    copy = pickle.loads(pickle.dumps(agent))
    assert isinstance(copy, FunctionalLitAgent)
    assert copy.is_async() == agent.is_async()
    assert (copy is agent) == (name != "kept_under_another_name")


def test_class_agents_travel_without_their_trainer() -> None:
    class Keeper:
        pass

    agent = sample_agents.Echo(trained_agents="x")
    keeper: Any = Keeper()
    agent.set_trainer(keeper)
    agent.set_runner(keeper)
    copy = pickle.loads(pickle.dumps(agent))
    assert copy.trained_agents == "x"
    with pytest.raises(ValueError, match="Trainer"):
        copy.get_trainer()
    assert agent.get_trainer() is keeper


def test_local_agents_cannot_travel() -> None:
    @llm_rollout
    def agent(task: Any, llm: Any) -> Any:
        return None

    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(agent)


def test_old_rollout_signatures_are_recognised() -> None:
    def old(task: Any, rollout_id: str, resources: Any) -> Any: ...
    def new(task: Any, resources: Any, rollout: Any) -> Any: ...

    assert is_v0_1_rollout_api(old)
    assert not is_v0_1_rollout_api(new)


WHOLE = Task(
    rollout_id="ro-1",
    input="in",
    mode="val",
    resources_id="rs-1",
    create_time=1.0,
    last_claim_time=5.0,
    num_claims=2,
    metadata={"note": "n"},
)
DESCRIBED = AttemptedRollout(
    rollout_id="ro-1",
    input="in",
    mode="val",
    resources_id="rs-1",
    start_time=1.0,
    metadata={"note": "n"},
    attempt=Attempt(rollout_id="ro-1", attempt_id="at-2", sequence_id=2, start_time=5.0),
)


class other:  # noqa: N801 - stands for a module of the user's
    class Task(dict[str, Any]):
        """A type of the user's own."""


def given_with(annotation: Any) -> Any:
    """Returns what an agent gets whose `task` is annotated like this."""

    def agent(task, llm: OnlyForTypeCheckers):  # type: ignore[name-defined]  # noqa: F821
        return task

    agent.__annotations__["task"] = annotation
    return llm_rollout(agent).rollout("in", {"m": LLM_A}, DESCRIBED)


@pytest.mark.parametrize(
    "annotation",
    [
        Task,
        "Task",
        "Task | None",
        Optional[Task],  # noqa: UP045
        Optional["Task"],
        Annotated[Task, "with a note"],
        "Annotated[Task | None, 'with a note']",
    ],
    ids=str,
)
def test_a_task_parameter_annotated_task_gets_the_whole_task(annotation: Any) -> None:
    assert given_with(annotation) == WHOLE


@pytest.mark.parametrize(
    "annotation", [Any, dict, None, "str", "list[Task]", list[Task], "other.Task", other.Task, "Rollout", 3], ids=str
)
def test_a_task_parameter_annotated_otherwise_gets_the_input(annotation: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert given_with(annotation) == "in"
    assert caplog.text == ""


def test_an_annotation_that_means_nothing_at_run_time_is_pointed_out_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert given_with("only_for_type_checkers.Task") == "in"
        assert given_with("only_for_type_checkers.Sample") == "in"
    (record,) = caplog.records
    assert "import agentlightning.Task outside of `if TYPE_CHECKING:`" in record.getMessage()


def test_a_new_rollout_makes_a_task_without_claims() -> None:
    @llm_rollout
    def agent(task: Task, llm: Any) -> Any:
        return task

    given = agent.rollout("in", {"m": LLM_A}, PLAIN)
    assert given == Task(rollout_id="ro-1", input="in", create_time=0.0)
    assert given.metadata == {}


@pytest.mark.parametrize("annotation", [Task, Any])
def test_a_task_that_is_handed_over_is_passed_on(annotation: Any) -> None:
    def agent(task, llm):  # type: ignore[no-untyped-def]
        return task

    agent.__annotations__["task"] = annotation
    assert llm_rollout(agent).rollout(WHOLE, {"m": LLM_A}, PLAIN) is WHOLE


class Callee:
    async def __call__(self, task: Task, llm: Any) -> Any:
        return task


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return wrapper


async def two_models(task: Task, llm: Any, name: str) -> Any:
    return task


@pytest.mark.parametrize("function", [Callee(), wrapped(Callee().__call__), functools.partial(two_models, name="m")])
async def test_callables_of_every_kind_get_the_task_that_they_ask_for(function: Any) -> None:
    agent: FunctionalLitAgent[Any] = FunctionalLitAgent(function)
    assert await agent.rollout_async("in", {"m": LLM_A}, DESCRIBED) == WHOLE


class Overriding(LitAgent[Any]):
    def rollout(self, task: Task, resources: Any, rollout: Any) -> Any:
        return task.input, task.num_claims

    def validation_rollout(self, sample: Task, resources: Any, rollout: Any) -> Any:
        return "val", sample.metadata

    async def rollout_async(self, task: Task, resources: Any, rollout: Any) -> Any:
        return task.input, task.mode


async def test_overridden_methods_of_classes_get_the_task_that_they_ask_for() -> None:
    agent = Overriding()
    assert agent.training_rollout("in", {}, DESCRIBED) == ("in", 2)
    assert await agent.training_rollout_async("in", {}, DESCRIBED) == ("in", "val")
    assert await agent.validation_rollout_async("in", {}, DESCRIBED) == ("in", "val")


async def test_runners_hand_over_whole_tasks() -> None:
    given: list[Any] = []

    class Both(LitAgent[Any]):
        def rollout(self, task: Task, resources: Any, rollout: Any) -> float:
            given.append(task)
            if task.num_claims == 1:
                raise ValueError("not yet")
            return 1.0

        def validation_rollout(self, task: Any, resources: Any, rollout: Any) -> float:
            given.append(task)
            return 0.5

    store = await ready()
    config = RolloutConfig(max_attempts=2, retry_condition=["failed"])
    async with running(Both(), store):
        training = await store.enqueue_rollout("t", mode="train", config=config, metadata={"note": 1})
        (attempt,) = await finish(store, training)
        (validated,) = await finish(store, await store.enqueue_rollout("v", mode="val"))
    assert [task.num_claims for task in given[:2]] == [1, 2]
    assert given[1] == Task(
        rollout_id=training.rollout_id,
        input="t",
        mode="train",
        resources_id=training.resources_id,
        create_time=training.start_time,
        last_claim_time=attempt.start_time,
        num_claims=2,
        metadata={"note": 1},
    )
    assert given[2] == "v"
    assert await reward_of(store, validated) == 0.5


class Meeting(LitAgent[Any]):
    """Ends when two rollouts have begun."""

    def __init__(self) -> None:
        super().__init__()
        self.runners: dict[str, Any] = {}
        self.tracers: dict[str, Any] = {}
        self.both = threading.Barrier(2)

    def rollout(self, task: Any, resources: Any, rollout: Any) -> float:
        self.both.wait(20)
        self.runners[rollout.attempt.worker_id] = self.get_runner()
        self.tracers[rollout.attempt.worker_id] = self.tracer
        return 1.0


class MeetingAsync(Meeting):
    async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> float:
        return await asyncio.to_thread(self.rollout, task, resources, rollout)


@pytest.mark.parametrize("kind", [Meeting, MeetingAsync])
async def test_an_agent_of_several_runners_knows_which_one_runs_it(kind: type[Meeting]) -> None:
    store = await ready()
    agent = kind()
    first, second = make_runner(max_rollouts=1), make_runner(max_rollouts=1)
    for _ in range(2):
        await store.enqueue_rollout(None)
    with (
        first.run_context(agent=agent, store=store, worker_id=1),
        second.run_context(agent=agent, store=store, worker_id=2),
    ):
        await asyncio.gather(first.iter(), second.iter())
        assert agent.get_runner() is second
    assert agent.runners == {"Worker-1": first, "Worker-2": second}
    assert agent.tracers == {"Worker-1": first.tracer, "Worker-2": second.tracer}


def examples() -> list[str]:
    page = Path(__file__).parent.parent.parent / "docs" / "agents.md"
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
