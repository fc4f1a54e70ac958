"""Whatever happens to its processes and connections, a store loses nothing that it answered, does nothing twice, and
brings the work to its end.

`AGL_FAULT_ROUNDS` says how many rounds each scenario has and `AGL_FAULT_BATCHES` how much work there is in each (`make
faults` runs many long ones), `AGL_FAULT_SEED` with which seed they begin. A seed decides what happens when; what the
operating system makes of it still varies.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from cluster import Cluster, working_cluster
from harms import (
    HITS,
    cut_the_connections,
    end_the_server,
    harm,
    kill_a_runner,
    kill_the_server,
    lose_answers,
    pause_the_server,
)

FIRST_SEED = int(os.environ.get("AGL_FAULT_SEED", "1"))
SEEDS = range(FIRST_SEED, FIRST_SEED + int(os.environ.get("AGL_FAULT_ROUNDS", "1")))

pytestmark = [pytest.mark.timeout(120), pytest.mark.parametrize("seed", SEEDS)]


async def test_a_killed_server_goes_on_where_it_was(tmp_path: Path, seed: int) -> None:
    async with working_cluster(tmp_path, seed) as cluster:
        stored = await harm(cluster, kill_the_server, kill_the_server, end_the_server)
    assert stored.first_claims == sorted(stored.first_claims)


async def test_a_server_that_stood_still_takes_up_its_work(tmp_path: Path, seed: int) -> None:
    async with working_cluster(tmp_path, seed) as cluster:
        await harm(cluster, pause_the_server, hits=2)


async def test_the_rollouts_of_killed_runners_are_run_by_others(tmp_path: Path, seed: int) -> None:
    async with working_cluster(tmp_path, seed) as cluster:
        await harm(cluster, kill_a_runner)


async def test_cut_connections_and_lost_answers_do_no_harm(tmp_path: Path, seed: int) -> None:
    async with working_cluster(tmp_path, seed) as cluster:
        await harm(cluster, cut_the_connections, lose_answers, hits=3 * HITS)
        assert cluster.proxy.lost


async def test_a_slow_disk_and_a_clock_that_jumps_do_no_harm(tmp_path: Path, seed: int) -> None:
    clock = tmp_path / "clock"

    async def jump(cluster: Cluster) -> None:
        clock.write_text(str(cluster.chance.choice([-7200, -30, 30, 7200])))
        await kill_the_server(cluster)

    program = Path(__file__).parent / "slow_server.py"
    async with working_cluster(tmp_path, seed, [sys.executable, str(program), "0.02", str(clock)]) as cluster:
        await harm(cluster, jump, hits=3)


async def test_everything_at_once_does_no_harm(tmp_path: Path, seed: int) -> None:
    async with working_cluster(tmp_path, seed) as cluster:
        await harm(
            cluster,
            *[kill_the_server, pause_the_server, kill_a_runner, cut_the_connections, lose_answers],
            hits=2 * HITS,
        )
