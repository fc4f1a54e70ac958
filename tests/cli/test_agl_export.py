"""`agl export`: everything, for notebooks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from agl_calls import Run, agl
from store_process import StoreProcess

from agentlightning.store import face
from agentlightning.store.client import LightningStoreClient
from agentlightning.types import RolloutConfig


def test_a_line_has_a_rollout_with_its_attempts_and_spans(run: Run) -> None:
    config = RolloutConfig(max_attempts=2, retry_condition=["failed"])
    retried, waiting = run.enqueue(2, config=config, mode="train")
    first = run.claim()
    run.add_span(first, "old")
    run.finish(first, "failed", "bad luck")
    run.store.update_rollout(waiting, status="cancelled")
    second = run.claim()
    run.add_span(second, "new", attributes={"reward": 1.0})
    run.finish(second)
    said = run.agl("export")
    done, other = said.json_lines
    assert (done["rollout_id"], done["status"], done["config"]["max_attempts"]) == (retried, "succeeded", 2)
    assert [attempt["status"] for attempt in done["attempts"]] == ["failed", "succeeded"]
    assert done["attempts"][0]["failure"]["message"] == "bad luck"
    assert [(span["name"], span["attempt_id"]) for span in done["spans"]] == [
        ("old", first.attempt.attempt_id),
        ("new", second.attempt.attempt_id),
    ]
    assert done["spans"][1]["attributes"] == {"reward": 1.0}
    assert "attempt" not in done
    assert (other["rollout_id"], other["attempts"], other["spans"]) == (waiting, [], [])
    assert not done["spans_dropped"]
    assert said.err == "agl export: 2 rollouts with 2 spans\n"
    assert run.agl("export").out == said.out


def test_filters_and_less_than_all(run: Run) -> None:
    ids = run.enqueue(2)
    attempt = run.claim()
    run.add_span(attempt, "old")
    run.add_span(run.store.start_attempt(ids[0]), "new")
    (line,) = run.agl("export", "--status", "running", "--attempt", "latest").json_lines
    assert [span["name"] for span in line["spans"]] == ["new"]
    assert [len(line["attempts"]), line["rollout_id"]] == [2, ids[0]]
    lines = run.agl("export", "--no-spans").json_lines
    assert [line["rollout_id"] for line in lines] == ids
    assert all("spans" not in line for line in lines)


def test_pages_follow_each_other(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face, "_ITER_PAGE", 2)
    ids = run.enqueue(5)
    attempt = run.claim()
    for number in range(5):
        run.add_span(attempt, f"span {number}")
    lines = run.agl("export").json_lines
    assert [line["rollout_id"] for line in lines] == ids
    assert [span["name"] for span in lines[0]["spans"]] == [f"span {number}" for number in range(5)]


def test_a_file_is_complete_or_not_there(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.enqueue(2)
    file = tmp_path / "run.jsonl"
    said = run.agl("export", "--output", str(file))
    assert (said.code, said.out) == (0, "")
    assert len([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]) == 2
    whole = file.read_bytes()

    def break_off(*args: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(LightningStoreClient, "iter_spans", break_off)
    run.claim()
    said = run.agl("export", "--output", str(file))
    assert said.code == 1
    assert "the disk is full" in said.err
    assert file.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [file]


def test_spans_that_a_memory_store_dropped_are_told() -> None:
    server = StoreProcess("memory://?max_bytes=1100000")
    server.start()
    run = Run(server.address, "default")
    try:
        run.enqueue(3)
        for _ in range(3):
            attempt = run.claim()
            run.add_span(attempt, "big", attributes={"text": "x" * 350_000})
            run.finish(attempt)
        said = agl("export", "--store", server.address)
        lines = said.json_lines
        assert [line["spans_dropped"] for line in lines] == [True, False, False]
        assert [len(line["spans"]) for line in lines] == [0, 1, 1]
        assert "dropped the spans of 1 of them" in said.err
        said = agl("spans", lines[0]["rollout_id"], "--store", server.address)
        assert said.code == 1
        assert "have been evicted" in said.err
        assert "dropped by the store" in agl("rollouts", "show", lines[0]["rollout_id"], *run.place).out
        assert "1 dropped to keep the bound of memory" in agl("stats", "--store", server.address).out
    finally:
        run.store.close()
        server.kill()
