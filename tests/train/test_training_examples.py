"""The examples that train do what they say."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def loaded(path: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Imports a module of an example, with its neighbours."""
    monkeypatch.syspath_prepend(str((EXAMPLES / path).parent))
    for name in ("agent", "data"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    spec = importlib.util.spec_from_file_location(f"example_{Path(path).stem}", EXAMPLES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.timeout(600)
def test_an_agent_that_uses_tools_learns_both_which_tool_to_call_and_what_to_make_of_the_answer() -> None:
    process = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / "tool_agent" / "main.py", "--steps", "12"],
        capture_output=True,
        text=True,
        env={**os.environ, "AGL_SERVER_PORT": "0", "TQDM_DISABLE": "1"},
        timeout=600,
    )
    assert process.returncode == 0, process.stderr
    rewards = [float(found) for found in re.findall(r"mean reward (\d\.\d+)", process.stdout)]
    assert len(rewards) == 12
    assert rewards[0] < 0.15
    assert sum(rewards[-3:]) / 3 > 0.3
    # The best rollout: a call of a tool, perhaps another one, and then the answer.
    calls = re.findall(r"'type': '(tool_call|text)'", process.stdout.partition(": reward 1.0")[2])
    assert calls in (["tool_call", "text"], ["tool_call", "tool_call", "text"])


def test_rewards_of_the_quickstart_count_what_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    worth = loaded("quickstart/agent.py", monkeypatch).worth
    fields = {"city": "Ţarţūs", "country": "Syria", "population": 458327}
    assert worth(json.dumps(fields), fields) == pytest.approx(1.0)
    assert worth(json.dumps({**fields, "population": "458,327"}), fields) == pytest.approx(0.7)
    assert worth("{}", fields) == pytest.approx(0.1)
    assert worth('"Syria"', fields) == worth("The city is Ţarţūs.", fields) == 0.0


def test_no_country_of_the_quickstart_is_both_trained_on_and_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    data = loaded("quickstart/data.py", monkeypatch)
    train, held_out = data.load_splits(200, 24, seed=1)
    countries = [task["fields"]["country"] for task in held_out]
    assert len(train) == 200
    assert len(set(countries)) == 24
    assert not set(countries) & {task["fields"]["country"] for task in train}
    assert data.load_splits(200, 24, seed=1) == (train, held_out)
    for task in train[:20]:
        assert task["fields"]["city"] in task["sentence"]
        assert f"{task['fields']['population']:,}" in task["sentence"]


def test_the_curve_of_the_quickstart_shows_every_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from agentlightning.algorithm.grpo import Step

    display = loaded("quickstart/display.py", monkeypatch)
    history = [Step(0, validation=0.0), *(Step(version, reward=version / 4) for version in (1, 2, 4))]
    lines = display.curve_as_text(history).splitlines()
    assert [line.count("█") for line in lines[:-2]] == [1] * 6 + [2] * 3 + [3] * 3
    assert lines[-1].split() == ["1", "2", "3", "step"]
    display.draw_curve(history, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
