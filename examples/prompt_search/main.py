"""Prompt search: a small language model agent gets better at a task, through a store server.

Three kinds of processes: the store server with its database; two runners, which run the agent; and this one, which
runs the algorithm. They talk to the server over gRPC, and to each other not at all.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent import extract_place
from data import load_splits
from model import find_weights
from prompts import candidates
from search import prompt_search

from agentlightning import LightningStoreClient, Trainer
from agentlightning.store.errors import StoreError

READY = "agentlightning store listening on "
"""How the server's first line begins; its address follows."""


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


def positive(text: str) -> int:
    """Returns the number that an option gives."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


@contextmanager
def store_server(database: Path) -> Iterator[str]:
    """Runs a store server as a process of its own; yields its address.

    Raises:
        RuntimeError: The server did not start.
    """
    log_file = database.with_suffix(".log")
    with log_file.open("w", encoding="utf-8") as log:
        # In a session of its own Ctrl+C does not reach it: it must be there until the runners have left.
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "agentlightning.store_grpc", "--host", "127.0.0.1", "--port", "0"),
                *("--store", f"sqlite:///{database}"),
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        line = server.stdout.readline() if server.stdout else ""
        if not line.startswith(READY):
            raise RuntimeError(f"the store server did not start:\n{log_file.read_text(encoding='utf-8')}")
        yield line.removeprefix(READY).split()[0]
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
