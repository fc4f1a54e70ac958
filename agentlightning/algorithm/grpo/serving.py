"""The policy and the gateway before it, for as long as a training runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from agentlightning.algorithm.grpo.config import GRPOConfig
from agentlightning.algorithm.grpo.decoding import Decoder
from agentlightning.algorithm.grpo.policy import Policy
from agentlightning.algorithm.grpo.training import MODEL, VALIDATION_MODEL
from agentlightning.algorithm.policies.requests import ServedModel
from agentlightning.algorithm.policies.server import PolicyServer
from agentlightning.llm_proxy import Backend, LLMProxy

_SILENCE_SECONDS: Final = 24 * 3600.0


@asynccontextmanager
async def served(policy: Policy, proxy: LLMProxy, config: GRPOConfig) -> AsyncIterator[None]:
    """Serves a policy behind a gateway, beside whatever other models that has.

    Args:
        policy: The policy.
        proxy: The gateway. One that runs is left running.
        config: What calls get that ask for nothing else.

    Raises:
        OSError: A port cannot be listened on.
    """
    temperatures = {MODEL: config.temperature, VALIDATION_MODEL: config.validation_temperature}
    server = PolicyServer(
        Decoder(policy, config.max_concurrency),
        {name: ServedModel(temperature, config.max_response_tokens) for name, temperature in temperatures.items()},
        max_context_tokens=config.max_context_tokens,
        seed=config.seed,
    )
    async with AsyncExitStack() as stack:
        await server.start()
        stack.push_async_callback(server.stop)
        others = [backend for backend in proxy.model_list if backend.model_name not in temperatures]
        # A CPU may be silent for long; what ends a call that takes too long is the limit of its rollout.
        ours = [Backend(name, server.url, told_of_attempts=True, timeout=_SILENCE_SECONDS) for name in temperatures]
        proxy.update_model_list([*others, *ours])
        stack.callback(proxy.update_model_list, others)
        if not proxy.is_running():
            await proxy.start()
            stack.push_async_callback(proxy.stop)
        yield
