"""The command lines of commands that work on a running store."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from agentlightning.env_var import LightningEnvVar

if TYPE_CHECKING:
    from agentlightning.store.client import LightningStoreClient

ADDRESS_VARIABLE: Final = "AGL_STORE_ADDRESS"
EXPERIMENT_VARIABLE: Final = "AGL_STORE_EXPERIMENT"

_DEFAULT_HOST: Final = "127.0.0.1"
_DEFAULT_PORT: Final = "4747"

Work = Callable[["LightningStoreClient", argparse.Namespace], Awaitable[int]]
"""What a command does with its store; gets its options, and returns the exit code."""


def store_command(
    prog: str, description: str, examples: str, work: Work, *, json: str | None
) -> argparse.ArgumentParser:
    """Makes the parser of a command that works on a running store.

    Args:
        prog: The words that call it, such as `agl spans`.
        description: What it does.
        examples: Lines that show how it is used.
        work: Does it; the parser puts it into the options, with `prog`.
        json: What it prints with `--json`; None leaves that option out.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=f"Examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _complete(parser, work, json)
    return parser


class CommandGroup:
    """A command that has commands of its own.

    Args:
        prog: The words that call it.
        description: What it is about.
        in_experiment: Whether its commands work on one experiment.
    """

    def __init__(self, prog: str, description: str, *, in_experiment: bool = True) -> None:
        self._in_experiment = in_experiment
        self._parser = argparse.ArgumentParser(prog=prog, description=description)
        self._commands = self._parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        self, name: str, summary: str, *, text: str, examples: str, work: Work, json: str
    ) -> argparse.ArgumentParser:
        """Adds a command, as `store_command` makes one, and returns its parser."""
        parser = self._commands.add_parser(
            name,
            help=summary,
            description=text,
            epilog=f"Examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _complete(parser, work, json, in_experiment=self._in_experiment)
        return parser

    def parse(self, argv: Sequence[str] | None, *, default: str | None = None) -> argparse.Namespace:
        """Returns the options.

        Args:
            argv: The words that follow those of the group; those of the process if None.
            default: The command where none is named.

        Raises:
            SystemExit: With code 2 after a message that names the fault; with code 0 after help.
        """
        words = list(sys.argv[1:] if argv is None else argv)
        is_bare = not words or (words[0].startswith("-") and words[0] not in ("-h", "--help"))
        return self._parser.parse_args([default, *words] if default and is_bare else words)


def default_address() -> str:
    """Returns the address of the store that the environment names; where runners look, unless it names another."""
    host = os.environ.get(LightningEnvVar.AGL_SERVER_HOST.value, _DEFAULT_HOST)
    port = os.environ.get(LightningEnvVar.AGL_SERVER_PORT.value, _DEFAULT_PORT)
    return os.environ.get(ADDRESS_VARIABLE, f"{host}:{port}")


def default_experiment() -> str:
    """Returns the experiment that the environment names."""
    return os.environ.get(EXPERIMENT_VARIABLE, "default")


def _complete(parser: argparse.ArgumentParser, work: Work, json: str | None, *, in_experiment: bool = True) -> None:
    parser.set_defaults(work=work, prog=parser.prog, experiment=default_experiment())
    if json is not None:
        parser.add_argument("--json", action="store_true", help=f"print {json}, for programs")
    group = parser.add_argument_group("store")
    group.add_argument(
        "--store",
        metavar="HOST:PORT",
        default=default_address(),
        help=f"address of the store server (default: %(default)s; environment: {ADDRESS_VARIABLE})",
    )
    if in_experiment:
        group.add_argument(
            "--experiment",
            metavar="NAME",
            help=f"experiment to work on (default: %(default)s; environment: {EXPERIMENT_VARIABLE})",
        )
