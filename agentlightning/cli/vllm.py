"""`agl vllm`: vLLM's own command, with token ids switched on."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Final, NoReturn

from agentlightning.cli.exit_codes import ExitCode

_MIDDLEWARE: Final = "agentlightning.instrumentation.vllm_token_ids.ReturnTokenIds"
_FIRST_WITH_TOKEN_IDS: Final = (0, 10, 2)
_OF_VLLM_ITSELF: Final = ("-v", "--version")

_HELP: Final = """\
usage: agl vllm [COMMAND] ...

Run vLLM's own command with everything that follows. Where it serves a model, answers carry the token ids of prompt and
response, whether the agent asks for them or not; a request that says "return_token_ids": false is left alone. Without a
command, serve is meant.

Examples:
  agl vllm serve Qwen/Qwen3-0.6B --port 8000
  agl vllm --model Qwen/Qwen3-0.6B --port 8000      the same, as older releases have it
  agl vllm serve --help                             vLLM's options

The exit code is that of vLLM; it is 4 if vLLM is not installed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Becomes vLLM's command, in this process.

    Args:
        argv: The words for it.

    Returns:
        The exit code, if there is nothing to become.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_HELP)
        return ExitCode.OK
    if find_spec("vllm") is None:
        print(
            "agl vllm: vLLM is not installed here: `pip install vllm`, on a machine that it supports, or run agl from "
            "the environment that has it",
            file=sys.stderr,
        )
        return ExitCode.NOT_INSTALLED
    return _become_vllm(with_token_ids(words))


def _become_vllm(words: Sequence[str]) -> NoReturn:
    _warn_of_old_release()
    sys.stdout.flush()
    # Not called: its signals, its exit code and the main module that its child processes import are to be its own.
    os.execv(sys.executable, [sys.executable, "-m", "vllm.entrypoints.cli.main", *words])


def with_token_ids(words: Sequence[str]) -> list[str]:
    """Returns the words for vLLM that make it do as asked, and return token ids where it serves a model.

    Args:
        words: The words after `agl vllm`, at least one.
    """
    command = list(words)
    if command[0].startswith("-") and command[0] not in _OF_VLLM_ITSELF:
        command = ["serve", *_model_first(command)]
    serves = command[0] == "serve" and not any(re.match("-h$|--help(=|$)", word) for word in command)
    return [*command, "--middleware", _MIDDLEWARE] if serves else command


def _model_first(words: list[str]) -> list[str]:
    """Returns options with the model in front, where `vllm serve` wants it."""
    for at, word in enumerate(words):
        if word == "--model" and at + 1 < len(words):
            return [words[at + 1], *words[:at], *words[at + 2 :]]
        if word.startswith("--model="):
            return [word.removeprefix("--model="), *words[:at], *words[at + 1 :]]
    return words


def _warn_of_old_release() -> None:
    try:
        release = version("vllm")
    except PackageNotFoundError:
        return
    numbers = tuple(int(number) for number in re.findall(r"\d+", release)[:3])
    # Builds from source may call themselves anything, so that this is no error.
    if numbers < _FIRST_WITH_TOKEN_IDS:
        needed = ".".join(map(str, _FIRST_WITH_TOKEN_IDS))
        print(f"agl vllm: vLLM {release} returns no token ids; {needed} and later do", file=sys.stderr)
