"""Agents: what they are made of, what is injected, and how they travel to other processes."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import sample_agents

from agentlightning import (
    LLM,
    Attempt,
    AttemptedRollout,
    LitAgent,
    PromptTemplate,
    ProxyLLM,
    Rollout,
    llm_rollout,
    prompt_rollout,
    rollout,
)
from agentlightning.litagent.decorator import FunctionalLitAgent
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
