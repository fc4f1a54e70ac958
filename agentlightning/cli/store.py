"""`agl store`: the store server, the same as `python -m agentlightning.store_grpc`."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; see `agentlightning.store_grpc.__main__.main`."""
    from agentlightning.store_grpc.__main__ import main as serve

    return serve(argv, prog="agl store")
