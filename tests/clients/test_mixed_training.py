"""Runners of several languages train side by side, each killed once: results are complete, and work is shared."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from commands import ROOT, run

from agentlightning import find_final_reward
from agentlightning.store.sqlite import SqliteLightningStore
from agentlightning.types import AttemptedRollout

ROUNDS, CANDIDATES, TARGETS, REPEATS = 4, 3, 3, 8


@pytest.fixture
def languages(typescript: Path, request: pytest.FixtureRequest) -> list[str]:
    """Python, TypeScript, and Go where it is installed."""
    try:
        request.getfixturevalue("go_environment")
    except pytest.skip.Exception:
        return ["python", "typescript"]
    return ["python", "typescript", "go"]


@pytest.mark.timeout(240)
async def test_each_rollout_is_finished_once_and_every_language_takes_its_share(
    languages: list[str], tmp_path: Path
) -> None:
    database = tmp_path / "store.db"
    script = ROOT / "examples/mixed/main.py"
    out = run([sys.executable, "-W", "error", str(script), "--kill", "--database", str(database), *languages], ROOT)
    for language in languages:
        assert re.search(rf"^killed {language}-1 at work$", out, re.MULTILINE), out
    assert f"round {ROUNDS}: best is 7, which earns 0.72" in out

    store = SqliteLightningStore(str(database))
    try:
        rollouts = await store.query_rollouts()
        assert len(rollouts) == ROUNDS * CANDIDATES * TARGETS * REPEATS
        lost = 0
        for rollout in rollouts:
            assert isinstance(rollout, AttemptedRollout)
            assert rollout.status == "succeeded"
            *others, last = await store.query_attempts(rollout.rollout_id)
            assert last.status == "succeeded"
            assert [attempt.status for attempt in others] == ["unresponsive"] * len(others)
            lost += len(others)
            spans = await store.query_spans(rollout.rollout_id, attempt_id=last.attempt_id)
            assert find_final_reward(spans) == await expected_reward(store, rollout)
        assert lost >= len(languages)  # each was killed while it held something
        finished = Counter(str(rollout.attempt.worker_id) for rollout in rollouts)
        for language in languages:
            # Fair: with equal slots, nobody gets less than half of an equal share.
            assert finished[f"{language}-2"] * 2 * len(languages) >= len(rollouts), finished
    finally:
        await store.close()


async def expected_reward(store: SqliteLightningStore, rollout: AttemptedRollout) -> float:
    assert rollout.resources_id is not None
    update = await store.get_resources_by_id(rollout.resources_id)
    assert update is not None
    number = float(update.resources["number"].template)  # type: ignore[union-attr]
    return 1 / (1 + abs(rollout.input["target"] - number))
