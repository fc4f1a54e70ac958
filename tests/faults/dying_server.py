"""A store server that dies right after a commit, before anybody is answered, once a file appears.

Run as `dying_server.py FILE`, followed by the options of the server.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from agentlightning.store.engine.engine import Engine
from agentlightning.store.opening import open_engine
from agentlightning.store.storage.base import Durability
from agentlightning.store.storage.signals import Signal
from agentlightning.store_grpc import __main__ as command


def open_dying(url: str, durability: Durability, **options: Any) -> Engine:
    """Open a store whose commits may be the last act of this process."""
    engine = open_engine(url, durability, **options)
    engine.storage.on_commit(die_if_told)
    return engine


def die_if_told(signals: list[Signal]) -> None:
    """Die after a commit that is waited for. In PostgreSQL, listeners hear of what is no commit, too."""
    if TRIGGER.exists() and any(one.topic not in ("deadline", "everything") for one in signals):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    TRIGGER = Path(sys.argv.pop(1))
    command.open_engine = open_dying
    sys.exit(command.main())
