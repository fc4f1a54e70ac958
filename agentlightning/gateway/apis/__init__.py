"""The APIs that the gateway speaks: how to forward, ask, hide and read, one class for each path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agentlightning.gateway.apis.anthropic import CountTokens, Messages
from agentlightning.gateway.apis.base import Api
from agentlightning.gateway.apis.openai import ChatCompletions, Completions, Embeddings
from agentlightning.gateway.apis.responses import Responses

APIS: Final[Mapping[str, Api]] = {
    api.path: api for api in (ChatCompletions(), Completions(), Responses(), Embeddings(), Messages(), CountTokens())
}
"""By path below the version."""
