"""Runs verl's own command with the agent loop of this store: `python -m agentlightning.verl OVERRIDES`.

What is given are overrides of verl's config, as Hydra reads them. `+agentlightning.store=HOST:PORT` names the store
server, at which runners take the rollouts; each row of `data.train_files` is a task.
"""

from __future__ import annotations

import runpy
import sys
from typing import Final

from agentlightning.algorithm.verl.settings import AGENT_LOOP, AGENT_LOOPS, SECTION
from agentlightning.algorithm.verl.verl import COMMAND, expect_packages

_AGENT: Final = "actor_rollout_ref.rollout.agent"


def main() -> None:
    """Runs it in place of this program.

    Raises:
        ImportError: verl is not installed.
        SystemExit: No store server is named.
    """
    expect_packages()
    if not any(each.lstrip("+").startswith(f"{SECTION}.store=") for each in sys.argv[1:]):
        raise SystemExit(f"name the store server that runners connect to: +{SECTION}.store=HOST:PORT")
    ours = {"default_agent_loop": AGENT_LOOP, "agent_loop_config_path": AGENT_LOOPS}
    sys.argv[1:1] = [f"{_AGENT}.{key}={value}" for key, value in ours.items()]
    runpy.run_module(COMMAND, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
