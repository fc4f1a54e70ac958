"""Python reads and writes the vectors as clients in other languages do, whose own tests read the same file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, symbol_database
from google.rpc import error_details_pb2  # noqa: F401 - registers its messages

from agentlightning.codec.payload import from_payload
from lightning_store import v1

ROOT = Path(__file__).parents[2]
VECTORS: dict[str, dict[str, Any]] = {
    vector["name"]: vector for vector in json.loads((ROOT / "clients/vectors.json").read_text("utf-8"))["vectors"]
}


def test_the_file_is_what_its_generator_writes() -> None:
    subprocess.run([sys.executable, ROOT / "tools/vectors.py", "--check"], check=True)


@pytest.mark.parametrize("name", VECTORS)
def test_message_is_read_and_written_as_in_other_languages(name: str) -> None:
    vector = VECTORS[name]
    data = bytes.fromhex(vector["bytes"])
    kind = symbol_database.Default().GetSymbol(vector["message"])  # type: ignore[no-untyped-call]
    read = kind.FromString(data)
    assert json_format.MessageToDict(read) == vector["json"]
    assert read.SerializeToString(deterministic=True) == data
    if not vector.get("unknown_fields"):
        assert json_format.ParseDict(vector["json"], kind()).SerializeToString(deterministic=True) == data


def test_every_service_has_a_message_among_the_vectors() -> None:
    files = {
        symbol_database.Default().GetSymbol(vector["message"]).DESCRIPTOR.file.name  # type: ignore[no-untyped-call]
        for vector in VECTORS.values()
    }
    services = {
        f"lightning_store/v1/{noun}_service.proto" for noun in ("rollout", "attempt", "span", "resources", "worker")
    }
    assert services <= files


def test_the_payloads_of_the_vectors_are_read_without_loss() -> None:
    rollouts = [vector for vector in VECTORS.values() if vector["message"] == "lightning_store.v1.Rollout"]
    rollout = v1.Rollout.FromString(bytes.fromhex(rollouts[1]["bytes"]))
    assert from_payload(rollout.input, "input") == {
        "max": 2**63 - 1,
        "min": -(2**63),
        "above": 2**64,
        "text": 'é漢字🚀 "\\\n\x00',
        "tenth": 0.1,
    }
