"""`agl`, the command of this package. A subcommand is loaded when it is asked for, so that `agl` answers at once."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from agentlightning.cli.exit_codes import ExitCode
from agentlightning.removed import describe_removed

__all__ = ["main"]


class _Command(NamedTuple):
    module: str
    """In this package; its `main` takes the words that follow and returns an exit code."""
    summary: str


_COMMANDS: Final = {
    "Look after a run": {
        "rollouts": _Command("rollouts", "list, show, cancel, requeue and delete rollouts"),
        "spans": _Command("spans", "show what an agent did, span by span"),
        "workers": _Command("workers", "list runners, and ask them to leave"),
        "stats": _Command("stats", "totals of a run, and how far it is"),
        "wait": _Command("wait", "wait until rollouts finish"),
        "export": _Command("export", "write rollouts with attempts and spans as JSON lines"),
        "experiments": _Command("experiments", "list and delete the experiments of a store"),
    },
    "Run a server": {
        "store": _Command("store", "serve a store over gRPC"),
        "vllm": _Command("vllm", "run vLLM so that answers carry token ids"),
        "agentops": _Command("agentops_server", "take the spans of AgentOps SDKs, and put them into a store"),
    },
}
_REMOVED: Final = ("prometheus",)

_EXAMPLES: Final = """\
Examples:
  agl store --store sqlite:///run.db            serve a store, on port 4747
  agl stats                                     how far is the run?
  agl rollouts list --status failed             what went wrong, newest first
  agl rollouts requeue --status failed --yes    and once more
  agl export --output run.jsonl                 everything, for notebooks

`agl COMMAND --help` says more. Commands find their store by --store HOST:PORT or AGL_STORE_ADDRESS.
Exit codes: 0 done, 1 failed, 2 wrong options, 3 time is up (wait), 4 a package is not installed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `agl`.

    Args:
        argv: The words after `agl`; those of this process if None.

    Returns:
        The exit code, one of `ExitCode`; for `agl vllm` that of vLLM.

    Raises:
        SystemExit: A subcommand's options are wrong (code 2), or help was asked for (code 0).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # What is still buffered has no reader, and Python would try again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.CLOSED_PIPE
    return code


def _run(words: list[str]) -> int:
    if not words:
        print(_help(), file=sys.stderr)
        return ExitCode.USAGE
    name, *rest = words
    if name in ("-h", "--help", "help"):
        print(_help())
        return ExitCode.OK
    if name in ("-V", "--version"):
        print(_version())
        return ExitCode.OK
    if name in _REMOVED:
        print(f"agl: {describe_removed(f'agl {name}')}", file=sys.stderr)
        return ExitCode.USAGE
    for commands in _COMMANDS.values():
        if name in commands:
            code: int = importlib.import_module(f"agentlightning.cli.{commands[name].module}").main(rest)
            return code
    return _unknown(name)


def _unknown(name: str) -> int:
    names = [name for commands in _COMMANDS.values() for name in commands]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]}?" if close else f": {', '.join(names)}"
    print(f"agl: there is no command {name!r}{hint}", file=sys.stderr)
    return ExitCode.USAGE


def _help() -> str:
    lines = ["usage: agl COMMAND ...", "", "Agent Lightning on the command line."]
    for group, commands in _COMMANDS.items():
        lines += ["", f"{group}:", *(f"  {name:<12} {command.summary}" for name, command in commands.items())]
    return "\n".join([*lines, "", _EXAMPLES])


def _version() -> str:
    from importlib.metadata import version

    return f"agl {version('agentlightning-grpc')}"
