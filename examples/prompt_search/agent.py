"""The agent: reads a sentence and answers with JSON. It runs in the runner processes."""

from __future__ import annotations

import json

from data import Task
from model import complete

from agentlightning import PromptTemplate, emit_reward, rollout


@rollout
def extract_place(task: Task, prompt_template: PromptTemplate) -> None:
    """Asks the model for the fields of the task's sentence; the reward is the share of them that it gets right."""
    answer = complete(prompt_template.format(sentence=task["sentence"]))
    emit_reward(share_right(answer, task["fields"]), attributes={"answer": answer})


def share_right(answer: str, fields: dict[str, str]) -> float:
    """Returns the share of `fields` that `answer` has exactly right; 0 if it is no JSON object."""
    try:
        found = json.loads(answer)
    except ValueError:
        return 0.0
    if not isinstance(found, dict):
        return 0.0
    right: int = sum(found.get(name) == value for name, value in fields.items())
    return right / len(fields)
