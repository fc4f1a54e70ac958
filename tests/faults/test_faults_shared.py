"""Two servers over one database, and that database itself, can be hit as one server on a file can."""

from __future__ import annotations

import sys
from collections.abc import Iterator
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
    restart_the_database,
)
from postgres import SERVER
from test_faults_scenarios import SEEDS

pytestmark = [pytest.mark.timeout(120), pytest.mark.parametrize("seed", SEEDS)]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """A database with an empty store."""
    yield SERVER.url_of(tmp_path)
    SERVER.take_back(tmp_path)


async def test_what_a_killed_server_was_doing_goes_on_at_the_other(tmp_path: Path, seed: int, database: str) -> None:
    async with working_cluster(tmp_path, seed, database=database) as cluster:
        await harm(cluster, kill_the_server, kill_the_server, end_the_server)


async def test_servers_survive_a_restart_of_their_database(tmp_path: Path, seed: int, database: str) -> None:
    async with working_cluster(tmp_path, seed, database=database) as cluster:
        await harm(cluster, restart_the_database, hits=2)


async def test_a_server_that_lost_its_sessions_while_it_stood_still_takes_up_its_work(
    tmp_path: Path, seed: int, database: str
) -> None:
    program = Path(__file__).parents[1] / "server" / "altered_server.py"
    async with working_cluster(
        tmp_path, seed, [sys.executable, str(program), "turn=0.05"], database=database
    ) as cluster:
        await harm(cluster, pause_the_server)


async def test_slow_commits_and_servers_that_differ_about_the_time_do_no_harm(
    tmp_path: Path, seed: int, database: str
) -> None:
    clock = tmp_path / "clock"

    async def jump(cluster: Cluster) -> None:
        clock.write_text(str(cluster.chance.choice([-7200, -30, 30, 7200])))
        await kill_the_server(cluster)

    program = Path(__file__).parent / "slow_server.py"
    command = [sys.executable, str(program), "0.02", str(clock)]
    async with working_cluster(tmp_path, seed, command, database=database) as cluster:
        await harm(cluster, jump, hits=3)


async def test_everything_at_once_does_no_harm_to_two_servers(tmp_path: Path, seed: int, database: str) -> None:
    async with working_cluster(tmp_path, seed, database=database) as cluster:
        await harm(
            cluster,
            *[
                kill_the_server,
                pause_the_server,
                kill_a_runner,
                cut_the_connections,
                lose_answers,
                restart_the_database,
            ],
            hits=2 * HITS,
        )
