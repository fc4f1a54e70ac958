"""The agent: asks the model for JSON and says how good the answer is. It runs in the runner processes."""

from __future__ import annotations

import functools
import json

from data import Task
from openai import AsyncOpenAI

from agentlightning import LLM, rollout

REQUEST = (
    '{sentence}\n\nWrite this as a JSON object with the keys "city", "country" and "population". Write nothing else.'
)


@rollout
async def extract_place(task: Task, llm: LLM) -> float:
    """Asks for the fields of the task's sentence; returns what the answer is worth, from 0 to 1."""
    client = _client().with_options(base_url=llm.endpoint, api_key=llm.api_key or "none")
    answer = await client.chat.completions.create(
        model=llm.model,
        messages=[{"role": "user", "content": REQUEST.format(sentence=task["sentence"])}],
        **llm.sampling_parameters,
    )
    return worth(answer.choices[0].message.content or "", task["fields"])


def worth(answer: str, fields: dict[str, str | int]) -> float:
    """Returns 0.1 for an answer that is a JSON object, and 0.3 more for each of three fields that it has right."""
    try:
        found = json.loads(answer)
    except ValueError:
        return 0.0
    if not isinstance(found, dict):
        return 0.0
    return 0.1 + 0.3 * sum(found.get(name) == value for name, value in fields.items())


@functools.cache
def _client() -> AsyncOpenAI:
    # Rollouts of a process share its connections.
    return AsyncOpenAI(base_url="http://unused", api_key="unused", timeout=600)
