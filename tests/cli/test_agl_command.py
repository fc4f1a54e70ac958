"""`agl` itself: how it starts, ends and helps."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from importlib.metadata import entry_points, version

import pytest
from agl_calls import Run, agl, start_agl
from store_process import StoreProcess

from agentlightning.cli import main
from agentlightning.removed import REMOVED, describe_removed

COMMANDS = ("rollouts", "spans", "workers", "stats", "wait", "export", "experiments", "store", "vllm", "agentops")
WITH_COMMANDS = {
    "rollouts": ("list", "show", "cancel", "requeue", "delete"),
    "workers": ("list", "drain", "resume"),
    "experiments": ("list", "delete"),
}
OPTIONS_OF_SERVER = (
    "--host",
    "--port",
    "--rest-port",
    "--store",
    "--insecure",
    "--max-message-bytes",
    "--grace",
    "--log-level",
)


def test_the_command_is_installed() -> None:
    (found,) = entry_points(group="console_scripts", name="agl")
    assert found.load() is main


def test_help_names_every_command_and_costs_nothing_heavy() -> None:
    heavy = {"grpc", "pydantic", "asyncio", "opentelemetry", "fastapi", "argparse"}
    code = (
        "import sys; from agentlightning.cli import main; main(['--help']);"
        f"print(*{heavy} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.strip() == ""
    assert set(COMMANDS) <= set(re.findall(r"^  (\w+)", done.stdout, re.MULTILINE))


@pytest.mark.parametrize(
    "words", [(name, inner) for name in COMMANDS for inner in WITH_COMMANDS.get(name, ("",))], ids=" ".join
)
def test_every_command_explains_itself_with_examples(words: tuple[str, str]) -> None:
    said = agl(*filter(None, words), "--help")
    assert said.code == 0
    assert f"usage: agl {' '.join(filter(None, words))}" in said.out
    assert words[0] == "store" or f"  agl {words[0]}" in said.out


def test_without_a_command_it_shows_its_help_and_exits_with_2() -> None:
    said = agl()
    assert (said.code, said.out) == (2, "")
    assert said.err == agl("--help").out


def test_a_misspelt_command_is_told_with_the_one_that_was_meant() -> None:
    assert agl("rolouts") == (2, "", "agl: there is no command 'rolouts'; did you mean rollouts?\n")
    assert "store, vllm, agentops" in agl("xyz").err


def test_it_tells_its_version() -> None:
    assert agl("--version") == (0, f"agl {version('agentlightning-grpc')}\n", "")


@pytest.mark.parametrize("name", [name for name in REMOVED if name.startswith("agl ")])
def test_what_older_releases_had_names_its_successor(name: str) -> None:
    said = agl(*name.split()[1:], "1")
    assert (said.code, said.out) == (2, "")
    assert describe_removed(name) in said.err


def test_agl_store_has_the_options_of_the_server(served: StoreProcess) -> None:
    said = agl("store", "--help")
    assert set(OPTIONS_OF_SERVER) <= set(re.findall(r"^  (--[a-z-]+)", said.out, re.MULTILINE))
    assert "Serve a store over gRPC" in said.out
    # The tests of this folder run against it.
    assert served.ready_line.startswith("agentlightning store listening on 127.0.0.1:")


def test_agl_store_says_why_it_cannot_serve() -> None:
    said = agl("store", "--store", "nonsense://", "--port", "0")
    assert said.code == 1
    assert "nonsense" in said.err


def test_a_store_is_found_by_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (rollout_id,) = run.enqueue()
    _, address, _, experiment = run.place
    monkeypatch.setenv("AGL_STORE_EXPERIMENT", experiment)
    host, port = address.split(":")
    # As for runners,
    monkeypatch.setenv("AGL_SERVER_HOST", host)
    monkeypatch.setenv("AGL_SERVER_PORT", port)
    assert rollout_id in agl("rollouts", "list").out
    # unless there is a word for this command.
    monkeypatch.setenv("AGL_SERVER_PORT", "1")
    monkeypatch.setenv("AGL_STORE_ADDRESS", address)
    assert rollout_id in agl("rollouts", "list").out


@pytest.mark.parametrize("words", [("stats",), ("rollouts", "list"), ("export",), ("wait",), ("spans", "ro")])
def test_an_experiment_that_does_not_exist_is_told(served: StoreProcess, words: tuple[str, ...]) -> None:
    said = agl(*words, "--store", served.address, "--experiment", "typo")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(f"agl {' '.join(words[:2] if words[0] == 'rollouts' else words[:1])}: Experiment typo")
    assert f"agl experiments list --store {served.address}" in said.err


def test_an_address_that_is_none_is_told() -> None:
    said = agl("stats", "--store", "nowhere")
    assert said.code == 1
    assert "Cannot connect to 'nowhere'" in said.err


def test_a_server_that_is_not_there_is_told_with_what_to_do() -> None:
    process = start_agl("stats", "--store", "127.0.0.1:1")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert "The store at 127.0.0.1:1 cannot be reached" in err
    assert "Start a store with `agl store`" in err
    assert "Traceback" not in err


def test_a_reader_that_goes_away_ends_it_without_a_traceback(run: Run) -> None:
    for _ in range(20):
        run.store.enqueue_rollout("x" * 20_000)  # more than a pipe holds
    with start_agl("export", *run.place) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(100)
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == ""


def test_ctrl_c_ends_it_without_a_traceback(run: Run) -> None:
    first, second = run.enqueue(2)
    run.finish(run.claim())
    with start_agl("wait", first, second, *run.place) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == f"{first} succeeded\n"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == ""
