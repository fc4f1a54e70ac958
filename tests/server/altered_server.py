"""A store server in PostgreSQL with something changed.

Run as `altered_server.py newer-tables`, which knows a version of the tables after today's, or as `altered_server.py
turn=SECONDS`, which looks for the watch that often; followed by the options of the server.
"""

from __future__ import annotations

import sys
from functools import partial

from agentlightning.store.storage import postgres, postgres_connection
from agentlightning.store_grpc import __main__ as command

_STEP = "ALTER TABLE rollouts ADD COLUMN weight BIGINT NOT NULL DEFAULT 1"

if __name__ == "__main__":
    what, _, value = sys.argv.pop(1).partition("=")
    if what == "newer-tables":
        postgres_connection.STEPS = (*postgres_connection.STEPS, _STEP)
        postgres_connection.VERSION += 1
    else:
        postgres.PostgresStorage = partial(postgres.PostgresStorage, turn=float(value))
    sys.exit(command.main())
