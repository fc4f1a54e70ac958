"""A gRPC server that does nothing but answer with what it is sent: the floor under every call in Python."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
from environments import READY_LINE

METHOD = "/benchmark.Echo/Echo"


async def main() -> None:
    """Serve on a free port until killed."""

    async def echo(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return data

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    _, service, method = METHOD.split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"{READY_LINE}127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
