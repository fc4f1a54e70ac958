"""The policy as a server that speaks OpenAI's protocol, with token ids and log-probabilities as vLLM sends them."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse

from agentlightning.algorithm.policies.answers import Answer, ChatAnswer, CompletionAnswer
from agentlightning.algorithm.policies.generation import Generation, Sampler
from agentlightning.algorithm.policies.requests import BadRequest, ChatRequest, CompletionRequest, ServedModel
from agentlightning.gateway.backends import ATTEMPT_HEADER, ROLLOUT_HEADER
from agentlightning.gateway.call import VERSION_HEADER
from agentlightning.utils.http_serving import HttpServer

# What servers log for a client that has hung up.
_NOBODY_THERE: Final = 499
# For samplers that do not draw.
_UNUSED: Final = random.Random()


class PolicyServer:
    """Serves a policy on this machine, from a thread of this process.

    Calls with a `seed` choose their tokens alike each time. So do those that name their rollout in the header
    `agentlightning-rollout-id`: the n-th call of an attempt with a prompt chooses as that of any other attempt of the
    rollout does. That makes a training repeatable, as far as rounding lets the probabilities be the same.
    """

    def __init__(
        self,
        sampler: Sampler,
        models: Mapping[str, ServedModel],
        *,
        max_context_tokens: int | None = None,
        seed: int = 0,
        port: int = 0,
    ) -> None:
        """Prepares the server.

        Args:
            sampler: What answers. It is started and stopped with the server.
            models: The names that it is served by. They may become more while it serves.
            max_context_tokens: How many tokens prompt and answer may have together; None means what the sampler says.
            seed: Makes the choice of tokens repeatable for calls that name their rollout.
            port: Port to listen on; 0 takes a free one.
        """
        self._sampler = sampler
        self._models = models
        self._limit = max_context_tokens or sampler.max_context_tokens
        self._seed = seed
        self._asked: Counter[str] = Counter()
        self._asked_version = sampler.version
        self._http = HttpServer(self._app(), "127.0.0.1", port, name="agl-policy-server")

    @property
    def url(self) -> str:
        """The base URL of the API; known once started."""
        return f"{self._http.url}/v1"

    async def start(self) -> None:
        """Returns when requests are answered.

        Raises:
            OSError: The port cannot be listened on.
        """
        await self._http.start()
        self._sampler.start()

    async def stop(self) -> None:
        """Ends; answers that are not over fail."""
        await asyncio.to_thread(self._sampler.stop)
        await self._http.stop()

    def _app(self) -> FastAPI:
        app = FastAPI(title="Agent Lightning policy server", openapi_url=None)
        app.add_exception_handler(BadRequest, _refuse)
        app.add_exception_handler(RequestValidationError, _refuse)

        @app.get("/health")
        async def health() -> dict[str, Any]:
            return {"status": "ok", "version": self._sampler.version}

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            known = {"object": "model", "created": 0, "owned_by": "agentlightning"}
            return {"object": "list", "data": [{"id": name, **known} for name in self._models]}

        @app.post("/v1/chat/completions")
        async def chat(body: ChatRequest, request: Request) -> Response:
            body.expect_answerable()
            return await self._answer(ChatAnswer(body, self._sampler), request)

        @app.post("/v1/completions")
        async def complete(body: CompletionRequest, request: Request) -> Response:
            body.expect_answerable()
            return await self._answer(CompletionAnswer(body, self._sampler), request)

        return app

    async def _answer(self, answer: Answer[Any], request: Request) -> Response:
        news = asyncio.Event()
        loop = asyncio.get_running_loop()
        generations = self._generations(answer, request.headers, lambda: _tell(loop, news))
        for generation in generations:
            self._sampler.submit(generation)
        streamed = answer.request.stream
        hang_up = asyncio.create_task(_hung_up(request))
        hang_up.add_done_callback(lambda _: news.set())
        try:
            # The head of a stream says, too, which weights answer.
            while not (
                hang_up.done()
                or (generations[0].has_begun if streamed else all(generation.is_over for generation in generations))
            ):
                await news.wait()
                news.clear()
        except BaseException:
            _abandon(generations)
            raise
        finally:
            hang_up.cancel()
        if hang_up.done():
            _abandon(generations)
            return Response(status_code=_NOBODY_THERE)
        if streamed:
            news.set()
            head = _version(generations[0].version)
            return StreamingResponse(_events(answer, generations, news), 200, head, "text/event-stream")
        if failed := next((generation.error for generation in generations if generation.error), None):
            return _error(500, f"the answer failed: {failed}", "server_error")
        return JSONResponse(answer.document(generations), headers=_version(generations[0].version))

    def _generations(
        self, answer: Answer[Any], headers: Mapping[str, str], changed: Callable[[], None]
    ) -> list[Generation]:
        asked = answer.request
        served = self._models.get(asked.model)
        if served is None:
            raise BadRequest(f"there is no model {asked.model!r} here; there is {', '.join(self._models)}")
        for prompt in answer.prompts:
            if not 0 < len(prompt) < self._limit:
                raise BadRequest(f"a prompt must have 1 to {self._limit - 1} tokens, and this one has {len(prompt)}")
            if not 0 <= min(prompt) <= max(prompt) < self._sampler.vocabulary_size:
                raise BadRequest(f"token ids must be from 0 to {self._sampler.vocabulary_size - 1}")
        return [
            Generation(
                prompt=prompt,
                temperature=served.temperature if asked.temperature is None else asked.temperature,
                top_p=served.top_p if asked.top_p is None else asked.top_p,
                most_tokens=min(asked.most_tokens or served.max_tokens, self._limit - len(prompt)),
                chance=self._chance(asked.seed, index, prompt, headers),
                model=asked.model,
                rollout_id=headers.get(ROLLOUT_HEADER),
                stops=answer.is_stopped if asked.stops else None,
                changed=changed,
            )
            for prompt in answer.prompts
            for index in range(asked.n)
        ]

    def _chance(self, seed: int | None, index: int, prompt: Sequence[int], headers: Mapping[str, str]) -> random.Random:
        if not self._sampler.draws:
            return _UNUSED
        if seed is not None:
            return random.Random(f"{seed} {index} {prompt}")
        rollout_id, attempt_id = headers.get(ROLLOUT_HEADER), headers.get(ATTEMPT_HEADER)
        if rollout_id is None:
            return random.Random()
        if self._asked_version != self._sampler.version:
            self._asked.clear()
            self._asked_version = self._sampler.version
        asked = f"{rollout_id} {attempt_id} {prompt}"
        self._asked[asked] += 1
        return random.Random(f"{self._seed} {rollout_id} {self._asked[asked]} {prompt}")


async def _events(answer: Answer[Any], generations: Sequence[Generation], news: asyncio.Event) -> AsyncIterator[str]:
    """Yields the events of a stream as there is something to send."""
    sent = [(0, "") for _ in generations]
    open_ones = set(range(len(generations)))
    try:
        while open_ones:
            await news.wait()
            news.clear()
            for index in sorted(open_ones):
                generation = generations[index]
                if generation.error is not None:
                    yield _event(_error_document(f"the answer failed: {generation.error}", "server_error"))
                    return
                # In this order: once there is a reason, all tokens are there. The decoder adds log-probabilities last.
                is_whole, end = generation.finish_reason is not None, len(generation.logprobs)
                begin, text = sent[index]
                if end > begin or is_whole:
                    whole_text = answer.streamable_text(generation.tokens[:end], is_whole=is_whole)
                    yield _event(answer.chunk(index, generation, begin, end, whole_text[len(text) :]))
                    sent[index] = end, whole_text
                if is_whole:
                    open_ones.remove(index)
        if answer.request.stream_options and answer.request.stream_options.include_usage:
            yield _event(answer.closing_chunk(generations))
        yield "data: [DONE]\n\n"
    finally:
        _abandon(generations)


def _version(version: str) -> dict[str, str]:
    return {VERSION_HEADER: version} if version else {}


def _abandon(generations: Sequence[Generation]) -> None:
    for generation in generations:
        generation.abandoned = not generation.is_over


def _tell(loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
    # Whoever waited may be gone, and the loop with him.
    if not loop.is_closed():
        loop.call_soon_threadsafe(news.set)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refuse(_: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        faults = [f"{'.'.join(map(str, each['loc'][1:])) or 'body'}: {each['msg']}" for each in error.errors()]
        return _error(400, "; ".join(faults), "invalid_request_error")
    return _error(400, str(error), "invalid_request_error")


def _error(status: int, message: str, kind: str) -> Response:
    return JSONResponse(_error_document(message, kind), status)


def _error_document(message: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _event(document: dict[str, Any]) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"
