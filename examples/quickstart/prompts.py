"""The prompts that the search chooses from. The model sees the text as it is and goes on writing after its end."""

from __future__ import annotations

import json
from collections.abc import Sequence

from data import Task

QUESTION = "Sentence: {sentence}\nJSON:"


def candidate_prompts(examples: Sequence[Task]) -> dict[str, str]:
    """Returns templates with the blank `{sentence}`, by name. The first is what one would write first.

    Args:
        examples: Solved tasks that the prompts may show.
    """
    solved = [QUESTION.format(sentence=task["sentence"]) + " " + json.dumps(task["fields"], ensure_ascii=False) for task in examples]
    shown = [text.replace("{", "{{").replace("}", "}}") for text in solved]
    instruction = 'Find the city and the country. Answer with JSON that has the keys "city" and "country", and write nothing else.'
    return {
        "request": 'Extract the "city" and the "country" from the sentence as JSON.\n\n' + QUESTION,
        "instructions": instruction + "\n\n" + QUESTION,
        "one example": "\n\n".join([*shown[:1], QUESTION]),
        "three examples": "\n\n".join([*shown[:3], QUESTION]),
        "six examples": "\n\n".join([*shown, QUESTION]),
        "instructions, six examples": "\n\n".join([instruction, *shown, QUESTION]),
    }
