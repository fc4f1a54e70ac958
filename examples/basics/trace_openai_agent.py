"""An agent that calls a model through the `openai` client: every call is recorded, and becomes a triplet to learn from.

Needs an endpoint that speaks the OpenAI protocol, and the extra `openai`:

    pip install 'agentlightning-grpc[openai]'
    OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_MODEL=my-model python examples/basics/trace_openai_agent.py
"""

from __future__ import annotations

import asyncio
import os
import sys

import agentlightning as agl


@agl.rollout
async def answerer(task: str, llm: agl.LLM) -> float:
    """Asks the model twice and earns a reward when the second answer repeats the first."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key) as client:
        answers = []
        for _ in range(2):
            completion = await client.chat.completions.create(
                model=llm.model,
                messages=[{"role": "user", "content": task}],
                **llm.sampling_parameters,
            )
            answers.append(completion.choices[0].message.content)
    return float(answers[0] == answers[1])


async def main(endpoint: str, model: str) -> None:
    """Runs one rollout and prints what was recorded of it."""
    store = agl.InMemoryLightningStore()
    runner = agl.LitAgentRunner(agl.OtelTracer())
    llm = agl.LLM(
        endpoint=endpoint,
        model=model,
        api_key=os.environ.get("OPENAI_API_KEY", "unused"),
        sampling_parameters={"temperature": 0.0},
    )
    with runner.run_context(agent=answerer, store=store):
        rollout = await runner.step("Name a prime number.", resources={"main_llm": llm})
    spans = await store.query_spans(rollout.rollout_id)
    for span in spans:
        print(f"{span.sequence_id} {span.name}")
    for triplet in agl.TracerTraceToTriplet().adapt(spans):
        print("reward", triplet.reward, "response", triplet.response)


if __name__ == "__main__":
    if "OPENAI_BASE_URL" not in os.environ:
        sys.exit(__doc__)
    asyncio.run(main(os.environ["OPENAI_BASE_URL"], os.environ.get("OPENAI_MODEL", "default")))
