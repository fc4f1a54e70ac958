"""verl's config: its own defaults, what the user sets, and what connects it to this store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agentlightning.algorithm.verl.rows import PROMPT
from agentlightning.algorithm.verl.settings import AGENT_LOOP, AGENT_LOOPS, SECTION, VERLSettings

_DEFAULTS: Final = "ppo_trainer"
_SEARCHED: Final = "pkg://verl.trainer.config"


def connected(config: Mapping[str, Any], settings: VERLSettings) -> dict[str, Any]:
    """Returns a config with what connects verl to the store: our agent loop, and where it finds the store.

    Args:
        config: What the user sets.
        settings: Where the store is.
    """
    agent = {"default_agent_loop": AGENT_LOOP, "agent_loop_config_path": str(AGENT_LOOPS)}
    ours = {
        "actor_rollout_ref": {"rollout": {"agent": agent}},
        SECTION: settings.model_dump(mode="json", exclude_unset=True),
    }
    return merged(config, ours)


def with_data(config: Mapping[str, Any], train_file: Path, val_file: Path | None) -> dict[str, Any]:
    """Returns a config that reads its tasks from these files.

    Args:
        config: What the user sets.
        train_file: What to learn from.
        val_file: What to judge by. None leaves that to `data.val_files` of the config; without those there is no
            validation.
    """
    val_files = val_file or config.get("data", {}).get("val_files")
    # verl wants a file all the same.
    unjudged: dict[str, Any] = {} if val_files else {"trainer": {"val_before_train": False, "test_freq": -1}}
    files = {"train_files": str(train_file), "prompt_key": PROMPT}
    if not isinstance(val_files, (list, tuple)):
        val_files = str(val_files or train_file)
    return merged(config, {"data": {**files, "val_files": val_files}, **unjudged})


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Writes a config that Hydra lays over verl's defaults.

    Args:
        path: The file; its name ends in `.yaml`.
        config: What differs. Its `model_engine` takes the place of the default choice, as on verl's command line.

    Raises:
        TypeError: A value is no plain one.
    """
    engine = config.get("model_engine")
    chosen = [{"override model_engine": engine}] if engine else []
    whole = {
        "defaults": [_DEFAULTS, *chosen, "_self_"],
        "hydra": {"searchpath": [_SEARCHED], "run": {"dir": str(path.with_suffix(""))}},
        **{key: value for key, value in config.items() if key != "model_engine"},
    }
    # JSON is YAML.
    path.write_text(json.dumps(whole, indent=2), encoding="utf-8")


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Returns both dictionaries as one, whose values are those of the second where both have one."""
    both = dict(under)
    for key, value in over.items():
        below = both.get(key)
        both[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return both
