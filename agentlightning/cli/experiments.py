"""`agl experiments`: what else a store holds."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from agentlightning.cli.connection import run_connected
from agentlightning.cli.exit_codes import ExitCode
from agentlightning.cli.output import ago, confirmed, print_json, print_table
from agentlightning.cli.parsing import CommandGroup
from agentlightning.codec.times import from_timestamp
from agentlightning.store.api import CallContext
from agentlightning.store.client import LightningStoreClient
from lightning_store import v1

_HEADINGS: Final = ("EXPERIMENT", "CREATED", "ROLLOUTS", "SPANS")
_LIST_EXAMPLES: Final = """\
  agl experiments list"""
_DELETE_EXAMPLES: Final = """\
  agl experiments delete prompts-7b              asks first; --yes does not"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `agl experiments` with the words that follow it, and returns the exit code."""
    group = CommandGroup(
        "agl experiments", "Experiments of a running store. Without a command: list.", in_experiment=False
    )
    group.add(
        "list",
        "list them, oldest first",
        text="List the experiments of a store, oldest first.",
        examples=_LIST_EXAMPLES,
        work=_list,
        json="one JSON object a line",
    )
    delete = group.add(
        "delete",
        "delete one with all that is in it",
        text="Delete an experiment with its rollouts, spans, resources and workers.",
        examples=_DELETE_EXAMPLES,
        work=_delete,
        json="one JSON object",
    )
    delete.add_argument("name", metavar="NAME", help="the experiment")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    return run_connected(group.parse(argv, default="list"))


async def _list(store: LightningStoreClient, options: argparse.Namespace) -> int:
    found = []
    async for experiment in _experiments(store):
        totals = await _totals(store, experiment.name)
        fact: dict[str, Any] = {
            "name": experiment.name,
            "create_time": from_timestamp(experiment.create_time),
            "rollouts": totals.total_rollouts,
            "spans": totals.total_spans,
        }
        if options.json:
            print_json(fact)
        else:
            found.append((fact["name"], ago(fact["create_time"]), fact["rollouts"], fact["spans"]))
    if not options.json:
        print_table(_HEADINGS, found)
    return ExitCode.OK


async def _delete(store: LightningStoreClient, options: argparse.Namespace) -> int:
    totals = await _totals(store, options.name)
    question = f"About to delete experiment {options.name} with {totals.total_rollouts} rollouts."
    refused = confirmed(options.prog, question, is_certain=options.yes)
    if refused is not None:
        return refused
    await store.api.delete_experiment(store.context, v1.DeleteExperimentRequest(name=options.name))
    if options.json:
        print_json({"name": options.name, "status": "deleted"})
    else:
        print(options.name, "deleted")
    return ExitCode.OK


async def _experiments(store: LightningStoreClient) -> AsyncIterator[v1.Experiment]:
    page = v1.Page()
    while True:
        answer = await store.api.list_experiments(store.context, v1.ListExperimentsRequest(page=page))
        for experiment in answer.experiments:
            yield experiment
        if not answer.page_info.next_page_token:
            return
        page.page_token = answer.page_info.next_page_token


async def _totals(store: LightningStoreClient, experiment: str) -> v1.GetStatisticsResponse:
    return await store.api.get_statistics(CallContext(experiment=experiment), v1.GetStatisticsRequest())
