"""An OpenAI-compatible endpoint whose answers a test decides, over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from typing_extensions import Self

Answer = Callable[[str, list[dict[str, str]]], str | None]
"""Returns the answer of the named model to a conversation; None refuses the request with status 400."""


class ScriptedModel:
    """Serves `/v1/chat/completions` on a free port of 127.0.0.1 while the block lasts.

    with ScriptedModel(lambda model, messages: "yes") as endpoint:
        client = openai.AsyncOpenAI(base_url=endpoint.base_url, api_key="any")
    """

    def __init__(self, answer: Answer) -> None:
        self.requests: list[dict[str, Any]] = []
        """The bodies of the requests so far."""
        self._http = _HttpServer(("127.0.0.1", 0), _Handler)
        self._http.requests = self.requests
        self._http.answer = answer
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def asked(self, model: str) -> list[list[dict[str, str]]]:
        """Returns the conversations that a model was asked to continue."""
        return [request["messages"] for request in self.requests if request["model"] == model]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    requests: list[dict[str, Any]]
    answer: Answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _HttpServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        text = self.server.answer(body["model"], body["messages"])
        if text is None:
            self._send(400, {"error": {"message": "no such model", "type": "invalid_request_error"}})
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        self._send(
            200,
            {"id": "c", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]},
        )

    def _send(self, status: int, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: tests read `requests` instead."""
