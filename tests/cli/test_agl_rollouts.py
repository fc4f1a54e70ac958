"""`agl rollouts`: seeing them, and the operator's word."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from agl_calls import Run, Said

from agentlightning.cli import output
from agentlightning.types import RolloutConfig


def ids_of(said: Said) -> list[str]:
    """The ids in a table or in JSON lines."""
    return [row.get("ROLLOUT") or row["rollout_id"] for row in (said.json_lines if said.out[:1] == "{" else said.table)]


def test_the_newest_stand_first_with_their_attempts_and_failures(run: Run) -> None:
    config = RolloutConfig(max_attempts=3, retry_condition=["failed"])
    ids = [*run.enqueue(1, mode="val", config=config), *run.enqueue(2, mode="train")]
    run.finish(run.claim("worker-a"), "failed", "KeyError: 'question'")
    run.claim("worker-b")
    rows = run.agl("rollouts", "list").table
    assert [row["ROLLOUT"] for row in rows] == ids[::-1]
    assert [row["STATUS"] for row in rows] == ["queuing", "preparing", "requeuing"]
    assert [row["MODE"] for row in rows] == ["train", "train", "val"]
    assert [row["ATTEMPT"] for row in rows] == ["-", "1 of 1", "1 of 3"]
    assert [row["WORKER"] for row in rows] == ["-", "worker-b", "worker-a"]
    assert [row["FAILURE"] for row in rows] == ["-", "-", "agent_error: KeyError: 'question'"]


def test_filters_must_all_hold(run: Run) -> None:
    trained, judged = run.enqueue(2, mode="train"), run.enqueue(2, mode="val")
    (plain,) = run.enqueue()
    run.finish(run.claim())

    def listed(*words: str) -> list[str]:
        return ids_of(run.agl("rollouts", "list", "--order", "asc", *words))

    assert listed("--mode", "train") == trained
    assert listed("--mode", "val", "--mode", "none") == [*judged, plain]
    assert listed("--status", "unfinished", "--mode", "train") == trained[1:]
    assert listed("--status", "finished") == trained[:1]
    assert listed("--status", "succeeded", "--status", "queuing") == [*trained, *judged, plain]
    assert listed("--contains", plain[3:]) == [plain]
    assert listed("--status", "failed") == []
    assert run.agl("rollouts", "list", "--status", "lost").code == 2


def test_a_limit_says_that_there_are_more(run: Run) -> None:
    ids = run.enqueue(3)
    said = run.agl("rollouts", "list", "--limit", "2")
    assert ids_of(said) == [ids[2], ids[1]]
    assert "more than these 2" in said.err
    for limit in ("3", "0"):
        said = run.agl("rollouts", "list", "--limit", limit)
        assert (ids_of(said), said.err) == (ids[::-1], "")


def test_json_lines_have_every_field(run: Run) -> None:
    run.enqueue(metadata={"note": "你好"})
    run.claim()
    said = run.agl("rollouts", "list", "--json")
    (rollout,) = said.json_lines
    assert (rollout["input"], rollout["metadata"]) == ({"number": 0}, {"note": "你好"})
    assert rollout["attempt"]["worker_id"] == "worker-1"
    assert "你好" in said.out


def test_json_carries_what_a_model_would_not_write(run: Run) -> None:
    deep: Any = 0
    for _ in range(300):  # deeper than pydantic writes
        deep = [deep]
    run.store.enqueue_rollout(deep)
    (rollout,) = run.agl("rollouts", "list", "--json").json_lines
    assert rollout["input"] == deep


def test_what_is_no_number_of_json_and_no_unicode_can_be_written() -> None:
    assert output.to_json({"a": [float("nan"), 1.5], "b": (float("inf"), {"c": True})}) == (
        '{"a": [null, 1.5], "b": [null, {"c": true}]}'
    )
    assert output.to_json("你\ud800") == r'"\u4f60\ud800"'


def test_texts_of_agents_cannot_move_the_cursor(run: Run) -> None:
    run.enqueue()
    run.finish(run.claim(), "failed", "first\x1b[31m\nsecond\x07")
    said = run.agl("rollouts", "list")
    assert len(said.lines) == 2
    assert "first [31m second" in said.lines[1]
    assert said.out.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0s"), (9.94, "9.9s"), (59.9, "59s"), (3599, "59m59s"), (86399, "23h59m"), (9e5, "10d10h")],
)
def test_time_spans_are_told_in_the_units_that_matter(seconds: float, text: str) -> None:
    assert output.span_of(seconds) == text


def test_sizes_are_told_in_the_unit_that_fits() -> None:
    assert [output.size_of(10**power) for power in (0, 4, 8, 13)] == ["1 B", "10 kB", "100 MB", "10 TB"]


def test_wide_characters_keep_columns_straight(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("A", "N", "B"), [("你好", 1, "x"), ("abc", 20, "y")])
    assert capsys.readouterr().out == "A      N  B\n你好   1  x\nabc   20  y\n"


def test_a_terminal_cuts_long_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "10")
    output.print_table(("A", "B"), [("a", "b" * 50), ("a", "b")])
    assert capsys.readouterr().out == "A  B\na  bbbbbb…\na  b\n"


def test_one_rollout_is_shown_with_all_attempts(run: Run) -> None:
    config = RolloutConfig(max_attempts=2, retry_condition=["failed"], timeout_seconds=60)
    (rollout_id,) = run.enqueue(config=config, metadata={"who": "me"})
    run.finish(run.claim("worker-a"), "failed", "out of luck")
    again = run.claim("worker-b")
    run.add_span(again, "r", attributes={"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": 2})
    said = run.agl("rollouts", "show", rollout_id)
    fields = dict(line.split(maxsplit=1) for line in said.out.partition("\n\n")[0].splitlines())
    assert fields["status"] == "running"
    assert fields["input"] == '{"number": 0}'
    assert fields["metadata"] == '{"who": "me"}'
    assert fields["config"] == '{"timeout_seconds": 60.0, "max_attempts": 2, "retry_condition": ["failed"]}'
    assert fields["spans"] == "1 in the latest attempt, final reward 2"
    assert "finished" not in fields
    attempts = said._replace(out=said.out.partition("\n\n")[2]).table
    assert [row["WORKER"] for row in attempts] == ["worker-a", "worker-b"]
    assert attempts[0]["FAILURE"] == "agent_error: out of luck"

    document = run.agl("rollouts", "show", rollout_id, "--json").json
    assert [attempt["status"] for attempt in document["attempts"]] == ["failed", "running"]
    assert document["config"]["max_attempts"] == 2
    assert "attempt" not in document


def test_a_rollout_that_does_not_exist_is_told(run: Run) -> None:
    run.enqueue()
    said = run.agl("rollouts", "show", "ro-none")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("agl rollouts show: there is no rollout ro-none in experiment")


def test_named_rollouts_are_cancelled_without_a_question(run: Run) -> None:
    done, open_one, other = run.enqueue(3)
    run.finish(run.claim())
    said = run.agl("rollouts", "cancel", open_one, done, "ro-none")
    assert said.code == 1
    assert said.out == f"{open_one} cancelled\n"
    assert f"{done} is succeeded already" in said.err
    assert "there is no rollout ro-none" in said.err
    assert run.statuses([done, open_one, other]) == ["succeeded", "cancelled", "queuing"]


def test_a_filter_asks_first(run: Run) -> None:
    ids = run.enqueue(4)
    said = run.agl("rollouts", "cancel", "--status", "queuing")
    assert (said.code, said.out) == (2, "")
    assert f"About to cancel 4 rollouts ({', '.join(ids[:3])}, ...). Say --yes" in said.err
    assert run.statuses(ids) == ["queuing"] * 4


def test_a_person_can_say_no_and_yes(run: Run) -> None:
    ids = run.enqueue(2)
    for typed, code, status in (
        ("\n", 1, "queuing"),
        ("no\n", 1, "queuing"),
        ("", 1, "queuing"),
        ("y\n", 0, "cancelled"),
    ):
        said = run.agl("rollouts", "cancel", "--mode", "none", typed=typed)
        assert (said.code, "[y/N]" in said.err) == (code, True)
        assert run.statuses(ids) == [status] * 2


def test_many_are_cancelled_at_once(run: Run) -> None:
    ids = run.enqueue(40, mode="val")
    (kept,) = run.enqueue(mode="train")
    said = run.agl("rollouts", "cancel", "--mode", "val", "--yes", "--json")
    assert said.json_lines == [{"rollout_id": rollout_id, "status": "cancelled"} for rollout_id in ids]
    assert run.statuses([*ids, kept]) == [*["cancelled"] * 40, "queuing"]
    assert run.agl("rollouts", "cancel", "--mode", "val", "--yes") == (0, "", "agl rollouts cancel: there are none\n")


def test_what_broke_is_put_back_at_the_end_of_the_queue(run: Run) -> None:
    failed, succeeded, waiting = run.enqueue(3)
    run.finish(run.claim(), "failed")
    run.finish(run.claim())
    said = run.agl("rollouts", "requeue", "--status", "failed", "--yes")
    assert said == (0, f"{failed} requeuing\n", "")
    assert run.statuses([failed, succeeded, waiting]) == ["requeuing", "succeeded", "queuing"]
    assert [run.claim().rollout_id for _ in range(2)] == [waiting, failed]


def test_one_that_waits_is_not_put_back_again(run: Run) -> None:
    (rollout_id,) = run.enqueue()
    said = run.agl("rollouts", "requeue", rollout_id)
    assert (said.code, said.out) == (0, "")
    assert f"{rollout_id} is queuing already" in said.err


def test_a_filter_without_status_means_what_can_be_meant(run: Run) -> None:
    failed, succeeded, _ = ids = run.enqueue(3, mode="val")
    run.finish(run.claim(), "failed")
    run.finish(run.claim())
    assert ids_of(run.agl("rollouts", "requeue", "--mode", "val", "--yes", "--json")) == [failed]
    assert ids_of(run.agl("rollouts", "delete", "--mode", "val", "--yes", "--json")) == [succeeded]
    assert run.statuses(ids) == ["requeuing", "gone", "queuing"]


def test_deleting_always_asks(run: Run) -> None:
    (rollout_id,) = run.enqueue()
    said = run.agl("rollouts", "delete", rollout_id)
    assert (said.code, said.out) == (2, "")
    assert f"About to delete 1 rollout ({rollout_id})." in said.err
    assert run.agl("rollouts", "delete", rollout_id, "--yes") == (0, f"{rollout_id} deleted\n", "")
    assert run.statuses([rollout_id]) == ["gone"]


@pytest.mark.parametrize("command", ["cancel", "requeue", "delete"])
@pytest.mark.parametrize("words", [(), ("ro-1", "--status", "failed")], ids=["nothing", "both"])
def test_either_ids_or_filters_say_which(run: Run, command: str, words: tuple[str, ...]) -> None:
    (rollout_id,) = run.enqueue()
    said = run.agl("rollouts", command, *words, "--yes")
    assert (said.code, said.out) == (2, "")
    assert "name rollouts, or say which" in said.err
    assert run.statuses([rollout_id]) == ["queuing"]
