"""Every reason that an error of the store can have stands in the contract."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
OF_THE_CLIENT = {"DEADLINE_EXCEEDED", "MESSAGE_TOO_LARGE", "SERVER_UNREACHABLE"}
OF_OPENING = {"DATABASE_IN_USE", "DATABASE_UNAVAILABLE", "INVALID_STORE_URL", "NOT_A_STORE", "SCHEMA_VERSION"}


def test_a_reason_that_reaches_clients_is_named_in_the_contract() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "agentlightning" / "store").rglob("*.py"))
    used = set(re.findall(r'reason="([A-Z_]+)"', sources)) - OF_THE_CLIENT - OF_OPENING
    contract = "".join(path.read_text() for path in (ROOT / "proto").rglob("*.proto"))
    named = set(re.findall(r"`([A-Z_]+)`", contract))

    assert len(used) > 30
    assert used - named == set()
