"""Prompt search: a small language model agent gets better at a task, through a store server.

Three kinds of processes: the store server with its database; two runners, which run the agent; and this one, which
runs the algorithm. They talk to the server over gRPC, and to each other not at all.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from agent import extract_place
from data import load_splits
from launch import positive, store_server
from model import find_weights
from prompts import candidates
from search import prompt_search

from agentlightning import LightningStoreClient, Trainer
from agentlightning.store.errors import StoreError


def main() -> int:
    """Runs the example; returns the exit code."""
    options = parse_options()
    started = time.monotonic()
    try:
        find_weights()
        splits = load_splits(options.train, options.held_out, options.seed)
        options.results.mkdir(parents=True, exist_ok=True)
        database = options.results / f"store-{time.strftime('%Y%m%d-%H%M%S')}.db"
        with store_server(database) as address:
            print(f"Store server at {address}, database {database}")
            print(f"Tasks: {options.train} to search with, {options.held_out} held out, such as")
            for task in splits.train[:3]:
                print(f"    {task['sentence']}")
            trainer = Trainer(
                n_runners=options.runners,
                algorithm=prompt_search,
                store=LightningStoreClient(address),
                initial_resources=candidates(splits.examples),
                strategy="cs",
            )
            trainer.fit(extract_place, splits.train, val_dataset=splits.held_out)
    except KeyboardInterrupt:
        print("\nStopped. Server and runners have left; what was done so far is in the database.", file=sys.stderr)
        return 130
    except (StoreError, RuntimeError, OSError, ImportError, ValueError) as error:
        print(f"\nprompt_search: {error}", file=sys.stderr)
        return 1
    look = Path(__file__).with_name("look.py")
    print(f"\nThat took {time.monotonic() - started:.0f} s. Every rollout, answer and reward is in {database}.")
    print(f"Look at it:\n    {sys.executable} {look} {database}")
    return 0


def parse_options() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description="Improve a language model agent by prompt search over a gRPC store.")
    parser.add_argument("--results", type=Path, default=Path("quickstart-results"), help="folder for the database")
    parser.add_argument("--runners", type=positive, default=2, help="runner processes, each of one CPU core and 1.2 GB")
    parser.add_argument("--train", type=positive, default=16, help="tasks that every prompt is tried on")
    parser.add_argument("--held-out", type=positive, default=24, help="tasks that first and best prompt are judged by")
    parser.add_argument("--seed", type=int, default=7, help="which tasks are drawn")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
