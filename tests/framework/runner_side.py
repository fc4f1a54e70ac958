"""The runners' half of a run on several machines. Run as `runner_side.py AGENT N_RUNNERS`, with `AGL_*` set."""

from __future__ import annotations

import logging
import sys

import sample_agents

from agentlightning import LitAgentRunner, OtelTracer, Trainer


def main(agent: str, n_runners: int) -> None:
    logging.basicConfig(level=logging.INFO)
    trainer = Trainer(
        n_runners=n_runners,
        # Polls that outlast the test, and heartbeats that are quick enough for it.
        runner=LitAgentRunner(OtelTracer(), poll_interval=60.0, heartbeat_interval=0.5, interval_jitter=0.1),
    )
    trainer.fit(getattr(sample_agents, agent)())
    print("left in peace", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
