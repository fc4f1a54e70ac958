"""A model endpoint for tests: speaks the OpenAI API over real HTTP and answers the same to the same request.

`python tests/framework/openai_server.py` serves until it is stopped, for trying things by hand.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from zlib import crc32

from typing_extensions import Self

JSON = dict[str, Any]

MODEL = "tiny-chat"
"""What the endpoint lists as its model. It answers to every other name as well."""
CREATED = 1_700_000_000
"""When each answer was made, in seconds since the epoch."""
EMBEDDING_SIZE = 8
"""Numbers in an embedding."""


def tokens_of(text: str) -> list[str]:
    """Cuts `text` into what passes for tokens here: words with the whitespace before them."""
    return re.findall(r"\s*\S+|\s+$", text)


def token_ids_of(text: str) -> list[int]:
    """Returns one id for each token of `text`, the same for the same token, below 32,000."""
    return [crc32(token.encode()) % 32_000 for token in tokens_of(text)]


def logprob_of(token: str) -> float:
    """Returns the log-probability that the endpoint gives `token`; a multiple of 1/64, which single precision holds."""
    return -(crc32(token.encode()) % 128) / 64


def prompt_of(messages: list[JSON]) -> str:
    """Returns the text that the endpoint makes of a conversation before it counts tokens."""
    return "".join(f"<{message['role']}> {text_of(message.get('content'))}\n" for message in messages)


def text_of(content: str | list[JSON] | None) -> str:
    """Returns the text in the content of a message; parts that are no text are left out."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


@dataclass(frozen=True)
class Call:
    """One request that the endpoint received."""

    path: str
    """Path of the URL."""
    headers: Mapping[str, str]
    """Headers, names in lower case."""
    body: JSON
    """The JSON document; empty for GET."""


@dataclass(frozen=True)
class _Refusal:
    status: int
    message: str
    headers: Mapping[str, str]


class OpenAIServer:
    """Serves `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings` and `/v1/models` on a free port of 127.0.0.1.

    A chat is answered with `echo: ` and the last user's text, the result of a tool with `tool said: ` and that
    result. Where a request offers tools and does not end with a tool's result, the answer is one call of the first
    tool, whose first parameter gets the user's text. `stream`, `stream_options.include_usage`, `n` and `logprobs` do
    what OpenAI says, `return_token_ids` what vLLM says.

        with OpenAIServer() as server:
            client = openai.OpenAI(base_url=server.base_url, api_key="any")
    """

    def __init__(self, *, together: int = 1) -> None:
        """Prepares the server.

        Args:
            together: How many requests have to be waiting before they are answered, all at once. Proves that clients
                work concurrently; they fail after 30 seconds otherwise.
        """
        self.calls: list[Call] = []
        """The requests so far, in the order of their arrival."""
        self._refusals: deque[_Refusal] = deque()
        self._lock = threading.Lock()
        self._meeting = threading.Barrier(together, timeout=30)
        self._http = _HttpServer(("127.0.0.1", 0), _Handler)
        self._http.endpoint = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def base_url(self) -> str:
        """The URL to give to clients, with `/v1`."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def refuse(self, status: int, message: str = "refused", *, times: int = 1, **headers: str) -> None:
        """Has the next requests answered with an error.

        Args:
            status: The HTTP status, such as 429 or 500.
            message: What the error says.
            times: How many requests.
            **headers: Headers of the answer, `_` for `-`: `retry_after_ms="10"`.
        """
        refusal = _Refusal(status, message, {name.replace("_", "-"): value for name, value in headers.items()})
        with self._lock:
            self._refusals.extend([refusal] * times)

    def start(self) -> None:
        """Starts to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stops to serve and frees the port."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def admit(self, call: Call) -> tuple[int, _Refusal | None]:
        """Notes a request; returns its number and the refusal that is due, if any."""
        with self._lock:
            self.calls.append(call)
            number = len(self.calls)
            refusal = self._refusals.popleft() if self._refusals else None
        self._meeting.wait()
        return number, refusal


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    # Kept-alive connections of clients that are still open must not hold the end of a test up.
    block_on_close = False
    request_queue_size = 64
    endpoint: OpenAIServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients that leave in the middle are part of the tests.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Small writes would otherwise wait for acknowledgements of earlier ones.
    disable_nagle_algorithm = True
    server: _HttpServer

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: JSON) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        number, refusal = self.server.endpoint.admit(Call(self.path, headers, body))
        if refusal is not None:
            error = {"message": refusal.message, "type": "error", "param": None, "code": refusal.status}
            self._send_json({"error": error}, refusal.status, refusal.headers)
        elif self.path == "/v1/chat/completions":
            self._send_generation(chat(number, body), body)
        elif self.path == "/v1/completions":
            self._send_generation(completion(number, body), body)
        elif self.path == "/v1/embeddings":
            self._send_json(embeddings(body))
        elif self.path == "/v1/models":
            model = {"id": MODEL, "object": "model", "created": CREATED, "owned_by": "tests"}
            self._send_json({"object": "list", "data": [model]})
        else:
            error = {"message": f"no such path: {self.path}", "type": "invalid_request_error"}
            self._send_json({"error": error}, 404)

    def _send_generation(self, answer: JSON, body: JSON) -> None:
        if not body.get("stream"):
            self._send_json(answer)
            return
        include_usage = (body.get("stream_options") or {}).get("include_usage", False)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in chunks_of(answer, include_usage):
            self._send_event(json.dumps(chunk))
        self._send_event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _send_event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))

    def _send_json(self, document: JSON, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: tests read `calls` instead."""


def chat(number: int, request: JSON) -> JSON:
    """Returns the answer to a chat completion request, before it is cut into a stream."""
    messages = request["messages"]
    text, calls = _reply(number, messages, request.get("tools"))
    said = text or calls[0]["function"]["arguments"]
    message = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
    choice = {"message": message, "finish_reason": "tool_calls" if calls else "stop"}
    if request.get("logprobs"):
        choice["logprobs"] = {"content": _logprobs(said), "refusal": None}
    return _generation(number, request, "chat.completion", prompt_of(messages), said, choice)


def completion(number: int, request: JSON) -> JSON:
    """Returns the answer to a text completion request, before it is cut into a stream."""
    prompt = request["prompt"]
    said = f" echo: {prompt}"
    choice: JSON = {"text": said, "finish_reason": "stop"}
    if request.get("logprobs") is not None:
        tokens = tokens_of(said)
        choice["logprobs"] = {
            "tokens": tokens,
            "token_logprobs": [logprob_of(token) for token in tokens],
            "top_logprobs": [{token: logprob_of(token)} for token in tokens],
            "text_offset": [sum(map(len, tokens[:index])) for index in range(len(tokens))],
        }
    if request.get("return_token_ids"):
        choice["prompt_token_ids"] = token_ids_of(prompt)
    return _generation(number, request, "text_completion", prompt, said, choice)


def embeddings(request: JSON) -> JSON:
    """Returns the answer to an embeddings request, with numbers in JSON whatever encoding was asked for."""
    texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": [(crc32(f"{place}{text}".encode()) % 256) / 256 for place in range(EMBEDDING_SIZE)],
        }
        for index, text in enumerate(texts)
    ]
    count = sum(len(tokens_of(text)) for text in texts)
    return {
        "object": "list",
        "data": data,
        "model": request["model"],
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


def chunks_of(answer: JSON, include_usage: bool) -> Iterator[JSON]:
    """Cuts the answer to a generation request into the chunks of a stream, one for each token."""
    is_chat = answer["object"] == "chat.completion"
    head = {key: answer[key] for key in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk" if is_chat else "text_completion"
    if include_usage:
        head["usage"] = None
    first = {key: answer[key] for key in ("prompt_token_ids",) if key in answer}
    for choice in answer["choices"]:
        for part in _chat_parts(choice) if is_chat else _text_parts(choice):
            yield {**head, **first, "choices": [{"index": choice["index"], **part}]}
            first = {}
    if include_usage:
        yield {**head, "choices": [], "usage": answer["usage"]}


def _reply(number: int, messages: list[JSON], tools: list[JSON] | None) -> tuple[str | None, list[JSON]]:
    last = messages[-1]
    if last["role"] == "tool":
        return f"tool said: {text_of(last['content'])}", []
    asked = next((text_of(message["content"]) for message in reversed(messages) if message["role"] == "user"), "")
    if not tools:
        return f"echo: {asked}", []
    function = tools[0]["function"]
    parameters = function.get("parameters", {}).get("properties", {})
    arguments = json.dumps({next(iter(parameters)): asked} if parameters else {})
    call = {"id": f"call_{number}", "type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return None, [call]


def _generation(number: int, request: JSON, kind: str, prompt: str, said: str, choice: JSON) -> JSON:
    if request.get("return_token_ids"):
        choice["token_ids"] = token_ids_of(said)
    count = request.get("n") or 1
    prompt_tokens, completion_tokens = len(tokens_of(prompt)), count * len(tokens_of(said))
    answer = {
        "id": f"{'chatcmpl' if kind == 'chat.completion' else 'cmpl'}-{number}",
        "object": kind,
        "created": CREATED,
        "model": request["model"],
        "choices": [{"index": index, "logprobs": None, **choice} for index in range(count)],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }
    if request.get("return_token_ids") and kind == "chat.completion":
        answer["prompt_token_ids"] = token_ids_of(prompt)
    return answer


def _logprobs(text: str) -> list[JSON]:
    return [
        {"token": token, "logprob": logprob_of(token), "bytes": list(token.encode()), "top_logprobs": []}
        for token in tokens_of(text)
    ]


def _chat_parts(choice: JSON) -> Iterator[JSON]:
    message = choice["message"]
    calls = message.get("tool_calls")
    ids = choice.get("token_ids")
    yield {"delta": {"role": "assistant", "content": None if calls else ""}, "finish_reason": None}
    tokens = tokens_of(calls[0]["function"]["arguments"] if calls else message["content"])
    for place, token in enumerate(tokens):
        if calls:
            opening = {"id": calls[0]["id"], "type": "function"} if place == 0 else {}
            name = {"name": calls[0]["function"]["name"]} if place == 0 else {}
            delta: JSON = {"tool_calls": [{"index": 0, **opening, "function": {**name, "arguments": token}}]}
        else:
            delta = {"content": token}
        part: JSON = {"delta": delta, "finish_reason": None, "logprobs": None}
        if choice["logprobs"]:
            part["logprobs"] = {"content": [choice["logprobs"]["content"][place]], "refusal": None}
        if ids is not None:
            part["token_ids"] = [ids[place]]
        yield part
    yield {"delta": {}, "finish_reason": choice["finish_reason"], "logprobs": None}


def _text_parts(choice: JSON) -> Iterator[JSON]:
    tokens = tokens_of(choice["text"])
    logprobs = choice["logprobs"]
    for place, token in enumerate(tokens):
        last = place == len(tokens) - 1
        part: JSON = {"text": token, "finish_reason": choice["finish_reason"] if last else None, "logprobs": None}
        if logprobs:
            part["logprobs"] = {key: [values[place]] for key, values in logprobs.items()}
        if "token_ids" in choice:
            part["token_ids"] = [choice["token_ids"][place]]
            if place == 0:
                part["prompt_token_ids"] = choice["prompt_token_ids"]
        yield part


if __name__ == "__main__":
    with OpenAIServer() as served:
        print(served.base_url, flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
