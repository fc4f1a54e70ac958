"""What tests of the gateway have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agentlightning import LLM, AttemptedRollout, LightningStore, LLMProxy, Span

ASKED = {"messages": [{"role": "user", "content": "How are you today?"}], "model": "policy"}
"""A chat request."""


def entry(base_url: str, name: str = "policy", *, model: str = "hosted_vllm/tiny-chat", **info: Any) -> dict[str, Any]:
    """Returns an entry of a model list."""
    return {"model_name": name, "litellm_params": {"model": model, "api_base": base_url}, "model_info": info}


@asynccontextmanager
async def serving(store: LightningStore, *base_urls: str, **settings: Any) -> AsyncIterator[LLMProxy]:
    """Serves a gateway whose model `policy` runs at the URLs, for the length of the block."""
    settings.setdefault("model_list", [entry(base_url) for base_url in base_urls])
    proxy = LLMProxy(store=store, **settings)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()


def resource(proxy: LLMProxy, rollout: AttemptedRollout, model: str | None = None) -> LLM:
    """Returns the model as the agent of a rollout gets it."""
    return proxy.as_resource(rollout.rollout_id, rollout.attempt.attempt_id, model=model)


async def recorded(store: LightningStore, rollout: AttemptedRollout) -> list[Span]:
    """Returns the spans of a rollout."""
    return list(await store.query_spans(rollout.rollout_id))
