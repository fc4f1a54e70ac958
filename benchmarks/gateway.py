"""A model gateway in a process of its own: `gateway.py STORE BACKEND`, addresses as host:port."""

from __future__ import annotations

import asyncio
import sys

from environments import READY_LINE

from agentlightning import LightningStoreClient, LLMProxy


async def main(store: str, backend: str) -> None:
    """Serve on a free port until killed."""
    parameters = {"model": "hosted_vllm/model", "api_base": f"http://{backend}/v1"}
    proxy = LLMProxy(
        model_list=[{"model_name": "model", "litellm_params": parameters}], store=LightningStoreClient(store)
    )
    await proxy.start()
    print(f"{READY_LINE}127.0.0.1:{proxy.port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
