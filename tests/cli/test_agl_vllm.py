"""`agl vllm`, against a package of that name that is made here: vLLM itself needs more than a test machine has."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from agl_calls import COMMAND, agl
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from store_process import environment

from agentlightning.cli.vllm import with_token_ids
from agentlightning.instrumentation.vllm_token_ids import ReturnTokenIds

MIDDLEWARE = "agentlightning.instrumentation.vllm_token_ids.ReturnTokenIds"

# As vLLM does: `--middleware` is an import path, and a class is added to the application.
FAKE_VLLM = """
import argparse, importlib, json, sys
from starlette.applications import Starlette
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--middleware", action="append", default=[])
    options, _ = parser.parse_known_args()
    app = Starlette()
    for path in options.middleware:
        module, _, name = path.rpartition(".")
        app.add_middleware(getattr(importlib.import_module(module), name))
    app.build_middleware_stack()
    print(json.dumps({"argv": sys.argv[1:], "main": __name__}))
    sys.exit(7)
if __name__ == "__main__":
    main()
"""


def run_with_fake_vllm(folder: Path, *words: str, release: str = "0.11.0") -> subprocess.CompletedProcess[str]:
    """Runs `agl vllm` where a package vllm is installed that tells how it was called."""
    package = folder / "vllm" / "entrypoints" / "cli"
    package.mkdir(parents=True)
    (package / "main.py").write_text(FAKE_VLLM)
    for made in (folder / "vllm", folder / "vllm" / "entrypoints", package):
        (made / "__init__.py").touch()
    about = folder / f"vllm-{release}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}\n")
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [*COMMAND, "vllm", *words],
        env=environment({"PYTHONPATH": path}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_becomes_vllm_and_hands_everything_on(tmp_path: Path) -> None:
    done = run_with_fake_vllm(tmp_path, "serve", "some/model", "--port", "8000", "--middleware", MIDDLEWARE)
    assert done.returncode == 7, done.stderr
    assert json.loads(done.stdout) == {
        "argv": ["serve", "some/model", "--port", "8000", "--middleware", MIDDLEWARE, "--middleware", MIDDLEWARE],
        "main": "__main__",
    }
    assert done.stderr == ""


def test_a_release_without_token_ids_is_told(tmp_path: Path) -> None:
    done = run_with_fake_vllm(tmp_path, "serve", "some/model", release="0.9.2")
    assert done.returncode == 7
    assert "vLLM 0.9.2 returns no token ids; 0.10.2 and later do" in done.stderr


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_it_says_so_with_an_exit_code_of_its_own() -> None:
    said = agl("vllm", "serve", "some/model")
    assert (said.code, said.out) == (4, "")
    assert "vLLM is not installed here: `pip install vllm`" in said.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", "m", "--port", "1"], ["serve", "m", "--port", "1", "--middleware", MIDDLEWARE]),
        (["--port", "1", "--model=m"], ["serve", "m", "--port", "1", "--middleware", MIDDLEWARE]),
        (["--config", "c.yaml"], ["serve", "--config", "c.yaml", "--middleware", MIDDLEWARE]),
        (["serve", "--help"], ["serve", "--help"]),
        (["serve", "--help=port"], ["serve", "--help=port"]),
        (["bench", "serve", "--model", "m"], ["bench", "serve", "--model", "m"]),
        (["--version"], ["--version"]),
    ],
    ids=" ".join,
)
def test_only_what_serves_a_model_is_changed(words: Sequence[str], expected: Sequence[str]) -> None:
    assert with_token_ids(words) == expected


async def asked(path: str, body: bytes, *, method: str = "POST", pieces: int = 1) -> dict[str, Any]:
    """Sends a request through the middleware, and returns what the application behind it got."""

    async def echo(request: Request) -> JSONResponse:
        return JSONResponse({"body": (await request.body()).decode(), "length": request.headers.get("content-length")})

    app = Starlette(routes=[Route(path, echo, methods=[method])])
    app.add_middleware(ReturnTokenIds)

    async def content() -> Any:
        for start in range(0, len(body), -(-len(body) // pieces) or 1):
            yield body[start : start + -(-len(body) // pieces)]

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://vllm") as client:
        found: dict[str, Any] = (await client.request(method, path, content=body if pieces == 1 else content())).json()
    return found


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/prefix/v1/completions"])
@pytest.mark.parametrize("pieces", [1, 3])
async def test_requests_ask_for_token_ids(path: str, pieces: int) -> None:
    sent = {"model": "m", "messages": ["你"], **({"return_token_ids": None} if pieces == 1 else {})}
    got = await asked(path, json.dumps(sent).encode(), pieces=pieces)
    assert json.loads(got["body"]) == {"model": "m", "messages": ["你"], "return_token_ids": True}
    assert int(got["length"]) == len(got["body"].encode())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", b'{"return_token_ids": false, "n": 1}'),
        ("/v1/chat/completions", b"[1, 2]"),
        ("/v1/chat/completions", b"no JSON"),
        ("/v1/embeddings", b'{"model": "m"}'),
    ],
)
async def test_what_says_itself_or_is_something_else_stays_as_it_is(path: str, body: bytes) -> None:
    assert (await asked(path, body))["body"] == body.decode()


async def test_a_client_that_goes_away_is_told_to_the_application() -> None:
    heard = []
    gone = iter([{"type": "http.request", "body": b'{"mo', "more_body": True}, {"type": "http.disconnect"}])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.extend([await receive(), await receive()])

    async def receive() -> Any:
        return next(gone)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
    await ReturnTokenIds(app)(scope, receive, None)  # type: ignore[arg-type]
    assert [message["type"] for message in heard] == ["http.request", "http.disconnect"]
