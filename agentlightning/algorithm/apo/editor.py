"""The language models of the search: one criticises prompts, one edits them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentlightning.algorithm.apo.instructions import (
    Message,
    correction_messages,
    critique_messages,
    edit_messages,
    template_of,
)
from agentlightning.algorithm.apo.placeholders import find_placeholders
from agentlightning.algorithm.apo.trials import Trial
from agentlightning.types import PromptTemplate

logger = logging.getLogger(__name__)

EDIT_TRIES: Final = 3
"""How often an edit is asked for that keeps the blanks of the template."""


class EditError(RuntimeError):
    """A language model gave no answer of use."""


@dataclass(frozen=True)
class PromptEditor:
    """Criticises and edits prompts over the OpenAI API."""

    client: Any
    """An `openai.AsyncOpenAI`, or what has its `chat.completions.create`."""
    critic_model: str
    """The model that criticises."""
    editor_model: str
    """The model that edits."""
    temperature: float
    """The temperature of both."""
    names: frozenset[str] | None
    """The blanks that every prompt must have; None to allow any."""

    async def criticise(self, prompt: PromptTemplate, trials: Sequence[Trial], focus: str) -> str:
        """Returns what to change about a prompt, in words.

        Raises:
            EditError: The model said nothing.
            Exception: What the client raises.
        """
        return await self._ask(self.critic_model, critique_messages(prompt, trials, focus))

    async def edit(self, prompt: PromptTemplate, critique: str, style: str) -> PromptTemplate:
        """Returns the prompt, changed as the critique says. An answer that breaks it is sent back with the fault.

        Raises:
            EditError: The model said nothing, or `EDIT_TRIES` answers were no use.
            Exception: What the client raises.
        """
        messages = edit_messages(prompt, critique, self.names, style)
        fault = ""
        for _ in range(EDIT_TRIES):
            answer = await self._ask(self.editor_model, messages)
            edited = prompt.model_copy(update={"template": template_of(answer)})
            fault = self._fault(edited)
            if not fault:
                return edited
            logger.info("an edited prompt cannot be used: %s", fault)
            messages = [*messages, *correction_messages(answer, fault)]
        raise EditError(f"{EDIT_TRIES} edits in a row cannot be used, the last because {fault}")

    def _fault(self, prompt: PromptTemplate) -> str:
        if not prompt.template:
            return "it is empty"
        if self.names is None:
            return ""
        try:
            found = find_placeholders(prompt)
        except ValueError as error:
            return str(error)
        faults = []
        if missing := self.names - (found or frozenset()):
            faults.append(f"it lacks the blanks {', '.join(sorted(missing))}")
        if unknown := (found or frozenset()) - self.names:
            faults.append(f"nothing fills the blanks {', '.join(sorted(unknown))}")
        return " and ".join(faults)

    async def _ask(self, model: str, messages: list[Message]) -> str:
        completion = await self.client.chat.completions.create(
            model=model, messages=messages, temperature=self.temperature
        )
        text: str = (completion.choices[0].message.content or "").strip() if completion.choices else ""
        if not text:
            raise EditError(f"the model {model} answered with no text")
        return text
