"""A worker of 0.2.2 that polls tasks with the `AgentLightningClient` and posts rollouts, as deployed ones do.

Run as `legacy_client_0_2_2.py URL TASKS`; it ends after so many tasks.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentlightning.client import AgentLightningClient
from agentlightning.types import RolloutLegacy, Task, Triplet


def traced(task: Task) -> list[dict[str, Any]]:
    """Spans in the form of `ReadableSpan.to_json`."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("agent").start_as_current_span("think", attributes={"number": task.input["number"]}):
        pass
    return [json.loads(span.to_json()) for span in exporter.get_finished_spans()]


def report(task: Task, factor: float) -> RolloutLegacy:
    number = task.input["number"]
    triplet = Triplet(prompt={"token_ids": [1, number]}, response={"token_ids": [2, number]}, reward=0.25)
    even = number % 2 == 0
    return RolloutLegacy(
        rollout_id=task.rollout_id,
        task=task,
        final_reward=factor * number,
        triplets=[triplet] if even else None,
        trace=None if even else traced(task),
        logs=[f"worked on {number}"],
        metadata={"by": "0.2.2"},
    )


def work(client: AgentLightningClient) -> None:
    task = client.poll_next_task()
    resources = client.get_resources_by_id(task.resources_id)
    assert resources == client.get_latest_resources(), resources
    answer = client.post_rollout(report(task, resources.resources["main"].sampling_parameters["factor"]))
    assert answer is not None
    assert answer["status"] == "ok", answer


async def work_async(client: AgentLightningClient) -> None:
    task = await client.poll_next_task_async()
    resources = await client.get_resources_by_id_async(task.resources_id)
    assert resources == await client.get_latest_resources_async(), resources
    answer = await client.post_rollout_async(report(task, resources.resources["main"].sampling_parameters["factor"]))
    assert answer is not None
    assert answer["status"] == "ok", answer


if __name__ == "__main__":
    client = AgentLightningClient(sys.argv[1], poll_interval=0.05)
    for turn in range(int(sys.argv[2])):
        if turn < 2:
            work(client)
        else:
            asyncio.run(work_async(client))
    assert client.task_count == int(sys.argv[2])
