"""`agl spans`, `workers`, `stats` and `experiments`: what an operator sees."""

from __future__ import annotations

import pytest
from agl_calls import Run, agl
from store_process import StoreProcess


def test_spans_stand_below_their_parents(run: Run) -> None:
    run.enqueue()
    attempt = run.claim()
    root = run.add_span(attempt, "agent", start_time=100.0, end_time=163.5)
    call = {"prompt_token_ids": [1, 2, 3], "response_token_ids": [4, 5]}
    trace = {"trace_id": root.trace_id, "parent_id": root.span_id}
    run.add_span(attempt, "chat", attributes=call, start_time=101.5, end_time=102.0, **trace)
    reward = {"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": 0.5}
    run.add_span(attempt, "reward", attributes=reward)
    said = run.agl("spans", attempt.rollout_id)
    assert said.code == 0
    rows = said.table
    assert [row["NAME"] for row in rows] == ["agent", "chat", "reward"]
    assert [line[said.lines[0].index("NAME") :] for line in said.lines[1:]] == ["agent", "  chat", "reward"]
    assert [row["AT"] for row in rows][:2] == ["+0.0s", "+1.5s"]
    assert [row["TOOK"] for row in rows][:2] == ["1m03s", "0.5s"]
    assert [row["TOKENS"] for row in rows] == ["-", "3+2", "-"]
    assert [row["REWARD"] for row in rows] == ["-", "-", "0.5"]
    assert {row["ATTEMPT"] for row in rows} == {attempt.attempt.attempt_id}


def test_spans_are_those_of_the_attempt_that_is_asked_for(run: Run) -> None:
    (rollout_id,) = run.enqueue()
    first = run.claim()
    run.add_span(first, "old")
    second = run.store.start_attempt(rollout_id)
    run.add_span(second, "new", attributes={"x": float("nan")})
    names = {
        words: [span["name"] for span in run.agl("spans", rollout_id, "--json", *words).json_lines]
        for words in ((), ("--attempt", "all"), ("--attempt", first.attempt.attempt_id), ("--contains", "e"))
    }
    assert list(names.values()) == [["new"], ["old", "new"], ["old"], ["new"]]
    (span,) = run.agl("spans", rollout_id, "--json").json_lines
    assert span["attributes"] == {"x": None}
    said = run.agl("spans", "ro-none")
    assert said.code == 1
    assert "there is no rollout ro-none" in said.err


def test_workers_show_what_they_hold_and_when_they_were_heard_of(run: Run) -> None:
    (rollout_id,) = run.enqueue()
    attempt = run.claim("worker-a")
    run.store.update_worker("worker-a", {"host": {"hostname": "gpu-7"}, "cpu": {"load": [1.5, 1, 1]}})
    run.store.dequeue_rollout(worker_id="worker-b")
    run.store.update_worker("worker-c", {"cpu": "not ours"})
    busy, idle, unknown = run.agl("workers").table
    assert (busy["WORKER"], busy["STATUS"], busy["HOST"], busy["LOAD"]) == ("worker-a", "busy", "gpu-7", "1.5")
    assert (busy["ROLLOUT"], busy["ATTEMPT"]) == (rollout_id, attempt.attempt.attempt_id)
    assert busy["SEEN"].endswith("s ago")
    assert (idle["STATUS"], idle["ROLLOUT"], unknown["STATUS"]) == ("idle", "-", "unknown")
    assert [one["worker_id"] for one in run.agl("workers", "--status", "idle", "--json").json_lines] == ["worker-b"]
    assert [one["WORKER"] for one in run.agl("workers", "list", "--contains", "r-c").table] == ["worker-c"]


def test_a_worker_is_asked_to_leave_and_let_work_again(run: Run) -> None:
    run.enqueue()
    run.claim("worker-a")
    said = run.agl("workers", "drain", "worker-a", "worker-z")
    assert (said.code, said.out) == (1, "worker-a draining\n")
    assert "there is no worker worker-z" in said.err
    assert run.store.get_worker_by_id("worker-z") is None
    assert [command.command for command in run.store.update_worker("worker-a").commands] == ["drain"]
    assert run.agl("workers").table[0]["STATUS"] == "busy, draining"
    assert run.agl("workers", "resume", "worker-a", "--json").json_lines == [
        {"worker_id": "worker-a", "draining": False}
    ]
    assert run.store.update_worker("worker-a").commands == []


def test_stats_tell_how_far_a_run_is(run: Run) -> None:
    run.enqueue(4)
    run.finish(run.claim())
    run.finish(run.claim(), "failed")
    run.add_span(run.claim(), "x")
    facts = run.agl("stats", "--json").json
    assert facts["rollouts"] == {
        "total": 4,
        "queuing": 1,
        "preparing": 0,
        "running": 1,
        "failed": 1,
        "succeeded": 1,
        "cancelled": 0,
        "requeuing": 0,
    }
    assert (facts["attempts"], facts["spans"], facts["workers"]) == (3, 1, {"busy": 1})
    assert facts["storage"] == "memory"
    assert facts["finished_per_minute"] > 0
    assert facts["seconds_left"] == pytest.approx(2 / facts["finished_per_minute"] * 60)
    fields = dict(line.strip().split(maxsplit=1) for line in run.agl("stats").lines)
    assert fields["rollouts"] == "2 of 4 finished (50%)"
    assert (fields["failed"], fields["queuing"]) == ("1", "1")
    assert "cancelled" not in fields
    assert fields["pace"].endswith(" left")
    assert fields["workers"] == "1 busy"
    assert fields["store"].startswith(f"{run.place[1]}, memory ")


def test_stats_of_nothing_promise_nothing(served: StoreProcess) -> None:
    facts = agl("stats", "--store", served.address, "--json").json
    assert (facts["rollouts"]["total"], facts["finished_per_minute"], facts["seconds_left"]) == (0, None, None)
    said = agl("stats", "--store", served.address)
    assert "0 of 0 finished\n" in said.out
    assert "pace" not in said.out


def test_experiments_are_listed_and_deleted(run: Run) -> None:
    _, address, _, name = run.place
    run.enqueue(2)
    found = {one["name"]: one for one in agl("experiments", "--store", address, "--json").json_lines}
    assert (found[name]["rollouts"], found[name]["spans"]) == (2, 0)
    rows = {row["EXPERIMENT"]: row for row in agl("experiments", "list", "--store", address).table}
    assert rows[name]["ROLLOUTS"] == "2"
    delete = ("experiments", "delete", name, "--store", address)
    said = agl(*delete)
    assert said.code == 2
    assert f"About to delete experiment {name} with 2 rollouts." in said.err
    assert agl(*delete, typed="n\n").code == 1
    assert agl(*delete, "--yes") == (0, f"{name} deleted\n", "")
    said = agl(*delete, "--yes")
    assert said.code == 1
    assert f"Experiment {name} not found" in said.err
