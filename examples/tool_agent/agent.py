"""The agent: one of the OpenAI Agents SDK, with two tools. It knows nothing of its being trained."""

from __future__ import annotations

import functools

from agents import Agent, AgentsException, OpenAIChatCompletionsModel, RunConfig, Runner, Tool, function_tool
from openai import AsyncOpenAI
from shop import Task

from agentlightning import LLM, rollout


@rollout
async def shopkeeper(task: Task, llm: LLM) -> float:
    """Says how many of an item there are. Half of the reward is for looking in the right place, half for the number."""
    seen: list[str] = []
    client = _client().with_options(base_url=llm.endpoint, api_key=llm.api_key or "none")
    agent = Agent(
        name="shopkeeper",
        tools=shelves(task, seen),
        model=OpenAIChatCompletionsModel(llm.model, client),
    )
    try:
        result = await Runner.run(agent, task["item"], max_turns=3, run_config=RunConfig(tracing_disabled=True))
    except AgentsException:  # it called tools for ever, or said nothing
        return 0.0
    looked = seen[:1] == [task["shelf"]]
    return 0.5 * looked + 0.5 * (str(result.final_output).split()[:1] == [task["count"]])


def shelves(task: Task, seen: list[str]) -> list[Tool]:
    """Returns tools to look at a shelf, which note in `seen` where was looked."""

    def look(shelf: str) -> str:
        seen.append(shelf)
        return task["count"] if shelf == task["shelf"] else "nothing"

    @function_tool
    def look_left() -> str:
        """Looks at the left shelf."""
        return look("left")

    @function_tool
    def look_right() -> str:
        """Looks at the right shelf."""
        return look("right")

    return [look_left, look_right]


@functools.cache
def _client() -> AsyncOpenAI:
    # Rollouts of a process share its connections.
    return AsyncOpenAI(base_url="http://unused", api_key="unused", timeout=600)
