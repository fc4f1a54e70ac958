"""The AgentOps SDK as its users run it, with `agl agentops` in place of AgentOps' own servers."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from scripts import run_script
from serving_commands import running, said

from agentlightning import InMemoryLightningStore, LightningStoreServer

# What such a program looks like, and its end: the SDK would go on for minutes to send figures of its own to AgentOps.
PROGRAM = """
import os
import agentops
from agentops.sdk.decorators import agent, operation
agentops.init(instrument_llm_calls=False, log_session_replay_url=False)
@agent
class Researcher:
    @operation
    def look_up(self, text):
        return text.upper()
assert Researcher().look_up("a") == "A"
agentops.end_trace(end_state="Success")
from agentops.sdk.core import tracer
assert tracer.provider.force_flush()
for _ in range(100):  # it signs in from a thread
    if agentops.get_client().get_current_jwt():
        break
    __import__("time").sleep(0.05)
assert agentops.get_client().get_current_jwt() == "agl"
os._exit(0)
"""


@pytest.mark.skipif(find_spec("agentops") is None, reason="the AgentOps SDK is not installed")
async def test_the_sdk_delivers_its_spans_to_a_rollout(tmp_path: Path) -> None:
    store = InMemoryLightningStore()
    server = LightningStoreServer(store, "127.0.0.1", 0)
    await server.start()
    try:
        rollout = await store.start_rollout("x")
        attempt = rollout.attempt
        command = [sys.executable, "-m", "agentlightning.cli", "agentops", "--port", "0", "--store", server.endpoint]
        with running(command, tmp_path / "log") as collector:
            url = said(collector, r"agl agentops listening on (http://\S+) store=\S+")
            printed = run_script(
                PROGRAM,
                tmp_path,
                AGENTOPS_API_KEY="3b2b0ab8-9b1f-4e2b-8d53-1d9e7f3a1c55",
                AGENTOPS_API_ENDPOINT=url,
                AGENTOPS_EXPORTER_ENDPOINT=(
                    f"{url}/rollout/{rollout.rollout_id}/attempt/{attempt.attempt_id}/v1/traces"
                ),
                AGENTOPS_LOG_LEVEL="WARNING",
            )
        assert printed == ""
        spans = {span.name: span for span in await store.query_spans(rollout.rollout_id, attempt.attempt_id)}
        assert spans.keys() == {"look_up.task", "Researcher.agent", "default.session"}
        assert spans["look_up.task"].parent_id == spans["Researcher.agent"].span_id
        assert spans["Researcher.agent"].parent_id == spans["default.session"].span_id
        assert spans["look_up.task"].attributes["agentops.task.output"] == "A"
        assert spans["look_up.task"].attributes["agentops.task.input"]
        changed = await store.get_rollout_by_id(rollout.rollout_id)
        assert changed is not None
        assert changed.status == "running"  # its spans are signs of life
    finally:
        await server.stop()
