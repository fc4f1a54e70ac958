"""A store server whose disk is slow, or whose machine has another idea of the time.

Run as `slow_server.py SLOWEST_SECONDS CLOCK_OFFSET_FILE`, followed by the options of the server. Each commit takes up
to that long; the wall clock is off by the seconds that the file holds when the server starts, if it exists.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

from agentlightning.store.engine.engine import Engine
from agentlightning.store.opening import open_engine
from agentlightning.store.storage.base import Durability
from agentlightning.store_grpc import __main__ as command

_real_time_ns = time.time_ns


def open_slow(url: str, durability: Durability, **options: Any) -> Engine:
    """Open a store whose commits take their time."""
    engine = open_engine(url, durability, **options)
    chance = random.Random(0)
    engine.storage.on_commit(lambda _: time.sleep(chance.uniform(0, SLOWEST)))
    return engine


if __name__ == "__main__":
    SLOWEST = float(sys.argv.pop(1))
    offset_file = Path(sys.argv.pop(1))
    OFFSET = int(float(offset_file.read_text()) * 1e9) if offset_file.exists() else 0
    time.time_ns = lambda: _real_time_ns() + OFFSET
    command.open_engine = open_slow
    sys.exit(command.main())
