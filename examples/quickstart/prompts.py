"""The prompts that the search chooses from. The model sees the text as it is and goes on writing after its end."""

from __future__ import annotations

import json
from collections.abc import Sequence

from data import Task


def candidate_prompts(examples: Sequence[Task]) -> dict[str, str]:
    """Returns templates with the blank `{sentence}`, by name. The first is what one would write first."""
    shown = [(_literally(task["sentence"]), _literally(json.dumps(task["fields"], ensure_ascii=False))) for task in examples]
    return {
        "plain request": "Extract the city and the country from this sentence as JSON.\n\n{sentence}\n\n",
        "exact request": (
            'Write the place in the sentence as JSON with the keys "city" and "country", and nothing else.\n\n'
            "Sentence: {sentence}\nJSON:"
        ),
        "request and one example": (
            'Extract "city" and "country" as JSON.\n\n' + _form(shown[:1])
        ),
        "two examples": _form(shown[:2]),
        "request and four examples":'Extract "city" and "country" as JSON.\n\n' + _form(shown),
        "four examples": _form(shown),
        "four examples, no labels": "".join(f"{sentence}\n{answer}\n" for sentence, answer in shown) + "{sentence}\n",
    }

def _form(shown):
    return "".join(f"Sentence: {sentence}\nJSON: {answer}\n\n" for sentence, answer in shown) + "Sentence: {sentence}\nJSON:"

def _literally(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
