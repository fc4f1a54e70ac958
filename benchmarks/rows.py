"""The rows of the benchmark: each starts the servers that it needs, measures both sides in turns, and reports lines."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from environments import (
    HERE,
    REPOSITORY,
    BenchmarkError,
    Postgres,
    Server,
    Side,
    child_environment,
    create_environment,
)
from report import Figure, Goal, Line

OTLP_BATCH = 100
CLAIMS = 32
"""Rollouts of one claim of many."""


@dataclass(frozen=True)
class Effort:
    """How long and how often things are measured."""

    runs: int
    seconds: float
    cycle_rollouts: dict[str, int]
    runner_rollouts: int
    memory_spans: dict[str, int]
    dispatches: dict[str, tuple[int, float]]
    """Enqueued rollouts, and the mean gap between them in seconds."""
    pause_seconds: float
    growth_sizes: tuple[int, ...]
    """Rollouts in the stores that are compared, from the smallest to the largest."""
    growth_calls: int
    stored_rollouts: int
    """Rollouts in the store of which 32 are listed."""
    runner_processes: int = 4
    one_server: bool = False
    """All rows meet the same servers: a reference server takes 9 s to start. For a smoke run only, since what one
    row stores weighs on the next."""


FULL = Effort(
    runs=3,
    seconds=2.0,
    cycle_rollouts={"reference": 120, "ours": 800},
    runner_rollouts=1_000,
    memory_spans={"reference": 4_000, "ours": 20_000},
    # The reference's runner sleeps about 5 s between its looks: the sends are spread over three of its sleeps.
    dispatches={"reference": (24, 0.65), "ours": (100, 0.02)},
    pause_seconds=4.0,
    growth_sizes=(1_000, 100_000, 1_000_000),
    growth_calls=200,
    stored_rollouts=100_000,
)
QUICK = Effort(
    runs=1,
    seconds=0.5,
    cycle_rollouts={"reference": 24, "ours": 160},
    runner_rollouts=400,
    memory_spans={"reference": 400, "ours": 2_000},
    dispatches={"reference": (4, 0.8), "ours": (20, 0.02)},
    pause_seconds=1.0,
    growth_sizes=(1_000, 5_000),
    growth_calls=10,
    stored_rollouts=1_000,
    runner_processes=1,
    one_server=True,
)


@dataclass
class OldClient:
    """The reference's own client, on a server of ours."""

    side: Side
    server: Server
    name: str = "ours-rest"

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        return self.side.drivers(1)[0].ask(command, address=self.server.rest_address, **arguments)


@dataclass
class Contender:
    """A side with the store that its server keeps."""

    side: Side
    store: str
    server: Server = field(init=False)

    @property
    def name(self) -> str:
        return "reference" if self.side.name == "reference" else f"ours-{self.store}"

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        return self.side.drivers(1)[0].ask(command, address=self.server.address, **arguments)


Measured = Contender | OldClient
Measure = Callable[[Any], dict[str, Any]]
OPS = {"enqueue": "enqueue_rollout", "dequeue": "dequeue_rollout", "update": "update_attempt"}


class Bench:
    """Runs rows. `reference` or `ours` may be missing: their columns stay empty then."""

    def __init__(self, reference: Side | None, ours: Side | None, effort: Effort, folder: Path) -> None:
        self.reference = reference
        self.ours = ours
        self.effort = effort
        self.folder = folder
        self._kept: dict[tuple[str, str], Server] = {}

    def close(self) -> None:
        """End the servers that rows share."""
        for server in self._kept.values():
            server.stop()
        self._kept.clear()

    def control(self) -> list[Line]:
        """Control calls through the Python clients, one process of 1 and of 16 tasks."""
        lines: list[Line] = []
        durable: list[Line] = []
        with self._contenders("memory", "sqlite") as contenders:
            for concurrency, at_least, towards in ((1, 2.5, 3.0), (16, 4.0, 5.0)):
                for op, method in OPS.items():

                    def measure(contender: Contender, op: str = op, concurrency: int = concurrency) -> dict[str, Any]:
                        fastest = 1_000 if contender.side.name == "reference" else 6_000
                        return contender.ask(
                            "control",
                            op=op,
                            concurrency=concurrency,
                            seconds=self.effort.seconds,
                            prefill=int(fastest * self.effort.seconds),
                        )

                    figures = _medians(self._interleaved(contenders, measure), "per_s")
                    memory, sqlite = figures.get("ours-memory"), figures.get("ours-sqlite")
                    what = f"{method}, concurrency {concurrency}"
                    lines.append(
                        Line(
                            f"{what}, memory",
                            "/s",
                            figures.get("reference"),
                            memory,
                            Goal(ratio=at_least),
                            Goal(ratio=towards),
                        )
                    )
                    durable.append(Line(f"{what}, sqlite", "/s", memory, sqlite, peer_name="memory"))
        return lines + durable

    def floor(self) -> list[Line]:
        """What a bare gRPC echo server in Python does here, and how close a control call comes to it."""
        if self.ours is None:
            return []
        lines: list[Line] = []
        store = Contender(self.ours, "memory")
        with contextlib.ExitStack() as stack:
            bare = self.ours.script_server("echo.py")
            stack.callback(bare.stop)
            store.server = self.ours.server(store.store)
            stack.callback(store.server.stop)
            stack.callback(self.ours.disconnect)
            for concurrency in (1, 16):
                asked = {"concurrency": concurrency, "seconds": self.effort.seconds}
                runs = [
                    (
                        self.ours.drivers(1)[0].ask("echo", address=bare.address, **asked)["per_s"],
                        store.ask("control", op="update", prefill=0, **asked)["per_s"],
                    )
                    for _ in range(self.effort.runs)
                ]
                echo, update = (Figure.median(values) for values in zip(*runs, strict=True))
                lines.append(Line(f"bare gRPC echo, concurrency {concurrency}", "/s", None, echo))
                what = f"update_attempt, concurrency {concurrency}, memory"
                lines.append(Line(what, "/s", echo, update, peer_name="echo"))
        return lines

    def gateway(self) -> list[Line]:
        """Model calls through the gateway, recorded on sqlite, beside calls to the same backend without it."""
        if self.ours is None:
            return []
        ways = ("direct", "gateway")
        runs: dict[tuple[str, bool, int], list[dict[str, Any]]] = {}
        store = Contender(self.ours, "sqlite")
        with contextlib.ExitStack() as stack:
            backend = self.ours.script_server("model_backend.py")
            stack.callback(backend.stop)
            store.server = self.ours.server(store.store)
            stack.callback(store.server.stop)
            stack.callback(self.ours.disconnect)
            gateway = self.ours.script_server("gateway.py", store.server.address, backend.address)
            stack.callback(gateway.stop)
            for turn in range(self.effort.runs):
                for streamed, concurrency in ((False, 1), (True, 1), (False, 32), (True, 32)):
                    for way in ways[::-1] if turn % 2 else ways:
                        called = backend if way == "direct" else gateway
                        answer = store.ask(
                            "model_calls",
                            target=called.address,
                            recorded=way == "gateway",
                            streamed=streamed,
                            concurrency=concurrency,
                            seconds=self.effort.seconds,
                        )
                        runs.setdefault((way, streamed, concurrency), []).append(answer)

        def line(what: str, unit: str, key: str, streamed: bool, concurrency: int, **how: Any) -> Line:
            direct, through = (
                Figure.median([answer[key] for answer in runs[way, streamed, concurrency]]) for way in ways
            )
            # Beside a backend that has its answers ready a ratio says nothing: what the gateway adds, does.
            added = how.pop(
                "note", f"{through.value - direct.value:.2f} {unit} more than {direct.value:.2f} without it"
            )
            return Line(f"gateway: {what}", unit, direct, through, peer_name="direct", note=added, **how)

        return [
            line("model call, p50", "ms", "p50_ms", False, 1, less_is_better=True),
            line("streamed, first token, p50", "ms", "first_p50_ms", True, 1, less_is_better=True),
            line("streamed, last token, p50", "ms", "p50_ms", True, 1, less_is_better=True),
            line("model calls, concurrency 32", "/s", "per_s", False, 32, note="one gateway process"),
            line("streams of 128 tokens, concurrency 32", "/s", "per_s", True, 32, note="one gateway process"),
        ]

    def ingest(self) -> list[Line]:
        """LLM spans in batches of 100 through the store API and through OTLP."""
        ways = (
            [("api", 1), ("otlp", 1)] if self.effort.one_server else [("api", 1), ("otlp", 1), ("api", 4), ("otlp", 4)]
        )
        modes = {"reference": [("otlp", 1), ("otlp", 4), ("api", 4)], "ours-sqlite": ways, "ours-memory": ways}
        figures: dict[str, dict[str, Figure]] = {name: {} for name in modes}
        for number in range(len(ways)):
            # Each mode meets new servers, so that what an earlier one stored weighs on none.
            with self._contenders("memory", "sqlite") as contenders:
                taking_part = [each for each in contenders if number < len(modes[each.name])]

                def measure(contender: Contender, number: int = number) -> dict[str, Any]:
                    mode, concurrency = modes[contender.name][number]
                    return contender.ask(
                        "ingest", mode=mode, batch=OTLP_BATCH, concurrency=concurrency, seconds=self.effort.seconds
                    )

                for name, figure in _medians(self._interleaved(taking_part, measure), "per_s").items():
                    mode, concurrency = modes[name][number]
                    figures[name][f"{mode} x{concurrency}"] = figure

        def best(name: str, only: str = "") -> Figure | None:
            fitting = {mode: figure for mode, figure in figures[name].items() if mode.startswith(only)}
            if not fitting:
                return None
            mode = max(fitting, key=lambda mode: fitting[mode].value)
            everything = {mode: round(figure.value, 1) for mode, figure in fitting.items()}
            return Figure(fitting[mode].value, fitting[mode].runs, {"mode": mode, "modes": everything})

        reference = best("reference")
        lines = [
            Line(
                "span ingest through the store API, batches of 100 LLM spans, sqlite",
                "/s",
                reference,
                best("ours-sqlite", "api"),
                Goal(ratio=10),
                Goal(ratio=25),
                note=f"spans/s; 0.3.0 in its best way ({reference.details['mode']})" if reference else "spans/s",
            ),
            Line(
                "OTLP ingest of the same spans, sqlite",
                "/s",
                best("reference", "otlp"),
                best("ours-sqlite", "otlp"),
                Goal(ratio=8),
                Goal(ratio=20),
                note="spans/s; 0.3.0 takes OTLP/HTTP, ours OTLP/gRPC; prepared bodies",
            ),
        ]
        for only, what in (("api", "store API"), ("otlp", "OTLP")):
            memory, sqlite = best("ours-memory", only), best("ours-sqlite", only)
            lines.append(Line(f"span ingest through {what}, sqlite", "/s", memory, sqlite, peer_name="memory"))
        return lines

    def query(self) -> list[Line]:
        """`query_spans` of 100 LLM spans, every attribute read."""
        with self._contenders("sqlite") as contenders:
            runs = self._interleaved(contenders, lambda each: each.ask("query", spans=100, seconds=self.effort.seconds))
        figures = _medians(runs, "per_s")
        return [
            Line(
                "query_spans of 100 LLM spans, every attribute read, sqlite",
                "/s",
                figures.get("reference"),
                figures.get("ours-sqlite"),
                Goal(ratio=8),
                Goal(ratio=12),
            )
        ]

    def lists(self) -> list[Line]:
        """Lists of 32 rollouts of a full store."""
        with self._contenders("sqlite") as contenders:
            for each in contenders:
                each.ask("store_rollouts", rollouts=self.effort.stored_rollouts)
            figures = {
                by: _medians(
                    self._interleaved(
                        contenders, lambda each, by=by: each.ask("list", by=by, seconds=self.effort.seconds)
                    ),
                    "p50_ms",
                )
                for by in ("ids", "status")
            }
        return [
            Line(
                f"list of 32 by {by}, of {self.effort.stored_rollouts:,} rollouts, p50",
                "ms",
                of.get("reference"),
                of.get("ours-sqlite"),
                Goal(ratio=10),
                less_is_better=True,
            )
            for by, of in figures.items()
        ]

    def cycle(self) -> list[Line]:
        """The life of a batch of rollouts, 8 runners in 4 processes, one algorithm process."""
        with self._contenders("memory", "sqlite") as contenders:
            for each in contenders:
                each.side.drivers(1 + self.effort.runner_processes)
            figures = _medians(
                self._interleaved(
                    contenders, lambda each: self._cycle(each, "otlp" if each.side.name == "reference" else "api")
                ),
                "per_s",
            )
            # That OTLP is the reference's faster way to report spans was found beforehand; once more, for the record.
            for each in contenders:
                if each.side.name == "reference" and not self.effort.one_server:
                    figures[each.name].details["add_span_per_s"] = self._cycle(each, "api")["per_s"]
        memory, sqlite = figures.get("ours-memory"), figures.get("ours-sqlite")
        return [
            Line(
                "whole cycle, 8 LLM spans, 8 runners in 4 processes, memory",
                "/s",
                figures.get("reference"),
                memory,
                Goal(ratio=8),
                Goal(ratio=15),
                note="rollouts/s; 0.3.0's runners send OTLP, its fastest way",
            ),
            Line("whole cycle, 8 LLM spans, 8 runners in 4 processes, sqlite", "/s", figures.get("reference"), sqlite),
            Line(
                "durable (sqlite) cycle against memory cycle",
                "/s",
                memory,
                sqlite,
                Goal(ratio=0.7),
                Goal(ratio=0.9),
                peer_name="memory",
            ),
        ]

    def _cycle(self, contender: Contender, mode: str) -> dict[str, Any]:
        processes = self.effort.runner_processes
        algorithm, *runners = contender.side.drivers(1 + processes)
        address = contender.server.address
        wanted = self.effort.cycle_rollouts[contender.side.name]
        algorithm.ask("drain", address=address)
        algorithm.ask("cycle_enqueue", address=address, rollouts=wanted)
        for runner in runners:
            runner.start("cycle_runners", address=address, runners=8 // processes, mode=mode)
        algorithm.start("cycle_collect", address=address, mode="polling")
        answer = algorithm.answer()
        ran = sum(runner.answer()["rollouts"] for runner in runners)
        if ran != wanted:
            raise BenchmarkError(f"{contender.name}: {ran} of {wanted} rollouts were run")
        return answer

    def postgres(self) -> list[Line]:
        """The store in PostgreSQL, of which 0.3.0 has no counterpart."""
        if self.ours is None:
            return []
        here = Contender(self.ours, "postgres")
        lines = []
        with contextlib.ExitStack() as stack:
            database = Postgres(self.folder)
            stack.callback(database.stop)
            here.server = self.ours.server_on(database)
            stack.callback(here.server.stop)
            stack.callback(self.ours.disconnect)

            def line(what: str, answers: Sequence[dict[str, Any]], *goals: int, each: int = 1) -> None:
                figure = Figure.median([each * answer["per_s"] for answer in answers])
                lines.append(Line(f"{what}, PostgreSQL", "/s", None, figure, *(Goal(limit=goal) for goal in goals)))

            def control(op: str, concurrency: int, most: int = 2_000, claims: int = 1) -> list[dict[str, Any]]:
                seconds = self.effort.seconds
                asked = {"op": op, "concurrency": concurrency, "seconds": seconds, "prefill": int(most * seconds)}
                return [here.ask("control", **asked, claims=claims) for _ in range(self.effort.runs)]

            for concurrency in (1, 16):
                for op, method in OPS.items():
                    line(f"{method}, concurrency {concurrency}", control(op, concurrency))
            line("claims of one rollout, concurrency 64", control("dequeue", 64), 2_000, 4_000)
            line(
                f"claims of {CLAIMS} rollouts, concurrency 8",
                control("dequeue", 8, 4_000, CLAIMS),
                10_000,
                25_000,
                each=CLAIMS,
            )
            for mode, what in (("api", "span ingest through the store API"), ("otlp", "OTLP ingest")):
                asked = {"mode": mode, "batch": OTLP_BATCH, "concurrency": 4, "seconds": self.effort.seconds}
                line(
                    f"{what}, batches of 100 LLM spans", [here.ask("ingest", **asked) for _ in range(self.effort.runs)]
                )
            line("whole cycle, 8 LLM spans", [self._cycle(here, "api") for _ in range(self.effort.runs)])
        return lines

    def runners(self) -> list[Line]:
        """One runner process in TypeScript and one in Python, each with 200 rollouts at once, on new memory servers."""
        script = REPOSITORY / "clients/typescript/build/bench/runner.js"
        if self.ours is None:
            return []
        if not script.exists():
            raise BenchmarkError(f"{script} is missing: `make clients` builds it where there is npm")
        commands = {
            "python": [str(self.ours.python), str(REPOSITORY / "benchmarks/runner.py")],
            "typescript": ["node", str(script)],
        }
        lines = []
        for what, wait_ms in (("one that ends at once", 0), ("one that waits 1 s", 1_000)):
            runs: dict[str, list[dict[str, Any]]] = {language: [] for language in commands}
            for number in range(self.effort.runs):
                order = list(commands) if number % 2 == 0 else list(reversed(commands))
                for language in order:
                    runs[language].append(self._runner(self.ours, commands[language], wait_ms))
            figures = _medians(runs, "per_s")
            lines.append(
                Line(
                    f"runner process with 200 agents at once: {what}",
                    "rollouts/s",
                    figures["python"],
                    figures["typescript"],
                    peer_name="Python",
                    note="TypeScript (ours) beside Python",
                )
            )
        return lines

    def _runner(self, side: Side, command: list[str], wait_ms: int) -> dict[str, Any]:
        rollouts, at_once = self.effort.runner_rollouts, 200
        server = side.server("memory")
        try:
            done = subprocess.run(
                [*command, server.address, str(rollouts), str(at_once), str(wait_ms)],
                cwd=self.folder,
                env=child_environment(),
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
        finally:
            server.stop()
        if done.returncode != 0:
            raise BenchmarkError(f"{command} failed:\n{done.stderr[-2000:]}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        checks = {"succeeded": rollouts, "spans": 2 * rollouts, "most_at_once": at_once}
        if any(answer[key] != expected for key, expected in checks.items()):
            raise BenchmarkError(f"{command}: {answer}, where {checks} was expected")
        return answer

    def dispatch(self) -> list[Line]:
        """From the enqueue call to an idle runner that has the rollout."""
        with self._contenders("sqlite") as contenders:
            latencies = {each.name: self._dispatch(each) for each in contenders}
        return self._latency_lines(
            "enqueue -> an idle runner has it",
            latencies,
            note="0.3.0's runner looks each 5 s (+-0.5 s), so its figure is that sleep",
        )

    def _dispatch(self, contender: Contender) -> list[list[float]]:
        sender, receiver = contender.side.drivers(2)
        count, mean_gap_s = self.effort.dispatches[contender.side.name]
        address = contender.server.address
        for driver in (sender, receiver):
            driver.ask("connect", address=address)
        receiver.ask("drain", address=address)
        receiver.start("dispatch_receive", address=address, count=count)
        sender.start("dispatch_send", address=address, count=count, mean_gap_s=mean_gap_s)
        sent = sender.answer()["sent"]
        received = receiver.answer()["received"]
        return [[1000 * (received[rollout_id] - sent[rollout_id]) for rollout_id in sent]]

    def completion(self) -> list[Line]:
        """From the report of a finish to the waiting algorithm that knows, 32 rollouts pending."""
        latencies: dict[str, list[list[float]]] = {}
        modes: dict[str, dict[str, float]] = {}
        with self._contenders("sqlite") as contenders:
            for each in contenders:
                ways = ("polling", "blocking") if each.side.name == "reference" else ("stream",)
                tried = {way: [self._completion(each, way) for _ in range(self.effort.runs)] for way in ways}
                modes[each.name] = {
                    way: statistics.median(_at(run, 0.95) for run in runs) for way, runs in tried.items()
                }
                latencies[each.name] = tried[min(ways, key=lambda way: modes[each.name][way])]
        return self._latency_lines(
            "finished -> waiting algorithm knows, 32 pending",
            latencies,
            note="0.3.0 in the better of two ways: asked every 100 ms, or asked again and again with timeout=0.1",
            details=modes,
        )

    def _completion(self, contender: Contender, mode: str) -> list[float]:
        waiter, reporter = contender.side.drivers(2)
        address = contender.server.address
        for driver in (waiter, reporter):
            driver.ask("connect", address=address)
        attempts = waiter.ask("pending", address=address, count=32)["attempts"]
        waiter.start("completion_wait", address=address, rollout_ids=[pair[0] for pair in attempts], mode=mode)
        reporter.start("completion_send", address=address, attempts=attempts, mean_gap_s=0.03)
        sent = reporter.answer()["sent"]
        known = waiter.answer()["known"]
        return [1000 * (known[rollout_id] - sent[rollout_id]) for rollout_id in sent]

    def _latency_lines(
        self,
        what: str,
        latencies: dict[str, list[list[float]]],
        note: str,
        details: dict[str, dict[str, float]] | None = None,
    ) -> list[Line]:
        lines = []
        for share, label in ((0.5, "p50"), (0.95, "p95")):
            figures = {
                name: Figure.median([_at(run, share) for run in runs], **(details or {}).get(name, {}))
                for name, runs in latencies.items()
            }
            judged = label == "p95"
            lines.append(
                Line(
                    f"{what}, {label}",
                    "ms",
                    figures.get("reference"),
                    figures.get("ours-sqlite"),
                    Goal(limit=10) if judged else None,
                    Goal(limit=3) if judged else None,
                    less_is_better=True,
                    note=note if judged else "",
                )
            )
        return lines

    def rest(self) -> list[Line]:
        """The REST API: what it adds to the gRPC call that it makes, and how it serves the reference's own client."""
        lines = self._shim() if self.ours is not None else []
        if self.reference is None or self.ours is None:
            return lines
        measured = {
            **{
                f"{method}, concurrency {concurrency}": ("control", {"op": op, "concurrency": concurrency})
                for concurrency in (1, 16)
                for op, method in OPS.items()
            },
            "query_spans of 100 LLM spans": ("query", {"spans": 100}),
            "OTLP/HTTP ingest, batches of 100 LLM spans": ("ingest", {"mode": "otlp", "batch": 100, "concurrency": 1}),
        }
        with self._contenders("rest") as [own, here]:
            for what, (command, arguments) in measured.items():

                def measure(
                    each: Measured, command: str = command, arguments: dict[str, Any] = arguments
                ) -> dict[str, Any]:
                    more = {"prefill": int(2_000 * self.effort.seconds)} if command == "control" else {}
                    return each.ask(command, seconds=self.effort.seconds, **arguments, **more)

                runs = self._interleaved([own, OldClient(own.side, here.server)], measure)
                figures = _medians(runs, "per_s")
                lines.append(
                    Line(
                        f"0.3.0's client on our REST API: {what}",
                        "/s",
                        figures["reference"],
                        figures["ours-rest"],
                        Goal(ratio=1.0),
                        note="the same client, on its own server and on ours; both in memory",
                    )
                )
        return lines

    def _shim(self) -> list[Line]:
        """The same calls over gRPC and through the REST API in a process of its own, in turns."""
        assert self.ours is not None
        server = self.ours.server("memory")
        shim = Server.shim(self.ours.python, self.folder, server.address)
        lines = []
        try:
            for op, method in OPS.items():
                runs = [
                    self.ours.drivers(1)[0].ask(
                        "shim",
                        address=server.address,
                        rest_address=shim.rest_address,
                        op=op,
                        seconds=2 * self.effort.seconds,
                        prefill=int(4_000 * self.effort.seconds),
                    )
                    for _ in range(self.effort.runs)
                ]
                lines.append(
                    Line(
                        f"REST on top of the gRPC call, p50, {method}",
                        "ms",
                        None,
                        _medians({"ours": runs}, "added_ms")["ours"],
                        Goal(limit=1.5),
                        less_is_better=True,
                    )
                )
            self.ours.disconnect()
        finally:
            shim.stop()
            server.stop()
        return lines

    def memory(self) -> list[Line]:
        """Resident memory of the server, idle and with LLM spans stored."""
        idle: dict[str, Figure] = {}
        projected: dict[str, Figure] = {}
        with self._contenders("memory", "sqlite") as contenders:
            for each in contenders:
                spans = self.effort.memory_spans[each.side.name]
                mode = "otlp" if each.side.name == "reference" else "api"
                each.ask("connect")
                samples = [each.server.resident_mb()]
                for _ in range(2):
                    each.ask("fill", mode=mode, batch=OTLP_BATCH, spans=spans // 2)
                    samples.append(each.server.resident_mb())
                if None in samples:
                    raise BenchmarkError("resident memory is read from /proc, which this machine does not have")
                start, half, end = (sample or 0.0 for sample in samples)
                # The slope of the second half: the first also pays once for buffers and caches.
                per_span = max(end - half, 0.0) / (spans / 2)
                idle[each.name] = Figure(start)
                projected[each.name] = Figure(
                    end + per_span * (100_000 - spans),
                    details={"spans": spans, "after_mb": round(end, 1), "kb_per_span": round(per_span * 1000, 3)},
                )
        note = "; ".join(
            f"{name}: {figure.details['after_mb']:.0f} MB with {figure.details['spans']:,} stored"
            for name, figure in projected.items()
        )
        lines = [
            Line(
                f"server memory for 100,000 LLM spans, {store}",
                "MB",
                projected.get("reference"),
                projected.get(f"ours-{store}"),
                Goal(limit=300) if store == "sqlite" else None,
                less_is_better=True,
                note=f"extrapolated from fewer ({note})" if store == "sqlite" else "",
            )
            for store in ("sqlite", "memory")
        ]
        lines.append(
            Line(
                "server memory, idle, sqlite",
                "MB",
                idle.get("reference"),
                idle.get("ours-sqlite"),
                less_is_better=True,
            )
        )
        return lines

    def pause(self) -> list[Line]:
        """The longest a small read waits while 16 tasks call and batches of spans arrive."""

        def measure(contender: Contender) -> dict[str, Any]:
            load, probe = contender.side.drivers(2)
            address = contender.server.address
            seconds = self.effort.pause_seconds
            mode = "otlp" if contender.side.name == "reference" else "api"
            for driver in (load, probe):
                driver.ask("connect", address=address)
            load.start("load", address=address, mode=mode, seconds=seconds)
            probe.start("probe", address=address, seconds=seconds)
            return {**load.answer(), **probe.answer()}

        with self._contenders("memory", "sqlite") as contenders:
            runs = self._interleaved(contenders, measure)
        lines = []
        for store in ("sqlite", "memory"):
            for key, label in (("max_ms", "longest"), ("p99_ms", "p99")):
                figures = _medians(runs, key)
                judged = key == "max_ms"
                lines.append(
                    Line(
                        f"small read under load, {label}, {store}",
                        "ms",
                        figures.get("reference"),
                        figures.get(f"ours-{store}"),
                        Goal(limit=50) if judged else None,
                        Goal(limit=20) if judged else None,
                        less_is_better=True,
                        note="the bound on the pauses of the server's loop that a client can see; the load is not "
                        "the same number of calls on both sides: each gets as much as it takes"
                        if judged and store == "sqlite"
                        else "",
                    )
                )
        return lines

    def growth(self) -> list[Line]:
        """What calls cost in a large store beside a small one, in process."""
        if self.ours is None:
            return []
        sizes = [str(size) for size in self.effort.growth_sizes]
        small, large = sizes[0], sizes[-1]
        lines = []
        for store in ("memory", "sqlite", "postgres"):
            with tempfile.TemporaryDirectory(prefix="growth-", dir=self.folder) as folder:
                wanted = ["--store", store, "--folder", folder, "--calls", str(self.effort.growth_calls)]
                command = [str(self.ours.python), str(HERE / "growth.py"), *wanted, "--sizes", *sizes]
                done = subprocess.run(
                    command, cwd=folder, env=child_environment(), capture_output=True, text=True, check=False
                )
            if done.returncode != 0:
                raise BenchmarkError(f"growth.py failed on {store}:\n{done.stderr[-1000:]}")
            for call, milliseconds in json.loads(done.stdout).items():
                lines.append(
                    Line(
                        f"{call}, at {int(large):,} rollouts, {store}",
                        "ms",
                        Figure(milliseconds[small]),
                        Figure(milliseconds[large], details={"ms_at": milliseconds}),
                        Goal(ratio=0.5),
                        Goal(ratio=0.8),
                        less_is_better=True,
                        peer_name=f"at {int(small):,}",
                    )
                )
        return lines

    def imports(self) -> list[Line]:
        """Time and memory of `import agentlightning` in a new interpreter, and until a client can be made."""
        statements = {
            "import agentlightning": "import agentlightning",
            "import LightningStoreClient": "from agentlightning import LightningStoreClient",
        }
        if self.effort.one_server:
            del statements["import LightningStoreClient"]
        lines = []
        for what, statement in statements.items():
            runs: dict[str, list[dict[str, Any]]] = {}
            for turn in range(self.effort.runs):
                for side in self._sides(turn):
                    runs.setdefault(side.name, []).append(_import_cost(side.python, statement, self.folder))
            seconds, resident = _medians(runs, "seconds"), _medians(runs, "resident_mb")
            lines += [
                Line(
                    f"{what}: time",
                    "s",
                    seconds.get("reference"),
                    seconds.get("ours"),
                    Goal(limit=0.5),
                    Goal(limit=0.3),
                    less_is_better=True,
                    note="ours loads a name when it is first used; the client's lines include what it needs"
                    if what == "import agentlightning"
                    else "",
                ),
                Line(
                    f"{what}: memory",
                    "MB",
                    resident.get("reference"),
                    resident.get("ours"),
                    Goal(limit=60),
                    less_is_better=True,
                ),
            ]
        return lines

    def install(self) -> list[Line]:
        """Packages and disk of the core in a new environment, as `pip install` gives it today."""
        wanted = {"reference": "agentlightning==0.3.0", "ours": str(REPOSITORY)}
        packages: dict[str, Figure] = {}
        megabytes: dict[str, Figure] = {}
        for side in self._sides(0):
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                python = create_environment(Path(folder) / "venv", wanted[side.name])
                listed = subprocess.run(
                    [str(python), "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True
                ).stdout
                packages[side.name] = Figure(len(listed.splitlines()), details={"packages": listed.splitlines()})
                megabytes[side.name] = Figure(_disk_mb(Path(folder)))
        return [
            Line(
                "core install: packages",
                "",
                packages.get("reference"),
                packages.get("ours"),
                Goal(limit=25),
                Goal(limit=18),
                less_is_better=True,
                note="the whole virtual environment, pip and setuptools among it",
            ),
            Line(
                "core install: disk",
                "MB",
                megabytes.get("reference"),
                megabytes.get("ours"),
                Goal(limit=120),
                Goal(limit=80),
                less_is_better=True,
            ),
        ]

    def _sides(self, turn: int) -> list[Side]:
        """Both sides, the one that begins changing with each turn, so that drift of the machine hits both."""
        sides = [side for side in (self.reference, self.ours) if side is not None]
        return sides[::-1] if turn % 2 else sides

    @contextlib.contextmanager
    def _contenders(self, *stores: str) -> Iterator[list[Contender]]:
        """New servers: the reference's, and one of ours for each store. They end with the row, unless rows share."""
        contenders = []
        if self.reference is not None:
            contenders.append(Contender(self.reference, "memory"))
        if self.ours is not None:
            contenders += [Contender(self.ours, store) for store in stores]
        with contextlib.ExitStack() as stack:
            for contender in contenders:
                key = (contender.side.name, contender.store)
                if key in self._kept:
                    contender.server = self._kept[key]
                    continue
                contender.server = contender.side.server(contender.store)
                if self.effort.one_server:
                    self._kept[key] = contender.server
                else:
                    stack.callback(contender.server.stop)
            yield contenders
            # Before the servers go, or their graceful end would wait for these connections.
            for side in self._sides(0):
                side.disconnect()

    def _interleaved(self, contenders: Sequence[Measured], measure: Measure) -> dict[str, list[dict[str, Any]]]:
        """All runs of a measurement, the contenders taking turns."""
        runs: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in contenders}
        for contender in contenders:
            contender.ask("connect")
        for turn in range(self.effort.runs):
            for contender in contenders[::-1] if turn % 2 else contenders:
                runs[contender.name].append(measure(contender))
        return runs


ROWS: dict[str, Callable[[Bench], list[Line]]] = {
    "floor": Bench.floor,
    "control": Bench.control,
    "gateway": Bench.gateway,
    "ingest": Bench.ingest,
    "query": Bench.query,
    "lists": Bench.lists,
    "cycle": Bench.cycle,
    "postgres": Bench.postgres,
    "runners": Bench.runners,
    "dispatch": Bench.dispatch,
    "completion": Bench.completion,
    "rest": Bench.rest,
    "memory": Bench.memory,
    "pause": Bench.pause,
    "growth": Bench.growth,
    "import": Bench.imports,
    "install": Bench.install,
}


def _medians(runs: dict[str, list[dict[str, Any]]], key: str) -> dict[str, Figure]:
    figures = {}
    for name, answers in runs.items():
        rest = {field: statistics.median(answer[field] for answer in answers) for field in answers[0] if field != key}
        figures[name] = Figure.median([answer[key] for answer in answers], **rest)
    return figures


def _at(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _import_cost(python: Path, statement: str, folder: Path) -> dict[str, float]:
    program = (
        "import json, time\n"
        "start = time.perf_counter()\n"
        f"{statement}\n"
        "seconds = time.perf_counter() - start\n"
        "import resource, sys\n"
        "unit = 1e6 if sys.platform == 'darwin' else 1e3\n"
        "resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit\n"
        "print(json.dumps({'seconds': seconds, 'resident_mb': resident}))\n"
    )
    done = subprocess.run(
        [str(python), "-c", program], cwd=folder, env=child_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BenchmarkError(f"{python}: {statement} failed:\n{done.stderr[-1000:]}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _disk_mb(folder: Path) -> float:
    """What the folder takes on disk, links counted once as themselves."""
    return sum(entry.lstat().st_blocks * 512 for entry in folder.rglob("*")) / 1e6
