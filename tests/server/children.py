"""A program that uses a store, starts a child that does too, and prints how both fared.

Run as `children.py HOW ADDRESS`, or `children.py HOW PATH` where the store is a file.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import threading

from agentlightning.store.api import CallContext
from agentlightning.store.engine.engine import Engine
from agentlightning.store.forks import ForkedError
from agentlightning.store.opening import open_engine
from agentlightning.store.remote.api import connect
from agentlightning.store.server.server import StoreServer
from lightning_store import v1


async def storage_of(address: str) -> str:
    """Ask a server for its kind of storage."""
    api = connect(address)
    try:
        answer = await asyncio.wait_for(api.get_server_info(CallContext(), v1.GetServerInfoRequest()), 10)
    finally:
        await api.close()
    return answer.storage


def use(address: str, who: str = "parent") -> None:
    """Use the store, and print how it went."""
    try:
        print(f"{who}: {asyncio.run(storage_of(address))}", flush=True)
    except ForkedError as error:
        print(f"{who}: {error}", flush=True)


def run_child(method: str, address: str) -> None:
    """Use the store in a child."""
    process = multiprocessing.get_context(method).Process(target=use, args=(address, "child"))  # type: ignore[attr-defined]
    process.start()
    process.join(60)
    print(f"child ended with {process.exitcode}", flush=True)
    if process.exitcode is None:
        process.kill()


def forked_before_use(address: str) -> None:
    run_child("fork", address)
    use(address)


def forked_after_use(address: str) -> None:
    use(address)
    run_child("fork", address)


def spawned_after_use(address: str) -> None:
    use(address)
    run_child("spawn", address)
    use(address)


def forked_while_serving(address: str) -> None:
    served: list[str] = []
    is_over = threading.Event()

    async def serve() -> None:
        engine = open_engine("memory://")
        server = StoreServer(engine, port=0)
        await server.start()
        served.append(server.address)
        await asyncio.to_thread(is_over.wait)
        await server.stop()
        engine.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    while not served and thread.is_alive():
        thread.join(0.02)
    run_child("fork", served[0])
    is_over.set()
    thread.join()


def use_engine(engine: Engine) -> None:
    """Use a store of the parent's, and print how it went."""
    try:
        asyncio.run(statistics(engine))
        print("child: worked", flush=True)
    except ForkedError as error:
        print(f"child: {error}", flush=True)


async def statistics(engine: Engine) -> v1.GetStatisticsResponse:
    return await engine.get_statistics(CallContext(), v1.GetStatisticsRequest())


def forked_with_an_open_file(path: str) -> None:
    engine = open_engine(f"sqlite:///{path}")
    process = multiprocessing.get_context("fork").Process(target=use_engine, args=(engine,))
    process.start()
    process.join(60)
    print(f"child ended with {process.exitcode}", flush=True)
    process.kill()
    engine.close()


def forked_child_of_a_forked_child(address: str) -> None:
    use(address)
    child = os.fork()
    if child == 0:
        run_child("fork", address)
        os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
