"""A gateway may be several processes: they share a port, do what they are told, and come back when they die."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from typing import Any

from gateways import ASKED, entry, recorded, resource, serving
from openai_server import OpenAIServer
from raw_http import post

from agentlightning import AttemptedRollout, InMemoryLightningStore


def gateway_processes() -> list[Any]:
    return [child for child in multiprocessing.active_children() if child.name == "agl-gateway"]


def _wait_for_a_process_besides(pids: set[int]) -> None:
    end = time.monotonic() + 60
    while {child.pid for child in gateway_processes()} <= pids:
        assert time.monotonic() < end, "no process was started"
        time.sleep(0.05)


async def test_processes_share_a_port_follow_orders_and_are_started_again(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, endpoint: OpenAIServer
) -> None:
    calls = 0
    async with serving(memory, endpoint.base_url, num_workers=2) as proxy:
        url = f"{resource(proxy, rollout).endpoint}/chat/completions"

        async def ask(model: str) -> None:
            nonlocal calls
            answers = await asyncio.gather(*(post(url, {**ASKED, "model": model}) for _ in range(8)))
            assert {answer.split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
            calls += len(answers)

        await ask("policy")
        # Every process must have heard of it, whichever gets the next call.
        proxy.update_model_list([entry(endpoint.base_url, "other")])
        async with proxy.weight_update("2"):
            assert len(endpoint.calls) == calls
        await ask("other")

        first, second = gateway_processes()
        os.kill(first.pid, signal.SIGKILL)
        await asyncio.to_thread(first.join)
        # The other one serves meanwhile, and the new one knows how things stand.
        await ask("other")
        await asyncio.to_thread(_wait_for_a_process_besides, {first.pid, second.pid})
        os.kill(second.pid, signal.SIGKILL)
        await asyncio.to_thread(second.join)
        await ask("other")
    assert gateway_processes() == []
    spans = await recorded(memory, rollout)
    assert sorted(span.sequence_id for span in spans) == list(range(1, calls + 1))
    assert {span.attributes.get("agentlightning.generation.model_version") for span in spans[8:]} == {"2"}
