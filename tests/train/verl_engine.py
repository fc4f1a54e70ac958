"""An engine that answers as verl's do, with what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

Script = Callable[[str, Mapping[str, Any]], str]
"""What the engine writes after a prompt, both as texts."""


class ScriptedEngine:
    """Answers as the `LLMServerClient` of verl does, with the words of a script. The n-th token has logprob -n / 8."""

    def __init__(self, tokenizer: Any, script: Script) -> None:
        self._tokenizer = tokenizer
        self._script = script
        self.step = 7
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.hold: asyncio.Event | None = None
        self.begun = asyncio.Event()

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> SimpleNamespace:
        self.asked.append((request_id, sampling_params))
        self.begun.set()
        if self.hold is not None:
            await self.hold.wait()
        text = self._script(self._tokenizer.decode(prompt_ids), sampling_params)
        tokens = self._tokenizer.encode(text)[: sampling_params["max_tokens"]]
        return SimpleNamespace(
            token_ids=tokens,
            log_probs=[-(place + 1) / 8 for place in range(len(tokens))],
            stop_reason="completed",
            extra_fields={"global_steps": self.step, "min_global_steps": self.step, "max_global_steps": self.step},
        )
