"""The options of the store server; each can be set by an environment variable too."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from typing import get_args

from agentlightning.removed import REMOVED, describe_removed
from agentlightning.store.api import MAX_MESSAGE_BYTES
from agentlightning.store.server.admission import MOST_PENDING_BYTES
from agentlightning.store.storage.base import DEFAULT_DURABILITY, Durability

ENV_PREFIX = "AGL_STORE_"
"""What the names of the environment variables begin with; the rest is the option's name in capitals."""

_REMOVED_PREFIX = "agl store "
_MOST_BYTES = (1 << 31) - 1  # gRPC counts the bytes of messages in 32 bits
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_SHORTEST_KEPT = 1
_LONGEST_KEPT = 36_500 * 24 * 3600  # nanoseconds are counted in 63 bits


class _Removed(argparse.Action):
    """Refuses an option of an older release, with what to use instead."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        parser.error(describe_removed(f"{_REMOVED_PREFIX}{option_string}"))


def parse(
    arguments: Sequence[str] | None = None, *, prog: str = "python -m agentlightning.store_grpc"
) -> argparse.Namespace:
    """Return the options of a command line, with the environment where an option is absent.

    Args:
        arguments: The command line; that of this process if None.
        prog: What calls the server, for messages.

    Raises:
        SystemExit: With code 2, after a message that names the fault.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Serve a store over gRPC, with OTLP, health and reflection on the same port.",
        epilog=f"Every option has an environment variable, such as {ENV_PREFIX}PORT or {ENV_PREFIX}MAX_MESSAGE_BYTES.",
    )
    _add(parser, "--host", default="127.0.0.1", help="host name or address to listen on")
    _add(parser, "--port", default="4747", type=_port, help="port to listen on; 0 takes a free one")
    _add(
        parser,
        "--rest-port",
        default="none",
        type=_optional_port,
        help="port for the REST APIs of older releases, and for OTLP over HTTP; 0 takes a free one, none does without",
    )
    _add(
        parser,
        "--store",
        default="memory://",
        help="where the data lives: memory://[?max_bytes=N], sqlite:///PATH (sqlite:////PATH is an absolute path) or "
        "postgresql://USER@HOST/DATABASE",
    )
    _add(
        parser,
        "--durability",
        default=DEFAULT_DURABILITY,
        type=_durability,
        help="what every answered write survives: power-cut, crash (of the server) or none",
    )
    _add(
        parser,
        "--keep-finished",
        default="none",
        type=_duration,
        help="delete rollouts that finished longer ago, such as 36h or 7d (s, m, h, d); none keeps them",
    )
    _add(
        parser,
        "--keep-finished-count",
        default="none",
        type=_optional_count,
        help="delete finished rollouts of an experiment that has more of them, the oldest first; none keeps them",
    )
    _add(
        parser,
        "--insecure",
        default="false",
        type=_flag,
        nargs="?",
        const=True,
        help="listen on an address that others can reach, without TLS and without asking who calls",
    )
    _add(parser, "--max-message-bytes", default=str(MAX_MESSAGE_BYTES), type=_bytes, help="largest message to accept")
    _add(
        parser,
        "--max-pending-bytes",
        default=str(MOST_PENDING_BYTES),
        type=_bytes,
        help="bytes of requests to work on at once; further ones are refused with a time to come back",
    )
    _add(parser, "--grace", default="5", type=_seconds, help="seconds that calls may take to finish at the end")
    _add(
        parser,
        "--log-level",
        default="INFO",
        type=_log_level,
        help="what to log on stderr: DEBUG, INFO, WARNING or ERROR",
    )
    for name in REMOVED:
        if name.startswith(_REMOVED_PREFIX):
            option = name.removeprefix(_REMOVED_PREFIX)
            parser.add_argument(option, action=_Removed, nargs="*", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.max_pending_bytes < options.max_message_bytes:
        parser.error(
            f"--max-pending-bytes: {options.max_pending_bytes} is less than the {options.max_message_bytes} of "
            "--max-message-bytes, so that the largest messages would always be too much; raise it, or lower the other"
        )
    return options


def _add(parser: argparse.ArgumentParser, option: str, *, default: str, **settings: object) -> None:
    """Add an option whose default the environment may replace; its `type` checks both, `choices` would not."""
    name = ENV_PREFIX + option.removeprefix("--").replace("-", "_").upper()
    settings["help"] = f"{settings['help']} (default: {default}; environment: {name})".replace("%", "%%")
    parser.add_argument(option, default=os.environ.get(name, default), **settings)  # type: ignore[arg-type]


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: 0 to 65535")
    return port


def _optional_port(text: str) -> int | None:
    return None if text.lower() == "none" else _port(text)


def _bytes(text: str) -> int:
    number = int(text)
    if not 1 <= number <= _MOST_BYTES:
        raise argparse.ArgumentTypeError(f"{text} is not 1 to {_MOST_BYTES}")
    return number


def _durability(text: str) -> Durability:
    for level in get_args(Durability):
        if text.lower() == level:
            return level  # type: ignore[no-any-return]
    raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(get_args(Durability))}")


def _duration(text: str) -> int | None:
    """Return nanoseconds."""
    if text.lower() == "none":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.lower())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not _SHORTEST_KEPT <= seconds <= _LONGEST_KEPT:
        raise argparse.ArgumentTypeError(
            f"{text!r} is none, nor a number with a unit such as 90s, 45m, 36h or 7d, from 1s to 36500d"
        )
    return round(seconds * 1e9)


def _optional_count(text: str) -> int | None:
    if text.lower() == "none":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither none nor a number from 1 on")
    return int(text)


def _log_level(text: str) -> str:
    level = text.upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise argparse.ArgumentTypeError(f"{text!r} is none of DEBUG, INFO, WARNING and ERROR")
    return level


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return seconds


def _flag(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return words[text.lower()]
