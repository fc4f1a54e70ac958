"""The prompts that the search chooses from. The model sees the text as it is and goes on writing after its end."""

from __future__ import annotations

import json
from collections.abc import Sequence

from data import Task

from agentlightning import NamedResources, PromptTemplate

REQUEST = 'Extract the "city" and the "country" from the sentence as JSON.'
INSTRUCTIONS = (
    'Find the city and the country. Answer with JSON that has the keys "city" and "country", and write nothing else.'
)
QUESTION = "Sentence: {sentence}\nJSON:"


def candidates(examples: Sequence[Task]) -> NamedResources:
    """Returns templates with the blank `{sentence}`, by name. The first is what one would write first.

    Args:
        examples: Tasks that the prompts may show with their solutions.
    """
    solved = [_solved(task) for task in examples]
    return {
        "request": _template(REQUEST, QUESTION),
        "instructions": _template(INSTRUCTIONS, QUESTION),
        "three examples": _template(*solved[:3], QUESTION),
        "six examples": _template(*solved, QUESTION),
    }


def _template(*paragraphs: str) -> PromptTemplate:
    return PromptTemplate(template="\n\n".join(paragraphs), engine="f-string")


def _solved(task: Task) -> str:
    text = f"{QUESTION.format(sentence=task['sentence'])} {json.dumps(task['fields'], ensure_ascii=False)}"
    return text.replace("{", "{{").replace("}", "}}")
