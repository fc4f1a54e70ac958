"""Calls of tools in what a model writes, in the notation of Hermes, Qwen and others."""

from __future__ import annotations

import json
import re
from typing import Any, Final

_BLOCK: Final = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)


def split_tool_calls(text: str) -> tuple[str, list[dict[str, Any]]]:
    """Returns a text without its `<tool_call>` blocks, and the calls in them.

    A block holds JSON with `name` and `arguments`. One that does not stays text, for the agent to see.

    Args:
        text: What the model wrote.

    Returns:
        The rest of the text, and for each call an object with `name` and `arguments`, the latter as JSON text.
    """
    calls: list[dict[str, Any]] = []

    def take(block: re.Match[str]) -> str:
        try:
            call = json.loads(block[1])
            name, arguments = call["name"], call.get("arguments", {})
        except (ValueError, TypeError, KeyError, AttributeError):
            return block[0]
        calls.append({"name": str(name), "arguments": json.dumps(arguments, ensure_ascii=False)})
        return ""

    rest = _BLOCK.sub(take, text)
    return rest.strip() if calls else rest, calls
