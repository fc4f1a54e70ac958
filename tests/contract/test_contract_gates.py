"""The gates of the contract let through what is compatible, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Contract:
    """A copy of the contract that may be spoilt."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def change(self, name: str, before: str, after: str) -> None:
        """Replace a piece of text that a file has just once."""
        path = self.root / "proto/lightning_store/v1" / name
        text = path.read_text()
        assert text.count(before) == 1, f"{name} has {before!r} {text.count(before)} times"
        path.write_text(text.replace(before, after))

    def buf(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run buf on the copy."""
        tool = Path(sys.executable).parent / "buf"
        assert tool.exists(), "buf is missing: install the package buf-bin of the test dependencies"
        return subprocess.run(
            [str(tool), *arguments], cwd=self.root, capture_output=True, text=True, timeout=60, check=False
        )

    def breaking(self) -> subprocess.CompletedProcess[str]:
        """Run the gate that `make check` runs."""
        return self.buf("breaking", "--against", "proto/baseline.binpb")


@pytest.fixture
def contract(tmp_path: Path) -> Contract:
    """A copy of the contract."""
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    shutil.copy(ROOT / "buf.yaml", tmp_path / "buf.yaml")
    return Contract(tmp_path)


def test_the_contract_as_it_is_passes(contract: Contract) -> None:
    result = contract.breaking()
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_new_field_passes(contract: Contract) -> None:
    contract.change(
        "worker.proto",
        "  optional string current_rollout_id",
        "  // New.\n  string nickname = 90;\n\n  optional string current_rollout_id",
    )
    result = contract.breaking()
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_renumbered_field_is_refused(contract: Contract) -> None:
    contract.change("rollout.proto", "RolloutStatus status = 5;", "RolloutStatus status = 50;")
    result = contract.breaking()
    assert result.returncode != 0
    assert "rollout.proto" in result.stdout
    assert '"5" with name "status" on message "Rollout"' in result.stdout


def test_a_field_of_another_type_is_refused(contract: Contract) -> None:
    contract.change("attempt.proto", "int32 sequence_id = 3;", "string sequence_id = 3;")
    result = contract.breaking()
    assert result.returncode != 0
    assert '"sequence_id"' in result.stdout


def test_a_deleted_rpc_is_refused(contract: Contract) -> None:
    contract.change(
        "attempt_service.proto", "  rpc ListAttempts(ListAttemptsRequest) returns (ListAttemptsResponse);\n", ""
    )
    result = contract.breaking()
    assert result.returncode != 0
    assert 'RPC "ListAttempts"' in result.stdout


def test_a_deleted_service_is_refused(contract: Contract) -> None:
    path = contract.root / "proto/lightning_store/v1/worker_service.proto"
    text, count = re.subn(r"^service WorkerService \{.*?^\}\n", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert count == 1
    path.write_text(text)
    result = contract.breaking()
    assert result.returncode != 0
    assert '"WorkerService"' in result.stdout


@pytest.mark.parametrize(
    ("name", "commented"),
    [
        ("worker_service.proto", "// Request of GetWorker.\n"),
        ("worker_service.proto", "  // The attempts that the worker holds, at most 1,000.\n"),
        ("rollout.proto", "  // Called off by the algorithm or an operator.\n"),
        ("span_service.proto", "  // Stores spans, all or none, and answers after the commit."),
    ],
    ids=["message", "field", "enum value", "rpc"],
)
def test_an_item_without_a_comment_is_refused(contract: Contract, name: str, commented: str) -> None:
    path = contract.root / "proto/lightning_store/v1" / name
    lines = path.read_text().splitlines(keepends=True)
    (start,) = [at for at, line in enumerate(lines) if line.startswith(commented.rstrip("\n"))]
    end = start
    while lines[end].lstrip().startswith("//"):
        end += 1
    path.write_text("".join(lines[:start] + lines[end:]))
    result = contract.buf("lint")
    assert result.returncode != 0
    assert "comment" in result.stdout
    assert name in result.stdout
