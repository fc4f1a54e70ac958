"""Runs verl's own command with the agent loop of this store: `python -m agentlightning.verl OVERRIDES`.

What is given are overrides of verl's config, as Hydra reads them. `+agentlightning.store=HOST:PORT` names the store
server, at which runners take the rollouts; each row of `data.train_files` is a task. What verl leaves unfinished there
is cancelled in the end, and when a run named by `+agentlightning.run=NAME` begins again.
"""

from __future__ import annotations

import asyncio
import runpy
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final

from agentlightning.algorithm.utils import new_run_name
from agentlightning.algorithm.verl.leftovers import cancel_rest
from agentlightning.algorithm.verl.settings import AGENT_LOOP, AGENT_LOOPS, SECTION
from agentlightning.algorithm.verl.verl import COMMAND, expect_packages
from agentlightning.store.api import DEFAULT_EXPERIMENT
from agentlightning.store.client import LightningStoreClient

_AGENT: Final = "actor_rollout_ref.rollout.agent"


def main() -> None:
    """Runs it in place of this program.

    Raises:
        ImportError: verl is not installed.
        SystemExit: No store server is named.
    """
    expect_packages()
    given = _settings(sys.argv[1:])
    if "store" not in given:
        raise SystemExit(f"name the store server that runners connect to: +{SECTION}.store=HOST:PORT")
    run = given.get("run") or new_run_name("verl")
    ours = {
        f"{_AGENT}.default_agent_loop": AGENT_LOOP,
        f"{_AGENT}.agent_loop_config_path": AGENT_LOOPS,
        **({} if "run" in given else {f"++{SECTION}.run": run}),
    }
    # Beside another override: Hydra takes them only together, and options may come before and after.
    place = next(place for place, each in enumerate(sys.argv) if each.lstrip("+").startswith(f"{SECTION}.store="))
    sys.argv[place:place] = [f"{key}={value}" for key, value in ours.items()]
    rest = partial(_cancel_rest, given["store"], given.get("experiment", DEFAULT_EXPERIMENT), run)
    if "run" in given:
        asyncio.run(rest())
    try:
        runpy.run_module(COMMAND, run_name="__main__", alter_sys=True)
    finally:
        asyncio.run(rest())


def _settings(arguments: Sequence[str]) -> dict[str, str]:
    """Returns what overrides set in our section."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    ours = [each for each in arguments if each.lstrip("+").startswith(f"{SECTION}.")]
    overrides = OverridesParser.create().parse_overrides(ours)
    return {each.key_or_group.removeprefix(f"{SECTION}."): str(each.value()) for each in overrides}


async def _cancel_rest(address: str, experiment: str, run: str) -> None:
    # Tries once: a store that has gone may be why verl has failed.
    store = LightningStoreClient(address, experiment=experiment, retry_delays=())
    try:
        await cancel_rest(store, run)
    finally:
        await store.close()


if __name__ == "__main__":
    main()
