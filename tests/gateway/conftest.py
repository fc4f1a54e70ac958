"""Fixtures of the gateway's tests."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from agentlightning import AttemptedRollout, InMemoryLightningStore, LLMProxy

sys.path.insert(0, str(Path(__file__).parent.parent / "framework"))

from gateways import serving
from openai_server import OpenAIServer


@pytest.fixture
def endpoint() -> Iterator[OpenAIServer]:
    """A backend that speaks OpenAI's API."""
    with OpenAIServer() as server:
        yield server


@pytest_asyncio.fixture
async def memory() -> AsyncIterator[InMemoryLightningStore]:
    """An empty store."""
    store = InMemoryLightningStore()
    yield store
    await store.close()


@pytest_asyncio.fixture
async def rollout(memory: InMemoryLightningStore) -> AttemptedRollout:
    """A rollout at work."""
    return await memory.start_rollout({"question": "How are you?"})


@pytest_asyncio.fixture
async def proxy(memory: InMemoryLightningStore, endpoint: OpenAIServer) -> AsyncIterator[LLMProxy]:
    """A gateway whose model `policy` runs at `endpoint`."""
    async with serving(memory, endpoint.base_url) as proxy:
        yield proxy
