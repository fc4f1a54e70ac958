"""What the language models are told that criticise and edit prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from agentlightning.adapter.chat import as_text
from agentlightning.algorithm.apo.placeholders import SYNTAX
from agentlightning.algorithm.apo.trials import Trial
from agentlightning.types import PromptTemplate

Message = dict[str, str]

CRITIQUE_FOCUSES: Final = (
    "Compare the trials that earned the most with those that earned the least. What does the prompt leave open?",
    "Find the one weakness of the prompt that costs the most reward, and say how to remove it.",
    "Read the prompt as somebody who knows nothing but its words. What is ambiguous, missing or misleading in them?",
)
"""What a critique looks at; which one is drawn anew each time, so that critiques differ."""

EDIT_STYLES: Final = (
    "Change no more than the critique asks for, and keep the wording of the rest.",
    "Rewrite as freely as the critique calls for; a shorter and clearer text is welcome.",
)
"""How to edit; which one is drawn anew each time, so that edits differ."""

_CRITIC: Final = (
    "You help to improve the prompt of an AI agent. You see the prompt template that the agent used, and trials: the "
    "task, what the agent and its model said, and the reward, where higher is better.\n"
    "Answer with a critique of a few sentences: what to change about the prompt and why, concretely enough for "
    "somebody else to do it. Judge the prompt, not the model. Advise what holds for other tasks of this kind too; the "
    "prompt must not contain answers to the tasks shown. Do not write the new prompt."
)

_EDITOR: Final = (
    "You edit the prompt template of an AI agent according to a critique.\n"
    "Answer with the whole new template between <template> and </template>, and nothing else."
)

_CONVERSATION_CHARS: Final = 6000
_TASK_CHARS: Final = 2000


def critique_messages(prompt: PromptTemplate, trials: Sequence[Trial], focus: str) -> list[Message]:
    """Returns the request for a critique of a prompt.

    Args:
        prompt: The prompt.
        trials: What it led to. Long tasks and conversations are shown without their middle.
        focus: One of `CRITIQUE_FOCUSES`.
    """
    shown = "\n\n".join(_shown_trial(number, trial) for number, trial in enumerate(trials, 1))
    return [
        {"role": "system", "content": _CRITIC},
        {"role": "user", "content": f"{_tagged(prompt)}\n\n{shown}\n\n{focus}"},
    ]


def edit_messages(prompt: PromptTemplate, critique: str, names: frozenset[str] | None, style: str) -> list[Message]:
    """Returns the request for an edited prompt.

    Args:
        prompt: The prompt.
        critique: What to change.
        names: The blanks that it must keep; None if they are not known.
        style: One of `EDIT_STYLES`.
    """
    blanks = "" if names is None else f" It has exactly these blanks: {', '.join(sorted(names)) or 'none'}."
    return [
        {"role": "system", "content": _EDITOR},
        {
            "role": "user",
            "content": (
                f"{_tagged(prompt)}\n\nHow templates are written: {SYNTAX[prompt.engine]}{blanks}\n\n"
                f"<critique>\n{critique}\n</critique>\n\n{style}"
            ),
        },
    ]


def correction_messages(answer: str, fault: str) -> list[Message]:
    """Returns what to add to the request for an edit after an answer that is no use."""
    return [
        {"role": "assistant", "content": answer},
        {"role": "user", "content": f"That template cannot be used: {fault}. Answer with a corrected one."},
    ]


def template_of(answer: str) -> str:
    """Returns the template in the answer to a request for an edit: what stands between the tags, else all of it."""
    _, opened, rest = answer.partition("<template>")
    return (rest.partition("</template>")[0] if opened else answer).strip()


def _tagged(prompt: PromptTemplate) -> str:
    return f"<template>\n{prompt.template}\n</template>"


def _shown_trial(number: int, trial: Trial) -> str:
    return "\n".join(_trial_lines(number, trial))


def _trial_lines(number: int, trial: Trial) -> Iterator[str]:
    yield f"<trial number={number} reward={trial.score:g}>"
    yield f"Task: {_shortened(as_text(trial.task), _TASK_CHARS)}"
    if trial.failure:
        yield f"It failed: {trial.failure}"
    lines = [line for conversation in trial.conversations for line in _conversation_lines(conversation)]
    if lines:
        yield _shortened("\n".join(lines), _CONVERSATION_CHARS)
    yield "</trial>"


def _conversation_lines(conversation: Mapping[str, Any]) -> Iterator[str]:
    for message in conversation["messages"]:
        said = {name: value for name, value in message.items() if name != "role" and value is not None}
        content = said.pop("content", "")
        yield f"[{message['role']}] {as_text(content)}{' ' + as_text(said) if said else ''}"


def _shortened(text: str, limit: int) -> str:
    left_out = len(text) - limit
    if left_out <= 0:
        return text
    return f"{text[: limit // 2]}\n[... {left_out} characters left out ...]\n{text[-(limit // 2) :]}"
