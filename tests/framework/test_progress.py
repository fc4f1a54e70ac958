"""The progress display: what it says, where, and that it never gets in the way."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import pty
import re
import time
from typing import Any

import pytest

from agentlightning import (
    InMemoryLightningStore,
    LightningStore,
    LightningStoreClient,
    LightningStoreServer,
    Span,
    Trainer,
    algo,
)
from agentlightning.emitter.reward import emit_reward
from agentlightning.trainer.progress import showing_progress


class Terminal(io.StringIO):
    """A terminal that tells when something is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = asyncio.Event()

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        self.written.set()

    async def until(self, pattern: str) -> None:
        """Waits for a line that matches."""
        while not re.search(pattern, self.getvalue()):
            self.written.clear()
            await asyncio.wait_for(self.written.wait(), 20)


async def finish(store: LightningStore, reward: float | None, status: Any = "succeeded") -> None:
    """Puts a rollout into the store that has been run."""
    rollout = await store.start_rollout("x")
    key = (rollout.rollout_id, rollout.attempt.attempt_id)
    if reward is not None:
        core = emit_reward(reward, propagate=False)
        await store.add_span(
            Span.from_attributes(attributes=core.attributes, rollout_id=key[0], attempt_id=key[1], name=core.name)
        )
    await store.update_attempt(*key, status=status)


@pytest.fixture
def store() -> InMemoryLightningStore:
    return InMemoryLightningStore()


async def test_a_terminal_gets_one_line_that_is_rewritten_and_cleared(store: InMemoryLightningStore) -> None:
    terminal = Terminal()
    async with showing_progress(store, stream=terminal, every=0.01):
        await store.enqueue_rollout("a")
        await store.start_rollout("b")
        await finish(store, 1.0)
        await finish(store, 0.5)
        await finish(store, None, "failed")
        await terminal.until(
            r"1 queued, 1 running, 2 succeeded, 1 failed, mean reward 0\.750, [\d.]+ rollouts/s\x1b\[K\r"
        )
        assert "\n" not in terminal.getvalue()
    last = terminal.getvalue().rsplit("\r", 1)[1]
    assert re.fullmatch(
        r"\x1b\[K3 rollouts in [\d.]+ s \([\d.]+/s\): 2 succeeded, 1 failed, mean reward 0\.750; 2 not finished\n", last
    )


async def test_a_line_never_wraps(store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    terminal = Terminal()
    async with showing_progress(store, stream=terminal, every=0.01):
        await terminal.until(r"\r0 queued, 0 running\x1b\[K\r")


async def test_only_this_run_is_counted(store: InMemoryLightningStore) -> None:
    await finish(store, 100.0)
    await finish(store, None, "failed")
    terminal = Terminal()
    async with showing_progress(store, stream=terminal, every=0.01):
        await finish(store, 1.0)
    assert "1 rollout in" in terminal.getvalue()
    assert "1 succeeded, 0 failed, mean reward 1.000\n" in terminal.getvalue()


async def test_a_sampled_reward_says_so(store: InMemoryLightningStore) -> None:
    terminal = Terminal()
    async with showing_progress(store, stream=terminal, every=60):
        for _ in range(40):
            await finish(store, 0.5)
    assert "40 succeeded, 0 failed, mean reward 0.500 (of 16 sampled)" in terminal.getvalue()


async def test_each_reward_counts_once(store: InMemoryLightningStore) -> None:
    terminal = Terminal()
    async with showing_progress(store, stream=terminal, every=0.01):
        for n in range(24):
            await finish(store, float(n % 2))
            if n % 8 == 7:
                await terminal.until(f"{n + 1} succeeded")
    assert "24 succeeded, 0 failed, mean reward 0.500\n" in terminal.getvalue()


async def test_without_a_terminal_it_logs(store: InMemoryLightningStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="agentlightning.trainer.progress")
    stream = io.StringIO()
    async with showing_progress(store, True, stream=stream, every=0.01):
        await finish(store, 1.0)
        while "1 succeeded" not in caplog.text:  # noqa: ASYNC110 - nobody tells when something is logged
            await asyncio.sleep(0.01)
    assert "1 rollout in" in caplog.records[-1].getMessage()
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("shown", "on_terminal"), [(False, True), (None, False)])
async def test_it_can_be_off(store: InMemoryLightningStore, shown: bool | None, on_terminal: bool) -> None:
    stream = Terminal() if on_terminal else io.StringIO()
    async with showing_progress(store, shown, stream=stream, every=0.01):
        await finish(store, 1.0)
        await asyncio.sleep(0.05)
    assert stream.getvalue() == ""


async def test_a_store_that_fails_fails_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(InMemoryLightningStore):
        asked = 0

        async def query_rollouts(self, **kwargs: Any) -> Any:
            self.asked += 1
            if self.asked % 2:
                raise ConnectionError("away")
            return await super().query_rollouts(**kwargs)

    broken, terminal = Broken(), Terminal()
    async with showing_progress(broken, stream=terminal, every=0.001):
        while broken.asked < 20:  # noqa: ASYNC110 - the display is not to be seen
            await asyncio.sleep(0.01)
    assert terminal.getvalue() == ""
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_store_that_answers_slowly_is_asked_seldom() -> None:
    began: list[float] = []
    ended: list[float] = []

    class Slow(InMemoryLightningStore):
        async def query_rollouts(self, **kwargs: Any) -> Any:
            began.append(time.monotonic())
            await asyncio.sleep(0.005)
            found = await super().query_rollouts(**kwargs)
            ended.append(time.monotonic())
            return found

    terminal = Terminal()
    async with showing_progress(Slow(), stream=terminal, every=0.001):
        await terminal.until("0 succeeded")
        first = len(ended)
        while len(began) == first:  # noqa: ASYNC110 - the display is not to be seen
            await asyncio.sleep(0.01)
    took, rested = ended[first - 1] - began[0], began[first] - ended[first - 1]
    assert rested > 10 * took


@pytest.mark.parametrize("closed", [True, False])
async def test_a_terminal_that_is_gone_fails_nothing_else(store: InMemoryLightningStore, closed: bool) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError("gone")

    terminal = Gone()
    if closed:
        terminal = Terminal()
        terminal.close()
    async with showing_progress(store, stream=terminal, every=0.01):
        await finish(store, 1.0)
        await asyncio.sleep(0.05)


async def test_an_experiment_that_begins_with_the_run_is_counted_from_its_beginning() -> None:
    server = LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0)
    await server.start()
    store, terminal = LightningStoreClient(server.endpoint, experiment="ablation-7"), Terminal()
    async with showing_progress(store, stream=terminal, every=60):
        await finish(store, 1.0)
    await store.close()
    await server.stop()
    assert "1 rollout in" in terminal.getvalue()


async def test_a_store_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.trainer.progress.LOOK_SECONDS", 0.05)

    class Hanging(InMemoryLightningStore):
        async def query_rollouts(self, **kwargs: Any) -> Any:
            await asyncio.Event().wait()

    async def run() -> None:
        async with showing_progress(Hanging(), stream=Terminal(), every=0.01):
            await asyncio.sleep(0)

    await asyncio.wait_for(run(), 20)


async def test_an_error_of_the_run_passes_and_the_line_is_cleared(store: InMemoryLightningStore) -> None:
    terminal = Terminal()

    async def run() -> None:
        async with showing_progress(store, stream=terminal, every=0.01):
            raise ValueError("of the algorithm")

    with pytest.raises(ValueError, match="of the algorithm"):
        await run()
    assert terminal.getvalue().endswith("no reward\n")


@pytest.mark.parametrize(("progress", "shown"), [(None, True), (True, True), (False, False)])
def test_fit_shows_it_on_a_terminal(
    progress: bool | None, shown: bool, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    leader, follower = pty.openpty()
    terminal = os.fdopen(follower, "w")
    request.addfinalizer(lambda: (terminal.close(), os.close(leader)))
    monkeypatch.setattr("sys.stderr", terminal)
    import sample_agents

    @algo
    async def algorithm(store: LightningStore) -> None:
        await store.add_resources({})
        rollout = await store.enqueue_rollout({"do": "reward", "value": 0.25})
        await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id])

    Trainer(algorithm=algorithm, strategy="shm", progress=progress).fit(sample_agents.Echo())
    os.set_blocking(leader, False)
    try:
        text = os.read(leader, 65536).decode()
    except BlockingIOError:
        text = ""
    assert ("1 rollout in" in text) == shown
    assert ("mean reward 0.250" in text) == shown
