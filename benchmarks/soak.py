"""Runs whole cycles against one server for long, and says whether it grows: `make soak`.

A server on sqlite keeps but the last finished rollouts. Client processes enqueue, claim, add spans, finish and wait,
batch by batch, while memory and file are sampled. Behind the first third, when as much is deleted as comes in, a line
is laid through the samples: what it rises by with each rollout must stay below a bound, or the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from environments import READY_LINE, REPOSITORY, Process, Server, working_folder

from agentlightning.store.api import CallContext
from agentlightning.store.remote.api import RemoteApi, connect
from lightning_store import v1

KEPT = 2_000
"""Finished rollouts that the server keeps."""

MEMORY_BOUND = 50.0
"""Bytes of the server's memory that a rollout may leave behind."""

FILE_BOUND = 200.0
"""Bytes of the file that a rollout may leave behind: its tombstone, which is kept for a day, takes some 100."""

NOISE_MB = 4.0
"""What memory and file of a steady server go up and down by."""

WARM_UP = 1 / 3
FEWEST_SAMPLES = 5
HERE = CallContext()


class Sample(NamedTuple):
    """What was seen at one moment."""

    seconds: float
    rollouts: int
    """Finished until then."""
    memory_mb: float
    file_mb: float


def main() -> int:
    options = _options()
    if options.client:
        asyncio.run(_client(options))
        return 0
    started = time.monotonic()
    samples: list[Sample] = []
    with ExitStack() as stack:
        folder = stack.enter_context(working_folder(options.results))
        path = folder / "soak.db"
        server = Server.serving(
            Path(sys.executable),
            folder,
            f"sqlite:///{path}",
            "--keep-finished-count",
            str(KEPT),
            "--log-level",
            "WARNING",
        )
        stack.callback(server.stop)
        clients = [_Client(server.address, number, options, folder) for number in range(options.clients)]
        for client in clients:
            stack.callback(client.process.stop)
        while any(client.is_running for client in clients):
            time.sleep(options.interval)
            done = sum(client.done for client in clients)
            size = sum(file.stat().st_size for file in folder.glob("soak.db*"))
            samples.append(Sample(time.monotonic() - started, done, server.resident_mb() or 0.0, size / 1e6))
            print(_shown(samples[-1]), file=sys.stderr, flush=True)
        failed = [client.process.log_tail() for client in clients if client.process.popen.wait() != 0]
        if failed:
            print(f"a client failed:\n{failed[0]}", file=sys.stderr)
            return 1
        server.stop()
        complaints = [line for line in server.log().splitlines() if not line.startswith(READY_LINE)]
        left = _left(path)
    return _verdict(options, samples, left, complaints)


class _Client:
    """A client process, and what it says it has done."""

    def __init__(self, address: str, number: int, options: argparse.Namespace, folder: Path) -> None:
        self.done = 0
        self.is_running = True
        share = options.rollouts // options.clients + (number < options.rollouts % options.clients)
        sizes = ["--rollouts", str(share), "--spans", str(options.spans), "--batch", str(options.batch)]
        command = [sys.executable, __file__, "--client", address, "--number", str(number), *sizes]
        self.process = Process(command, folder, f"soak-client-{number}", pipe=True)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.popen.stdout is not None
        for line in self.process.popen.stdout:
            self.done = int(line)
        self.is_running = False


async def _client(options: argparse.Namespace) -> None:
    api = connect(options.client)
    done = 0
    while done < options.rollouts:
        count = min(options.batch, options.rollouts - done)
        await _cycle(api, f"soak-{options.number}-{done}", count, options.spans, f"worker-{options.number}")
        done += count
        print(done, flush=True)
    await api.close()


async def _cycle(api: RemoteApi, name: str, count: int, spans: int, worker_id: str) -> None:
    """Enqueue a batch, work off as many rollouts, whoever enqueued them, and wait for one's own."""
    payload = v1.Payload(content_type="application/json", data=b'{"task": "say hello"}')
    ids = [f"{name}-{number}" for number in range(count)]
    new = [v1.NewRollout(rollout_id=rollout_id, input=payload) for rollout_id in ids]
    await api.enqueue_rollouts(HERE, v1.EnqueueRolloutsRequest(rollouts=new))
    claimed = await api.dequeue_rollouts(HERE, v1.DequeueRolloutsRequest(limit=count, worker_id=worker_id))
    attempts = [claim.attempt for claim in claimed.claims]
    made = [
        v1.Span(
            rollout_id=attempt.rollout_id,
            attempt_id=attempt.attempt_id,
            trace_id=os.urandom(16),
            span_id=os.urandom(8),
            name="soak.step",
            start_time_unix_nano=number + 1,
            end_time_unix_nano=number + 2,
            attributes=[v1.KeyValue(key="step", value=v1.AnyValue(int_value=number))],
        )
        for attempt in attempts
        for number in range(spans)
    ]
    scoped = v1.ScopeSpans(scope=v1.InstrumentationScope(name=name), spans=made)  # a scope that comes but once
    await api.add_spans(HERE, v1.AddSpansRequest(resource_spans=[v1.ResourceSpans(scope_spans=[scoped])]))
    finishing = asyncio.Semaphore(32)

    async def finish(attempt: v1.Attempt) -> None:
        async with finishing:
            request = v1.UpdateAttemptRequest(
                rollout_id=attempt.rollout_id, attempt_id=attempt.attempt_id, status=v1.ATTEMPT_STATUS_SUCCEEDED
            )
            await api.update_attempt(HERE, request)

    await asyncio.gather(*map(finish, attempts))
    # What another client works on may be deleted before it is looked at: that is told too, and ends the wait for it.
    async for event in api.wait_for_rollouts(HERE, v1.WaitForRolloutsRequest(rollout_ids=ids)):
        if event.HasField("done") and event.done.pending_rollout_ids:
            raise AssertionError(f"{len(event.done.pending_rollout_ids)} rollouts were never finished")


def _left(path: Path) -> dict[str, int]:
    """Count what is left in the file."""
    tables = ("rollouts", "attempts", "spans", "sources", "workers", "tombstones")
    with closing(sqlite3.connect(path)) as database:
        return {table: database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables}


def _verdict(
    options: argparse.Namespace, samples: Sequence[Sample], left: dict[str, int], complaints: list[str]
) -> int:
    """Print what came of a run; return the exit code."""
    measured = [sample for sample in samples if sample.rollouts >= WARM_UP * options.rollouts]
    if len({sample.rollouts for sample in measured}) < FEWEST_SAMPLES:
        print(f"too short: {len(samples)} samples say nothing; ask for more rollouts or a shorter interval")
        return 1
    noise = NOISE_MB * 1e6 / (measured[-1].rollouts - measured[0].rollouts)
    half = len(measured) // 2
    memory, file = (_slope(measured, name) for name in ("memory_mb", "file_mb"))
    rates = [_rate(measured[: half + 1]), _rate(measured[half:])]
    faults = []
    for what, slope, bound in (("memory", memory, MEMORY_BOUND), ("the file", file, FILE_BOUND)):
        if slope > bound + noise:
            faults.append(f"{what} grows by {slope:.0f} bytes a rollout; {bound + noise:.0f} are allowed")
    if left["rollouts"] > KEPT + 2 * options.clients * options.batch:
        faults.append(f"{left['rollouts']} rollouts are left; {KEPT} are to be kept")
    if left["spans"] != left["rollouts"] * options.spans or left["attempts"] > left["rollouts"]:
        faults.append("spans or attempts of deleted rollouts are left")
    if left["sources"] > left["rollouts"]:
        faults.append(f"{left['sources']} scopes are left, which no span came from")
    if complaints:
        faults.append(f"the server complained: {complaints[-1]}")
    result = {
        "rollouts": samples[-1].rollouts,
        "spans": samples[-1].rollouts * options.spans,
        "seconds": round(samples[-1].seconds, 1),
        "memory_mb": {"first_measured": measured[0].memory_mb, "last": measured[-1].memory_mb},
        "file_mb": {"first_measured": measured[0].file_mb, "last": measured[-1].file_mb},
        "memory_bytes_per_rollout": round(memory, 2),
        "file_bytes_per_rollout": round(file, 2),
        "rollouts_per_s": {"first_half": round(rates[0], 1), "second_half": round(rates[1], 1)},
        "left": left,
        "faults": faults,
    }
    print(json.dumps(result, indent=2))
    if options.keep_samples:
        (options.results / "soak.json").write_text(json.dumps(result | {"samples": samples}) + "\n")
    return 1 if faults else 0


def _slope(samples: Sequence[Sample], name: str) -> float:
    """Return by how many bytes the line through the samples rises with each rollout."""
    rollouts = [float(sample.rollouts) for sample in samples]
    return statistics.linear_regression(rollouts, [getattr(sample, name) * 1e6 for sample in samples]).slope


def _rate(samples: Sequence[Sample]) -> float:
    first, last = samples[0], samples[-1]
    return (last.rollouts - first.rollouts) / max(last.seconds - first.seconds, 1e-9)


def _shown(sample: Sample) -> str:
    return (
        f"{sample.seconds:7.0f} s {sample.rollouts:9d} rollouts  memory {sample.memory_mb:6.1f} MB  "
        f"file {sample.file_mb:7.1f} MB"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=1_000_000, help="rollouts of all clients together")
    parser.add_argument("--spans", type=int, default=5, help="spans of each rollout")
    parser.add_argument("--batch", type=int, default=500, help="rollouts of a cycle")
    parser.add_argument("--clients", type=int, default=3, help="client processes")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between samples")
    parser.add_argument("--keep-samples", action="store_true", help="write soak.json, with every sample")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "bench-results", help="folder for the database")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.results = options.results.absolute()
    return options


if __name__ == "__main__":
    sys.exit(main())
