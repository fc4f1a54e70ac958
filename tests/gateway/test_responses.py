"""OpenAI's responses are passed on and recorded."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from gateways import recorded, resource, serving
from scripted_backend import JSON, Exchange, ScriptedBackend, sse

from agentlightning import AttemptedRollout, InMemoryLightningStore, TraceToMessages

TOOL: Any = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "f",
    "arguments": "{}",
    "status": "completed",
}
TEXT = {"type": "output_text", "text": "Two  words", "annotations": []}
MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [TEXT]}


def response(*output: JSON, status: str = "completed") -> JSON:
    """Returns a response."""
    counts = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "scripted",
        "status": status,
        "output": list(output),
        "usage": counts | details,
        "parallel_tool_calls": True,
        "tools": [],
        "tool_choice": "auto",
        "error": None,
        "incomplete_details": None,
    }


async def script(exchange: Exchange) -> None:
    output = [CALL] if exchange.document.get("tools") else [MESSAGE]
    if not exchange.document.get("stream"):
        await exchange.answer({**response(*output), "id": f"resp_{len(exchange.document['input'])}"})
        return
    events: list[JSON] = [{"type": "response.created", "response": response(status="in_progress")}]
    place = {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "content_index": 0}
    events += [{**place, "delta": delta, "logprobs": []} for delta in ("Two", "  words")]
    events.append({"type": "response.completed", "response": response(*output)})
    await exchange.begin()
    for number, event in enumerate(events):
        await exchange.send(sse({**event, "sequence_number": number}, event["type"]))
    await exchange.end()


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_response_is_passed_on_and_recorded(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, streamed: bool
) -> None:
    async with ScriptedBackend(script) as backend, serving(memory, backend.base_url) as proxy:
        llm = resource(proxy, rollout)
        async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="any", max_retries=0) as client:
            asked: Any = {"model": "policy", "input": "Speak", "instructions": "Be brief."}
            if streamed:
                stream = await client.responses.create(**asked, stream=True)
                events = [event async for event in stream]
                assert [event.type for event in events][-1] == "response.completed"
                answer = events[-1].response
            else:
                answer = await client.responses.create(**asked)
            assert answer.output_text == "Two  words"
    spans = await recorded(memory, rollout)
    assert spans[0].name == "openai.response"
    assert spans[0].attributes["gen_ai.usage.output_tokens"] == 2
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Speak"}
    said = {"role": "assistant", "content": "Two  words"}
    assert TraceToMessages().adapt(spans) == [{"messages": [system, user, said], "tools": None}]


async def test_calls_of_tools_and_their_results_are_recorded_as_messages(
    memory: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    async with ScriptedBackend(script) as backend, serving(memory, backend.base_url) as proxy:
        llm = resource(proxy, rollout)
        async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="any", max_retries=0) as client:
            history: Any = [{"role": "user", "content": [{"type": "input_text", "text": "Go"}]}]
            answer = await client.responses.create(model="policy", input=history, tools=[TOOL])
            (call,) = answer.output
            assert call.type == "function_call"
            history += [CALL, {"type": "function_call_output", "call_id": call.call_id, "output": "done"}]
            await client.responses.create(model="policy", input=history)
    first, second = TraceToMessages().adapt(await recorded(memory, rollout))
    function = {"name": "f", "arguments": "{}"}
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }
    assert first["messages"] == [{"role": "user", "content": "Go"}, called]
    assert json.dumps(first["tools"]) == json.dumps(
        [{"type": "function", "function": {key: value for key, value in TOOL.items() if key != "type"}}]
    )
    result = {"role": "tool", "tool_call_id": "call_1", "content": "done"}
    assert second["messages"] == [
        {"role": "user", "content": "Go"},
        called,
        result,
        {"role": "assistant", "content": "Two  words"},
    ]
