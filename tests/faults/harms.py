"""What can happen to a cluster."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

from cluster import BATCHES, Cluster, check
from fault_client import LEASE
from history_checker import Stored
from postgres import SERVER

HITS = max(2, BATCHES // 10)

Harm = Callable[[Cluster], Awaitable[None]]


async def kill_the_server(cluster: Cluster) -> None:
    server = cluster.server
    server.kill()
    cluster.check_rows()
    await asyncio.sleep(cluster.chance.uniform(0, 0.3))
    await asyncio.to_thread(server.start)


async def end_the_server(cluster: Cluster) -> None:
    server = cluster.server
    assert await asyncio.to_thread(server.stop) == 0
    cluster.check_rows()
    await asyncio.to_thread(server.start)


async def pause_the_server(cluster: Cluster) -> None:
    server = cluster.server
    server.signal(signal.SIGSTOP)
    await asyncio.sleep(cluster.chance.uniform(0.2, 1.5 * LEASE))
    server.signal(signal.SIGCONT)


async def kill_a_runner(cluster: Cluster) -> None:
    cluster.runners.pop(cluster.chance.randrange(len(cluster.runners))).kill()
    await cluster.start_runner()


async def cut_the_connections(cluster: Cluster) -> None:
    cluster.proxy.cut()


async def lose_answers(cluster: Cluster) -> None:
    cluster.proxy.answers_to_lose += cluster.chance.randint(1, 4)


async def restart_the_database(cluster: Cluster) -> None:
    await asyncio.to_thread(SERVER.restart)


async def harm(cluster: Cluster, *harms: Harm, hits: int = HITS) -> Stored:
    """Do harm at moments that chance decides, check what became of it, and return that."""
    for _ in range(hits):
        await asyncio.sleep(cluster.chance.uniform(0.2, 0.9))
        await cluster.chance.choice(harms)(cluster)
    stored = await check(cluster)
    for server in cluster.servers:
        assert server.stop() == 0
    cluster.check_rows()
    return stored
