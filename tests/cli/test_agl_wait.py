"""`agl wait`: for scripts that go on when rollouts have finished."""

from __future__ import annotations

import threading

from agl_calls import Run


def test_it_tells_each_as_it_finishes(run: Run) -> None:
    ids = run.enqueue(3)
    attempts = [run.claim() for _ in ids]
    run.finish(attempts[0])

    def work() -> None:
        run.finish(attempts[2])
        run.finish(attempts[1], "failed")

    working = threading.Thread(target=work)
    working.start()
    said = run.agl("wait", *ids)
    working.join()
    assert said.code == 0
    assert said.lines[0] == f"{ids[0]} succeeded"
    assert sorted(said.lines) == sorted([f"{ids[0]} succeeded", f"{ids[1]} failed", f"{ids[2]} succeeded"])


def test_time_that_is_up_has_an_exit_code_of_its_own(run: Run) -> None:
    done, waiting = run.enqueue(2)
    run.finish(run.claim())
    said = run.agl("wait", done, waiting, "--timeout", "0")
    assert (said.code, said.out) == (3, f"{done} succeeded\n")
    assert said.err == "agl wait: the time is up, and 1 have not finished\n"


def test_what_does_not_exist_is_not_waited_for(run: Run) -> None:
    run.enqueue()
    said = run.agl("wait", "ro-none")
    assert said.code == 1
    assert "there is no rollout ro-none" in said.err


def test_without_ids_it_waits_for_what_is_unfinished(run: Run) -> None:
    run.enqueue(2)
    run.finish(run.claim())
    (judged,) = run.enqueue(mode="val")
    run.store.update_rollout(judged, status="running")
    assert run.agl("wait", "--timeout", "0").code == 3
    assert run.agl("wait", "--mode", "train") == (0, "", "")
    run.store.update_rollout(judged, status="succeeded")
    assert run.agl("wait", "--mode", "val", "--status", "any", "--json").json_lines[0]["rollout_id"] == judged


def test_it_can_demand_success(run: Run) -> None:
    good, bad = run.enqueue(2)
    run.finish(run.claim())
    run.finish(run.claim(), "failed")
    assert run.agl("wait", good, "--succeeded").code == 0
    assert run.agl("wait", good, bad).code == 0
    assert run.agl("wait", good, bad, "--succeeded").code == 1


def test_ids_and_filters_exclude_each_other(run: Run) -> None:
    assert run.agl("wait", "ro-1", "--mode", "val").code == 2
