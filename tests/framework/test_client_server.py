"""The client-server strategy, with real runner processes and real servers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sample_agents
from processes import StoreProcess, descendants, runner_processes, store_process, until, until_gone

from agentlightning import (
    Algorithm,
    AttemptedRollout,
    ClientServerExecutionStrategy,
    InMemoryLightningStore,
    LightningStore,
    LightningStoreClient,
    LitAgentRunner,
    OtelTracer,
    PromptTemplate,
    RolloutConfig,
    Trainer,
    algo,
    find_final_reward,
    get_rewards_from_span,
    rollout,
)

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(autouse=True)
def _no_process_is_left_behind() -> Any:
    yield
    assert until_gone(runner_processes(os.getpid()), timeout=20) == set()


async def run_rollouts(store: LightningStore, inputs: list[Any], **arguments: Any) -> list[AttemptedRollout]:
    """Enqueues inputs and waits for them."""
    await store.add_resources({})
    ids = [(await store.enqueue_rollout(item, **arguments)).rollout_id for item in inputs]
    done = await store.wait_for_rollouts(rollout_ids=ids, timeout=60)
    assert len(done) == len(ids)
    return done  # type: ignore[return-value]


async def reward_of(store: LightningStore, done: AttemptedRollout) -> float | None:
    return find_final_reward(await store.query_spans(done.rollout_id, "latest"))


def quick_runner(**arguments: Any) -> LitAgentRunner[Any]:
    return LitAgentRunner(OtelTracer(), heartbeat_interval=0.5, interval_jitter=0.1, **arguments)


def test_runner_processes_share_the_work() -> None:
    pids: set[float] = set()

    @algo
    async def algorithm(*, store: Any, train_dataset: Any) -> None:
        # Both have come up when both have taken one.
        while len(pids) < 2:
            for done in await run_rollouts(store, train_dataset):
                (span,) = await store.query_spans(done.rollout_id)
                pids.add(get_rewards_from_span(span)[0].value)
                assert done.status == "succeeded"

    trainer = Trainer(n_runners=2, algorithm=algorithm)
    trainer.fit(sample_agents.Echo(), [{"do": "pid"}] * 8)
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_decorated_agents_and_hooks_work_in_runner_processes(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    resources: Any = {"prompt": PromptTemplate(template="Hello {name}", engine="f-string")}

    class Learning(Algorithm):
        rewards: tuple[float | None, ...] = ()

        async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:
            store = self.get_store()
            initial = self.get_initial_resources()
            assert initial is not None
            await store.add_resources(initial)
            ids = [(await store.enqueue_rollout(sample)).rollout_id for sample in [*train_dataset, *val_dataset]]
            done = await store.wait_for_rollouts(rollout_ids=ids)
            self.rewards = tuple([await reward_of(store, item) for item in done])  # type: ignore[arg-type]

    for agent in (sample_agents.greet, sample_agents.greet_async):
        algorithm = Learning()
        trainer = Trainer(
            n_runners=1,
            algorithm=algorithm,
            initial_resources=resources,
            hooks=sample_agents.NotingHook(str(notes)),
            strategy="cs",
        )
        trainer.fit(agent, [{"name": "A", "reward": 0.5}], val_dataset=[{"name": "B", "reward": 0.75}])
        assert algorithm.rewards == (0.5, 0.75)
        assert algorithm.get_trainer() is trainer
    assert [line.split()[1:] for line in notes.read_text().splitlines()] == [["1", "1"]] * 4


def test_runners_connect_to_the_server_of_a_client() -> None:
    with store_process() as server:
        client = LightningStoreClient(server.address)

        @algo
        async def algorithm(*, store: Any) -> None:
            assert store is client
            done = await run_rollouts(store, [{"do": "reward", "value": value} for value in range(6)])
            assert [await reward_of(store, item) for item in done] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
            await store.close()

        Trainer(n_runners=2, algorithm=algorithm, store=client).fit(sample_agents.Echo())


def test_a_synchronous_algorithm_leaves_the_server_free() -> None:
    @algo
    def algorithm(*, store: Any) -> str:
        done = asyncio.run(run_rollouts(store, [{"do": "reward", "value": 1}] * 3))
        time.sleep(0.2)
        return ",".join(item.status for item in done)

    Trainer(algorithm=algorithm).fit(sample_agents.Echo())


def test_the_run_outlives_a_server_that_is_killed_and_started_again(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/store.db"
    server = StoreProcess(database)
    replaced: list[StoreProcess] = []

    @algo
    async def algorithm(*, store: Any) -> None:
        await store.add_resources({})
        inputs = [{"do": "sleep", "seconds": 0.3, "mark": str(tmp_path / f"mark{index}")} for index in range(8)]
        ids = [(await store.enqueue_rollout(item)).rollout_id for item in inputs]
        await until((tmp_path / "mark2").exists)
        server.kill()
        replaced.append(await asyncio.to_thread(StoreProcess, database, server.port))
        done = await store.wait_for_rollouts(rollout_ids=ids, timeout=60)
        assert [item.status for item in done] == ["succeeded"] * 8
        for item in done:
            assert len(await store.query_attempts(item.rollout_id)) == 1
            assert len(await store.query_spans(item.rollout_id)) == 1
        await store.close()

    try:
        trainer = Trainer(n_runners=2, algorithm=algorithm, store=LightningStoreClient(server.address))
        trainer.fit(sample_agents.Echo())
    finally:
        for process in [server, *replaced]:
            process.stop()


def test_a_runner_that_is_killed_is_started_again_and_nothing_is_lost_or_doubled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mark = tmp_path / "mark"

    async def pids_of(store: Any, done: list[AttemptedRollout]) -> set[int]:
        return {int(reward) for item in done if (reward := await reward_of(store, item)) is not None}

    @algo
    async def algorithm(*, store: Any) -> None:
        config = RolloutConfig(max_attempts=2, retry_condition=["unresponsive"])
        inputs = [{"do": "pid", "seconds": 0.2}] * 8
        killing = asyncio.create_task(run_rollouts(store, [{"do": "once", "mark": str(mark)}], config=config))
        await until(mark.exists)
        victim = int(mark.read_text())
        os.kill(victim, signal.SIGKILL)
        pids: set[int] = set()
        while len(pids) < 4:
            done = await run_rollouts(store, inputs, config=config)
            pids |= await pids_of(store, done)
        assert victim not in pids
        (killed,) = await killing
        assert [attempt.status for attempt in await store.query_attempts(killed.rollout_id)] == [
            "unresponsive",
            "succeeded",
        ]
        rollouts = await store.query_rollouts()
        assert {item.status for item in rollouts} == {"succeeded"}
        for item in rollouts:
            assert len(await store.query_spans(item.rollout_id)) == 1
            if item.rollout_id != killed.rollout_id:
                assert len(await store.query_attempts(item.rollout_id)) == 1
        assert {worker.worker_id for worker in await store.query_workers()} == {f"Worker-{n}" for n in range(4)}

    Trainer(n_runners=4, algorithm=algorithm, runner=quick_runner()).fit(sample_agents.Echo())
    assert "ended with signal 9 (exit code -9); it is started again in 1 s (1 of 3 restarts)" in caplog.text


def test_rollouts_of_every_kind_come_to_the_end_that_they_should(tmp_path: Path) -> None:
    returned: dict[str, Any] = {
        "nothing": (None, None),
        "a float": (0.25, 0.25),
        "a whole number": (3, 3.0),
        "a truth": (True, 1.0),
        "a text": ("text", None),
        "a dictionary": ({"answer": [1, None]}, None),
        "messages": ([{"role": "user", "content": "hi"}], None),
        "an empty list": ([], None),
    }

    @algo
    async def algorithm(*, store: Any) -> None:
        await store.add_resources({})

        async def enqueue(task: dict[str, Any], **config: Any) -> str:
            rollout = await store.enqueue_rollout(task, config=RolloutConfig(**config))
            return str(rollout.rollout_id)

        cancelled = await enqueue({"do": "sleep", "seconds": 60, "mark": str(tmp_path / "mark")})
        await until((tmp_path / "mark").exists)
        await store.update_rollout(cancelled, status="cancelled")
        late = await enqueue({"do": "sleep", "seconds": 60, "mark": str(tmp_path / "late")}, timeout_seconds=1.0)
        failing = await enqueue({"do": "raise", "message": "no idea"})
        many = await enqueue({"do": "return spans", "values": [1.0, 2.0]})
        ids = {name: await enqueue({"do": "return", "value": value}) for name, (value, _) in returned.items()}
        everything = [cancelled, late, failing, many, *ids.values()]
        done = await store.wait_for_rollouts(rollout_ids=everything, timeout=60)
        ends = {item.rollout_id: item for item in done}
        assert len(ends) == len(everything)
        assert ends[cancelled].status == "cancelled"
        assert (ends[late].status, ends[late].attempt.status) == ("failed", "timeout")
        assert ends[failing].status == "failed"
        assert (ends[failing].attempt.failure.kind, ends[failing].attempt.failure.message) == (
            "agent_error",
            "ValueError: no idea",
        )
        assert len(await store.query_spans(many)) == 2
        for name, (_, reward) in returned.items():
            assert ends[ids[name]].status == "succeeded", name
            assert await reward_of(store, ends[ids[name]]) == reward, name

    Trainer(n_runners=2, algorithm=algorithm, runner=quick_runner()).fit(sample_agents.Echo())


def without_restarts(**arguments: Any) -> ClientServerExecutionStrategy:
    return ClientServerExecutionStrategy(max_restarts=0, **arguments)


def test_a_run_without_runners_ends_with_an_error_that_says_why() -> None:
    began = time.monotonic()

    @algo
    async def algorithm(*, store: Any) -> None:
        await store.add_resources({})
        rollout = await store.enqueue_rollout({"do": "exit", "code": 3})
        await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id])

    with pytest.raises(RuntimeError, match=r"no runner is left.*ended with exit code 3"):
        Trainer(algorithm=algorithm, strategy=without_restarts()).fit(sample_agents.Echo())
    assert time.monotonic() - began < 20


def test_an_agent_that_cannot_live_in_a_process_is_named_when_the_restarts_are_used_up() -> None:
    @algo
    async def algorithm(*, store: Any) -> None:
        await asyncio.sleep(60)

    with pytest.raises(RuntimeError, match=r"exit code 1.*before it began.*runner 1.*the last of 1 restarts"):
        Trainer(algorithm=algorithm, strategy=ClientServerExecutionStrategy(n_runners=2, max_restarts=1)).fit(
            sample_agents.DiesAtUnpickling()
        )


def test_an_agent_that_cannot_be_sent_is_refused_before_anything_starts() -> None:
    @rollout
    def local_agent(task: Any, llm: Any) -> float:
        return 1.0

    ran = False

    @algo
    async def algorithm(*, store: Any) -> None:
        nonlocal ran
        ran = True

    with pytest.raises(TypeError, match=r"cannot be sent to another process.*at the top level"):
        Trainer(algorithm=algorithm).fit(local_agent)
    assert not ran


def test_an_error_of_the_algorithm_ends_the_run_at_once(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    @algo
    async def algorithm(*, store: Any) -> None:
        await store.add_resources({})
        await store.enqueue_rollout({"do": "sleep", "seconds": 60, "mark": str(mark)})
        await until(mark.exists)
        raise LookupError("lost the thread")

    began = time.monotonic()
    with pytest.raises(LookupError, match="lost the thread"):
        Trainer(algorithm=algorithm).fit(sample_agents.Echo())
    assert time.monotonic() - began < 20


def test_rollouts_at_work_when_the_algorithm_ends_are_finished_or_aborted(tmp_path: Path) -> None:
    store = InMemoryLightningStore()

    def train(agent: Any, mark: Path, task: dict[str, Any]) -> None:
        @algo
        async def algorithm(*, store: Any) -> None:
            await store.add_resources({})
            await store.enqueue_rollout({"mark": str(mark), **task})
            await until(mark.exists)

        strategy = ClientServerExecutionStrategy(graceful_timeout=2.0, terminate_timeout=10.0)
        Trainer(algorithm=algorithm, strategy=strategy, store=store).fit(agent)

    train(sample_agents.SleepyAsync(), tmp_path / "short", {"seconds": 0.5})
    train(sample_agents.SleepyAsync(), tmp_path / "long", {"seconds": 60})
    began = time.monotonic()
    train(sample_agents.Echo(), tmp_path / "block", {"do": "sleep", "seconds": 60})
    assert time.monotonic() - began < 20
    assert (tmp_path / "long").read_text() == "cancelled"
    short, long, block = asyncio.run(_rollouts(store))
    assert short.status == "succeeded"
    for aborted in (long, block):
        assert isinstance(aborted, AttemptedRollout)
        assert aborted.attempt.failure is not None
        assert aborted.attempt.failure.kind == "cancelled"


async def _rollouts(store: LightningStore) -> list[Any]:
    return list(await store.query_rollouts())


def test_idle_runners_leave_at_once(caplog: pytest.LogCaptureFixture) -> None:
    left: list[float] = []

    @algo
    async def algorithm(*, store: Any) -> None:
        await run_rollouts(store, [{"do": "reward", "value": 1}] * 4)
        left.append(time.monotonic())

    Trainer(n_runners=2, algorithm=algorithm, runner=quick_runner(poll_interval=30.0)).fit(sample_agents.Echo())
    assert time.monotonic() - left[0] < 9
    assert "is killed" not in caplog.text


def test_runners_alone_end_with_their_max_rollouts() -> None:
    store = InMemoryLightningStore()

    async def prepare() -> None:
        await store.add_resources({})
        for value in range(5):
            await store.enqueue_rollout({"do": "reward", "value": value})

    asyncio.run(prepare())
    Trainer(n_runners=2, max_rollouts=2, store=store).fit(sample_agents.Echo())
    statuses = sorted(rollout.status for rollout in asyncio.run(_rollouts(store)))
    assert statuses == ["queuing"] + ["succeeded"] * 4


def test_an_algorithm_that_needs_no_runners_any_more_goes_on_without_them(caplog: pytest.LogCaptureFixture) -> None:
    @algo
    async def algorithm(*, store: Any) -> None:
        await run_rollouts(store, [{"do": "reward", "value": 1}])
        await until(lambda: "the algorithm goes on without them" in caplog.text)

    Trainer(max_rollouts=1, algorithm=algorithm).fit(sample_agents.Echo())


def test_rollouts_that_nobody_is_left_to_run_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.execution.supervision.STALL_SECONDS", 1.0)

    @algo
    async def algorithm(*, store: Any) -> None:
        await run_rollouts(store, [{"do": "reward", "value": 1}] * 5)

    with pytest.raises(RuntimeError, match=r"3 rollouts wait for a runner.*Raise max_rollouts or n_runners"):
        Trainer(n_runners=2, max_rollouts=1, algorithm=algorithm).fit(sample_agents.Echo())


def run_script(*arguments: str, script: str = "sample_script.py") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(HERE / script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_a_runner_that_its_agent_cancels_has_crashed_and_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    statuses: list[str] = []

    @algo
    async def algorithm(*, store: Any) -> None:
        sample = {"mark": str(tmp_path / "mark")}
        statuses.extend(done.status for done in await run_rollouts(store, [sample, sample]))

    Trainer(algorithm=algorithm).fit(sample_agents.CancelsAll())
    assert statuses == ["failed", "succeeded"]
    assert "something in the process cancelled it" in caplog.text
    assert "it is started again" in caplog.text


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_agents_of_the_main_script_work(start_method: str) -> None:
    process = run_script("train", "", "", start_method)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert [line for line in output.splitlines() if line.startswith(("reward", "done"))] == [
        "reward 0.0",
        "reward 1.0",
        "reward 2.0",
        "reward 3.0",
        "done",
    ]
    assert "[agl-runner-" in output


def test_a_script_without_main_guard_is_told_so() -> None:
    process = run_script(script="unguarded_script.py")
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert 'put what it does under `if __name__ == "__main__":`' in output
    assert "no runner is left" in output


def test_an_agent_of_an_interactive_session_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-"],
        input=(HERE / "unguarded_script.py").read_text(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "TypeError: the agent or its runner is defined in an interactive session" in done.stderr


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("agent", "start_method", "number"),
    [("block", "spawn", "SIGINT"), ("await", "forkserver", "SIGINT"), ("await", "spawn", "SIGTERM")],
)
def test_ctrl_c_and_sigterm_end_the_run_cleanly(agent: str, start_method: str, number: str, tmp_path: Path) -> None:
    with store_process() as server:
        process = run_script(agent, server.address, str(tmp_path / "mark"), start_method)
        wait_for(tmp_path / "mark", process)
        family = descendants(process.pid)
        began = time.monotonic()
        if number == "SIGINT":  # a terminal sends it to the whole group
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        output, _ = process.communicate(timeout=30)
        assert time.monotonic() - began < 15
        if number == "SIGINT":
            assert process.returncode == -signal.SIGINT
            assert output.count("Traceback") == output.count("\nKeyboardInterrupt") == 1, output
        else:
            assert process.returncode == 128 + signal.SIGTERM
            assert "Traceback" not in output
        assert "is killed" not in output
        assert until_gone(family, 20) == set()
        (done,) = asyncio.run(_rollouts(LightningStoreClient(server.address)))
        assert done.attempt.failure.kind == "cancelled"


def test_ctrl_c_twice_ends_the_run_at_once(tmp_path: Path) -> None:
    with store_process() as server:
        process = run_script("await", server.address, str(tmp_path / "mark"))
        wait_for(tmp_path / "mark", process)
        family = descendants(process.pid)
        # Runners that are stuck: they hear nothing.
        for pid in runner_processes(process.pid):
            os.kill(pid, signal.SIGSTOP)
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
        assert until_gone(family, 20) == set()


def test_ctrl_c_ends_a_run_that_is_about_to_start_a_runner_again(tmp_path: Path) -> None:
    process = run_script("crash", "", str(tmp_path / "mark"))
    assert process.stdout is not None
    lines = []
    while "it is started again in 1 s" not in (line := process.stdout.readline()):
        assert line, "".join(lines)
        lines.append(line)
    family = descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert output.count("Traceback") == output.count("\nKeyboardInterrupt") == 1, output
    assert "is killed" not in output
    assert until_gone(family, 20) == set()


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_runners_do_not_outlive_a_parent_that_is_killed(start_method: str, tmp_path: Path) -> None:
    with store_process() as server:
        process = run_script("block", server.address, str(tmp_path / "mark"), start_method)
        wait_for(tmp_path / "mark", process)
        family = descendants(process.pid)
        assert len(family) >= 2
        process.kill()
        process.communicate(timeout=20)
        assert until_gone(family, 15) == set()
        (done,) = asyncio.run(_rollouts(LightningStoreClient(server.address)))
        assert done.attempt.failure.kind == "cancelled"


def test_the_configuration_comes_from_arguments_environment_and_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AGL_CURRENT_ROLE", "AGL_SERVER_HOST", "AGL_SERVER_PORT", "AGL_MANAGED_STORE"):
        monkeypatch.delenv(name, raising=False)
    plain = ClientServerExecutionStrategy()
    assert (plain.role, plain.server_host, plain.server_port, plain.managed_store) == ("both", "127.0.0.1", 0, True)
    assert ClientServerExecutionStrategy(role="runner").server_port == 4747
    monkeypatch.setenv("AGL_CURRENT_ROLE", "runner")
    monkeypatch.setenv("AGL_SERVER_HOST", "10.0.0.1")
    monkeypatch.setenv("AGL_SERVER_PORT", "99")
    monkeypatch.setenv("AGL_MANAGED_STORE", "off")
    told = ClientServerExecutionStrategy()
    assert (told.role, told.server_host, told.server_port, told.managed_store) == ("runner", "10.0.0.1", 99, False)
    assert ClientServerExecutionStrategy(role="algorithm", server_port=1).server_port == 1
    with pytest.raises(ValueError, match="the role must be one of"):
        ClientServerExecutionStrategy(role="boss")  # type: ignore[arg-type]
    for arguments, message in {
        (("main_process", "agent"),): "main_process must be",
        (("main_process", "runner"),): "needs the role both and one runner, not the role runner",
        (("role", "both"), ("main_process", "runner"), ("n_runners", 2)): "not the role both and n_runners=2",
        (("n_runners", 0),): "at least 1",
        (("max_restarts", -1),): "at least 0",
        (("start_method", "fork"),): "start_method must be spawn or forkserver.*cannot use gRPC",
    }.items():
        with pytest.raises(ValueError, match=message):
            ClientServerExecutionStrategy(**dict(arguments))  # type: ignore[arg-type]
    monkeypatch.setenv("AGL_SERVER_PORT", "many")
    with pytest.raises(ValueError, match="AGL_SERVER_PORT='many' is not a whole number"):
        ClientServerExecutionStrategy()


def test_a_port_in_use_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    with store_process() as server, pytest.raises(OSError, match=str(server.port)):
        Trainer(port=server.port, algorithm=sample_agents.named_algorithm).fit(sample_agents.Echo())
