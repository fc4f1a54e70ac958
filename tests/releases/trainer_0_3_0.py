"""A training run of 0.3.0, its algorithm and its runners in processes of their own, around a server that is elsewhere.

Run as `trainer_0_3_0.py algorithm|runner URL`, as its users run it with `agl store` in a third terminal.
"""

from __future__ import annotations

import sys
from urllib.parse import urlsplit

from opentelemetry import trace

from agentlightning import (
    Baseline,
    LightningStoreClient,
    LitAgentRunner,
    OtelTracer,
    PromptTemplate,
    Trainer,
    emit_message,
    rollout,
)
from agentlightning.execution.client_server import ClientServerExecutionStrategy

SAMPLES = [{"number": number} for number in range(6)]
RUNNERS = 2


@rollout
def agent(task: dict[str, int], prompt_template: PromptTemplate) -> float:
    """One model call that is recorded as instrumentations do, a message, and a reward, unless it fails."""
    asked = prompt_template.format(number=task["number"])
    with trace.get_tracer("agent").start_as_current_span("openai.chat.completion") as span:
        span.set_attribute("gen_ai.prompt.0.content", asked)
        span.set_attribute("prompt_token_ids", [1, 2, task["number"]])
        span.set_attribute("response_token_ids", [3, task["number"]])
    emit_message(f"worked on {asked}")
    if task["number"] == 5:
        raise ValueError("the agent gives up on 5")
    return task["number"] / 2


def main(role: str, url: str) -> None:
    place = urlsplit(url)
    tracer = OtelTracer()
    strategy = ClientServerExecutionStrategy(
        role=role,
        server_host=place.hostname,
        server_port=place.port,
        n_runners=RUNNERS,
        managed_store=role == "runner",
    )
    trainer = Trainer(
        algorithm=Baseline(polling_interval=0.05, max_queue_length=10),
        initial_resources={"prompt": PromptTemplate(template="number {number}", engine="f-string")},
        tracer=tracer,
        runner=LitAgentRunner(tracer, max_rollouts=len(SAMPLES) // RUNNERS, poll_interval=0.05, interval_jitter=0.01),
        store=LightningStoreClient(url),
        strategy=strategy,
        n_runners=RUNNERS,
    )
    trainer.fit(agent, train_dataset=SAMPLES[:4], val_dataset=SAMPLES[4:])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
