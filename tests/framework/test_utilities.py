"""Threads, events, environment variables, and what a worker tells about its machine."""

from __future__ import annotations

import asyncio
import contextvars
import json
import multiprocessing
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agentlightning import (
    ExecutionEvent,
    LightningEnvVar,
    MultiprocessingEvent,
    ThreadingEvent,
    resolve_bool_env_var,
    resolve_int_env_var,
    resolve_str_env_var,
)
from agentlightning.utils.system_snapshot import system_snapshot
from agentlightning.utils.threads import background_loop, run_in_thread


async def test_calls_run_in_threads_with_context_and_results() -> None:
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(1)

    def call(added: int) -> int:
        variable.set(variable.get() + added)
        return variable.get()

    assert await run_in_thread(call, 2) == 3
    assert variable.get() == 1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, asyncio.CancelledError])
async def test_errors_of_threads_are_handed_over(error: type[BaseException]) -> None:
    def fail() -> None:
        raise error("x")

    with pytest.raises(error):
        await run_in_thread(fail)


async def test_stop_iteration_does_not_get_lost() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await run_in_thread(next, iter([]))


async def test_many_blocking_calls_run_at_once() -> None:
    together = threading.Barrier(40)
    await asyncio.gather(*(run_in_thread(together.wait, 60) for _ in range(40)))  # raises if one is missing


def test_a_call_that_never_returns_keeps_no_process_alive() -> None:
    code = """
import asyncio, time
from agentlightning.utils.threads import background_loop, run_in_thread
async def main():
    background_loop()
    asyncio.ensure_future(run_in_thread(time.sleep, 60))
    await asyncio.sleep(0.1)
asyncio.run(main())
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], timeout=30, capture_output=True, text=True, check=True)
    assert time.monotonic() - began < 25
    assert done.stderr == ""


async def test_there_is_one_background_loop() -> None:
    loop = background_loop()
    assert loop is background_loop()
    assert loop is not asyncio.get_running_loop()

    async def where() -> str:
        return threading.current_thread().name

    assert await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(where(), loop)) == "agl-background"


def _set(event: MultiprocessingEvent) -> None:
    event.set()


def test_events_are_events() -> None:
    for event in (ThreadingEvent(), MultiprocessingEvent()):
        assert isinstance(event, ExecutionEvent)
        assert not event.is_set()
        assert not event.wait(0.01)
        event.set()
        assert event.is_set()
        assert event.wait()
        event.clear()
        assert not event.is_set()


def test_an_event_reaches_another_process() -> None:
    context = multiprocessing.get_context("spawn")
    event = MultiprocessingEvent(ctx=context)
    process = context.Process(target=_set, args=(event,))
    process.start()
    assert event.wait(20)
    process.join(20)


def test_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    flag, port, host = (
        LightningEnvVar.AGL_MANAGED_STORE,
        LightningEnvVar.AGL_SERVER_PORT,
        LightningEnvVar.AGL_SERVER_HOST,
    )
    for variable in (flag, port, host):
        monkeypatch.delenv(variable.value, raising=False)
    assert resolve_bool_env_var(flag) is None
    assert resolve_bool_env_var(flag, fallback=True)
    assert resolve_int_env_var(port) is None
    assert resolve_int_env_var(port, fallback=1) == 1
    assert resolve_str_env_var(host, fallback="x") == "x"
    for text, value in (("1", True), ("Yes", True), (" on ", True), ("0", False), ("FALSE", False), ("off", False)):
        monkeypatch.setenv(flag.value, text)
        assert resolve_bool_env_var(flag) is value
        assert resolve_bool_env_var(flag, override=not value) is (not value)
    monkeypatch.setenv(flag.value, "maybe")
    with pytest.raises(ValueError, match="AGL_MANAGED_STORE='maybe'"):
        resolve_bool_env_var(flag)
    monkeypatch.setenv(port.value, "12")
    monkeypatch.setenv(host.value, "there")
    assert resolve_int_env_var(port) == 12
    assert resolve_int_env_var(port, 3) == 3
    assert resolve_str_env_var(host) == "there"
    assert resolve_str_env_var(host, "here") == "here"
    monkeypatch.setenv(port.value, "x")
    with pytest.raises(ValueError, match="not a whole number"):
        resolve_int_env_var(port)


def test_a_snapshot_is_json() -> None:
    snapshot = system_snapshot()
    assert json.loads(json.dumps(snapshot)) == snapshot
    assert snapshot["cpu"]["cores"] >= 1
    assert "gpu" not in snapshot


def test_gpus_are_asked_for_by_their_own_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert system_snapshot(include_gpu=True)["gpu"] == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA Big, Card, 100, 80000, [N/A]'\n")
    tool.chmod(0o755)
    assert system_snapshot(include_gpu=True)["gpu"] == [
        {"name": "NVIDIA Big, Card", "memory_used_mib": 100.0, "memory_total_mib": 80000.0, "utilization_percent": None}
    ]
