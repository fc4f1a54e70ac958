"""The quickstart: reinforcement learning of a small language model, through a store server and a model gateway.

Three kinds of processes: the store server with its database; runners, which run the agent; and this one, which trains
the model, and answers the agents' calls through the gateway. The store is reached over gRPC, the model over HTTP.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from agent import extract_place
from data import load_splits
from display import Display, curve_as_text, draw_curve
from launch import positive, store_server
from smollm2 import find_weights, load_model

from agentlightning import LightningStoreClient, Trainer
from agentlightning.algorithm.grpo import GRPO, GRPOConfig, Step
from agentlightning.store.errors import StoreError

TASKS_PER_STEP = 4
ROLLOUTS_PER_TASK = 8


def main() -> int:
    """Runs the quickstart; returns the exit code."""
    options = parse_options()
    started = time.monotonic()
    try:
        find_weights()
        train, held_out = load_splits(TASKS_PER_STEP * options.steps, options.held_out, options.seed)
        results = options.results / time.strftime("%Y%m%d-%H%M%S")
        results.mkdir(parents=True)
        with store_server(results / "store.db") as address:
            print(f"Store server at {address}, results in {results}")
            print("The agent is to write cities, countries and populations as JSON. Some of its tasks:")
            for task in train[:3]:
                print(f"    {task['sentence']}")
            print("The model is loaded, and answers the held-out tasks as it is.", flush=True)
            history = fit(options, address, train, held_out, results)
    except KeyboardInterrupt:
        print("\nStopped. Server and runners have left; what was done so far is in the database.", file=sys.stderr)
        return 130
    except (StoreError, RuntimeError, OSError, ImportError, ValueError) as error:
        print(f"\nquickstart: {error}", file=sys.stderr)
        return 1
    picture = results / "reward.png"
    draw_curve(history, picture)
    print(f"\nMean reward of each step:\n\n{curve_as_text(history)}\n")
    print(f"Held-out score before: {history[0].validation:.2f}")
    print(f"Held-out score after:  {history[-1].validation:.2f}")
    print(f"\nThat took {time.monotonic() - started:.0f} s. The curve is in {picture}, the trained model in {results}.")
    look = Path(__file__).with_name("look.py")
    print(f"See how its answers changed:\n    {sys.executable} {look} {results / 'store.db'}")
    return 0


def fit(options: argparse.Namespace, address: str, train: list, held_out: list, results: Path) -> list[Step]:
    """Trains; returns what each step brought."""
    import torch

    torch.set_num_threads(options.threads)
    display = Display(options.steps)
    algorithm = GRPO(
        load_model,
        GRPOConfig(
            steps=options.steps,
            tasks_per_step=TASKS_PER_STEP,
            group_size=ROLLOUTS_PER_TASK,
            learning_rate=3e-4,
            temperature=0.7,
            max_response_tokens=44,
            validate_every=options.steps,
            seed=options.seed,
        ),
        run="quickstart",
        folder=results,
        on_step=display.show_step,
        on_rollout=display.show_rollout,
    )
    trainer = Trainer(
        algorithm=algorithm,
        n_runners=options.runners,
        runner={"type": "agentlightning.LitAgentRunner", "max_concurrency": 32},
        store=LightningStoreClient(address),
        strategy="cs",
        progress=False,
    )
    trainer.fit(extract_place, train, val_dataset=held_out)
    return algorithm.history


def parse_options() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description="Train a language model agent by reinforcement learning, on a CPU.")
    parser.add_argument("--results", type=Path, default=Path("quickstart-results"), help="folder for what comes of it")
    parser.add_argument("--steps", type=positive, default=14, help="how often the model is changed")
    parser.add_argument("--held-out", type=positive, default=24, help="tasks that the model is judged by")
    parser.add_argument("--runners", type=positive, default=2, help="runner processes")
    parser.add_argument("--threads", type=positive, default=os.cpu_count() or 1, help="CPU cores for the model")
    parser.add_argument("--seed", type=int, default=1, help="which tasks are drawn, and which tokens")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
