"""Other releases of the contract than today's: those that were, and one that may come."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from store_process import environment
from test_contract_gates import Contract

from agentlightning.store import status

ADDITIONS = [
    ("rollout.proto", "  ROLLOUT_STATUS_REQUEUING = 7;", "  ROLLOUT_STATUS_PAUSED = 8;"),
    ("rollout.proto", "  Attempt latest_attempt = 10;", "  string note = 90;"),
    (
        "rollout_service.proto",
        "  // Notes of the user; a JSON object.\n  Payload metadata = 6;",
        "  int32 weight = 90;",
    ),
    ("rollout_service.proto", "  RolloutModeSet mode_in = 4;", "  optional int32 weight = 90;"),
    ("rollout_service.proto", "  // Statuses to delete.\n  RolloutStatusSet status_in = 2;", "  int32 weight = 90;"),
    ("rollout_service.proto", "    WaitDone done = 4;", "    string progress = 90;"),
    ("resources.proto", "    CustomResource custom = 4;", "    string checkpoint = 90;"),
    ("resources.proto", "  string engine = 2;", "  string language = 90;"),
    ("span.proto", "  Payload extra = 104;", "  double cost = 150;"),
    ("worker.proto", "    Drain drain = 2;", "    string rest = 90;"),
    (
        "store_service.proto",
        "service StoreService {",
        "  rpc GetQuota(GetServerInfoRequest) returns (GetServerInfoResponse);",
    ),
]
"""File, place and text of what the later contract has more than today's: one of each kind of addition."""

_MODULE = """\
from google.protobuf import descriptor_pool, duration_pb2, timestamp_pb2
from google.protobuf.internal import builder
{imports}
DESCRIPTOR = descriptor_pool.Default().AddSerializedFile({file!r})
builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, __name__, globals())
"""


def image_of(contract: Contract) -> bytes:
    """Return the image of a contract."""
    built = contract.buf("build", "--exclude-source-info", "--output", "image.binpb")
    assert built.returncode == 0, built.stderr
    return (contract.root / "image.binpb").read_bytes()


def without_rpc(image: bytes, rpc: str) -> bytes:
    """Return an image that lacks a method."""
    files = FileDescriptorSet.FromString(image)
    (service, method) = next(
        (service, method)
        for file in files.file
        for service in file.service
        for method in service.method
        if method.name == rpc
    )
    service.method.remove(method)
    return files.SerializeToString()


def python_path(image: bytes, folder: Path) -> dict[str, str]:
    """Write the package `lightning_store` of an image, and return what makes a process import that one."""
    package = folder / "lightning_store" / "v1"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    own = [file for file in FileDescriptorSet.FromString(image).file if file.package == "lightning_store.v1"]
    modules = [re.sub(r".*/(\w+)\.proto$", r"\1_pb2", file.name) for file in own]
    for module, file in zip(modules, own, strict=True):
        imports = [re.sub(r".*/(\w+)\.proto$", r"\1_pb2", name) for name in file.dependency if "google" not in name]
        lines = "".join(f"from lightning_store.v1 import {name}\n" for name in imports)
        (package / f"{module}.py").write_text(_MODULE.format(imports=lines, file=file.SerializeToString()))
    (package / "__init__.py").write_text("".join(f"from lightning_store.v1.{module} import *\n" for module in modules))
    return {"PYTHONPATH": os.pathsep.join([str(folder), environment().get("PYTHONPATH", "")])}


class ContractClient:
    """A client made from an image of the contract and nothing else, as clients of any language are.

    Args:
        image: The image.
        address: `host:port` of the server.
    """

    def __init__(self, image: bytes, address: str) -> None:
        pool = DescriptorPool()
        services = []
        for file in FileDescriptorSet.FromString(image).file:
            pool.Add(file)
            services += [f"{file.package}.{service.name}" for service in file.service]
        self.methods = {method.name: method for name in services for method in pool.FindServiceByName(name).methods}
        self._channel = grpc.aio.insecure_channel(address)

    async def call(self, rpc: str, **request: Any) -> dict[str, Any]:
        """Make a call, in the words of JSON, and return the answer, or the first message of one that is a stream.

        Raises:
            StoreError: The call failed.
        """
        async with aclosing(self.stream(rpc, **request)) as answers:
            return await anext(answers)

    async def stream(self, rpc: str, **request: Any) -> AsyncGenerator[dict[str, Any], None]:
        """Make a call, and yield the messages of the answer."""
        method = self.methods[rpc]
        # What the answer to a unary call looks like on the wire is a stream of one message.
        make = self._channel.unary_stream(
            f"/{method.containing_service.full_name}/{rpc}",
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        call = make(ParseDict(request, GetMessageClass(method.input_type)()).SerializeToString(), timeout=30)
        try:
            async for message in call:
                yield MessageToDict(message, preserving_proto_field_name=True)
        except grpc.aio.AioRpcError as failure:
            trailing = failure.trailing_metadata() or ()
            raise status.decode(failure.code(), failure.details() or "", trailing) from None  # type: ignore[arg-type]
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()
