"""The generated code stands alone, and the server keeps the whole contract."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pool

from agentlightning.store.api import StoreApi
from agentlightning.store.engine.engine import Engine
from agentlightning.store.methods import METHODS, SERVICES, Method
from agentlightning.store.remote.api import RemoteApi
from lightning_store import v1

ROOT = Path(__file__).parents[2]
MODULES = sorted(path.stem for path in (ROOT / "gen/python/lightning_store/v1").glob("*_pb2*.py"))

IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"lightning_store.v1.{name}")
print(sorted({
    dependency.name
    for name in sys.argv[1:]
    if not name.endswith("_grpc")
    for dependency in sys.modules[f"lightning_store.v1.{name}"].DESCRIPTOR.dependencies
    if not dependency.name.startswith("lightning_store/v1/")
}))
"""


def test_generated_code_needs_nothing_but_grpcio_and_protobuf(tmp_path: Path) -> None:
    assert len(MODULES) > 10
    installed = Path(inspect.getfile(grpc)).parents[1]
    (tmp_path / "google").mkdir()
    # grpcio itself needs typing_extensions.
    for name in ("grpc", "google/protobuf", "google/_upb", "typing_extensions.py"):
        (tmp_path / name).symlink_to(installed / name)
    result = subprocess.run(
        # -S leaves the packages of this environment out.
        [sys.executable, "-S", "-c", IMPORT_ALL, *MODULES],
        env={"PYTHONPATH": f"{ROOT / 'gen/python'}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "['google/protobuf/duration.proto', 'google/protobuf/timestamp.proto']"


def test_every_file_of_the_contract_has_generated_code() -> None:
    protos = {path.stem for path in (ROOT / "proto/lightning_store/v1").glob("*.proto")}
    assert protos == {name.removesuffix("_pb2") for name in MODULES if name.endswith("_pb2")}


def test_every_message_and_enum_is_exported_at_the_root_of_the_version() -> None:
    pool = descriptor_pool.Default()
    for proto in (ROOT / "proto/lightning_store/v1").glob("*.proto"):
        described = pool.FindFileByName(f"lightning_store/v1/{proto.name}")
        for name in [*described.message_types_by_name, *described.enum_types_by_name]:
            assert hasattr(v1, name)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.service.rpartition('.')[2]}.{method.rpc}")
def test_every_rpc_is_a_method_of_the_store_in_process_and_remote(method: Method) -> None:
    for kind in (StoreApi, Engine, RemoteApi):
        assert callable(getattr(kind, method.name))


def test_the_store_api_has_no_methods_beside_the_rpcs() -> None:
    public = {name for name, _ in inspect.getmembers(StoreApi, inspect.isfunction) if not name.startswith("_")}
    assert public == {method.name for method in METHODS}
    assert {service.rpartition(".")[2] for service in SERVICES} == {
        "RolloutService",
        "AttemptService",
        "SpanService",
        "ResourcesService",
        "WorkerService",
        "StoreService",
    }
