"""One client process of the benchmark.

Runs unchanged in either environment: it uses only the `LightningStore` methods that both releases have, and `SIDES`
holds the few things that differ. It reads one JSON command a line on standard input and answers one JSON line each;
the end of its input is the end of the process. Times are `time.monotonic()` seconds, which all processes of a machine
share.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import importlib.metadata
import inspect
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

from payload import TOKEN_SUM, OtlpBatch, SpanBatch, read_every_attribute

from agentlightning import LightningStoreClient

Answer = dict[str, Any]
OtlpSender = Callable[[bytes], Awaitable[None]]
LISTED = 32


class Side(Protocol):
    """What the two releases do differently."""

    def client(self, address: str) -> Any: ...

    def otlp(self, address: str) -> tuple[OtlpSender, Callable[[], Awaitable[None]]]:
        """A function that sends one OTLP body and returns when it is accepted, and one that ends its connection."""

    async def claim(self, store: Any, worker_id: str, wait_s: float) -> Any:
        """The next rollout; `None` if there was none within `wait_s`."""

    def finished(self, store: Any, rollout_ids: Sequence[str], mode: str) -> AsyncIterator[Any]:
        """Rollouts, each as soon as this side can know that it has finished."""


class Reference:
    """agentlightning 0.3.0: JSON over HTTP, polled."""

    poll_interval = 5.0  # LitAgentRunner's default, seconds
    poll_jitter = 0.5

    def client(self, address: str) -> Any:
        return LightningStoreClient(f"http://{address}")

    def otlp(self, address: str) -> tuple[OtlpSender, Callable[[], Awaitable[None]]]:
        import aiohttp  # what the reference's own client speaks HTTP with

        session = aiohttp.ClientSession()
        headers = {"Content-Type": "application/x-protobuf"}

        async def send(body: bytes) -> None:
            async with session.post(f"http://{address}/v1/traces", data=body, headers=headers) as response:
                answer = await response.read()
                if response.status != 200 or answer:
                    raise RuntimeError(f"OTLP export refused: {response.status} {answer!r}")

        return send, session.close

    async def claim(self, store: Any, worker_id: str, wait_s: float) -> Any:
        deadline = time.monotonic() + wait_s
        while True:
            rollout = await store.dequeue_rollout(worker_id=worker_id)
            remaining = deadline - time.monotonic()
            if rollout is not None or remaining <= 0:
                return rollout
            pause = self.poll_interval + random.uniform(-self.poll_jitter, self.poll_jitter)
            await asyncio.sleep(min(pause, remaining))

    async def finished(self, store: Any, rollout_ids: Sequence[str], mode: str) -> AsyncIterator[Any]:
        pending = list(rollout_ids)
        while pending:
            # Its client refuses a timeout above 0.1 s, and without one each pending rollout holds a thread of the
            # server's small pool: so it is polled, in the two ways that its own algorithms do.
            done = await store.wait_for_rollouts(rollout_ids=pending, timeout=0.1 if mode == "blocking" else 0.0)
            for rollout in done:
                yield rollout
            known = {rollout.rollout_id for rollout in done}
            pending = [rollout_id for rollout_id in pending if rollout_id not in known]
            if pending and mode != "blocking":
                await asyncio.sleep(0.1)


class Ours:
    """This project: gRPC, with calls that wait in the server."""

    lease = 60.0  # seconds; our runners always ask for one

    def client(self, address: str) -> Any:
        return LightningStoreClient(address)

    def otlp(self, address: str) -> tuple[OtlpSender, Callable[[], Awaitable[None]]]:
        import grpc.aio

        channel = grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
        # `bytes` for serializers: the prepared body is sent as it is.
        export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export", bytes, bytes)

        async def send(body: bytes) -> None:
            answer = await export(body)
            if answer:
                raise RuntimeError(f"OTLP export refused in part: {answer!r}")

        async def close() -> None:
            await channel.close(None)

        return send, close

    async def claim(self, store: Any, worker_id: str, wait_s: float) -> Any:
        return await store.dequeue_rollout(worker_id=worker_id, wait=wait_s, lease=self.lease)

    def finished(self, store: Any, rollout_ids: Sequence[str], mode: str) -> AsyncIterator[Any]:
        rollouts: AsyncIterator[Any] = store.wait_iter(rollout_ids=rollout_ids)
        return rollouts


SIDES: dict[str, Side] = {"reference": Reference(), "ours": Ours()}


class Driver:
    """Holds the clients of this process and carries out commands."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._stores: dict[str, Any] = {}
        self._query_targets: dict[str, str] = {}
        self._cycle: tuple[float, list[str]] = (0.0, [])
        self._claimed: list[str] = []

    async def run(self, command: str, arguments: dict[str, Any]) -> Answer:
        handler = getattr(self, f"do_{command}")
        answer: Answer = await handler(**arguments)
        return answer

    async def close(self) -> None:
        for store in self._stores.values():
            await store.close()
        self._stores.clear()

    async def do_connect(self, address: str) -> Answer:
        """Forget the servers of earlier rows, which are gone by now, and reach the new one."""
        started = time.monotonic()
        await self._store(address).statistics()
        return {"seconds": time.monotonic() - started}

    async def do_disconnect(self) -> Answer:
        await self.close()
        return {}

    async def do_control(
        self, address: str, op: str, concurrency: int, seconds: float, prefill: int, claims: int = 1
    ) -> Answer:
        """Calls a second of one kind of control call, by `concurrency` tasks that each wait for their answer."""
        store = self._store(address)
        if op == "enqueue":
            call = _enqueue(store)
        elif op == "dequeue":
            await _fill_queue(store, prefill)
            call = _dequeue(store) if claims == 1 else _dequeue_many(store, claims)
        else:
            call = await _heartbeats(store, concurrency)
        return await _timed_calls(call, concurrency, seconds)

    async def do_echo(self, address: str, concurrency: int, seconds: float) -> Answer:
        """Calls a second of a server that only echoes, with the bytes of an enqueued rollout."""
        import grpc.aio
        from echo import METHOD

        async with grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            echo = channel.unary_unary(METHOD, bytes, bytes)
            data = json.dumps(_task(0)).encode()

            async def call(task: int) -> bool:
                return bool(await echo(data))

            return await _timed_calls(call, concurrency, seconds)

    async def do_model_calls(
        self, address: str, target: str, recorded: bool, streamed: bool, concurrency: int, seconds: float
    ) -> Answer:
        """Model calls a second, by tasks with a connection each; the first token of each stream is timed as well."""
        store = self._store(address)
        rollout_id, attempt_id = await _start_attempt(store)
        prefix = f"/rollout/{rollout_id}/attempt/{attempt_id}" if recorded else ""
        request = {"model": "model", "messages": [{"role": "user", "content": "word " * 100}], "stream": streamed}
        host, _, port = target.partition(":")
        connections = [await asyncio.open_connection(host, int(port)) for _ in range(concurrency)]
        firsts: list[float] = []
        calls = 0

        async def call(task: int) -> bool:
            nonlocal calls
            begun = time.monotonic()
            await _post(*connections[task], f"{prefix}/v1/chat/completions", request, streamed, firsts)
            firsts[-1] -= begun
            calls += 1
            return True

        try:
            answer = await _timed_calls(call, concurrency, seconds)
        finally:
            for _, writer in connections:
                writer.close()
        spans = await store.query_spans(rollout_id)
        if recorded and sum(len(span.attributes["response_token_ids"]) for span in spans) != 128 * calls:
            raise RuntimeError(f"{calls} calls, and the store has {len(spans)} spans of them, or not all their tokens")
        return {**answer, **{f"first_{key}": value for key, value in _latencies(firsts).items()}}

    async def do_shim(self, address: str, rest_address: str, op: str, seconds: float, prefill: int) -> Answer:
        """What the REST API adds to a control call: the same one over gRPC and over HTTP, in turns."""
        store = self._store(address)
        rollout_id, attempt_id = await _start_attempt(store)
        host, _, port = rest_address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        if op == "enqueue":
            call, path, body = _enqueue(store), "/queues/rollouts/enqueue", {"rollouts": [_task(0)]}
        elif op == "dequeue":
            await _fill_queue(store, prefill)
            call, path, body = _dequeue(store), "/queues/rollouts/dequeue", {"limit": 1, "worker_id": "bench-0"}
        else:
            call = await _heartbeats(store, 1)
            path, body = f"/rollouts/{rollout_id}/attempts/{attempt_id}", {"last_heartbeat_time": time.time()}
        sent = json.dumps(body)
        latencies: dict[str, list[float]] = {"grpc": [], "rest": []}
        deadline = time.monotonic() + seconds
        while (begun := time.monotonic()) < deadline:
            await call(0)
            between = time.monotonic()
            connection.request("POST", f"/v1/agl{path}", sent, {"Content-Type": "application/json"})
            with connection.getresponse() as response:
                answer = response.read()
            latencies["rest"].append(time.monotonic() - between)
            latencies["grpc"].append(between - begun)
            if response.status >= 300 or answer == b"[]":
                raise RuntimeError(f"{path} answered {response.status} {answer!r}")
        connection.close()
        grpc, rest = _latencies(latencies["grpc"]), _latencies(latencies["rest"])
        return {
            "added_ms": rest["p50_ms"] - grpc["p50_ms"],
            "added_p10_ms": rest["p10_ms"] - grpc["p10_ms"],  # what a busy machine leaves as it is
            "grpc_p50_ms": grpc["p50_ms"],
            "rest_p50_ms": rest["p50_ms"],
        }

    async def do_ingest(self, address: str, mode: str, batch: int, concurrency: int, seconds: float) -> Answer:
        """Spans a second in batches, each acknowledged before its task sends the next one."""
        return await self._ingest(address, mode, batch, concurrency, seconds=seconds)

    async def do_fill(self, address: str, mode: str, batch: int, spans: int) -> Answer:
        """Add exactly `spans` LLM spans."""
        return await self._ingest(address, mode, batch, concurrency=1, batches=spans // batch)

    async def _ingest(
        self,
        address: str,
        mode: str,
        batch: int,
        concurrency: int,
        *,
        seconds: float = float("inf"),
        batches: int | None = None,
    ) -> Answer:
        store = self._store(address)
        attempts = [await _start_attempt(store) for _ in range(concurrency)]
        before = (await store.statistics())["total_spans"]
        sent = 0
        latencies: list[float] = []

        async def api_task(rollout_id: str, attempt_id: str) -> None:
            nonlocal sent
            spans = SpanBatch(batch)
            first = 1
            while time.monotonic() < deadline and (batches is None or len(latencies) < batches):
                started = time.monotonic()
                added = await store.add_many_spans(spans.stamped(rollout_id, attempt_id, first))
                latencies.append(time.monotonic() - started)
                if len(added) != batch:
                    raise RuntimeError(f"add_many_spans took {len(added)} of {batch} spans")
                first += batch
                sent += batch

        async def otlp_task(rollout_id: str, attempt_id: str) -> None:
            nonlocal sent
            body = OtlpBatch(batch)
            while time.monotonic() < deadline and (batches is None or len(latencies) < batches):
                started = time.monotonic()
                await send(body.stamped(rollout_id, attempt_id))
                latencies.append(time.monotonic() - started)
                sent += batch

        send, close = self._side.otlp(address)
        started = time.monotonic()
        deadline = started + seconds
        task = otlp_task if mode == "otlp" else api_task
        try:
            await asyncio.gather(*(task(*attempt) for attempt in attempts))
            elapsed = time.monotonic() - started
        finally:
            await close()
        stored = (await store.statistics())["total_spans"] - before
        if stored != sent:
            raise RuntimeError(f"{sent} spans were acknowledged and {stored} are stored")
        return {"per_s": sent / elapsed, "spans": sent, **_latencies(latencies)}

    async def do_query(self, address: str, spans: int, seconds: float) -> Answer:
        """Calls a second of `query_spans` for one attempt of `spans` LLM spans, everything in them read."""
        store = self._store(address)
        rollout_id = self._query_targets.get(address)
        if rollout_id is None:
            rollout_id, attempt_id = await _start_attempt(store)
            self._query_targets[address] = rollout_id
            await store.add_many_spans(SpanBatch(spans).stamped(rollout_id, attempt_id, 1))

        async def call(task: int) -> bool:
            found = await store.query_spans(rollout_id)
            tokens = sum(read_every_attribute(span) for span in found)
            if tokens != spans * TOKEN_SUM:
                raise RuntimeError(f"query_spans returned {len(found)} spans whose token ids are not the ones sent")
            return True

        return await _timed_calls(call, 1, seconds)

    async def do_store_rollouts(self, address: str, rollouts: int) -> Answer:
        """Store rollouts of which all but 32 are in the queue."""
        store = self._store(address)
        await _fill_queue(store, rollouts)
        self._claimed = [(await store.dequeue_rollout(worker_id="bench-lists")).rollout_id for _ in range(LISTED)]
        return {}

    async def do_list(self, address: str, by: str, seconds: float) -> Answer:
        """How long a list of 32 rollouts takes, of given ids or of a status that few have."""
        store = self._store(address)
        wanted = {"rollout_id_in": self._claimed} if by == "ids" else {"status_in": ["preparing"], "limit": LISTED}

        async def call(task: int) -> bool:
            found = await store.query_rollouts(**wanted)
            if len(found) != LISTED:
                raise RuntimeError(f"a list has {len(found)} rollouts and not {LISTED}")
            return True

        return await _timed_calls(call, 1, seconds)

    async def do_drain(self, address: str) -> Answer:
        """Take out of the queue what an earlier row left there."""
        store = self._store(address)
        taken = 0
        while found := await store.dequeue_many_rollouts(limit=100, worker_id="bench-drain"):
            taken += len(found)
        return {"taken": taken}

    async def do_cycle_enqueue(self, address: str, rollouts: int) -> Answer:
        """First half of the algorithm's part of a cycle; its clock starts here."""
        store = self._store(address)
        started = time.monotonic()
        queued = await store.enqueue_many_rollouts([_request(index) for index in range(rollouts)])
        self._cycle = (started, [rollout.rollout_id for rollout in queued])
        return {"enqueue_s": time.monotonic() - started}

    async def do_cycle_collect(self, address: str, mode: str) -> Answer:
        """Second half: wait for every rollout and read its spans as it finishes."""
        store = self._store(address)
        started, rollout_ids = self._cycle
        slots = asyncio.Semaphore(8)
        results: list[tuple[str, int]] = []

        async def read(rollout: Any) -> None:
            async with slots:
                spans = await store.query_spans(rollout.rollout_id)
            if len(spans) != 8 or sum(read_every_attribute(span) for span in spans) != 8 * TOKEN_SUM:
                raise RuntimeError(f"rollout {rollout.rollout_id} came back with {len(spans)} spans, or wrong ones")
            results.append((rollout.status, len(spans)))

        reads = [asyncio.create_task(read(rollout)) async for rollout in self._side.finished(store, rollout_ids, mode)]
        await asyncio.gather(*reads)
        elapsed = time.monotonic() - started
        if len(results) != len(rollout_ids) or any(status != "succeeded" for status, _ in results):
            raise RuntimeError(f"{len(results)} of {len(rollout_ids)} rollouts came back, or some did not succeed")
        return {"per_s": len(results) / elapsed, "seconds": elapsed}

    async def do_cycle_runners(self, address: str, runners: int, mode: str) -> Answer:
        """Runners that take rollouts until the queue is empty: 8 LLM spans each, then `succeeded`."""
        store = self._store(address)
        done = 0
        send, close = self._side.otlp(address)

        async def runner(worker_id: str) -> None:
            nonlocal done
            objects, body = SpanBatch(8), OtlpBatch(8)
            while (rollout := await self._side.claim(store, worker_id, wait_s=0)) is not None:
                rollout_id, attempt_id = rollout.rollout_id, rollout.attempt.attempt_id
                if mode == "otlp":
                    await send(body.stamped(rollout_id, attempt_id))
                else:
                    await store.add_many_spans(objects.stamped(rollout_id, attempt_id, 1))
                await store.update_attempt(rollout_id, attempt_id, status="succeeded")
                done += 1

        try:
            await asyncio.gather(*(runner(f"bench-{os.getpid()}-{index}") for index in range(runners)))
        finally:
            await close()
        return {"rollouts": done}

    async def do_dispatch_receive(self, address: str, count: int) -> Answer:
        """An idle runner: when it had each of the next `count` rollouts."""
        store = self._store(address)
        received: dict[str, float] = {}
        while len(received) < count:
            rollout = await self._side.claim(store, "bench-idle", wait_s=30)
            if rollout is None:
                raise RuntimeError(f"waited 30 s for a rollout after {len(received)} of {count}")
            received[rollout.rollout_id] = time.monotonic()
        return {"received": received}

    async def do_dispatch_send(self, address: str, count: int, mean_gap_s: float) -> Answer:
        """Enqueue `count` rollouts at random moments; when each call was made."""
        store = self._store(address)
        sent: dict[str, float] = {}
        for index in range(count):
            await asyncio.sleep(random.uniform(0, 2 * mean_gap_s))
            started = time.monotonic()
            rollout = await store.enqueue_rollout(**_task(index))
            sent[rollout.rollout_id] = started
        return {"sent": sent}

    async def do_pending(self, address: str, count: int) -> Answer:
        """Rollouts with a running attempt each."""
        store = self._store(address)
        return {"attempts": [await _start_attempt(store) for _ in range(count)]}

    async def do_completion_wait(self, address: str, rollout_ids: list[str], mode: str) -> Answer:
        """The waiting algorithm: when it knew of each rollout that it had finished."""
        store = self._store(address)
        known: dict[str, float] = {}
        async for rollout in self._side.finished(store, rollout_ids, mode):
            known[rollout.rollout_id] = time.monotonic()
        return {"known": known}

    async def do_completion_send(self, address: str, attempts: list[tuple[str, str]], mean_gap_s: float) -> Answer:
        """Finish attempts one after the other at random moments; when each report was sent."""
        store = self._store(address)
        sent: dict[str, float] = {}
        await asyncio.sleep(0.3)  # lets the waiter begin to wait
        for rollout_id, attempt_id in attempts:
            await asyncio.sleep(random.uniform(0, 2 * mean_gap_s))
            sent[rollout_id] = time.monotonic()
            await store.update_attempt(rollout_id, attempt_id, status="succeeded")
        return {"sent": sent}

    async def do_load(self, address: str, mode: str, seconds: float) -> Answer:
        """Mixed load: 16 tasks of control calls, and one that sends batches of 100 LLM spans."""
        store = self._store(address)
        await _fill_queue(store, 16)
        heartbeat = await _heartbeats(store, 16)
        enqueue, dequeue = _enqueue(store), _dequeue(store)

        async def mixed(task: int) -> bool:
            await enqueue(task)
            await dequeue(task)
            return await heartbeat(task)

        control, ingest = await asyncio.gather(
            _timed_calls(mixed, 16, seconds), self._ingest(address, mode, 100, 1, seconds=seconds)
        )
        return {"control_per_s": 3 * control["per_s"], "spans_per_s": ingest["per_s"]}

    async def do_probe(self, address: str, seconds: float) -> Answer:
        """Latency of a small read, asked every 2 ms: the longest one bounds the pauses of the server's loop."""
        store = self._store(address)
        rollout_id, _ = await _start_attempt(store)
        latencies: list[float] = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            started = time.monotonic()
            await store.get_rollout_by_id(rollout_id)
            latencies.append(time.monotonic() - started)
            await asyncio.sleep(0.002)
        return _latencies(latencies)

    def _store(self, address: str) -> Any:
        store = self._stores.get(address)
        if store is None:
            store = self._stores[address] = self._side.client(address)
        return store


def _task(index: int) -> dict[str, Any]:
    return {
        "input": {"task": index, "question": "What is the capital of France, and how many people live there?"},
        "mode": "train",
        "metadata": {"source": "benchmark"},
    }


def _request(index: int) -> Any:
    from agentlightning.types import EnqueueRolloutRequest

    return EnqueueRolloutRequest(**_task(index))


async def _post(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    path: str,
    request: dict[str, Any],
    streamed: bool,
    firsts: list[float],
) -> None:
    """Makes one model call on a connection; notes when the first part of the body came."""
    body = json.dumps(request).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: gateway\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the model call failed: {answer!r}")
    if not streamed:
        length = int(answer.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        firsts.append(time.monotonic())
        return
    await reader.readuntil(b"\n\n")
    firsts.append(time.monotonic())
    await reader.readuntil(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def _start_attempt(store: Any) -> tuple[str, str]:
    rollout = await store.start_rollout(**_task(0))
    return rollout.rollout_id, rollout.attempt.attempt_id


async def _fill_queue(store: Any, count: int) -> None:
    for start in range(0, count, 500):
        await store.enqueue_many_rollouts([_request(index) for index in range(start, min(start + 500, count))])


Call = Callable[[int], Awaitable[bool]]


def _enqueue(store: Any) -> Call:
    async def call(task: int) -> bool:
        await store.enqueue_rollout(**_task(task))
        return True

    return call


def _dequeue(store: Any) -> Call:
    async def call(task: int) -> bool:
        return await store.dequeue_rollout(worker_id=f"bench-{task}") is not None

    return call


def _dequeue_many(store: Any, limit: int) -> Call:
    async def call(task: int) -> bool:
        return len(await store.dequeue_many_rollouts(limit=limit, worker_id=f"bench-{task}")) == limit

    return call


async def _heartbeats(store: Any, count: int) -> Call:
    attempts = [await _start_attempt(store) for _ in range(count)]

    async def call(task: int) -> bool:
        await store.update_attempt(*attempts[task], last_heartbeat_time=time.time())
        return True

    return call


async def _timed_calls(call: Call, concurrency: int, seconds: float) -> Answer:
    """Call in `concurrency` tasks until the time is over, or until one answers that there is no more to do."""
    latencies: list[float] = []
    started = time.monotonic()
    deadline = started + seconds
    exhausted = False

    async def task(index: int) -> None:
        nonlocal exhausted
        while not exhausted:
            begun = time.monotonic()
            if begun >= deadline:
                return
            if not await call(index):
                exhausted = True
                return
            latencies.append(time.monotonic() - begun)

    await asyncio.gather(*(task(index) for index in range(concurrency)))
    elapsed = time.monotonic() - started
    return {"per_s": len(latencies) / elapsed, "exhausted": exhausted, **_latencies(latencies)}


def _latencies(seconds: list[float]) -> Answer:
    ordered = sorted(seconds)
    if not ordered:
        raise RuntimeError("no call came to its end")

    def at(share: float) -> float:
        return round(1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)], 3)

    shares = {"p10_ms": 0.1, "p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99, "max_ms": 1.0}
    return {"n": len(ordered), **{name: at(share) for name, share in shares.items()}}


def _versions() -> dict[str, str]:
    names = {"grpcio", "protobuf", "pydantic", "opentelemetry-sdk", "aiohttp", "fastapi", "uvicorn", "litellm"}
    found = {"python": sys.version.split()[0]}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"].lower()
        if name in names or name.startswith("agentlightning"):
            found[name] = distribution.version
    return dict(sorted(found.items()))


async def serve(side: Side) -> None:
    """Answer commands until the input ends."""
    driver = Driver(side)
    _answer({"ready": True, "versions": _versions()})
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        try:
            answer = await driver.run(command.pop("command"), command)
        except Exception as error:  # noqa: BLE001  (the parent decides what a failed row means)
            answer = {"error": f"{type(error).__name__}: {error}"}
        _answer(answer)
    await driver.close()


def _answer(answer: Answer) -> None:
    print(json.dumps(answer), file=_ANSWERS, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=inspect.getdoc(sys.modules[__name__]))
    parser.add_argument("--side", choices=sorted(SIDES), required=True)
    options = parser.parse_args()
    # Libraries print what they like; answers keep the real standard output to themselves.
    _ANSWERS = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asyncio.run(serve(SIDES[options.side]))
