"""gRPC and forks: a process that has used gRPC must not be forked, and one that was is told so."""

from __future__ import annotations

import os


class ForkedError(RuntimeError):
    """A process was forked while gRPC was in use, and then called or served a store: gRPC would hang."""


_is_used = False
_was_forked_after_use = False


def use_grpc() -> None:
    """Take note that this process uses gRPC from now on; to be called before the first channel or server is made.

    gRPC's own handlers of a fork cannot save asyncio channels, but now and then hang or crash the process that forks
    and its children: they are off unless the environment says otherwise.

    Raises:
        ForkedError: It was forked from one that did.
    """
    global _is_used
    if _was_forked_after_use:
        raise ForkedError(
            "This process was forked from one that already talked to a store or served one; gRPC does not survive "
            "that. Start children with multiprocessing.get_context('spawn')."
        )
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    _is_used = True


def _after_fork() -> None:
    global _was_forked_after_use
    _was_forked_after_use = _is_used


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
