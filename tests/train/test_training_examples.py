"""The examples that train do what they say."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import agentlightning as agl

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


def test_the_prompt_search_keeps_the_prompt_that_earned_most(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = loaded("prompt_search/data.py", monkeypatch)
    splits = data.load_splits(4, 3, seed=7)
    fields = {task["sentence"]: task["fields"] for task in (*splits.train, *splits.held_out)}

    def complete(prompt: str) -> str:
        """Answers for the language model: half right if it is shown something, and all right if it is shown enough."""
        shown = prompt.count("JSON: {")
        right = fields[prompt.rpartition("Sentence: ")[2].removesuffix("\nJSON:")]
        return json.dumps({**right, **({} if shown > 3 else {"country": "?"})}) if shown else "It is a city."

    model = ModuleType("model")
    model.complete = complete  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "model", model)
    agent = loaded("prompt_search/agent.py", monkeypatch).extract_place
    candidates = loaded("prompt_search/prompts.py", monkeypatch).candidates
    search = loaded("prompt_search/search.py", monkeypatch).prompt_search
    store = agl.InMemoryLightningStore()
    agl.Trainer(algorithm=search, store=store, strategy="shm", initial_resources=candidates(splits.examples)).fit(
        agent, splits.train, val_dataset=splits.held_out
    )

    out = capsys.readouterr().out
    for prompt, mean in (("request", "0.00"), ("instructions", "0.00"), ("three examples", "0.50"), ("six", "1.00")):
        assert re.search(rf"{prompt}.* 4/4 rollouts  mean reward {mean}", out), out
    assert "Held-out score before: 0.00  (prompt 'request')" in out
    assert "Held-out score after:  1.00  (prompt 'six examples')" in out
    latest = asyncio.run(_latest(store))
    assert latest is not None
    assert list(latest.resources) == ["six examples"]


async def _latest(store: agl.LightningStore) -> agl.ResourcesUpdate | None:
    return await store.get_latest_resources()
